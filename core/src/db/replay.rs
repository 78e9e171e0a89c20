//! Replay: the journal to PostgreSQL, in order, once per idempotency key. The only file that sees both sides.
//!
//! An entry leaves the journal only when its key is settled in the database: applied, superseded, or recorded as rejected
//! with its payload. Whatever is in doubt is tried again; the key makes that harmless.
//!
//! It asks for no permit. There is one replay, and it does one thing at a time on one connection, which the pool has beyond
//! those for permits: so the database bears one call more than the bulkhead's limit, calls cannot starve replay, and
//! replay takes no place from them. In the line with all others it would come last, and while a backlog exists every new
//! write waits behind it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};

use super::{
    Command, Db, Refusal, Settled,
    classify::{self, Connection, Verdict},
    guards::{AttemptTime, Connected},
    keys,
    transaction::{self, Attempted, Ended, Failed, Progress, Together},
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
            let now = Instant::now();
            if self.db.0.journal.backlog().entries == 0 {
                self.db.0.overlays.journal_was_empty(now);
            }
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
        let mut at_a_time = BATCH_ENTRIES;
        let started = Instant::now();
        while self.possible() {
            // Direct writes that were begun before an entry was appended come before it.
            let soon = Instant::now() + ATTEMPT_LIMIT;
            if !self.db.0.gate.direct_writes_ended(soon).await {
                continue;
            }
            let Some(entries) = self.batch(at_a_time).await else { return };
            match self.settle_together(&entries).await {
                Some(Together::Settled(_)) => {
                    let sequences: Vec<u64> = entries.iter().map(|entry| entry.sequence).collect();
                    self.db.0.journal.settled(&sequences);
                    (failures, settled) = (0, settled + entries.len() as u64);
                    at_a_time = (at_a_time * 2).min(BATCH_ENTRIES);
                    continue;
                }
                Some(Together::TooSlow) if at_a_time > 1 => {
                    at_a_time /= 2;
                    continue;
                }
                Some(Together::OneByOne | Together::TooSlow) | None => {}
            }
            for entry in entries {
                match self.settle(&entry).await {
                    Ok(()) => {
                        self.db.0.journal.settled(&[entry.sequence]);
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

    async fn batch(&self, entries_max: usize) -> Option<Vec<Entry>> {
        let journal = Arc::clone(&self.db.0.journal);
        let read =
            tokio::task::spawn_blocking(move || journal.batch(entries_max, BATCH_BYTES, &|_| false)).await;
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

    /// Brings all of them to an end with one COMMIT, if that can be; `None` where the database was not asked.
    async fn settle_together(&self, entries: &[Entry]) -> Option<Together> {
        let sent_at = Instant::now();
        let time = AttemptTime::new(Deadline::after(sent_at, ATTEMPT_LIMIT), ATTEMPT_LIMIT);
        let Connected { admission, loan, .. } = self.db.connected(&time, None).await.ok()?;
        let commands: Vec<Command> = entries.iter().map(command).collect();
        let applier = self.db.0.commands.as_ref();
        let (together, result) =
            transaction::attempt_together(loan, applier, &commands, self.db.ground(&time)).await;
        admission.record(result, Instant::now());
        if let Together::Settled(ended) = &together {
            for (command, Ended { settled, before }) in commands.iter().zip(ended) {
                self.db.tell_settled(command, settled, *before, sent_at);
                self.count(settled.as_str());
            }
        }
        Some(together)
    }

    fn count(&self, outcome: &'static str) {
        self.db.0.replayed.fetch_add(1, Ordering::Relaxed);
        metrics::journal_replayed(outcome);
    }

    /// Brings one entry to an end that is recorded in the database.
    async fn settle(&self, entry: &Entry) -> Result<(), NotYet> {
        let command = command(entry);
        let deadline = Deadline::after(Instant::now(), ATTEMPT_LIMIT);
        let mut progress = Progress::after(None);
        let limits = (deadline, ATTEMPT_LIMIT);
        let outcome = match self.db.write_attempt(&command, None, limits, &mut progress).await {
            Ok(Attempted::Committed(super::Applied::Done(_))) => "applied",
            Ok(Attempted::Committed(super::Applied::Superseded(_))) => "superseded",
            Ok(Attempted::Known(known)) if known.is_same_request(&command) => "known",
            Ok(Attempted::Known(_)) => {
                self.reject_reused_key(entry, &command).await?;
                "key-reused"
            }
            Ok(Attempted::Refused(refusal)) => {
                let _ = self.reject(&entry.key, &command, refusal).await?;
                "rejected"
            }
            Err(Failed { error, .. }) if is_hopeless(&error) => {
                let code = format!("refused-by-database-{}", error.code().unwrap_or("unknown"));
                tracing::warn!(
                    sequence = entry.sequence,
                    code = error.code(),
                    "a journaled write cannot be applied"
                );
                // Settled after all: the next look at it finds out how.
                if !self.reject(&entry.key, &command, Refusal::new(code)).await? {
                    return Err(NotYet { error });
                }
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
        let digest: String = entry.fingerprint.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let accepted = entry.accepted_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        tracing::warn!(sequence = entry.sequence, "two requests were accepted under one idempotency key");
        // Unlike any other entry's, also another replica's, and the same when it is tried again.
        let key = format!("reused-key:{}:{}:{digest}", accepted.as_micros(), entry.sequence);
        let _ = self.reject(&key, command, Refusal::new("key-reused")).await?;
        Ok(())
    }

    /// Records the refusal; `false` where the key was settled before.
    async fn reject(&self, key: &str, command: &Command, refusal: Refusal) -> Result<bool, NotYet> {
        let sent_at = Instant::now();
        let time = AttemptTime::new(Deadline::after(sent_at, ATTEMPT_LIMIT), ATTEMPT_LIMIT);
        let loan = self.db.connected_to_primary(&time).await.map_err(|none| NotYet { error: none.error })?;
        let recorded = {
            let statements = loan.statements();
            let record = keys::record_rejected(&statements, key, command, &refusal.code);
            tokio::time::timeout_at(time.deadline.instant(), record).await
        };
        let is_new = match recorded {
            Ok(Ok(is_new)) => {
                loan.give_back();
                is_new
            }
            Ok(Err(source)) => {
                let (error, verdict) = classify::error(source, Stage::Query, Phase::Sent);
                loan.settle(Verdict { connection: Connection::Destroy, ..verdict });
                return Err(NotYet { error });
            }
            Err(_) => {
                let error = Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit: ATTEMPT_LIMIT };
                return Err(NotYet { error });
            }
        };
        if is_new {
            self.db.tell_settled(command, &Settled::Refused(refusal), false, sent_at);
        }
        Ok(is_new)
    }
}

pub(super) fn command(entry: &Entry) -> Command {
    Command {
        key: entry.key.clone(),
        name: entry.kind.clone(),
        payload: entry.payload.clone(),
        fingerprint: entry.fingerprint,
        accepted_at: entry.accepted_at,
    }
}

/// The database understood the command and will refuse it every time, or the program cannot read its answer.
fn is_hopeless(error: &Error) -> bool {
    // Missing tables, schemas or rights are an operator's to mend, and then the command applies. What is wrong with the
    // connection (08P01: also a pooler's word for its own troubles) says nothing about the command.
    const MENDABLE: [&str; 6] = ["42", "XX", "28", "3D", "3F", "08"];
    error.class() == ErrorClass::Permanent
        && error.stage() != Stage::Connect
        && !error.code().is_some_and(|code| MENDABLE.iter().any(|class| code.starts_with(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pooler that nobody told us of says ERROR 08P01 when its server crashes: an accepted write was recorded as rejected
    /// for good, though the server had never seen it.
    #[test]
    fn only_what_is_wrong_with_the_command_itself_is_hopeless() {
        let failed = |code: &str| {
            let (stage, phase, class) = (Stage::Query, Phase::InTransaction, ErrorClass::Permanent);
            let (code, source) = (Some(code.to_owned()), "planned".into());
            Error::Database { stage, phase, class, code, cause: None, source }
        };
        for code in ["08P01", "42P01", "42501", "3F000", "28P01", "XX001"] {
            assert!(!is_hopeless(&failed(code)), "{code}");
        }
        for code in ["22003", "23505", "P0001"] {
            assert!(is_hopeless(&failed(code)), "{code}");
        }
    }
}
