//! How a write is handed in, from the interface and from the page alike: with what this replica knows of the todo, in a
//! task of its own, so that a client that leaves takes nothing with it. A write that waits for the database although it is
//! known to fail is refused here.

use std::time::SystemTime;

use bytes::Bytes;
use ridethrough::{Deadline, attempts::Attempts, db::Written, health::DatabasePart};
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    app::App,
    error::{Outcome, Trouble},
    identity::Principal,
    todo::{Change, Changes, Intent, Seen, Todo},
};

/// An acknowledged write.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// In the database; the document is what the command answered.
    Committed(Bytes),
    /// In the journal; the document as it will be, or nothing where it will be gone or was never seen here.
    Journaled(Option<Bytes>),
}

impl Submitted {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Committed(_) => Outcome::Committed,
            Self::Journaled(_) => Outcome::Journaled,
        }
    }
}

/// Writes `intent` for `owner` under `key`, which is the key that he sent.
///
/// # Errors
/// [`Trouble`] with the outcome: no effect, or not known.
///
/// # Cancel safety
/// The write goes on when this is dropped.
pub(crate) async fn submit(
    app: &App,
    owner: Principal,
    key: &str,
    intent: &Intent,
    deadline: Deadline,
) -> Result<Submitted, Trouble> {
    let key = &owner.write_key(key);
    let known = intent.target().map_or(Known::Unseen, |id| known(app, owner, id));
    if waits_for_the_database(app, owner, intent) && !is_repetition(app, key) {
        known.refuse_what_must_fail(intent)?;
    }
    let (command, payload) = intent.command(owner, key, known.seen(), SystemTime::now());
    let accepted_at = command.accepted_at;
    let (db, working) = (app.db.clone(), app.writes.begin());
    let attempts = Attempts::of_this_task().unwrap_or_default();
    let write = async move {
        let _working = working;
        attempts.counted(db.write(command, deadline)).await
    };
    // The line about the request, and its trace, count what is done in a task of its own.
    let write = tokio::spawn(write.in_current_span());
    let Ok(written) = write.await else {
        return Err(Trouble::internal().outcome(Outcome::Unknown));
    };
    let wait = || app.db.retry_after(Instant::now());
    match written.map_err(|error| Trouble::of_write(&error, wait()))? {
        Written::Committed { answer, .. } => Ok(Submitted::Committed(answer)),
        Written::Superseded { .. } => Err(Trouble::superseded()),
        Written::Journaled { repeated: false, .. } => Ok(Submitted::Journaled(payload.document(accepted_at))),
        // The promise of the first request stands, with its times, while this replica remembers it.
        Written::Journaled { repeated: true, .. } => {
            let first = Changes::document_under(&app.db, key);
            Ok(Submitted::Journaled(first.or_else(|| payload.document(accepted_at))))
        }
    }
}

/// What this replica knows of a todo.
#[derive(Debug)]
enum Known {
    /// It waits to be removed.
    Gone,
    /// It waits to become this.
    Becomes(Todo),
    /// The database's last word on it.
    Was(Todo),
    Unseen,
}

impl Known {
    fn seen(&self) -> Option<Seen> {
        match self {
            Self::Gone | Self::Unseen => None,
            Self::Becomes(todo) => Some(Seen::of(todo, true)),
            Self::Was(todo) => Some(Seen::of(todo, false)),
        }
    }

    /// A version never falls, so a condition that fails here fails in the database, too, and its author can be told now.
    fn refuse_what_must_fail(&self, intent: &Intent) -> Result<(), Trouble> {
        let fails = match (self, intent.if_match()) {
            (Self::Gone, _) => return Err(Trouble::no_such_todo()),
            (Self::Becomes(todo), Some(version)) => todo.version != version,
            // What it asks for may stand there because it is a repetition of what another replica has done.
            (Self::Was(todo), Some(version)) => todo.version > version && !is_as_asked(todo, intent),
            _ => false,
        };
        if fails { Err(Trouble::version_mismatch()) } else { Ok(()) }
    }
}

fn known(app: &App, owner: Principal, id: Uuid) -> Known {
    if let Some(change) = Change::last_of(&app.db, owner, id) {
        return change.becomes.map_or(Known::Gone, Known::Becomes);
    }
    let cached = app.db.cache().peek(&Todo::cache_key(owner, id), Instant::now());
    cached.and_then(|cached| Todo::decode(cached.value()?)).map_or(Known::Unseen, Known::Was)
}

fn is_as_asked(todo: &Todo, intent: &Intent) -> bool {
    matches!(intent, Intent::Replace { title, done, .. } if *title == todo.title && *done == todo.done)
}

/// Whether a write that begins now goes to the journal. A database that answers knows better than any memory.
fn waits_for_the_database(app: &App, owner: Principal, intent: &Intent) -> bool {
    let (database, ..) = app.db.parts(Instant::now());
    let is_waiting = |id: Uuid| app.journal.is_waiting(&Todo::ordering_key(owner, id));
    database != DatabasePart::Up || intent.target().is_some_and(is_waiting)
}

/// The first request with this key was accepted: it is its outcome that counts, not what became of the todo since.
fn is_repetition(app: &App, key: &str) -> bool {
    app.journal.find(key).is_some() || app.settled.contains(key)
}
