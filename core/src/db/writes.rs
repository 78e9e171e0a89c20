//! Writes below [`Db::write`]: which go straight to PostgreSQL, which to the journal, and in what order.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{
    Command, Db, Settled, WriteError, Written,
    gate::Direct,
    guards::{AttemptTime, Connected, WORTH_BEGINNING},
    transaction::{self, Attempted, Failed},
};
use crate::{
    breaker::CallResult,
    deadline::Deadline,
    error::{Error, ErrorClass, Phase, RejectReason},
    health::{DatabasePart, SchemaPart},
    journal::{AppendError, NewEntry},
};

/// Kept of a write's deadline for the journal: without it a database that hangs would use up all the time, and a write
/// that could have been accepted would end with nobody knowing.
const JOURNAL_RESERVE: Duration = Duration::from_millis(250);

impl Db {
    /// The decision between direct and journaled.
    pub(super) async fn write_unmeasured(
        &self,
        command: &Command,
        deadline: Deadline,
    ) -> Result<Written, WriteError> {
        if let Some(pending) = self.0.journal.find(&command.key) {
            let same = pending.fingerprint == command.fingerprint;
            let journaled = Written::Journaled { sequence: pending.sequence, repeated: true };
            return if same { Ok(journaled) } else { Err(WriteError::KeyReused) };
        }
        if *self.0.schema.borrow() == SchemaPart::Mismatch {
            let retry_after = self.retry_after(Instant::now());
            return Err(WriteError::Rejected(Error::Rejected {
                reason: RejectReason::SchemaUnusable,
                retry_after,
            }));
        }
        // No overtaking: while accepted writes wait, or are on their way to waiting, new ones queue up behind them.
        let Some(direct) = self.0.gate.direct().filter(|_| !self.must_journal()) else {
            return self.write_to_journal(command, deadline, None).await;
        };
        match self.write_direct(command, deadline, direct).await {
            Ok(attempted) => written(attempted, command),
            Err(error) if belongs_in_journal(&error) => {
                self.write_to_journal(command, deadline, Some(error)).await
            }
            Err(error) => Err(WriteError::Rejected(error)),
        }
    }

    fn must_journal(&self) -> bool {
        self.0.journal.backlog().entries > 0 || *self.0.database.borrow() == DatabasePart::ReadOnly
    }

    async fn write_direct(
        &self,
        command: &Command,
        deadline: Deadline,
        _direct: Direct<'_>,
    ) -> Result<Attempted, Error> {
        let deadline = deadline.keeping(Instant::now(), JOURNAL_RESERVE);
        let (limit, attempts) = (self.0.config.write.attempt, self.0.config.write.attempts);
        let mut attempt = 1;
        loop {
            match self.write_attempt(command, false, deadline, limit).await {
                Ok(attempted) => return Ok(attempted),
                Err(failed) => {
                    // One that is being journaled waits for this one to end.
                    let worth_it = failed.may_retry() && attempt < attempts && !self.0.gate.is_diverting();
                    if !worth_it || !self.pause_before_retry(attempt, deadline).await {
                        return Err(failed.error);
                    }
                }
            }
            attempt += 1;
        }
    }

    /// One attempt, direct or from the journal, with what it does to the cache.
    pub(super) async fn write_attempt(
        &self,
        command: &Command,
        replayed: bool,
        deadline: Deadline,
        limit: Duration,
    ) -> Result<Attempted, Failed> {
        let sent_at = Instant::now();
        let time = AttemptTime::new(deadline, limit);
        let Connected { admission, loan } = self.connected(&time, replayed).await?;
        let commands = self.0.commands.as_ref();
        let attempted = transaction::attempt(loan, commands, command, replayed, &time).await;
        let result = attempted.as_ref().map_or_else(|failed| failed.breaker, |_| CallResult::Success);
        admission.record(result, Instant::now());
        let (settled, before) = match &attempted {
            Ok(Attempted::Committed(applied)) => (applied.clone().into(), false),
            Ok(Attempted::Known(known)) if replayed && known.is_same_request(command) => {
                (known.settled(), true)
            }
            _ => return attempted,
        };
        self.tell_settled(command, &settled, before, sent_at);
        attempted
    }

    /// Tells the service how a command ended. What was settled `before` is news of unknown age, and only makes the cache
    /// forget.
    pub(super) fn tell_settled(&self, command: &Command, settled: &Settled, before: bool, sent_at: Instant) {
        let (cache, now) = (&self.0.cache, Instant::now());
        self.0.settled_keys.insert(command.key.clone(), command.fingerprint);
        let fill =
            if before { cache.forget_by_write(sent_at, now) } else { cache.fill_by_write(sent_at, now) };
        self.0.commands.settled(command, settled, &fill);
    }

    /// Accepts the command into the journal, after `cause` where the database was tried first. Acknowledges only when
    /// direct writes that were begun before have ended, so that replay cannot undo one of them.
    async fn write_to_journal(
        &self,
        command: &Command,
        deadline: Deadline,
        cause: Option<Error>,
    ) -> Result<Written, WriteError> {
        // A commit whose answer was lost may have happened; under its key the journal finds out without doing it twice.
        let maybe_committed = cause.as_ref().is_some_and(|error| error.class() == ErrorClass::Unknown);
        let refused = |error: Error, unknown: bool| {
            let error = cause.unwrap_or(error);
            if maybe_committed || unknown { WriteError::Unknown(error) } else { WriteError::Rejected(error) }
        };
        let too_late = |retry_after| Error::Rejected { reason: RejectReason::DeadlinePassed, retry_after };
        if deadline.remaining(Instant::now()) < WORTH_BEGINNING {
            return Err(refused(too_late(self.retry_after(Instant::now())), false));
        }
        // The database would tell; while it cannot, what this replica remembers of its own keys must do.
        let known = self.0.settled_keys.get(&command.key);
        if !maybe_committed && known.is_some_and(|fingerprint| fingerprint != command.fingerprint) {
            return Err(WriteError::KeyReused);
        }
        let _diverting = self.0.gate.divert();
        let appending = self.0.journal.append(entry(command));
        let (sequence, repeated) = match timeout_at(deadline.instant(), appending).await {
            Ok(Ok(appended)) => (appended.sequence, false),
            Ok(Err(AppendError::KeyPending { sequence, same_fingerprint: true })) => (sequence, true),
            Ok(Err(AppendError::KeyPending { .. })) if !maybe_committed => return Err(WriteError::KeyReused),
            Ok(Err(error)) => {
                let permanent = matches!(error, AppendError::TooLarge { .. });
                let not_journaled = Error::NotJournaled { reason: error.reason(), permanent };
                return Err(refused(not_journaled, error.is_unknown()));
            }
            // The entry is queued and may become durable after all.
            Err(_) => return Err(refused(too_late(self.retry_after(Instant::now())), true)),
        };
        if !repeated {
            self.0.commands.accepted(command);
        }
        // Attempts are bounded, so in all but a deadline of nearly nothing this ends first.
        if !self.0.gate.direct_writes_ended(deadline.instant()).await {
            return Err(refused(too_late(self.retry_after(Instant::now())), true));
        }
        Ok(Written::Journaled { sequence, repeated })
    }
}

fn entry(command: &Command) -> NewEntry {
    NewEntry {
        key: command.key.clone(),
        kind: command.name.clone(),
        fingerprint: command.fingerprint,
        accepted_at: command.accepted_at,
        payload: command.payload.clone(),
    }
}

/// What the database's answer means for the caller.
fn written(attempted: Attempted, command: &Command) -> Result<Written, WriteError> {
    let (settled, repeated) = match attempted {
        Attempted::Committed(applied) => (applied.into(), false),
        Attempted::Known(known) if known.is_same_request(command) => (known.settled(), true),
        Attempted::Known(_) => return Err(WriteError::KeyReused),
        Attempted::Refused(refusal) => (Settled::Refused(refusal), false),
    };
    match settled {
        Settled::Applied(answer) => Ok(Written::Committed { answer, repeated }),
        Settled::Superseded(answer) => Ok(Written::Superseded { answer }),
        Settled::Refused(refusal) => Err(WriteError::Refused(refusal)),
    }
}

/// Whether waiting can help a write that the database did not take: it is away, or cannot write at all. A living server
/// that is busy with this row or this minute is a matter for the caller: journaled, one such write would hold up all
/// that come after it.
fn belongs_in_journal(error: &Error) -> bool {
    match error.class() {
        ErrorClass::Permanent => error.phase() == Phase::NotSent,
        ErrorClass::Overload => error.code().is_some_and(|code| code.starts_with("53")),
        ErrorClass::Contention => false,
        ErrorClass::Transient => {
            !matches!(error, Error::Rejected { reason: RejectReason::DeadlinePassed, .. })
        }
        ErrorClass::Unknown | ErrorClass::Failover | ErrorClass::Heal => true,
    }
}
