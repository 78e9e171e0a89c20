//! The bulkhead alone, the metrics alone, and the whole path around a query that costs nothing, with a Prometheus
//! recorder installed.

use std::{io, sync::Arc, thread, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use ridethrough::{
    Deadline,
    bulkhead::{Bulkhead, Ended, Permit, Priority},
    metrics::{bench, publish},
};
use tokio::time::Instant;

use crate::{CALLS, ROUNDS, line, path::Path, per_call};

/// Calls between two publications; fewer than make a call tell the recorder itself.
const PUBLISHED: u32 = 400;

/// Polls once: there is a free permit.
#[inline]
fn entered(bulkhead: &Arc<Bulkhead>, deadline: Deadline, now: Instant) -> Option<Permit<&Arc<Bulkhead>>> {
    let entering = std::pin::pin!(bulkhead.acquire(Priority::Interactive, deadline, now));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match entering.poll(&mut context) {
        std::task::Poll::Ready(permit) => permit.ok(),
        std::task::Poll::Pending => None,
    }
}

pub(crate) fn measure(out: &mut impl io::Write) -> io::Result<()> {
    let path = Path::new();
    path.get_busy();
    let now = Instant::now();
    let deadline = Deadline::after(now, Duration::from_secs(3600));
    let atomic = std::sync::atomic::AtomicU64::new(0);
    let adds = || {
        atomic.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        atomic.fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
    };
    let at_once = || {
        if let Ok(permit) = path.bulkhead.try_acquire(Priority::Interactive, deadline, now) {
            permit.finish(Ended::Neutral, now);
        }
    };
    let borrowed = || {
        if let Some(permit) = entered(&path.bulkhead, deadline, now) {
            permit.finish(Ended::Neutral, now);
        }
    };
    let counted = || {
        if let Some(permit) = entered(&path.bulkhead, deadline, now) {
            permit.finish(Ended::Answered, now);
        }
    };
    let owned = || {
        if let Some(permit) = entered(&path.bulkhead, deadline, now) {
            permit.into_owned().finish(Ended::Neutral, now);
        }
    };
    let whole = || path.call();
    let record = || bench::fresh_read("bench", Duration::from_micros(700));
    let names = [
        "two additions to an atomic: the least it can cost",
        "bulkhead: enter at once, and leave",
        "bulkhead: enter and leave",
        "bulkhead: the same, counted for the limit",
        "bulkhead: the same, with an owned permit",
        "metrics: one call",
        "metrics: telling the recorder of it, on the timer",
        "the whole path around an empty query",
    ];
    let mut figures = vec![vec![]; 8];
    let mut contended = vec![vec![]; 2];
    let recorder = PrometheusBuilder::new().install_recorder().map_err(io::Error::other)?;
    ridethrough::metrics::describe();
    for _ in 0..ROUNDS {
        let (recording, telling) = apart(&recorder, record);
        let (calling, _) = apart(&recorder, whole);
        let round = [
            per_call(adds),
            per_call(at_once),
            per_call(borrowed),
            per_call(counted),
            per_call(owned),
            recording,
            telling,
            calling,
        ];
        for (figures, figure) in figures.iter_mut().zip(round) {
            figures.push(figure);
        }
        let round = [two_threads(&borrowed), two_threads(&whole)];
        recorder.run_upkeep();
        for (figures, figure) in contended.iter_mut().zip(round) {
            figures.push(figure);
        }
    }
    print(out, &names, figures)?;
    print(out, &["bulkhead, two threads", "the whole path, two threads"], contended)?;
    writeln!(out)
}

fn print(out: &mut impl io::Write, names: &[&str], figures: Vec<Vec<f64>>) -> io::Result<()> {
    for (name, figures) in names.iter().zip(figures) {
        line(out, name, "ns", figures)?;
    }
    Ok(())
}

/// As [`per_call`] for calls that record, with what the timer of the gauges does kept apart: nanoseconds of the call,
/// and of telling the recorder of it.
fn apart(recorder: &PrometheusHandle, mut call: impl FnMut()) -> (f64, f64) {
    let (mut calling, mut telling) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..CALLS / PUBLISHED {
        let started = Instant::now();
        for _ in 0..PUBLISHED {
            call();
        }
        let called = Instant::now();
        publish();
        telling += called.elapsed();
        calling += called - started;
    }
    recorder.run_upkeep();
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(CALLS);
    (each(calling), each(telling))
}

/// Nanoseconds per call of each of two threads that do the same at the same time.
fn two_threads(call: &(impl Fn() + Sync)) -> f64 {
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| per_call(call)));
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum::<f64>() / 2.0
    })
}
