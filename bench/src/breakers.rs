//! Breakers: what one call pays while all is well, with one thread and with two, and what a rejection costs.
//!
//! Each peer is called as its own documentation shows, around a call that does nothing and succeeds.

use std::{convert::Infallible, hint::black_box, sync::Arc, time::Duration};

use failsafe::CircuitBreaker as _;
use recloser::Recloser;
use ridethrough::breaker::{Breaker, BreakerConfig, CallResult};
use tokio::time::Instant;
use tower::{Service as _, ServiceExt as _, service_fn};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

use crate::measure::{Comparison, nanoseconds};

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
        .with("tower-resilience-circuitbreaker", move || tower_resilience(threads))
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
            nanoseconds(1, CALLS, &|| drop(black_box(ours.admit(now))))
        })
        .with("ridethrough (with its one clock read)", move || {
            nanoseconds(1, CALLS, &|| drop(black_box(timed.admit(Instant::now()))))
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

fn succeed() -> Result<(), ()> {
    Ok(())
}

fn fail() -> Result<(), ()> {
    Err(())
}

/// A tower service is called through a clone, which shares the circuit; each thread polls its own without a runtime.
fn tower_resilience(threads: usize) -> f64 {
    let layer = CircuitBreakerLayer::builder().build().expect("the defaults are valid");
    let service = layer.layer_fn(service_fn(|()| async { Ok::<(), Infallible>(()) }));
    let calls = CALLS / 10;
    let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    let barrier = std::sync::Barrier::new(threads);
    let took: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (mut service, barrier) = (service.clone(), &barrier);
                scope.spawn(move || {
                    runtime().block_on(async {
                        barrier.wait();
                        let started = std::time::Instant::now();
                        for _ in 0..calls {
                            let ready = service.ready().await.expect("the circuit is closed");
                            let _ = black_box(ready.call(()).await);
                        }
                        started.elapsed()
                    })
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a measuring thread does not panic")).collect()
    });
    took.into_iter().max().unwrap_or_default().as_nanos() as f64 / f64::from(calls)
}
