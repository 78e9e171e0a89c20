//! The whole path around an empty query, the one that `make bench` measures too, beside the least it could cost and
//! beside a peer that does a part of it; with a Prometheus recorder installed.

#[path = "../../core/benches/cost/path.rs"]
mod whole;

use std::{hint::black_box, sync::Arc};

use tokio::time::Instant;

pub(crate) use self::whole::Path;
use crate::{
    measure::{Comparison, nanoseconds},
    peers,
};

const CALLS: u32 = 200_000;

/// Tables for one thread and for two.
pub fn tables(rounds: usize) -> Vec<String> {
    let recorder = peers::recorder();
    let tables = [1, 2].map(|threads| {
        let (path, whole) = (Arc::new(Path::new()), recorder.clone());
        path.get_busy();
        let title = match threads {
            1 => "the whole path around an empty query, 1 thread".to_owned(),
            _ => format!("the whole path around an empty query, {threads} threads"),
        };
        Comparison::new(title, "ns")
            .with("ridethrough (deadline, budget, bulkhead, breaker, metrics)", move || {
                let figure = nanoseconds(threads, CALLS, &|| path.call());
                ridethrough::metrics::publish();
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
