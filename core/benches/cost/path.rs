//! All that the database path does around a query, with a query that is over at once: deadline, retry budget, bulkhead,
//! breaker and metrics, in the order of `Db::read`.
//!
//! It measures nothing: `make bench` and, beside the peers, `make bench-core` do.

use std::{hint::black_box, sync::Arc, time::Duration};

use ridethrough::{
    Deadline,
    breaker::{Breaker, BreakerConfig, CallResult},
    budget::{RetryBudget, RetryBudgetConfig},
    bulkhead::{Bulkhead, BulkheadConfig, Ended, Priority},
    metrics::bench,
};
use tokio::time::Instant;

/// All guards of one database.
#[derive(Debug)]
pub(crate) struct Path {
    budget: RetryBudget,
    breaker: Arc<Breaker>,
    pub(crate) bulkhead: Arc<Bulkhead>,
}

impl Path {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            budget: RetryBudget::new(RetryBudgetConfig::default(), now),
            breaker: Breaker::new("bench", BreakerConfig::default(), now),
            bulkhead: Bulkhead::new(BulkheadConfig::default(), now),
        }
    }

    /// Lets the bulkhead see a second of a busy service, of whose calls it counts a part only.
    pub(crate) fn get_busy(&self) {
        let now = Instant::now();
        for call in 0..16_000 {
            let at = now + Duration::from_micros(call * 60);
            let deadline = Deadline::after(at, Duration::from_secs(1));
            if let Ok(permit) = self.bulkhead.try_acquire(Priority::Interactive, deadline, at) {
                permit.finish(Ended::Answered, at);
            }
        }
    }

    /// One call around a query that is over at once. Two clock reads, as few as a latency can be had for.
    #[inline(never)]
    pub(crate) fn call(&self) {
        let started = Instant::now();
        let deadline = Deadline::after(started, Duration::from_secs(1));
        self.budget.deposit(started);
        let Ok(permit) = self.bulkhead.try_acquire(Priority::Interactive, deadline, started) else { return };
        let Ok(admission) = self.breaker.admit(started) else { return };
        bench::db_attempt();
        black_box(&permit);
        let ended = Instant::now();
        admission.record(CallResult::Success, ended);
        permit.finish(Ended::Answered, ended);
        bench::fresh_read("bench", ended - started);
    }
}
