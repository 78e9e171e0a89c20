//! What the end of a call means for the breaker and for another attempt. It holds the words and the place where a service
//! says them ([`Classify`]); which PostgreSQL error means what is the table of `db`.
//!
//! When to use it and what not to do: `docs/patterns/guard-and-layers.md`.

use std::{ops::Deref, time::Duration};

use tokio::time::Instant;

use crate::{
    breaker::{Admission, Breaker, CallResult},
    bulkhead::Ended,
    deadline::Deadline,
    error::ErrorClass,
};

/// What the end of one call means.
///
/// ```
/// use ridethrough::{error::ErrorClass, judgement::Judgement};
///
/// assert!(!Judgement::of(ErrorClass::Unknown).may_retry);
/// assert!(Judgement::of(ErrorClass::Transient).may_retry);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What the error lets the caller do; `None` where there was none.
    pub class: Option<ErrorClass>,
    /// What the breaker counts.
    pub breaker: CallResult,
    /// Whether the same call may be made again: it had no effect, or a second one does no harm.
    pub may_retry: bool,
}

impl Judgement {
    /// It worked.
    pub const SUCCESS: Self = Self { class: None, breaker: CallResult::Success, may_retry: false };

    /// The usual reading of a class: what had no effect may be made again, what may have had one must not, and only the
    /// classes that mean "nobody there" count as failures.
    #[must_use]
    pub const fn of(class: ErrorClass) -> Self {
        use ErrorClass::{Contention, Failover, Heal, Overload, Permanent, Transient, Unknown};
        let (breaker, may_retry) = match class {
            Transient => (CallResult::Failure, true),
            Unknown => (CallResult::Failure, false),
            Permanent => (CallResult::Success, false),
            Contention | Heal => (CallResult::Success, true),
            // A retry would be one more call to a server that has no room, or to a host that does not take it.
            Overload | Failover => (CallResult::Neutral, false),
        };
        Self { class: Some(class), breaker, may_retry }
    }

    /// What an answer that was judged so says about the load of the other side, which the limit of a bulkhead follows.
    #[must_use]
    pub const fn ended(self) -> Ended {
        match (self.class, self.breaker) {
            (Some(ErrorClass::Overload), _) => Ended::Overloaded,
            (None, _) | (_, CallResult::Success) => Ended::Answered,
            (_, CallResult::Failure | CallResult::Neutral) => Ended::Neutral,
        }
    }
}

/// Reads the end of a call. Any `Fn(&Result<T, E>) -> Judgement` is one.
pub trait Classify<T, E> {
    /// What this answer or error means.
    fn judge(&self, result: &Result<T, E>) -> Judgement;

    /// What it means that no answer came in time. By default the call may have had its effect.
    fn judge_timeout(&self) -> Judgement {
        Judgement::of(ErrorClass::Unknown)
    }
}

impl<T, E, F: Fn(&Result<T, E>) -> Judgement> Classify<T, E> for F {
    fn judge(&self, result: &Result<T, E>) -> Judgement {
        self(result)
    }
}

/// The careful default for a client of which nothing is known: every error is a failure that may have had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnyError;

impl<T, E> Classify<T, E> for AnyError {
    fn judge(&self, result: &Result<T, E>) -> Judgement {
        match result {
            Ok(_) => Judgement::SUCCESS,
            Err(_) => Judgement::of(ErrorClass::Unknown),
        }
    }
}

/// For calls that do no harm when made twice, such as reads or writes under an idempotency key: what the inner classifier
/// calls unknown may be made again, and so may a call that got no answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repeatable<C>(pub C);

impl<C> Repeatable<C> {
    fn repeated(judgement: Judgement) -> Judgement {
        let may_retry = judgement.may_retry || judgement.class == Some(ErrorClass::Unknown);
        Judgement { may_retry, ..judgement }
    }
}

impl<T, E, C: Classify<T, E>> Classify<T, E> for Repeatable<C> {
    fn judge(&self, result: &Result<T, E>) -> Judgement {
        Self::repeated(self.0.judge(result))
    }

    fn judge_timeout(&self) -> Judgement {
        Self::repeated(self.0.judge_timeout())
    }
}

/// An admitted call whose end is awaited until its deadline, where it was given enough time for running out of it to speak
/// about the other side. Else anybody could open the breaker for all with a few short deadlines.
#[derive(Debug)]
pub(crate) struct Awaited<B: Deref<Target = Breaker>> {
    admission: Admission<B>,
    is_patient: bool,
}

impl<B: Deref<Target = Breaker>> Awaited<B> {
    /// A call admitted at `now` that ends at `deadline`; with less than `patience` before that, running out of time is
    /// neutral, whether it is told or the call is dropped.
    pub(crate) fn new(
        admission: Admission<B>,
        deadline: Option<Deadline>,
        patience: Duration,
        now: Instant,
    ) -> Self {
        let is_patient = deadline.is_none_or(|deadline| deadline.remaining(now) >= patience);
        let admission = match deadline {
            Some(deadline) if is_patient => admission.until(deadline),
            Some(_) | None => admission,
        };
        Self { admission, is_patient }
    }

    /// Tells the breaker how the call ended.
    pub(crate) fn record(self, result: CallResult, now: Instant) {
        self.admission.record(result, now);
    }

    /// Tells the breaker that no answer came in time, and answers what that says about the other side's load.
    pub(crate) fn record_timeout(self, judgement: Judgement, now: Instant) -> Ended {
        let (result, ended) = if self.is_patient {
            (judgement.breaker, Ended::TimedOut)
        } else {
            (CallResult::Neutral, Ended::Neutral)
        };
        self.admission.record(result, now);
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::breaker::{BreakerConfig, BreakerState};

    const PATIENCE: Duration = Duration::from_millis(100);

    fn breaker() -> Arc<Breaker> {
        let config = BreakerConfig { consecutive_failures: 1, ..BreakerConfig::default() };
        Breaker::new("test", config, Instant::now())
    }

    async fn state_after_drop(limit: Duration, dropped_after: Duration) -> BreakerState {
        let breaker = breaker();
        let now = Instant::now();
        let deadline = Deadline::after(now, limit);
        let awaited = Awaited::new(breaker.admit(now).unwrap(), Some(deadline), PATIENCE, now);
        tokio::time::advance(dropped_after).await;
        drop(awaited);
        breaker.state(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_drop_after_the_deadline_is_a_failure_and_a_departed_caller_is_not() {
        let second = Duration::from_secs(1);
        assert_eq!(state_after_drop(second, second).await, BreakerState::Open);
        assert_eq!(state_after_drop(second, second / 2).await, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_in_a_hurry_says_nothing_about_the_other_side() {
        assert_eq!(state_after_drop(PATIENCE / 2, PATIENCE).await, BreakerState::Closed);
    }

    #[test]
    fn a_statement_error_is_an_answer_and_a_lost_connection_says_nothing_about_load() {
        let ended = |class| Judgement::of(class).ended();
        assert_eq!(Judgement::SUCCESS.ended(), Ended::Answered);
        assert_eq!(ended(ErrorClass::Permanent), Ended::Answered);
        assert_eq!(ended(ErrorClass::Contention), Ended::Answered);
        assert_eq!(ended(ErrorClass::Overload), Ended::Overloaded);
        for class in [ErrorClass::Transient, ErrorClass::Unknown, ErrorClass::Failover] {
            assert_eq!(ended(class), Ended::Neutral, "{class:?}");
        }
    }

    #[test]
    fn only_calls_that_may_be_made_twice_are_made_again_after_an_unknown_end() {
        let lost: Result<(), ()> = Err(());
        assert!(!AnyError.judge(&lost).may_retry);
        assert!(Repeatable(AnyError).judge(&lost).may_retry);
        assert!(Classify::<(), ()>::judge_timeout(&Repeatable(AnyError)).may_retry);
        let permanent = |_: &Result<(), ()>| Judgement::of(ErrorClass::Permanent);
        assert!(!Repeatable(permanent).judge(&lost).may_retry);
    }
}
