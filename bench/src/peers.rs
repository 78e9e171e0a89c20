//! What several tables need: calls that succeed and fail, the one peer that is a tower service, a recorder for metrics.

use std::{convert::Infallible, hint::black_box, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::{Service as _, ServiceExt as _, service_fn};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

/// The recorder of this process, installed by the first who asks.
pub fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let handle = PrometheusBuilder::new().install_recorder().expect("nobody else installs one");
        ridethrough::metrics::describe();
        handle
    };
    RECORDER.get_or_init(install).clone()
}

pub fn succeed() -> Result<(), ()> {
    Ok(())
}

pub fn fail() -> Result<(), ()> {
    Err(())
}

/// Whether nobreak let a call through that ends so.
pub fn nobreak_admits(breaker: &nobreak::CircuitBreaker, answer: Result<(), ()>) -> bool {
    !matches!(breaker.call(|| answer), Err(nobreak::CircuitError::Open))
}

/// Calls a tower service with the answer that it shall give; answers whether the call was let through.
pub fn tower_admits() -> impl FnMut(bool) -> bool {
    let layer = CircuitBreakerLayer::builder().build().expect("the defaults are valid");
    let answer = |succeeds: bool| async move { if succeeds { Ok(()) } else { Err(()) } };
    let mut service = layer.layer_fn(service_fn(answer));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    move |succeeds| {
        runtime.block_on(async {
            let Ok(ready) = service.ready().await else { return false };
            !ready.call(succeeds).await.is_err_and(|error| error.is_circuit_open())
        })
    }
}

/// A tower service is called through a clone, which shares the circuit; each thread polls its own without a runtime.
pub fn tower_resilience(threads: usize, calls: u32) -> f64 {
    let layer = CircuitBreakerLayer::builder().build().expect("the defaults are valid");
    let service = layer.layer_fn(service_fn(|()| async { Ok::<(), Infallible>(()) }));
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
