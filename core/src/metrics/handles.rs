//! Handles of the metrics that every call touches, looked up once instead of at each call.
//!
//! Handles belong to one recorder, and a handle that was looked up before there is any records nothing for ever. So they
//! are kept only for the recorder that [`super::describe`] was called for, from then on; until then, and in processes that
//! describe nothing, each metric is looked up by name each time, which is slower and just as right.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, with_recorder};

use super::Times;

/// Services have some dozen queries; the names of what is above this are looked up each time.
const OPERATIONS_MAX: usize = 64;
/// Places tried for one name before that.
const TRIED: usize = 8;

/// Equal times that a recorder is not told of one by one: what it takes to tell is a pause for one caller.
const UNTOLD_MAX: u32 = 500;

/// Where the described recorder lives; 0 for none. Only compared, never followed.
static DESCRIBED: AtomicUsize = AtomicUsize::new(0);

static HANDLES: Handles = Handles {
    attempts: OnceLock::new(),
    cache_fresh: OnceLock::new(),
    operations: [const { OnceLock::new() }; OPERATIONS_MAX],
};

/// The handles of the described recorder.
pub(super) struct Handles {
    attempts: OnceLock<Counter>,
    cache_fresh: OnceLock<Counter>,
    operations: [OnceLock<Operation>; OPERATIONS_MAX],
}

/// What every successful call of one operation touches.
pub(super) struct Operation {
    name: &'static str,
    pub(super) fresh: Counter,
    pub(super) committed: Counter,
    seconds: Histogram,
    /// Times that `seconds` was not told of yet: telling a recorder costs more than all guards of a call together.
    untold: Times,
}

/// Keeps handles for the recorder in force from now on. The first one described is the one.
pub(super) fn note_described() {
    let _ = DESCRIBED.compare_exchange(0, recorder_in_force(), Relaxed, Relaxed);
}

/// The handles, where a recorder was described.
#[inline]
pub(super) fn handles() -> Option<&'static Handles> {
    (DESCRIBED.load(Relaxed) != 0).then_some(&HANDLES)
}

/// What is kept, or is made now and kept; nothing where some other recorder is in force on this thread just now.
#[inline]
fn kept<T>(place: &OnceLock<T>, make: impl FnOnce() -> T) -> Option<&T> {
    match place.get() {
        Some(kept) => Some(kept),
        None => (recorder_in_force() == DESCRIBED.load(Relaxed)).then(|| place.get_or_init(make)),
    }
}

/// The address of the recorder in force; 0 for one without any state, such as that of a process without metrics.
#[cold]
fn recorder_in_force() -> usize {
    with_recorder(|recorder| match size_of_val(recorder) {
        0 => 0,
        _ => std::ptr::from_ref(recorder).addr(),
    })
}

impl Handles {
    #[inline]
    pub(super) fn attempts(&self) -> Option<&Counter> {
        kept(&self.attempts, || metrics::counter!("ridethrough_db_attempts_total"))
    }

    #[inline]
    pub(super) fn cache_fresh(&self) -> Option<&Counter> {
        kept(&self.cache_fresh, || metrics::counter!("ridethrough_cache_requests_total", "result" => "fresh"))
    }

    /// Tells the recorder all times that it was not told yet.
    pub(super) fn publish_times(&self) {
        for operation in self.operations.iter().filter_map(OnceLock::get) {
            for (time, count) in operation.untold.take_all() {
                operation.tell(time, count);
            }
        }
    }

    /// The handles of `name`; none where there are too many operations.
    #[inline]
    pub(super) fn operation(&self, name: &'static str) -> Option<&Operation> {
        let first = name.as_ptr().addr() >> 3;
        for step in 0..TRIED {
            let operation =
                kept(self.operations.get((first + step) % OPERATIONS_MAX)?, || Operation::new(name))?;
            // The address first: it nearly always decides. The text for one name that stands in two places.
            if std::ptr::eq(operation.name, name) || operation.name == name {
                return Some(operation);
            }
        }
        None
    }
}

impl Operation {
    fn new(name: &'static str) -> Self {
        let calls = |outcome: &'static str| metrics::counter!("ridethrough_db_calls_total", "operation" => name, "outcome" => outcome, "class" => "none");
        Self {
            name,
            fresh: calls("fresh"),
            committed: calls("committed"),
            seconds: metrics::histogram!("ridethrough_db_call_seconds", "operation" => name),
            untold: Times::new(),
        }
    }

    /// Records the time of one call, to a sixteenth. The recorder hears of it with [`Handles::publish_times`], or when
    /// there are many of them, should nobody publish.
    #[inline]
    pub(super) fn took(&self, time: Duration) {
        if self.untold.add(time) >= UNTOLD_MAX {
            self.tell(time, self.untold.take(time));
        }
    }

    #[cold]
    fn tell(&self, time: Duration, count: u32) {
        self.seconds.record_many(time.as_secs_f64(), count as usize);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use crate::metrics::{cache_request, db_attempt, db_call, describe, publish_times};

    /// Handles kept from before there was a recorder would record nothing for ever.
    #[test]
    fn a_recorder_that_comes_late_hears_everything_from_then_on() {
        db_attempt();
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            db_attempt();
            describe();
            db_attempt();
            for _ in 0..3 {
                db_call("late", "fresh", "none", std::time::Duration::from_millis(40));
                cache_request("fresh");
            }
            db_call("late", "failed", "transient", std::time::Duration::from_millis(40));
            publish_times();
        });
        let text = recorder.handle().render();
        for line in [
            "ridethrough_db_attempts_total 2",
            "ridethrough_db_calls_total{operation=\"late\",outcome=\"fresh\",class=\"none\"} 3",
            "ridethrough_db_calls_total{operation=\"late\",outcome=\"failed\",class=\"transient\"} 1",
            "ridethrough_db_call_seconds_count{operation=\"late\"} 4",
            "ridethrough_cache_requests_total{result=\"fresh\"} 3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
