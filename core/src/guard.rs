//! The whole path around any async call: deadline, bulkhead, breaker, attempt, retry with budget. For services that reach
//! PostgreSQL, or anything else, through a client of their own. It keeps no answers and journals nothing: that is `db`.
//!
//! When to use it and what not to do: `docs/patterns/guard-and-layers.md`.

mod error;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

pub use self::error::GuardError;
use crate::{
    backoff::Backoff,
    breaker::{Breaker, BreakerConfig, BreakerOpen, BreakerState},
    budget::{RetryBudget, RetryBudgetConfig},
    bulkhead::{Bulkhead, BulkheadConfig, BulkheadFull, Priority},
    deadline::Deadline,
    judgement::{Awaited, Classify, Judgement},
    retry::{Retry, WORTH_BEGINNING},
};

/// The settings of a guard.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct GuardConfig {
    /// When to stop calling.
    pub breaker: BreakerConfig,
    /// Calls in progress, and calls that wait.
    pub bulkhead: BulkheadConfig,
    /// How many retries the traffic earns.
    pub budget: RetryBudgetConfig,
    /// The pauses between attempts.
    pub backoff: Backoff,
    /// Attempts at the most, the first included. Default 3.
    pub attempts: u32,
    /// For one attempt, within the deadline of the call. Default 1 s. An attempt that was given all of it and got no answer
    /// counts as a failure; one that was cut short by a hurried caller does not.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub attempt: Duration,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            breaker: BreakerConfig::default(),
            bulkhead: BulkheadConfig::default(),
            budget: RetryBudgetConfig::default(),
            backoff: Backoff::default(),
            attempts: 3,
            attempt: Duration::from_secs(1),
        }
    }
}

/// One attempt, as the guarded call sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The first is 1.
    pub number: u32,
    /// When the guard stops waiting for this attempt. Pass it on, so that the other side stops working too.
    pub deadline: Deadline,
}

/// A breaker, a bulkhead and a retry budget around one thing that is called. Clones share them.
///
/// ```
/// use std::time::Duration;
/// use ridethrough::{Deadline, guard::{Guard, GuardConfig}, judgement::{AnyError, Repeatable}};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let guard = Guard::new("prices", GuardConfig::default());
/// let deadline = Deadline::after(Instant::now(), Duration::from_secs(2));
/// let price = guard.call(deadline, async |_attempt| Ok::<_, std::io::Error>(42), &Repeatable(AnyError)).await;
/// assert_eq!(price.unwrap(), 42);
/// # }
/// ```
#[derive(Clone)]
pub struct Guard(Arc<Shared>, Priority);

struct Shared {
    breaker: Arc<Breaker>,
    bulkhead: Arc<Bulkhead>,
    retry: Retry,
    attempt: Duration,
}

/// How one attempt ended.
struct Made<T, E> {
    result: Result<T, GuardError<E>>,
    judgement: Judgement,
}

impl Guard {
    /// A guard for `circuit`, the label in metrics and logs, which must come from a small set.
    #[must_use]
    pub fn new(circuit: impl Into<Cow<'static, str>>, config: GuardConfig) -> Self {
        let now = Instant::now();
        let breaker = Breaker::new(circuit, config.breaker, now);
        let retry = Retry {
            budget: Arc::new(RetryBudget::new(config.budget, now)),
            backoff: config.backoff,
            attempts: config.attempts.max(1),
            breaker: Some(Arc::clone(&breaker)),
        };
        let bulkhead = Bulkhead::new(config.bulkhead, now);
        let shared = Shared { breaker, bulkhead, retry, attempt: config.attempt };
        Self(Arc::new(shared), Priority::Interactive)
    }

    /// The same guard for calls of another priority; that of a new one is [`Priority::Interactive`].
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        Self(Arc::clone(&self.0), priority)
    }

    /// Makes the call, and makes it again where `classifier` says that this does no harm and budget, breaker and deadline
    /// allow it.
    ///
    /// # Errors
    /// [`GuardError`] says whether the call was made at all. Where a retry is refused, the failure of the attempt before it
    /// is the answer, so that "refused" always means that nothing was done.
    ///
    /// # Cancel safety
    /// A dropped call gives its permit and its trial back. The breaker counts it as a failure only where its deadline had
    /// passed. What the drop of the inner call leaves behind is the inner call's business.
    pub async fn call<T, E, Call: Future<Output = Result<T, E>>>(
        &self,
        deadline: Deadline,
        mut make: impl FnMut(Attempt) -> Call,
        classifier: &impl Classify<T, E>,
    ) -> Result<T, GuardError<E>> {
        let retry = &self.0.retry;
        let mut number = 1;
        let mut before: Option<Result<T, GuardError<E>>> = None;
        loop {
            let Made { result, judgement } = self.attempt(deadline, number, &mut make, classifier).await;
            if result.as_ref().is_err_and(GuardError::is_rejection) {
                return before.unwrap_or(result);
            }
            let now = Instant::now();
            if number == 1 {
                // Not before: a refused call earns no retry.
                retry.budget.deposit(now);
            }
            let pause = retry.pause(judgement, number, Some(deadline), now, &mut fastrand::Rng::new());
            let Some(pause) = pause else { return result };
            tracing::debug!(attempt = number, class = ?judgement.class, pause = ?pause, "trying again");
            before = Some(result);
            sleep(pause).await;
            number += 1;
        }
    }

    /// The breaker, so that a probe in the background can end an outage before time does.
    #[must_use]
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.0.breaker
    }

    /// The budget, to be shared with layers further out.
    #[must_use]
    pub fn budget(&self) -> &Arc<RetryBudget> {
        &self.0.retry.budget
    }

    /// The bulkhead, for gauges.
    #[must_use]
    pub fn bulkhead(&self) -> &Arc<Bulkhead> {
        &self.0.bulkhead
    }

    async fn attempt<T, E, Call: Future<Output = Result<T, E>>>(
        &self,
        deadline: Deadline,
        number: u32,
        make: &mut impl FnMut(Attempt) -> Call,
        classifier: &impl Classify<T, E>,
    ) -> Made<T, E> {
        let rejected = |error| Made { result: Err(error), judgement: Judgement::SUCCESS };
        let shared = &*self.0;
        let now = Instant::now();
        if deadline.remaining(now) < WORTH_BEGINNING {
            return rejected(GuardError::DeadlinePassed);
        }
        // Asked first without a permit: in an outage nobody should queue up only to be rejected.
        if let Some(open) = self.open(now) {
            return rejected(GuardError::Open(open));
        }
        let permit = match shared.bulkhead.acquire(self.1, deadline, now).await {
            Ok(permit) => permit,
            Err(BulkheadFull::Deadline) => return rejected(GuardError::DeadlinePassed),
            Err(full) => return rejected(GuardError::Full(full)),
        };
        let now = Instant::now();
        let until = deadline.capped(now, shared.attempt);
        if until.remaining(now) < WORTH_BEGINNING {
            return rejected(GuardError::DeadlinePassed);
        }
        let awaited = match shared.breaker.admit(now) {
            Ok(admission) => Awaited::new(admission, Some(until), shared.attempt, now),
            Err(open) => return rejected(GuardError::Open(open)),
        };
        match timeout_at(until.instant(), make(Attempt { number, deadline: until })).await {
            Ok(result) => {
                let (judgement, now) = (classifier.judge(&result), Instant::now());
                awaited.record(judgement.breaker, now);
                permit.finish(judgement.ended(), now);
                let class = judgement.class;
                Made { result: result.map_err(|source| GuardError::Failed { source, class }), judgement }
            }
            Err(_) => {
                let judgement = classifier.judge_timeout();
                let (limit, now) = (until.remaining(now), Instant::now());
                permit.finish(awaited.record_timeout(judgement, now), now);
                Made { result: Err(GuardError::Timeout { limit }), judgement }
            }
        }
    }

    fn open(&self, now: Instant) -> Option<BreakerOpen> {
        let breaker = &self.0.breaker;
        if breaker.state(now) == BreakerState::Open { breaker.admit(now).err() } else { None }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("breaker", &self.0.breaker).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
