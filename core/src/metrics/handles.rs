//! Handles of the metrics that every call touches, looked up once instead of at each call.
//!
//! Handles belong to one recorder, and the macros of `metrics` may find another one on the next call: the global one can
//! be installed late, and a test can put its own before it. So only the handles of the recorder that [`super::describe`]
//! was called for are kept; whatever else is in force is asked by name each time, which is slower and just as right.

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

/// The handles, where the recorder in force is the described one.
#[inline]
pub(super) fn handles() -> Option<&'static Handles> {
    let described = DESCRIBED.load(Relaxed);
    (described != 0 && described == recorder_in_force()).then_some(&HANDLES)
}

/// The address of the recorder in force; 0 for one without any state, such as that of a process without metrics.
#[inline]
fn recorder_in_force() -> usize {
    with_recorder(|recorder| match size_of_val(recorder) {
        0 => 0,
        _ => std::ptr::from_ref(recorder).addr(),
    })
}

impl Handles {
    pub(super) fn attempts(&self) -> &Counter {
        self.attempts.get_or_init(|| metrics::counter!("ridethrough_db_attempts_total"))
    }

    pub(super) fn cache_fresh(&self) -> &Counter {
        self.cache_fresh
            .get_or_init(|| metrics::counter!("ridethrough_cache_requests_total", "result" => "fresh"))
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
    pub(super) fn operation(&self, name: &'static str) -> Option<&Operation> {
        let first = name.as_ptr().addr() >> 3;
        (0..TRIED).find_map(|step| {
            let place = self.operations.get((first + step) % OPERATIONS_MAX)?;
            let operation = place.get_or_init(|| Operation::new(name));
            // The address first: it nearly always decides. The text for one name that stands in two places.
            (std::ptr::eq(operation.name, name) || operation.name == name).then_some(operation)
        })
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
