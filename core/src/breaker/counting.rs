//! How the end of a call is counted, and when the counts trip.
//!
//! The one path that nearly every call takes, a success after another while closed, takes no lock; all others do.

use std::time::Duration;

use tokio::time::Instant;

use super::{Breaker, BreakerState, CallResult, Counts, TripReason, machine::Machine, word::Word};

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
        if result == CallResult::Success && !is_slow && self.word().is_calm() {
            // A late success, which speaks about a time that is over, is counted for its own generation, where nobody looks
            // any more.
            self.successes.add(word.generation(), now);
        } else if result != CallResult::Neutral || !word.is_counting() {
            self.record_under_lock(word.failing(false), lease, result, is_slow, now);
        }
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

    /// A failure, a slow success, or one that ends failures in a row, while closed.
    fn count(&self, machine: &mut Machine, result: CallResult, is_slow: bool, now: Instant) {
        match result {
            CallResult::Neutral => return,
            CallResult::Success => {
                machine.consecutive_failures = 0;
                self.successes.add(machine.word.generation(), now);
                if !is_slow {
                    return;
                }
                machine.window.slow(self.ticks.of(now));
            }
            CallResult::Failure => {
                machine.consecutive_failures = machine.consecutive_failures.saturating_add(1);
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
            consecutive_failures: machine.consecutive_failures,
        }
    }

    #[inline]
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.config.slow_call.is_some_and(|limit| took >= limit)
    }
}
