//! Writes below [`Db::write`]: which go straight to PostgreSQL, which to the journal, and in what order.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument as _;

use super::{
    Applied, Command, Db, Settled, WriteError, Written,
    classify::Circuit,
    fence::{self, Claim},
    gate::Direct,
    guards::{AttemptTime, Connected, attempt_span},
    resolve::Resolution,
    transaction::{self, Attempted, Failed, Ground, Origin, Progress},
};
use crate::{
    backoff::{Backoff, Jitter},
    breaker::CallResult,
    bulkhead::Priority,
    deadline::Deadline,
    error::{Error, ErrorClass, Phase, RejectReason},
    health::{DatabasePart, SchemaPart},
    journal::{AppendError, JournalHealth, NewEntry},
    metrics,
    retry::WORTH_BEGINNING,
    sabotage::{self, Bug},
};

/// Kept of a write's deadline for the journal: without it a database that hangs would use up all the time, and a write
/// that could have been accepted would end with nobody knowing.
const JOURNAL_RESERVE: Duration = Duration::from_millis(250);

/// A lost race is run again after 5 to 50 ms, drawn from the whole of it.
const CONTENTION_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(50), jitter: Jitter::Full };
/// Attempts at the most where each lost a race, the first included.
pub(super) const CONTENTION_ATTEMPTS: u32 = 5;

/// Somebody waits for a command that is written directly; what nobody waits for can go into a transaction.
const PRIORITY: Option<Priority> = Some(Priority::Interactive);

/// Why a write is not journaled for which the journal has room: a reason as those of [`AppendError`].
const RESERVED: &str = "reserved";

/// What was found out about a write whose COMMIT was not answered.
enum Found {
    Ended(Attempted),
    /// It had no effect and will have none.
    Nothing,
    /// Nobody can tell, but beside another one under the same key it will have none.
    NoTrace,
    NotInTime,
    /// It committed, and what it did is not known here any more.
    Gone,
}

/// A direct write that came to no end.
enum Undone {
    Failed(Error),
    /// It may have had its effect and the key may not tell: done again, it would perhaps be done twice.
    Doubtful(Error),
}

/// How it comes that a command is known to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Its author waits, and is about to look at what it changed.
    Direct,
    /// Replay applied it, and perhaps nobody ever looks.
    Replayed,
    /// Replay found it settled already, at a time that nobody here knows: it only makes the cache forget.
    Earlier,
}

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
            return Err(WriteError::Rejected(Error::rejected(RejectReason::SchemaUnusable, retry_after)));
        }
        // No overtaking: while accepted writes of its ordering key wait, or are on their way to waiting, a new one queues up
        // behind them.
        let direct = self.0.gate.direct(&command.ordering_key).filter(|_| !self.must_journal(command));
        let Some(direct) = direct else {
            return self.write_to_journal(command, deadline, None).await;
        };
        let begun = Instant::now();
        match self.write_direct(command, deadline, direct).await {
            Ok(attempted) => written(attempted, command),
            Err(Undone::Failed(error)) if belongs_in_journal(&error) => {
                self.write_to_journal(command, deadline, Some((error, begun))).await
            }
            Err(Undone::Failed(error)) => Err(WriteError::Rejected(error)),
            Err(Undone::Doubtful(error)) => Err(WriteError::Unknown(error)),
        }
    }

    fn must_journal(&self, command: &Command) -> bool {
        let reads_only = [DatabasePart::ReadOnly, DatabasePart::Standby];
        self.0.journal.is_waiting(&command.ordering_key) || reads_only.contains(&*self.0.database.borrow())
    }

    async fn write_direct(
        &self,
        command: &Command,
        deadline: Deadline,
        _direct: Direct<'_>,
    ) -> Result<Attempted, Undone> {
        let deadline = deadline.keeping(Instant::now(), JOURNAL_RESERVE);
        let (limit, attempts) = (self.0.timing.write.attempt(), self.0.timing.write.attempts());
        let mut attempt = 1;
        // A lost COMMIT that left no trace may still happen, so no later failure may be told as "no effect".
        let (mut ghost, mut doubt, mut before) = (None, None, None);
        loop {
            let mut progress = Progress::after(ghost.take());
            let attempted =
                self.write_attempt(command, Origin::Direct, (deadline, limit), &mut progress).await;
            self.earn(attempt, attempted.as_ref().err(), Instant::now());
            let failed = match attempted {
                Ok(attempted) => return Ok(attempted),
                Err(failed) => failed,
            };
            let (mut may_retry, mut in_doubt) = (failed.may_retry(), false);
            if is_lost_commit(&failed.error) {
                match self.found_out(command, &mut progress, deadline).await {
                    Found::Ended(attempted) => return Ok(attempted),
                    Found::Gone => return Err(Undone::Doubtful(failed.error)),
                    Found::Nothing => may_retry = true,
                    Found::NoTrace => (may_retry, in_doubt) = (true, true),
                    Found::NotInTime => return Err(Undone::Failed(failed.error)),
                }
            } else if matches!(failed.error, Error::GivenUp { .. }) {
                return Err(Undone::Doubtful(failed.error));
            } else if progress.ghost.is_some() {
                // The attempt did not come as far as ending it.
                ghost = progress.ghost;
            } else if failed.error.code().is_none() {
                // Nobody told its end: what it left behind may still run, and hold the key.
                ghost = progress.mark;
            }
            // One that is being journaled waits for this one to end.
            let most = match is_contention(&failed.error) {
                true if sabotage::planted(Bug::RetryWithoutBudget) => u32::MAX,
                true => attempts.max(CONTENTION_ATTEMPTS),
                false => attempts,
            };
            let worth_it = may_retry && attempt < most && !self.0.gate.is_diverting(&command.ordering_key);
            if !worth_it || !self.pause_after(&failed.error, attempt, deadline).await {
                // That a retry was refused tells less than why there had to be one.
                let before = before.filter(|_| failed.error.is_rejection());
                return Err(Undone::Failed(doubt.or(before).unwrap_or(failed.error)));
            }
            if in_doubt {
                doubt = Some(failed.error);
            } else if !is_lost_commit(&failed.error) {
                before = Some(failed.error);
            }
            attempt += 1;
        }
    }

    /// What became of a write whose COMMIT was not answered.
    async fn found_out(&self, command: &Command, progress: &mut Progress, deadline: Deadline) -> Found {
        let sent_at = Instant::now();
        match self.resolve(progress.mark.as_ref(), Some(command), deadline).await {
            Resolution::Settled(known) if known.is_same_request(command) => {
                self.tell_settled(command, &known.settled(), News::Direct, sent_at);
                Found::Ended(match known.settled() {
                    Settled::Applied(answer) => Attempted::Committed(Applied::Done(answer)),
                    Settled::Superseded(answer) => Attempted::Committed(Applied::Superseded(answer)),
                    Settled::Refused(_) => Attempted::Known(known),
                })
            }
            Resolution::Settled(known) => Found::Ended(Attempted::Known(known)),
            Resolution::RolledBack => Found::Nothing,
            Resolution::NoTrace => Found::NoTrace,
            // Committed without its row: somebody removed it. Claiming the key again, now or out of the journal, would do
            // it twice; what it answered is known here.
            Resolution::Committed => match progress.applied.take() {
                Some(applied) => {
                    self.tell_settled(command, &applied.clone().into(), News::Direct, sent_at);
                    Found::Ended(Attempted::Committed(applied))
                }
                None => Found::Gone,
            },
            Resolution::Unresolved => Found::NotInTime,
        }
    }

    /// Waits before the next attempt, where budget and deadline allow one. A lost race is run again sooner than a server
    /// in trouble is asked again.
    pub(super) async fn pause_after(&self, error: &Error, attempt: u32, deadline: Deadline) -> bool {
        if !is_contention(error) {
            return self.pause_before_retry(attempt, deadline).await;
        }
        let now = Instant::now();
        let delay = self.random(|random| CONTENTION_BACKOFF.delay(attempt, random));
        if delay >= deadline.remaining(now) || !self.0.budget.withdraw(now) {
            return false;
        }
        sleep(delay).await;
        true
    }

    /// One attempt, with what it does to the cache.
    pub(super) async fn write_attempt(
        &self,
        command: &Command,
        origin: Origin,
        (deadline, limit): (Deadline, Duration),
        progress: &mut Progress,
    ) -> Result<Attempted, Failed> {
        let sent_at = Instant::now();
        let time = AttemptTime::new(deadline, limit);
        let replayed = origin != Origin::Direct;
        let priority = match origin {
            Origin::Direct => PRIORITY,
            Origin::Journal { priority, .. } => priority,
        };
        let Connected { admission, loan, host } = self.connected(&time, priority).await?;
        let claim = if replayed { self.claim() } else { None };
        let (commands, ground) = (self.0.commands.as_ref(), Ground { claim, ..self.ground(&time) });
        let span = attempt_span(&command.name, Circuit::Writes, host);
        let attempt = transaction::attempt(loan, commands, command, origin, ground, progress);
        let attempted = attempt.instrument(span.clone()).await;
        let result = attempted.as_ref().map_or_else(|failed| failed.breaker, |_| CallResult::Success);
        admission.record(result, Instant::now());
        self.note_attempt(host, &span, attempted.as_ref().err());
        let (settled, news) = match &attempted {
            Ok(Attempted::Committed(applied)) if replayed => (applied.clone().into(), News::Replayed),
            Ok(Attempted::Committed(applied)) => (applied.clone().into(), News::Direct),
            Ok(Attempted::Known(known)) if replayed && known.is_same_request(command) => {
                (known.settled(), News::Earlier)
            }
            _ => return attempted,
        };
        self.tell_settled(command, &settled, news, sent_at);
        attempted
    }

    pub(super) fn ground<'a>(&'a self, time: &'a AttemptTime) -> Ground<'a> {
        let (marking, telling) = (&self.0.marking, &self.0.telling);
        Ground { time, config: &self.0.config.pool, marking, telling, claim: None }
    }

    /// What a transaction of replay must hold.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        Some(Claim { fence: &self.0.fence, journal: self.0.journal.id() })
    }

    /// Tells the service how a command ended.
    pub(super) fn tell_settled(&self, command: &Command, settled: &Settled, news: News, sent_at: Instant) {
        let (cache, now) = (&self.0.cache, Instant::now());
        self.0.settled_keys.insert(command.key.clone(), command.fingerprint);
        if news != News::Earlier && !matches!(settled, Settled::Refused(_)) {
            self.0.losses.committed(&command.key, now);
        }
        let fill = match news {
            News::Direct => cache.fill_by_write(sent_at, now),
            News::Replayed => cache.fill_by_write(sent_at, now).unasked(),
            News::Earlier => cache.forget_by_write(sent_at, now).unasked(),
        };
        let tags = self.0.commands.end(command, settled, &fill);
        cache.changed(&tags, now);
        // Last: until the cache knows better, readers see what the write was to become.
        self.0.overlays.settle(&command.key, settled, now);
    }

    /// Accepts the command into the journal, after `cause` where the database was tried first, from then on. Acknowledges only when
    /// direct writes that were begun before have ended, so that replay cannot undo one of them.
    async fn write_to_journal(
        &self,
        command: &Command,
        deadline: Deadline,
        cause: Option<(Error, Instant)>,
    ) -> Result<Written, WriteError> {
        let (cause, begun) = cause.unzip();
        // A commit whose answer was lost may have happened; under its key the journal finds out without doing it twice.
        let maybe_committed = cause.as_ref().is_some_and(|error| error.class() == ErrorClass::Unknown);
        let refused = |error: Error, unknown: bool| {
            let error = cause.unwrap_or(error);
            if maybe_committed || unknown { WriteError::Unknown(error) } else { WriteError::Rejected(error) }
        };
        let too_late = |retry_after| Error::rejected(RejectReason::DeadlinePassed, retry_after);
        if deadline.remaining(Instant::now()) < WORTH_BEGINNING {
            return Err(refused(too_late(self.retry_after(Instant::now())), false));
        }
        // The database would tell; while it cannot, what this replica remembers of its own keys must do.
        let known = self.0.settled_keys.get(&command.key);
        if !maybe_committed && known.is_some_and(|fingerprint| fingerprint != command.fingerprint) {
            return Err(WriteError::KeyReused);
        }
        if let Some(reason) = self.is_closed_to(command, maybe_committed) {
            metrics::journal_refused(reason);
            return Err(refused(Error::NotJournaled { reason, permanent: false }, false));
        }
        let _diverting = self.0.gate.divert(&command.ordering_key);
        let appending = self.0.journal.append(entry(command));
        let appending =
            appending.instrument(tracing::debug_span!("journal.append", operation = %command.name));
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
            self.note_pending(command, Instant::now(), begun.filter(|_| maybe_committed));
        }
        // Attempts are bounded, so in all but a deadline of nearly nothing this ends first.
        if !self.0.gate.direct_writes_ended(&command.ordering_key, deadline.instant()).await {
            return Err(refused(too_late(self.retry_after(Instant::now())), true));
        }
        Ok(Written::Journaled { sequence, repeated })
    }
}

impl Db {
    /// Why the journal, whose store would take it, is not for this command.
    fn is_closed_to(&self, command: &Command, maybe_committed: bool) -> Option<&'static str> {
        // What this owner accepted now, nobody would ever apply.
        if self.0.fence.is_lost() {
            return Some(fence::FENCED);
        }
        // A refusal of what may have been committed would leave nobody knowing.
        let may_use_reserve = || maybe_committed || self.0.commands.is_important(&command.name);
        let is_reserved = self.0.journal.health() == JournalHealth::Reserved;
        (is_reserved && !may_use_reserve()).then_some(RESERVED)
    }
}

fn entry(command: &Command) -> NewEntry {
    NewEntry {
        key: command.key.clone(),
        kind: command.name.clone(),
        fingerprint: command.fingerprint,
        accepted_at: command.accepted_at,
        payload: command.payload.clone(),
        version: command.version,
        ordering_key: command.ordering_key.clone(),
        retried: false,
    }
}

/// COMMIT was sent, and nobody knows whether it happened.
pub(super) fn is_lost_commit(error: &Error) -> bool {
    error.class() == ErrorClass::Unknown && error.phase() == Phase::CommitSent
}

pub(super) fn is_contention(error: &Error) -> bool {
    error.class() == ErrorClass::Contention
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

/// Whether waiting can help a write that the database did not take: it is away, cannot write at all, or others do not let go
/// of what the write needs. Journaled, it holds up its own ordering key alone. A living server that is asked for more than it
/// can, or that lets others win race after race, is a matter for the caller: a journal full of what nobody gets done would
/// help no one, and a reader at another replica sees fresh answers without it.
fn belongs_in_journal(error: &Error) -> bool {
    /// A lock was not to be had within our own limit.
    const LOCK_NOT_AVAILABLE: &str = "55P03";

    match error.class() {
        ErrorClass::Permanent => error.phase() == Phase::NotSent,
        ErrorClass::Overload => error.code().is_some_and(|code| code.starts_with("53")),
        ErrorClass::Transient => {
            !matches!(error, Error::Rejected { reason: RejectReason::DeadlinePassed, .. })
        }
        ErrorClass::Contention => error.code() == Some(LOCK_NOT_AVAILABLE),
        ErrorClass::Unknown | ErrorClass::Failover | ErrorClass::Heal => true,
    }
}
