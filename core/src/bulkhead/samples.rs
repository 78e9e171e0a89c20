//! What the calls of one window took: counters that many threads add to without waiting for each other.
//!
//! It counts and gives the median; what follows from a window is decided in `limit`.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::metrics::Times;

/// How a call ended, as far as the limit is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The server answered, whatever it said. Its time counts.
    Answered,
    /// The time limit of the call passed first. Several of them in a full bulkhead make the limit smaller.
    TimedOut,
    /// The server said that it is out of some resource (SQLSTATE class 53). The limit gets smaller.
    Overloaded,
    /// It says nothing about the server's load: a lost connection, a caller that departed.
    Neutral,
}

/// One window, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Window {
    /// Answered calls.
    pub(super) answered: u32,
    /// Their median time.
    pub(super) median: Duration,
    /// Answered calls that ended while more than half of the limit was in use.
    pub(super) busy: u32,
    /// The median time of those.
    pub(super) busy_median: Duration,
    /// Calls that timed out while more than half of the limit was in use.
    pub(super) timed_out: u32,
    /// Calls that the server refused for lack of a resource.
    pub(super) overloaded: u32,
}

/// The counters of the window that is under way.
#[derive(Debug)]
pub(super) struct Samples {
    quiet: Times,
    busy: Times,
    timed_out: AtomicU32,
    overloaded: AtomicU32,
}

impl Default for Samples {
    fn default() -> Self {
        let none = || AtomicU32::new(0);
        Self { quiet: Times::new(), busy: Times::new(), timed_out: none(), overloaded: none() }
    }
}

impl Samples {
    /// Counts one call that took `took`; `is_busy` where more than half of the limit was in use.
    #[inline]
    pub(super) fn add(&self, ended: Ended, took: Duration, is_busy: bool) {
        match ended {
            Ended::Answered => {
                if is_busy { &self.busy } else { &self.quiet }.add(took);
            }
            Ended::TimedOut if is_busy => {
                self.timed_out.fetch_add(1, Relaxed);
            }
            Ended::Overloaded => {
                self.overloaded.fetch_add(1, Relaxed);
            }
            Ended::TimedOut | Ended::Neutral => {}
        }
    }

    /// What was counted since the last reset. Calls that end meanwhile may be in this window or in the next.
    pub(super) fn window(&self) -> Window {
        let (answered, median) = self.quiet.median_with(Some(&self.busy));
        let (busy, busy_median) = self.busy.median_with(None);
        Window {
            answered,
            median,
            busy,
            busy_median,
            timed_out: self.timed_out.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
        }
    }

    pub(super) fn reset(&self) {
        self.quiet.clear();
        self.busy.clear();
        self.timed_out.store(0, Relaxed);
        self.overloaded.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_call_does_not_move_the_median() {
        let samples = Samples::default();
        for _ in 0..20 {
            samples.add(Ended::Answered, Duration::from_millis(2), true);
        }
        samples.add(Ended::Answered, Duration::from_secs(30), true);
        assert!(samples.window().busy_median < Duration::from_millis(3), "{:?}", samples.window());
    }

    #[test]
    fn a_reset_forgets_everything() {
        let samples = Samples::default();
        for ended in [Ended::Answered, Ended::TimedOut, Ended::Overloaded] {
            samples.add(ended, Duration::from_millis(1), true);
        }
        samples.reset();
        assert_eq!(samples.window(), Window::default());
    }
}
