//! How the end of a call is counted, and when the counts trip.
//!
//! The one path that nearly every call takes, a success while closed, takes no lock; all others do.

use std::time::Duration;

use tokio::time::Instant;

use super::{Breaker, BreakerState, CallResult, Counts, TripReason, machine::Machine, word::Word};
use crate::sync::Ordering;

impl Breaker {
    // Inlined always, though it is long: a call would cost more than what it does.
    #[inline(always)]
    pub(super) fn record(
        &self,
        word: Word,
        lease: Option<u32>,
        result: CallResult,
        is_slow: bool,
        now: Instant,
    ) {
        if !word.is_counting() || result == CallResult::Failure || is_slow {
            self.record_under_lock(word, lease, result, is_slow, now);
        } else if result == CallResult::Success {
            self.succeeded(word, now);
        } // else neutral
    }

    /// A late success, which speaks about a time that is over, ends no failures in a row, and is counted for its own
    /// generation, where nobody looks any more.
    #[inline(always)]
    fn succeeded(&self, word: Word, now: Instant) {
        // Looked at before it is written, because a line that nobody writes is in every processor's cache.
        if self.consecutive_failures.load(Ordering::Relaxed) != 0 && self.word() == word {
            self.consecutive_failures.store(0, Ordering::Relaxed);
        }
        self.successes.add(word.generation(), now);
    }

    #[cold]
    #[inline(never)]
    fn record_under_lock(
        &self,
        word: Word,
        lease: Option<u32>,
        result: CallResult,
        is_slow: bool,
        now: Instant,
    ) {
        self.change(|machine| match word.state() {
            _ if machine.word != word => {}
            BreakerState::Closed if word.is_counting() => self.count(machine, result, is_slow, now),
            BreakerState::Closed | BreakerState::Open => {}
            // Slow trials are no reason to let more of them in, and none to keep everybody out.
            BreakerState::HalfOpen if is_slow && result == CallResult::Success => {
                machine.trial_ended(&self.config, lease, CallResult::Neutral, now);
            }
            BreakerState::HalfOpen => machine.trial_ended(&self.config, lease, result, now),
        });
    }

    /// A failure, or a slow success, while closed.
    fn count(&self, machine: &mut Machine, result: CallResult, is_slow: bool, now: Instant) {
        match result {
            CallResult::Neutral => return,
            CallResult::Success => {
                self.succeeded(machine.word, now);
                if is_slow {
                    machine.window.slow(self.ticks.of(now));
                }
            }
            CallResult::Failure => {
                self.consecutive_failures.fetch_add(1, Ordering::Relaxed);
                machine.window.failed(self.ticks.of(now));
            }
        }
        let counts = self.counts(machine, now);
        let enough = counts.samples() >= u64::from(self.config.samples_min.max(1));
        let failed = result == CallResult::Failure;
        let reason = if failed && counts.consecutive_failures >= self.config.consecutive_failures.max(1) {
            TripReason::ConsecutiveFailures
        } else if failed && enough && counts.ratio_of(counts.failures) >= self.config.failure_ratio {
            TripReason::FailureRatio
        } else if is_slow && enough && counts.ratio_of(counts.slow) >= self.config.slow_ratio {
            TripReason::SlowCalls
        } else {
            return;
        };
        machine.trip(&self.config, reason, counts, now);
    }

    pub(super) fn counts(&self, machine: &Machine, now: Instant) -> Counts {
        let (failures, slow) = machine.window.counts(self.ticks.of(now));
        Counts {
            successes: self.successes.count(machine.word.generation(), now),
            failures,
            slow,
            consecutive_failures: self.consecutive_failures.load(Ordering::Relaxed),
        }
    }

    #[inline]
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.config.slow_call.is_some_and(|limit| took >= limit)
    }
}
