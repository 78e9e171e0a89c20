//! How a write is handed in, from the interface and from the page alike: with what this replica knows of the todo, in a
//! task of its own, so that a client that leaves takes nothing with it.

use std::time::SystemTime;

use bytes::Bytes;
use ridethrough::{Deadline, db::Written};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    app::App,
    error::{Outcome, Trouble},
    todo::{Intent, Seen, Todo},
};

/// An acknowledged write.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// In the database; the document is what the command answered.
    Committed(Bytes),
    /// In the journal; the todo as it will be, or nothing where it will be gone.
    Journaled(Option<Todo>),
}

impl Submitted {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Committed(_) => Outcome::Committed,
            Self::Journaled(_) => Outcome::Journaled,
        }
    }
}

/// Writes `intent` under `key`.
///
/// # Errors
/// [`Trouble`] with the outcome: no effect, or not known.
///
/// # Cancel safety
/// The write goes on when this is dropped.
pub(crate) async fn submit(
    app: &App,
    key: &str,
    intent: &Intent,
    deadline: Deadline,
) -> Result<Submitted, Trouble> {
    let seen = intent.target().and_then(|id| seen(app, id));
    let (command, payload) = intent.command(key, seen, SystemTime::now());
    let promised = payload.promised(command.accepted_at);
    let (db, working) = (app.db.clone(), app.writes.begin());
    let write = tokio::spawn(async move {
        let _working = working;
        db.write(command, deadline).await
    });
    let Ok(written) = write.await else {
        return Err(Trouble::internal().outcome(Outcome::Unknown));
    };
    let wait = || app.db.retry_after(Instant::now());
    match written.map_err(|error| Trouble::of_write(&error, wait()))? {
        Written::Committed { answer, .. } => Ok(Submitted::Committed(answer)),
        Written::Superseded { .. } => Err(Trouble::superseded()),
        Written::Journaled { repeated: false, .. } => Ok(Submitted::Journaled(promised)),
        // The promise of the first request stands, with its times, while this replica remembers it.
        Written::Journaled { repeated: true, .. } => {
            let first = app.waiting.promised(payload.id(), key);
            Ok(Submitted::Journaled(first.or(promised)))
        }
    }
}

/// What this replica knows of the todo: a change of its own that waits, else the last answer of the database.
fn seen(app: &App, id: Uuid) -> Option<Seen> {
    if let Some(change) = app.waiting.find(id) {
        return change.becomes.map(|todo| Seen::of(&todo, true));
    }
    let cached = app.db.cache().peek(&Todo::cache_key(id), Instant::now())?;
    Todo::decode(&cached.value).map(|todo| Seen::of(&todo, false))
}
