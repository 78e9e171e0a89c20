//! What every call that goes well counts: in memory of our own, for a recorder that hears of it in lots.
//!
//! Telling a recorder of one call costs more than all guards of the call together. So a call adds one to a bucket of its
//! time, which is a count of calls too, and [`Handles::publish`] tells the recorder both. What is counted is exact; it
//! arrives as often as somebody publishes.
//!
//! Handles belong to one recorder, and a handle that was looked up before there is any records nothing for ever. So they
//! are kept only for the recorder that [`super::describe`] was called for, from then on; until then, and in processes that
//! describe nothing, each metric is looked up by name each time, which is slower and just as right.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, with_recorder};

use super::Times;

/// Services have some dozen queries; the names of what is above this are looked up each time.
const OPERATIONS_MAX: usize = 64;
/// Places tried for one name before that.
const TRIED: usize = 8;

/// Calls of equal times, and attempts, that a recorder is told of by a call, should nobody publish.
const UNTOLD_MAX: u32 = 500;

/// Where the described recorder lives; 0 for none. Only compared, never followed.
static DESCRIBED: AtomicUsize = AtomicUsize::new(0);

static HANDLES: Handles = Handles {
    attempts: Attempts { counter: OnceLock::new(), untold: AtomicU32::new(0) },
    operations: [const { OnceLock::new() }; OPERATIONS_MAX],
    publishing: Mutex::new(()),
};

/// The handles of the described recorder.
pub(super) struct Handles {
    attempts: Attempts,
    operations: [OnceLock<Operation>; OPERATIONS_MAX],
    /// Held by who publishes: who comes second finds everything told, and not on its way.
    publishing: Mutex<()>,
}

/// On cache lines of its own, because all threads write to it.
#[repr(align(128))]
struct Attempts {
    counter: OnceLock<Counter>,
    untold: AtomicU32,
}

/// What every successful call of one operation touches. An operation reads or writes, so what it never does is not made:
/// it would be exported as a count of zero for ever.
pub(super) struct Operation {
    name: &'static str,
    fresh: OnceLock<Ended>,
    committed: OnceLock<Ended>,
    seconds: Histogram,
}

/// Calls of one operation that ended in one way.
pub(super) struct Ended {
    counters: Vec<Counter>,
    /// What the recorder was not told of yet.
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
    /// Counts one attempt; false where this is not kept.
    #[inline]
    pub(super) fn attempted(&self) -> bool {
        let Attempts { counter, untold } = &self.attempts;
        let Some(counter) = kept(counter, || metrics::counter!("ridethrough_db_attempts_total")) else {
            return false;
        };
        if untold.fetch_add(1, Relaxed) >= UNTOLD_MAX {
            counter.increment(untold.swap(0, Relaxed).into());
        }
        true
    }

    /// Tells the recorder everything that it was not told yet.
    pub(super) fn publish(&self) {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = self.attempts.counter.get() {
            counter.increment(self.attempts.untold.swap(0, Relaxed).into());
        }
        for operation in self.operations.iter().filter_map(OnceLock::get) {
            for ended in [&operation.fresh, &operation.committed].into_iter().filter_map(OnceLock::get) {
                for (time, count) in ended.untold.take_all() {
                    operation.tell(ended, time, count);
                }
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
        Self {
            name,
            fresh: OnceLock::new(),
            committed: OnceLock::new(),
            seconds: metrics::histogram!("ridethrough_db_call_seconds", "operation" => name),
        }
    }

    /// Counts a read that ended with a fresh answer, and its time to a sixteenth; false where this is not kept.
    #[inline]
    pub(super) fn answered_fresh(&self, time: Duration) -> bool {
        // A fresh answer is a request to the cache too, one that got something better.
        let make = || Ended::new([self.calls("fresh"), cache_fresh()].into());
        self.count(kept(&self.fresh, make), time)
    }

    /// Counts a write that was committed, and its time to a sixteenth; false where this is not kept.
    #[inline]
    pub(super) fn committed(&self, time: Duration) -> bool {
        self.count(kept(&self.committed, || Ended::new([self.calls("committed")].into())), time)
    }

    fn calls(&self, outcome: &'static str) -> Counter {
        metrics::counter!("ridethrough_db_calls_total", "operation" => self.name, "outcome" => outcome, "class" => "none")
    }

    #[inline]
    fn count(&self, ended: Option<&Ended>, time: Duration) -> bool {
        let Some(ended) = ended else { return false };
        if ended.untold.add(time) >= UNTOLD_MAX {
            self.tell(ended, time, ended.untold.take(time));
        }
        true
    }

    #[cold]
    fn tell(&self, ended: &Ended, time: Duration, count: u32) {
        ended.counters.iter().for_each(|counter| counter.increment(count.into()));
        self.seconds.record_many(time.as_secs_f64(), count as usize);
    }
}

fn cache_fresh() -> Counter {
    metrics::counter!("ridethrough_cache_requests_total", "result" => "fresh")
}

impl Ended {
    fn new(counters: Vec<Counter>) -> Self {
        Self { counters, untold: Times::new() }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use crate::metrics::{db_attempt, db_call, describe, fresh_read, publish};

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
                fresh_read("late", std::time::Duration::from_millis(40));
            }
            db_call("written", "committed", "none", std::time::Duration::from_millis(40));
            db_call("late", "failed", "transient", std::time::Duration::from_millis(40));
            publish();
        });
        let text = recorder.handle().render();
        for line in [
            "ridethrough_db_attempts_total 2",
            "ridethrough_db_calls_total{operation=\"late\",outcome=\"fresh\",class=\"none\"} 3",
            "ridethrough_db_calls_total{operation=\"written\",outcome=\"committed\",class=\"none\"} 1",
            "ridethrough_db_calls_total{operation=\"late\",outcome=\"failed\",class=\"transient\"} 1",
            "ridethrough_db_call_seconds_count{operation=\"late\"} 4",
            "ridethrough_cache_requests_total{result=\"fresh\"} 3",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        // A read was exported as "committed 0" for ever, and a write as "fresh 0": series of what cannot happen.
        for never in ["operation=\"late\",outcome=\"committed\"", "operation=\"written\",outcome=\"fresh\""] {
            assert!(!text.contains(never), "{never} is in\n{text}");
        }
    }

    /// Counting in memory of our own must lose nothing, whoever publishes and whoever counts meanwhile; and where nobody
    /// publishes, the recorder hears nearly everything all the same.
    #[test]
    fn nothing_is_lost_between_those_who_count_and_those_who_publish() {
        const CALLS: u64 = 20_000;
        let recorder = PrometheusBuilder::new().build_recorder();
        let value = |name: &str| -> u64 {
            let text = recorder.handle().render();
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |value| value.trim().parse().unwrap())
        };
        const FRESH: &str =
            "ridethrough_db_calls_total{operation=\"crowd\",outcome=\"fresh\",class=\"none\"}";
        const TIMES: &str = "ridethrough_db_call_seconds_count{operation=\"crowd\"}";
        let count = |publishes: bool| {
            metrics::with_local_recorder(&recorder, || {
                for call in 0..CALLS {
                    db_attempt();
                    fresh_read(
                        "crowd",
                        std::time::Duration::from_micros(if call % 2 == 0 { 90 } else { 700 }),
                    );
                    if publishes && call % 64 == 0 {
                        publish();
                    }
                }
            });
        };
        metrics::with_local_recorder(&recorder, describe);
        count(false);
        for name in [FRESH, TIMES, "ridethrough_db_attempts_total"] {
            assert!((CALLS - 1_200..=CALLS).contains(&value(name)), "{name} {}", value(name));
        }
        std::thread::scope(|scope| {
            for publishes in [false, true, true] {
                scope.spawn(move || count(publishes));
            }
        });
        publish();
        for name in [FRESH, TIMES, "ridethrough_db_attempts_total"] {
            assert_eq!(value(name), 4 * CALLS, "{name}");
        }
    }
}
