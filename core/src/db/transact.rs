//! Transactions of the service's own: begun, limited, committed, repeated where that is allowed, and resolved where the
//! answer to COMMIT was lost. Nothing of it goes into the journal; that is for commands (`writes`).

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::{
    ApplyError, Db, Outcome, Statements, Unresolved,
    begin::{Isolation, Kind, Mark},
    classify::Circuit,
    guards::{AttemptTime, Connected, attempt_span},
    resolve::Resolution,
    transaction::{self, Failed, Progress, Worked},
    writes::{CONTENTION_ATTEMPTS, is_contention, is_lost_commit},
};
use crate::{
    breaker::CallResult,
    bulkhead::Priority,
    deadline::Deadline,
    error::{Error, ErrorClass, Phase},
    metrics,
};

/// Kept of the deadline for finding out what became of a COMMIT whose answer was lost.
const RESOLVE_RESERVE: Duration = Duration::from_millis(500);

/// What kind of transaction it is, and what may be done when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionOptions {
    /// What it is called in metrics; one of few.
    pub name: &'static str,
    /// Whether the work may run again from its beginning after an attempt that was rolled back, decisions included. Only
    /// where it has no effect outside of the transaction. Default false.
    pub replayable: bool,
    /// Begins it `READ ONLY`; it may then always run again. Default false.
    pub read_only: bool,
    /// Default: the server's.
    pub isolation: Isolation,
    /// Who goes first where permits are short. Default [`Priority::Interactive`]; [`Priority::Batch`] for what nobody waits
    /// for.
    pub priority: Priority,
    /// Bound on one attempt. Default: `write.attempt` of the configuration.
    pub attempt: Option<Duration>,
}

impl TransactionOptions {
    /// A transaction that runs once.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            replayable: false,
            read_only: false,
            isolation: Isolation::default(),
            priority: Priority::default(),
            attempt: None,
        }
    }

    /// The same, replayable.
    #[must_use]
    pub fn replayable(self) -> Self {
        Self { replayable: true, ..self }
    }

    fn kind(&self) -> Kind {
        Kind { isolation: self.isolation, read_only: self.read_only }
    }
}

impl Db {
    /// Runs `work` in a transaction and says how it ended.
    ///
    /// An attempt for which no connection was had is made again. One that began is made again only where the options
    /// say that it may be: after a serialization failure or deadlock (40001, 40P01, at most five attempts, pauses of up to
    /// 5, 10, 20 and 40 ms), an outdated plan, or a connection that was lost before COMMIT. Retries are paid from the budget and end
    /// with the deadline. A COMMIT whose answer was lost is looked into until the deadline, and what still runs is
    /// ended; only what cannot be found out is [`Outcome::Unknown`].
    ///
    /// `work` must neither begin nor end a transaction. An error of its own, as [`ApplyError::Refused`], rolls back. Let it
    /// own what it uses (`async move`), or the call cannot be spawned.
    ///
    /// ```no_run
    /// # use ridethrough::{Deadline, db::{Db, Outcome, Statements, TransactionOptions}};
    /// # async fn example(db: Db, deadline: Deadline, from: i64, to: i64) {
    /// let options = TransactionOptions::new("transfer").replayable();
    /// let work = async move |statements: &Statements<'_>| {
    ///     statements.run("UPDATE accounts SET cents = cents - 1 WHERE id = $1", &[&from]).await?;
    ///     statements.run("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &[&to]).await?;
    ///     Ok(())
    /// };
    /// match db.transaction(options, deadline, work).await {
    ///     Outcome::Committed(()) => println!("done"),
    ///     Outcome::RolledBack(error) => println!("nothing happened: {}", error.class()),
    ///     Outcome::Unknown(unresolved) => println!("ask again about {:?}", unresolved.xid),
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropped before COMMIT was sent, the transaction is rolled back. Dropped after, it may commit: COMMIT is never
    /// cancelled, and nobody is told.
    pub async fn transaction<T, W>(
        &self,
        options: TransactionOptions,
        deadline: Deadline,
        work: W,
    ) -> Outcome<T>
    where
        W: AsyncFn(&Statements<'_>) -> Result<T, ApplyError>,
    {
        let started = Instant::now();
        let outcome = self.transaction_unmeasured(options, deadline, &work).await;
        let class = outcome.error().map_or("none", |error| error.class().as_str());
        metrics::db_call(options.name, outcome.as_str(), class, started.elapsed());
        outcome
    }

    async fn transaction_unmeasured<T, W>(
        &self,
        options: TransactionOptions,
        deadline: Deadline,
        work: &W,
    ) -> Outcome<T>
    where
        W: AsyncFn(&Statements<'_>) -> Result<T, ApplyError>,
    {
        let limit = options.attempt.unwrap_or_else(|| self.0.timing.write.attempt());
        let until = deadline.keeping(Instant::now(), RESOLVE_RESERVE);
        let (mut attempt, mut healed) = (1, false);
        loop {
            let (mut progress, mut value) = (Progress::after(None), None);
            let time = AttemptTime::new(until, limit);
            let worked = self.worked(&options, &time, (&mut progress, &mut value), work).await;
            self.earn(attempt, worked.as_ref().err(), Instant::now());
            let mut failed = match worked {
                Ok(Worked::Committed) => return committed(value),
                Ok(Worked::EndedByItself) => {
                    let fate = self.resolve(progress.mark.as_ref(), None, deadline).await;
                    return ended_by_itself(&fate, value, progress.mark);
                }
                Ok(Worked::GivenUp(refusal)) => {
                    return Outcome::RolledBack(Error::GivenUp { source: Box::new(refusal) });
                }
                Err(failed) => failed,
            };
            let mut may_retry = may_repeat(&options, &failed, &mut healed);
            if is_lost_commit(&failed.error) {
                // A read that came to its end has its answer, whatever became of its COMMIT.
                if options.read_only {
                    return value.map_or(Outcome::RolledBack(failed.error), Outcome::Committed);
                }
                match self.resolve(progress.mark.as_ref(), None, deadline).await {
                    // Without a value the work never came to its end, and must have committed by itself.
                    Resolution::Committed if value.is_some() => return committed(value),
                    Resolution::RolledBack => {
                        failed.error = found_rolled_back(failed.error);
                        may_retry = options.replayable;
                    }
                    _ => return unknown(failed.error, progress.mark),
                }
            }
            let contention = is_contention(&failed.error);
            let most = if contention { CONTENTION_ATTEMPTS } else { self.0.timing.write.attempts() };
            if !may_retry || attempt >= most || !self.pause_after(&failed.error, attempt, until).await {
                return Outcome::RolledBack(failed.error);
            }
            attempt += 1;
        }
    }

    async fn worked<T, W>(
        &self,
        options: &TransactionOptions,
        time: &AttemptTime,
        (progress, value): (&mut Progress, &mut Option<T>),
        work: &W,
    ) -> Result<Worked, Failed>
    where
        W: AsyncFn(&Statements<'_>) -> Result<T, ApplyError>,
    {
        let Connected { admission, loan, host } = self.connected(time, Some(options.priority)).await?;
        let span = attempt_span(options.name, Circuit::Writes, host);
        let attempt =
            transaction::work_attempt(loan, options.kind(), self.ground(time), (progress, value), work);
        let mut worked = attempt.instrument(span.clone()).await;
        if let Err(failed) = &mut worked
            && options.read_only
            && let Error::Database { class, .. } = &mut failed.error
            && *class == ErrorClass::Failover
        {
            // It was told not to write and wrote: the host did what it was asked, and says nothing about itself.
            *class = ErrorClass::Permanent;
            failed.breaker = CallResult::Success;
        }
        let result = worked.as_ref().map_or_else(|failed| failed.breaker, |_| CallResult::Success);
        admission.record(result, Instant::now());
        self.note_attempt(host, &span, worked.as_ref().err());
        worked
    }
}

/// Whether the whole transaction may run again after this failure.
fn may_repeat(options: &TransactionOptions, failed: &Failed, healed: &mut bool) -> bool {
    let class = failed.error.class();
    // An outdated plan is gone after the first time; a second one is something else.
    let heals_again = class == ErrorClass::Heal && std::mem::replace(healed, true);
    // It was asked to be read-only, so a host that only reads is no reason to go elsewhere.
    let own_wish = options.read_only && class == ErrorClass::Failover;
    let allowed = options.replayable || options.read_only || failed.error.phase() == Phase::NotSent;
    allowed && failed.may_retry() && !heals_again && !own_wish
}

fn committed<T>(value: Option<T>) -> Outcome<T> {
    Outcome::Committed(value.expect("COMMIT is sent only after the work gave its value"))
}

/// The answer to COMMIT was lost, and it turned out to have had no effect: the error must not say "unknown" any more.
fn found_rolled_back(error: Error) -> Error {
    match error {
        Error::Timeout { stage, limit, .. } => Error::Timeout { stage, phase: Phase::InTransaction, limit },
        Error::Database { stage, code, cause, source, .. } => {
            let (phase, class) = (Phase::InTransaction, ErrorClass::Transient);
            Error::Database { stage, phase, class, code, cause, source }
        }
        other => other,
    }
}

/// What is told of work that ended its transaction itself.
fn ended_by_itself<T>(fate: &Resolution, value: Option<T>, mark: Option<Mark>) -> Outcome<T> {
    let error = Error::GivenUp { source: "the work ended its transaction itself".into() };
    match (fate, value) {
        (Resolution::Committed, Some(value)) => Outcome::Committed(value),
        (Resolution::RolledBack, _) => Outcome::RolledBack(error),
        _ => unknown(error, mark),
    }
}

fn unknown<T>(error: Error, mark: Option<Mark>) -> Outcome<T> {
    let xid = mark.and_then(|mark| u64::try_from(mark.xid).ok());
    Outcome::Unknown(Unresolved { xid, key: None, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Stage;

    fn failed(class: ErrorClass, phase: Phase) -> Failed {
        let (stage, source) = (Stage::Query, "planned".into());
        let error = Error::Database { stage, phase, class, code: None, cause: None, source };
        Failed { error, breaker: CallResult::Neutral }
    }

    fn repeats(options: TransactionOptions, class: ErrorClass, phase: Phase) -> bool {
        may_repeat(&options, &failed(class, phase), &mut false)
    }

    #[test]
    fn only_what_is_marked_replayable_runs_again_once_it_began() {
        let (once, again) = (TransactionOptions::new("t"), TransactionOptions::new("t").replayable());
        for class in [ErrorClass::Contention, ErrorClass::Transient, ErrorClass::Heal, ErrorClass::Failover] {
            assert!(!repeats(once, class, Phase::InTransaction), "{class}");
            assert!(repeats(again, class, Phase::InTransaction), "{class}");
            assert!(repeats(once, class, Phase::NotSent), "{class}: the work had not begun");
        }
        for class in [ErrorClass::Permanent, ErrorClass::Unknown, ErrorClass::Overload] {
            assert!(!repeats(again, class, Phase::InTransaction), "{class}");
        }
    }

    #[test]
    fn a_read_only_one_runs_again_but_not_for_being_read_only() {
        let reading = TransactionOptions { read_only: true, ..TransactionOptions::new("t") };
        assert!(repeats(reading, ErrorClass::Contention, Phase::InTransaction));
        assert!(!repeats(reading, ErrorClass::Failover, Phase::InTransaction));
    }

    #[test]
    fn what_was_found_rolled_back_is_not_called_unknown() {
        let lost = [
            Error::Timeout { stage: Stage::Commit, phase: Phase::CommitSent, limit: Duration::from_secs(1) },
            failed(ErrorClass::Unknown, Phase::CommitSent).error,
        ];
        for error in lost {
            assert_eq!(error.class(), ErrorClass::Unknown);
            assert_eq!(found_rolled_back(error).class(), ErrorClass::Transient);
        }
    }

    #[test]
    fn an_outdated_plan_heals_once() {
        let options = TransactionOptions::new("t").replayable();
        let mut healed = false;
        let outdated = failed(ErrorClass::Heal, Phase::InTransaction);
        assert!(may_repeat(&options, &outdated, &mut healed));
        assert!(!may_repeat(&options, &outdated, &mut healed));
    }
}
