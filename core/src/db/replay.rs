//! Replay: the journal to PostgreSQL, in order, once per idempotency key. The only file that sees both sides.
//!
//! An entry leaves the journal only when its key is settled in the database: applied, superseded, or recorded as rejected
//! with its payload. Whatever is in doubt is tried again; the key makes that harmless.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Command, Db, Refusal, Settled, Statements,
    classify::{self, Connection, Verdict},
    guards::Connected,
    keys,
    transaction::{self, Attempted, Failed},
};
use crate::{
    backoff::Backoff,
    deadline::Deadline,
    drain::Draining,
    error::{Error, ErrorClass, Phase, Stage},
    health::{DatabasePart, SchemaPart},
    journal::Entry,
    metrics,
};

/// Entries read from disk at a time.
const BATCH_ENTRIES: usize = 64;
/// And their bytes.
const BATCH_BYTES: u64 = 1024 * 1024;
/// Between looks at a journal or database that gave no sign of change.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// One entry may wait for a ghost's locks this long; the server's `lock_timeout` ends it earlier.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// Applies journaled writes until the drain. Made by [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without replay journaled writes never reach the database"]
pub struct Replay {
    db: Db,
}

/// An entry that could not be settled now.
struct NotYet {
    error: Error,
}

impl Replay {
    pub(super) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Replays whenever there is a backlog and a database, until the drain begins.
    ///
    /// # Cancel safety
    /// Dropping it at any moment is safe: the entry in progress stays in the journal and is settled once by its key.
    pub async fn run(self, mut draining: Draining) {
        let mut appended = self.db.0.journal.changed();
        let mut database = self.db.database();
        let mut schema = self.db.0.schema.subscribe();
        loop {
            if self.possible() {
                tokio::select! {
                    () = self.drain_backlog() => {}
                    () = draining.requested() => return,
                }
            }
            tokio::select! {
                _ = appended.changed() => {}
                _ = database.changed() => {}
                _ = schema.changed() => {}
                () = sleep(IDLE_PAUSE) => {}
                () = draining.requested() => return,
            }
        }
    }

    fn possible(&self) -> bool {
        *self.db.0.database.borrow() == DatabasePart::Up
            && matches!(*self.db.0.schema.borrow(), SchemaPart::Ok | SchemaPart::Pending)
            && self.db.0.journal.backlog().entries > 0
    }

    /// Settles entries until none is left or the database is away again.
    async fn drain_backlog(&self) {
        let backoff =
            Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1), ..Backoff::default() };
        let (mut failures, mut settled) = (0, 0u64);
        let started = Instant::now();
        while self.possible() {
            let Some(entries) = self.batch().await else { return };
            if let Some(last) = entries.last()
                && self.settle_together(&entries).await
            {
                self.db.0.journal.acknowledge(last.sequence);
                (failures, settled) = (0, settled + entries.len() as u64);
                continue;
            }
            for entry in entries {
                match self.settle(&entry).await {
                    Ok(()) => {
                        self.db.0.journal.acknowledge(entry.sequence);
                        (failures, settled) = (0, settled + 1);
                    }
                    Err(NotYet { error }) => {
                        failures += 1;
                        if failures == 1 {
                            tracing::info!(
                                sequence = entry.sequence,
                                class = error.class().as_str(),
                                code = error.code(),
                                "replay pauses"
                            );
                        }
                        sleep(self.db.random(|random| backoff.delay(failures, random))).await;
                        break;
                    }
                }
            }
        }
        if settled > 0 {
            tracing::info!(entries = settled, took = ?started.elapsed(), "replayed journaled writes");
        }
    }

    async fn batch(&self) -> Option<Vec<Entry>> {
        let journal = self.db.0.journal.clone();
        let read = tokio::task::spawn_blocking(move || journal.batch(BATCH_ENTRIES, BATCH_BYTES)).await;
        match read {
            Ok(Ok(entries)) => Some(entries),
            Ok(Err(error)) => {
                tracing::error!(%error, "the journal cannot be read; journaled writes wait");
                sleep(Duration::from_secs(5)).await;
                None
            }
            Err(_) => None,
        }
    }

    /// Brings all of them to an end with one COMMIT; `false` where one at a time is called for.
    async fn settle_together(&self, entries: &[Entry]) -> bool {
        let sent_at = Instant::now();
        let deadline = Deadline::after(sent_at, ATTEMPT_LIMIT);
        let Ok(Connected { _permit, admission, loan }) = self.db.connected(deadline, true).await else {
            return false;
        };
        let together: Vec<Command> = entries.iter().map(command).collect();
        let commands = self.db.0.commands.as_ref();
        let (settled, result) = transaction::attempt_together(loan, commands, &together, deadline).await;
        admission.record(result, Instant::now());
        let Some(settled) = settled else { return false };
        let fill = self.db.0.cache.fill_by_write(sent_at, Instant::now());
        for (command, settled) in together.iter().zip(&settled) {
            commands.settled(command, settled, &fill);
            self.count(settled.as_str());
        }
        true
    }

    fn count(&self, outcome: &'static str) {
        self.db.0.replayed.fetch_add(1, Ordering::Relaxed);
        metrics::journal_replayed(outcome);
    }

    /// Brings one entry to an end that is recorded in the database.
    async fn settle(&self, entry: &Entry) -> Result<(), NotYet> {
        let command = command(entry);
        let deadline = Deadline::after(Instant::now(), ATTEMPT_LIMIT);
        let outcome = match self.db.write_attempt(&command, true, deadline, ATTEMPT_LIMIT).await {
            Ok(Attempted::Committed(super::Applied::Done(_))) => "applied",
            Ok(Attempted::Committed(super::Applied::Superseded(_))) => "superseded",
            Ok(Attempted::Known(known)) if known.is_same_request(&command) => "known",
            Ok(Attempted::Known(_)) => {
                self.reject_reused_key(entry, &command).await?;
                "key-reused"
            }
            Ok(Attempted::Refused(refusal)) => {
                self.reject(&entry.key, &command, refusal).await?;
                "rejected"
            }
            Err(Failed { error, .. }) if is_hopeless(&error) => {
                let code = format!("refused-by-database-{}", error.code().unwrap_or("unknown"));
                tracing::warn!(
                    sequence = entry.sequence,
                    code = error.code(),
                    "a journaled write cannot be applied"
                );
                self.reject(&entry.key, &command, Refusal::new(code)).await?;
                "rejected"
            }
            Err(Failed { error, .. }) => return Err(NotYet { error }),
        };
        self.count(outcome);
        Ok(())
    }

    /// The key belongs to another request, which another replica accepted: this one is kept under a key of its own, so
    /// that nothing that was accepted vanishes.
    async fn reject_reused_key(&self, entry: &Entry, command: &Command) -> Result<(), NotYet> {
        let digest: String = entry.fingerprint.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        tracing::warn!(sequence = entry.sequence, "two requests were accepted under one idempotency key");
        self.reject(&format!("reused-key-{digest}"), command, Refusal::new("key-reused")).await
    }

    async fn reject(&self, key: &str, command: &Command, refusal: Refusal) -> Result<(), NotYet> {
        let sent_at = Instant::now();
        let deadline = Deadline::after(sent_at, ATTEMPT_LIMIT);
        let loan = self.db.0.pool.checkout(deadline).await.map_err(|none| NotYet { error: none.error })?;
        let recorded = {
            let statements = Statements(&loan);
            let record = keys::record_rejected(&statements, key, command, &refusal.code);
            tokio::time::timeout_at(deadline.instant(), record).await
        };
        match recorded {
            Ok(Ok(())) => loan.give_back(),
            Ok(Err(source)) => {
                let (error, verdict) = classify::error(source, Stage::Query, Phase::Sent);
                loan.settle(Verdict { connection: Connection::Destroy, ..verdict });
                return Err(NotYet { error });
            }
            Err(_) => {
                let error = Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit: ATTEMPT_LIMIT };
                return Err(NotYet { error });
            }
        }
        let fill = self.db.0.cache.fill_by_write(sent_at, Instant::now());
        self.db.0.commands.settled(command, &Settled::Refused(refusal), &fill);
        Ok(())
    }
}

fn command(entry: &Entry) -> Command {
    Command {
        key: entry.key.clone(),
        name: entry.kind.clone(),
        payload: entry.payload.clone(),
        fingerprint: entry.fingerprint,
        accepted_at: entry.accepted_at,
    }
}

/// The database understood the command and will refuse it every time.
fn is_hopeless(error: &Error) -> bool {
    error.class() == ErrorClass::Permanent
        && error.stage() != Stage::Connect
        && error.code().is_some_and(|code| {
            // Missing tables or rights are an operator's to mend, and then the command applies.
            !code.starts_with("42")
                && !code.starts_with("XX")
                && !code.starts_with("28")
                && !code.starts_with("3D")
        })
}
