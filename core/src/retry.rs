//! Whether a failed attempt is followed by another, and after which pause. Budget, breaker, deadline and the number of
//! attempts have a say; what the failure means is decided before ([`judgement`](crate::judgement)), and nobody waits here.
//!
//! Defaults, metrics and what not to do: `docs/patterns/retry-and-budget.md`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    breaker::{Breaker, BreakerState},
    budget::RetryBudget,
    deadline::Deadline,
    judgement::Judgement,
};

/// Less than this is left of a deadline: nothing is begun, because its answer would come too late for everybody.
pub(crate) const WORTH_BEGINNING: Duration = Duration::from_millis(2);

/// The retry policy of one circuit. Clones share budget and breaker.
///
/// ```
/// use std::sync::Arc;
/// use ridethrough::{budget::{RetryBudget, RetryBudgetConfig}, error::ErrorClass, judgement::Judgement, retry::Retry};
/// use tokio::time::Instant;
///
/// let (now, mut random) = (Instant::now(), fastrand::Rng::new());
/// let retry = Retry::new(Arc::new(RetryBudget::new(RetryBudgetConfig::default(), now)));
/// let lost_a_race = Judgement::of(ErrorClass::Contention);
/// assert!(retry.pause(lost_a_race, 1, None, now, &mut random).is_some());
/// assert!(retry.pause(lost_a_race, 3, None, now, &mut random).is_none(), "three attempts are all");
/// let lost_an_answer = Judgement::of(ErrorClass::Unknown);
/// assert!(retry.pause(lost_an_answer, 1, None, now, &mut random).is_none(), "it may have had its effect");
/// ```
#[derive(Debug, Clone)]
pub struct Retry {
    /// What the traffic has earned; share one among all layers that call the same thing.
    pub budget: Arc<RetryBudget>,
    /// The pauses.
    pub backoff: Backoff,
    /// Attempts at the most, the first included.
    pub attempts: u32,
    /// Nothing is tried again while this one is not closed: in an outage every retry is in vain, and during recovery it
    /// takes a trial away from somebody else.
    pub breaker: Option<Arc<Breaker>>,
}

impl Retry {
    /// Three attempts, the default [`Backoff`], and no breaker to wait for.
    #[must_use]
    pub fn new(budget: Arc<RetryBudget>) -> Self {
        Self { budget, backoff: Backoff::default(), attempts: 3, breaker: None }
    }

    /// The pause between the failed `attempt` (the first is 1) and the next one, or `None` where there is none. Takes the
    /// retry out of the budget as the last thing, so that what is not made costs nothing.
    #[must_use = "a pause that is not None has been paid for"]
    pub fn pause(
        &self,
        judgement: Judgement,
        attempt: u32,
        deadline: Option<Deadline>,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let is_frozen = || self.breaker.as_ref().is_some_and(|b| b.state(now) != BreakerState::Closed);
        if !judgement.may_retry || attempt >= self.attempts || is_frozen() {
            return None;
        }
        let delay = self.backoff.delay(attempt, random);
        paid_pause(delay, deadline, &self.budget, now)
    }
}

/// The end of every decision about a retry, that of the database path too: it is made only where the deadline has room for
/// the pause and an attempt after it, and where the budget pays.
pub(crate) fn paid_pause(
    delay: Duration,
    deadline: Option<Deadline>,
    budget: &RetryBudget,
    now: Instant,
) -> Option<Duration> {
    let fits = deadline.is_none_or(|deadline| deadline.remaining(now) >= delay + WORTH_BEGINNING);
    (fits && budget.withdraw(now)).then_some(delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backoff::Jitter, breaker::BreakerConfig, budget::RetryBudgetConfig, error::ErrorClass};

    const AGAIN: Judgement = Judgement::of(ErrorClass::Transient);

    fn retry(retries: f64, now: Instant) -> Retry {
        let config =
            RetryBudgetConfig { ratio: 0.0, floor_per_second: retries, ..RetryBudgetConfig::default() };
        let backoff = Backoff { base: Duration::from_millis(10), jitter: Jitter::None, ..Backoff::default() };
        Retry { backoff, ..Retry::new(Arc::new(RetryBudget::new(config, now))) }
    }

    fn pause(retry: &Retry, judgement: Judgement, attempt: u32, left: u64, now: Instant) -> Option<Duration> {
        let deadline = Deadline::after(now, Duration::from_millis(left));
        retry.pause(judgement, attempt, Some(deadline), now, &mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn the_budget_bounds_the_retries() {
        let now = Instant::now();
        let retry = retry(2.0, now);
        let granted: Vec<bool> = (0..3).map(|_| pause(&retry, AGAIN, 1, 1_000, now).is_some()).collect();
        assert_eq!(granted, [true, true, false]);
    }

    #[test]
    fn what_is_not_made_costs_nothing() {
        let now = Instant::now();
        let retry = retry(1.0, now);
        assert_eq!(pause(&retry, Judgement::of(ErrorClass::Unknown), 1, 1_000, now), None, "unknown");
        assert_eq!(pause(&retry, AGAIN, 3, 1_000, now), None, "the last attempt");
        assert_eq!(pause(&retry, AGAIN, 1, 11, now), None, "no time for pause and attempt");
        assert_eq!(pause(&retry, AGAIN, 1, 12, now), Some(Duration::from_millis(10)));
    }

    #[test]
    fn nothing_is_tried_again_until_the_breaker_is_closed() {
        let now = Instant::now();
        let breaker = Breaker::new("test", BreakerConfig::default(), now);
        let retry = Retry { breaker: Some(breaker.clone()), ..retry(1.0, now) };
        breaker.probe_failed(now, now + Duration::from_millis(1));
        assert_eq!(pause(&retry, AGAIN, 1, 1_000, now), None, "open");
        breaker.probe_succeeded(now);
        assert_eq!(pause(&retry, AGAIN, 1, 1_000, now), None, "half-open");
        for _ in 0..100 {
            breaker.probe_succeeded(now);
        }
        assert!(pause(&retry, AGAIN, 1, 1_000, now).is_some(), "closed, and the rejections cost nothing");
    }
}
