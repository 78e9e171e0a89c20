//! The breaker under every interleaving of a few threads, and every order in which their memory may become visible.
//!
//! The sources of the library are compiled here a second time, with loom's atomics and lock behind the names of
//! `crate::sync`. Loom is exhaustive up to the number of preemptions, so there is no seed. The program speaks as much
//! of the test harness' language as `cargo test` and nextest need.

#![expect(dead_code, unreachable_pub, unused_imports, reason = "a part of the library, compiled apart")]

use std::{io::Write as _, time::Duration};

use tokio::time::Instant;

#[path = "../src"]
mod library {
    pub(crate) mod breaker;
    pub(crate) mod deadline;
    #[cfg(feature = "serde")]
    pub(crate) mod duration_text;
    pub(crate) mod sliding;
}
#[cfg(feature = "serde")]
use library::duration_text;
use library::{breaker, deadline, sliding};

use breaker::{Breaker, BreakerConfig, BreakerState, CallResult, TripReason};
use loom::{
    sync::{Arc, atomic::AtomicUsize},
    thread,
};
use sliding::{Sliding, Ticks};

/// Stands in for the library's `sync`: loom's types, and places that a model hands out.
mod sync {
    use std::cell::Cell;

    pub(crate) use loom::{
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicU32, AtomicU64, Ordering},
        },
        thread_local,
    };

    pub(crate) const PLACES: usize = 2;

    loom::thread_local! {
        static OWN: Cell<bool> = Cell::new(false);
    }

    /// The calling thread gets the one exclusive place, if it says so before it counts; a model must not let two threads
    /// ask.
    pub(crate) fn own_a_place() {
        OWN.with(|own| own.set(true));
    }

    pub(crate) struct Place {
        is_exclusive: bool,
    }

    impl Place {
        pub(crate) fn take() -> Self {
            Self { is_exclusive: OWN.with(Cell::get) }
        }

        pub(crate) fn shared() -> Self {
            Self { is_exclusive: false }
        }

        pub(crate) fn index(&self) -> usize {
            usize::from(!self.is_exclusive)
        }
    }

    pub(crate) fn is_exclusive(index: usize) -> bool {
        index == 0
    }
}

/// Stands in for the library's `metrics`: nobody listens.
mod metrics {
    use std::borrow::Cow;

    pub(crate) fn breaker_starts(_circuit: Cow<'static, str>, _level: f64) {}

    pub(crate) fn breaker_state(_circuit: Cow<'static, str>, _level: f64) {}

    pub(crate) fn breaker_transition(_circuit: Cow<'static, str>, _to: &'static str) {}
}

type Model = (&'static str, fn());

const MODELS: &[Model] = &[
    ("a_late_failure_never_undoes_a_recovery", a_late_failure_never_undoes_a_recovery),
    ("failures_at_once_trip_once", failures_at_once_trip_once),
    ("a_rejection_tells_of_the_trip_it_follows", a_rejection_tells_of_the_trip_it_follows),
    ("there_is_never_a_trial_too_many", there_is_never_a_trial_too_many),
    ("a_dropped_trial_always_gives_its_place_back", a_dropped_trial_always_gives_its_place_back),
    ("watchers_end_with_the_state_that_is", watchers_end_with_the_state_that_is),
    ("counts_of_a_bucket_that_begins_anew_are_not_lost", counts_of_a_bucket_that_begins_anew_are_not_lost),
    ("a_count_never_reaches_a_later_generation", a_count_never_reaches_a_later_generation),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let is_chosen = |name: &str| {
        let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        let matches =
            |filter: &String| if has("--exact") { name == filter } else { name.contains(filter.as_str()) };
        filters.peek().is_none() || filters.any(matches)
    };
    let mut out = std::io::stdout().lock();
    let mut passed = 0;
    for (name, model) in MODELS.iter().filter(|(name, _)| is_chosen(name)) {
        if has("--ignored") {
            continue;
        }
        if has("--list") {
            writeln!(out, "{name}: test").expect("standard output takes the list");
            continue;
        }
        explore(*model);
        passed += 1;
        writeln!(out, "test {name} ... ok").expect("standard output takes the result");
    }
    if !has("--list") {
        // A model that fails panics, and the program with it.
        writeln!(out, "\ntest result: ok. {passed} passed; 0 failed")
            .expect("standard output takes the result");
    }
}

fn explore(model: fn()) {
    let mut builder = loom::model::Builder::new();
    // Three preemptions find nearly every fault that any number finds, in seconds instead of days.
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(model);
}

fn now() -> Instant {
    // Read once: each run of a model must see the same times.
    static NOW: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *NOW.get_or_init(Instant::now)
}

fn breaker(consecutive_failures: u32) -> std::sync::Arc<Breaker> {
    // A drop reads the real clock, and exploring takes a while.
    let trial_lease = Duration::from_secs(3600);
    let config = BreakerConfig {
        consecutive_failures,
        ramp_max: 1,
        jitter: 0.0,
        trial_lease,
        ..BreakerConfig::default()
    };
    Breaker::with_random("model", config, fastrand::Rng::with_seed(1), now())
}

/// A call from before the outage fails while the breaker opens and a probe brings it back.
fn a_late_failure_never_undoes_a_recovery() {
    let breaker = breaker(1);
    let late = breaker.admit_owned(now()).expect("closed");
    let slow = thread::spawn(move || late.record(CallResult::Failure, now()));
    let call = breaker.admit_owned(now());
    if let Ok(call) = call {
        call.record(CallResult::Failure, now());
    }
    breaker.probe_succeeded(now());
    slow.join().expect("no panic");
    assert_eq!(breaker.state(now()), BreakerState::HalfOpen);
    assert_eq!(breaker.changes().borrow().generation, 3, "opened once, half-opened once");
}

fn failures_at_once_trip_once() {
    let breaker = breaker(2);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let call = breaker.admit_owned(now()).expect("closed");
            thread::spawn(move || call.record(CallResult::Failure, now()))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(breaker.state(now()), BreakerState::Open);
    assert_eq!(breaker.changes().borrow().generation, 2);
}

/// Whoever sees the word of an open breaker also sees when and until when, though they are not in the word.
///
/// The reader is the thread that is spawned: loom remembers one access to each atomic, and the look at the word that goes
/// before its store would hide a reader that ran first, so that a single interleaving was left to explore.
fn a_rejection_tells_of_the_trip_it_follows() {
    let breaker = breaker(1);
    let tripped_at = now() + Duration::from_millis(1_500);
    let call = breaker.admit_owned(now()).expect("closed");
    let other = std::sync::Arc::clone(&breaker);
    let asking = thread::spawn(move || {
        if let Err(rejection) = other.admit(tripped_at) {
            assert_eq!(rejection.reason, TripReason::ConsecutiveFailures);
            assert_eq!(rejection.since(), tripped_at);
            assert_eq!(rejection.retry_after(), Duration::from_secs(1));
        }
    });
    call.record(CallResult::Failure, tripped_at);
    asking.join().expect("no panic");
}

fn half_open() -> std::sync::Arc<Breaker> {
    let breaker = breaker(1);
    breaker.probe_failed(now(), now());
    breaker.probe_succeeded(now());
    breaker
}

fn there_is_never_a_trial_too_many() {
    let breaker = half_open();
    let in_progress = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (breaker, in_progress) = (std::sync::Arc::clone(&breaker), Arc::clone(&in_progress));
            thread::spawn(move || {
                let Ok(trial) = breaker.admit(now()) else { return };
                assert_eq!(in_progress.fetch_add(1, sync::Ordering::SeqCst), 0, "a second trial at once");
                in_progress.fetch_sub(1, sync::Ordering::SeqCst);
                trial.record(CallResult::Neutral, now());
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(breaker.state(now()), BreakerState::HalfOpen);
}

fn a_dropped_trial_always_gives_its_place_back() {
    let breaker = half_open();
    let trial = breaker.admit_owned(now()).expect("the first trial");
    let dropping = thread::spawn(move || drop(trial));
    let other = breaker.admit(now());
    drop(other);
    dropping.join().expect("no panic");
    assert!(breaker.admit(now()).is_ok());
}

fn watchers_end_with_the_state_that_is() {
    let breaker = breaker(1);
    let changes = breaker.changes();
    let other = std::sync::Arc::clone(&breaker);
    let probing = thread::spawn(move || other.probe_succeeded(now()));
    breaker.probe_failed(now(), now() + Duration::from_secs(1));
    probing.join().expect("no panic");
    let told = *changes.borrow();
    assert_eq!(told.state, breaker.state(now()));
}

/// Two threads come to the shared bucket of a new tick at once; a third has a place of its own.
fn counts_of_a_bucket_that_begins_anew_are_not_lost() {
    let later = now() + Duration::from_secs(16);
    let sliding = Arc::new(Sliding::new(Ticks::new(Duration::from_secs(10), now())));
    sliding.add(1, now());
    let other = Arc::clone(&sliding);
    let sharing = thread::spawn(move || other.add(1, later));
    let other = Arc::clone(&sliding);
    let owning = thread::spawn(move || {
        sync::own_a_place();
        other.add(1, later);
    });
    sliding.add(1, later);
    sharing.join().expect("no panic");
    owning.join().expect("no panic");
    assert_eq!(sliding.count(1, later), 3);
}

fn a_count_never_reaches_a_later_generation() {
    let sliding = Arc::new(Sliding::new(Ticks::new(Duration::from_secs(10), now())));
    let other = Arc::clone(&sliding);
    let late = thread::spawn(move || {
        sync::own_a_place();
        other.add(1, now());
    });
    sliding.add(2, now());
    late.join().expect("no panic");
    assert_eq!(sliding.count(2, now()), 1);
}
