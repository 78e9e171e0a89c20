//! All that the database path does around a query, with a query that is over at once: deadline, retry budget, bulkhead,
//! breaker and metrics, in the order of `Db::read`, with a Prometheus recorder installed.

use std::{hint::black_box, sync::Arc, time::Duration};

use ridethrough::{
    Deadline,
    breaker::{Breaker, BreakerConfig, CallResult},
    budget::{RetryBudget, RetryBudgetConfig},
    bulkhead::{Bulkhead, BulkheadConfig, Ended, Priority},
    metrics::bench,
};
use tokio::time::Instant;

use crate::{
    measure::{Comparison, nanoseconds},
    peers,
};

const CALLS: u32 = 200_000;

/// All guards of one database.
pub struct Path {
    budget: RetryBudget,
    breaker: Arc<Breaker>,
    bulkhead: Arc<Bulkhead>,
}

impl Path {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            budget: RetryBudget::new(RetryBudgetConfig::default(), now),
            breaker: Breaker::new("bench", BreakerConfig::default(), now),
            bulkhead: Bulkhead::new(BulkheadConfig::default(), now),
        }
    }

    /// One call. Two clock reads, as few as a latency can be had for.
    #[inline(never)]
    pub fn call(&self) {
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
        bench::db_call("bench", ended - started);
    }
}

/// Tables for one thread and for two.
pub fn tables(rounds: usize) -> Vec<String> {
    let recorder = peers::recorder();
    let tables = [1, 2].map(|threads| {
        let (path, whole) = (Arc::new(Path::new()), recorder.clone());
        let title = match threads {
            1 => "the whole path around an empty query, 1 thread".to_owned(),
            _ => format!("the whole path around an empty query, {threads} threads"),
        };
        Comparison::new(title, "ns")
            .with("ridethrough (deadline, budget, bulkhead, breaker, metrics)", move || {
                let figure = nanoseconds(threads, CALLS, &|| path.call());
                whole.run_upkeep();
                figure
            })
            .with("its two clock reads alone", move || {
                nanoseconds(threads, CALLS, &|| {
                    black_box((Instant::now(), Instant::now()));
                })
            })
            .with("tower-resilience-circuitbreaker (breaker only)", move || {
                peers::tower_resilience(threads, CALLS / 10)
            })
            .run(rounds)
    });
    tables.into()
}
