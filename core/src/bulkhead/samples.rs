//! What the calls of one window took: counters that many threads add to without waiting for each other.
//!
//! It counts and gives the median; what follows from a window is decided in `limit`.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Sixteen microseconds: below it the first bucket takes all.
const SMALLEST: u32 = 4;
/// Buckets in each doubling, so that the middle of one is at most an eighth off.
const PARTS: u32 = 4;
/// Up to 16 us << 22, which is 67 s; the last bucket takes all above.
const BUCKETS: usize = 22 * PARTS as usize;

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
    quiet: [AtomicU32; BUCKETS],
    busy: [AtomicU32; BUCKETS],
    timed_out: AtomicU32,
    overloaded: AtomicU32,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            quiet: std::array::from_fn(|_| AtomicU32::new(0)),
            busy: std::array::from_fn(|_| AtomicU32::new(0)),
            timed_out: AtomicU32::new(0),
            overloaded: AtomicU32::new(0),
        }
    }
}

impl Samples {
    /// Counts one call that took `took`; `is_busy` where more than half of the limit was in use.
    #[inline]
    pub(super) fn add(&self, ended: Ended, took: Duration, is_busy: bool) {
        let counter = match ended {
            Ended::Answered => if is_busy { &self.busy } else { &self.quiet }.get(bucket(took)),
            Ended::TimedOut if is_busy => Some(&self.timed_out),
            Ended::Overloaded => Some(&self.overloaded),
            Ended::TimedOut | Ended::Neutral => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// What was counted since the last reset. Calls that end meanwhile may be in this window or in the next.
    pub(super) fn window(&self) -> Window {
        let busy = self.busy.each_ref().map(|count| count.load(Relaxed));
        let mut all = self.quiet.each_ref().map(|count| count.load(Relaxed));
        for (all, busy) in all.iter_mut().zip(busy) {
            *all = all.saturating_add(busy);
        }
        Window {
            answered: all.iter().sum(),
            median: median(&all),
            busy: busy.iter().sum(),
            busy_median: median(&busy),
            timed_out: self.timed_out.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
        }
    }

    pub(super) fn reset(&self) {
        let rest = [&self.timed_out, &self.overloaded];
        for counter in self.quiet.iter().chain(&self.busy).chain(rest) {
            counter.store(0, Relaxed);
        }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1 << SMALLEST);
    let doubling = micros.ilog2();
    let part = (micros >> (doubling - 2)) & (PARTS - 1);
    (((doubling - SMALLEST) * PARTS + part) as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn time_of(bucket: usize) -> Duration {
    let (doubling, part) = (bucket as u32 / PARTS + SMALLEST, bucket as u64 % u64::from(PARTS));
    let eighth = 1_u64 << (doubling - 3);
    Duration::from_micros((1 << doubling) + (2 * part + 1) * eighth)
}

fn median(counts: &[u32; BUCKETS]) -> Duration {
    let half = counts.iter().sum::<u32>().div_ceil(2);
    let mut seen = 0_u32;
    for (bucket, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= half && *count > 0 {
            return time_of(bucket);
        }
    }
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_bucket_stands_for_its_times_to_an_eighth(micros in 16_u64..60_000_000) {
            let middle = time_of(bucket(Duration::from_micros(micros))).as_micros() as f64;
            prop_assert!((middle / micros as f64 - 1.0).abs() <= 0.13, "{micros} us counted as {middle} us");
        }

        #[test]
        fn buckets_keep_the_order_of_times(one in any::<u32>(), other in any::<u32>()) {
            let bucket_of = |micros: u32| bucket(Duration::from_micros(micros.into()));
            prop_assert_eq!(bucket_of(one.min(other)).cmp(&bucket_of(one.max(other))).is_gt(), false);
        }
    }
}
