//! Breakers: what one call pays while all is well, with one thread and with two, and what a rejection costs.
//!
//! Each peer is called as its own documentation shows, around a call that does nothing and succeeds.

use std::{hint::black_box, sync::Arc, time::Duration};

use failsafe::CircuitBreaker as _;
use recloser::Recloser;
use ridethrough::breaker::{Breaker, BreakerConfig, CallResult};
use tokio::time::Instant;

use crate::{
    measure::{Comparison, nanoseconds},
    peers::{fail, succeed, tower_resilience},
};

const CALLS: u32 = 300_000;
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// All tables about breakers.
pub fn tables(rounds: usize) -> Vec<String> {
    let mut tables: Vec<String> = [1, 2].map(|threads| closed(threads).run(rounds)).into();
    tables.push(open().run(rounds));
    tables.push(clocks().run(rounds));
    tables
}

fn closed(threads: usize) -> Comparison {
    let now = Instant::now();
    let ours = Breaker::new("bench", BreakerConfig::default(), now);
    let mark = ours.clone();
    let recloser = Recloser::default();
    let failsafe = failsafe::Config::new().build();
    let nobreak = nobreak::breaker();
    let title =
        format!("breaker closed, call succeeds, {threads} thread{}", if threads == 1 { "" } else { "s" });
    Comparison::new(title, "ns")
        .with("ridethrough (time given by the caller)", move || {
            nanoseconds(threads, CALLS, &|| {
                if let Ok(admission) = ours.admit(now) {
                    admission.record(CallResult::Success, now);
                }
            })
        })
        .with("ridethrough (with its one clock read)", move || {
            nanoseconds(threads, CALLS, &|| {
                let now = Instant::now();
                if let Ok(admission) = mark.admit(now) {
                    admission.record(CallResult::Success, now);
                }
            })
        })
        .with("recloser", move || nanoseconds(threads, CALLS, &|| drop(black_box(recloser.call(succeed)))))
        .with("failsafe", move || nanoseconds(threads, CALLS, &|| drop(black_box(failsafe.call(succeed)))))
        .with("nobreak", move || nanoseconds(threads, CALLS, &|| drop(black_box(nobreak.call(succeed)))))
        .with("tower-resilience-circuitbreaker", move || tower_resilience(threads, CALLS / 10))
}

fn open() -> Comparison {
    let now = Instant::now();
    let ours = Breaker::new("bench", BreakerConfig::default(), now);
    ours.probe_failed(now, now + FOR_EVER);
    let timed = Arc::clone(&ours);
    let recloser = Recloser::custom().closed_len(1).error_rate(0.1).open_wait(FOR_EVER).build();
    for _ in 0..10 {
        let _ = recloser.call(fail);
    }
    let wait = failsafe::backoff::constant(FOR_EVER);
    let policy = failsafe::failure_policy::consecutive_failures(1, wait);
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    let _ = failsafe.call(fail);
    let nobreak = nobreak::builder().with_failure_threshold(1).with_open_duration(FOR_EVER).build();
    let _ = nobreak.call(fail);
    Comparison::new("breaker open, call rejected, 1 thread", "ns")
        .with("ridethrough (time given by the caller)", move || {
            nanoseconds(1, CALLS, &|| {
                if let Err(open) = ours.admit(now) {
                    black_box(&open);
                }
            })
        })
        .with("ridethrough (with its one clock read)", move || {
            nanoseconds(1, CALLS, &|| {
                if let Err(open) = timed.admit(Instant::now()) {
                    black_box(&open);
                }
            })
        })
        .with("recloser", move || nanoseconds(1, CALLS, &|| drop(black_box(recloser.call(succeed)))))
        .with("failsafe", move || nanoseconds(1, CALLS, &|| drop(black_box(failsafe.call(succeed)))))
        .with("nobreak", move || nanoseconds(1, CALLS, &|| drop(black_box(nobreak.call(succeed)))))
}

/// What the figures above stand beside.
fn clocks() -> Comparison {
    Comparison::new("for scale", "ns").with("one clock read", || {
        nanoseconds(1, CALLS, &|| {
            black_box(Instant::now());
        })
    })
}
