//! A ring of time buckets that gives the exact success ratio of the last seconds.
//!
//! It counts; whether a ratio is bad enough to trip is the breaker's business.

use std::time::Duration;

use tokio::time::Instant;

/// Ten buckets are fine enough that the ratio moves smoothly and small enough to add up on every look.
const BUCKETS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Which bucket-length of time since `Window::start` the counts belong to.
    tick: u64,
    successes: u32,
    failures: u32,
}

/// Successes and failures within the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) successes: u32,
    pub(crate) failures: u32,
}

impl Counts {
    pub(crate) fn total(self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    /// Share of failures, 0.0 to 1.0; zero where nothing was counted.
    pub(crate) fn failure_ratio(self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => f64::from(self.failures) / f64::from(total),
        }
    }
}

/// Results of the last `length`, forgotten bucket by bucket as time goes on.
#[derive(Debug)]
pub(crate) struct Window {
    start: Instant,
    bucket_length: Duration,
    buckets: [Bucket; BUCKETS],
}

impl Window {
    pub(crate) fn new(length: Duration, now: Instant) -> Self {
        let bucket_length = (length / BUCKETS as u32).max(Duration::from_millis(1));
        Self { start: now, bucket_length, buckets: [Bucket::default(); BUCKETS] }
    }

    pub(crate) fn record(&mut self, success: bool, now: Instant) {
        let tick = self.tick(now);
        let Some(bucket) = self.buckets.get_mut((tick % BUCKETS as u64) as usize) else { return };
        if bucket.tick != tick {
            *bucket = Bucket { tick, ..Bucket::default() };
        }
        let count = if success { &mut bucket.successes } else { &mut bucket.failures };
        *count = count.saturating_add(1);
    }

    pub(crate) fn counts(&self, now: Instant) -> Counts {
        let tick = self.tick(now);
        let oldest = tick.saturating_sub(BUCKETS as u64 - 1);
        let mut counts = Counts::default();
        for bucket in self.buckets.iter().filter(|bucket| (oldest..=tick).contains(&bucket.tick)) {
            counts.successes = counts.successes.saturating_add(bucket.successes);
            counts.failures = counts.failures.saturating_add(bucket.failures);
        }
        counts
    }

    pub(crate) fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS];
    }

    fn tick(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        u64::try_from(elapsed / self.bucket_length.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    #[test]
    fn results_older_than_the_window_are_forgotten() {
        let start = Instant::now();
        let mut window = Window::new(LENGTH, start);
        window.record(false, start);
        assert_eq!(window.counts(start + Duration::from_millis(9_999)).failures, 1);
        assert_eq!(window.counts(start + LENGTH).failures, 0);
    }

    #[test]
    fn a_million_successes_long_ago_do_not_hide_fresh_failures() {
        let start = Instant::now();
        let mut window = Window::new(LENGTH, start);
        for _ in 0..1_000_000 {
            window.record(true, start);
        }
        let later = start + LENGTH * 2;
        window.record(false, later);
        assert!(window.counts(later).failure_ratio() > 0.99);
    }

    proptest! {
        /// The ring agrees with a plain list of (time, result) at bucket precision.
        #[test]
        fn the_ring_agrees_with_a_plain_list(results in prop::collection::vec((0u64..3_000, any::<bool>()), 0..200)) {
            let start = Instant::now();
            let mut window = Window::new(LENGTH, start);
            let mut list = Vec::new();
            let mut at = 0;
            for (pause, success) in results {
                at += pause;
                window.record(success, start + Duration::from_millis(at));
                list.push((at / 1_000, success));
            }
            let now_bucket = at / 1_000;
            let recent = list.iter().filter(|(bucket, _)| bucket + 10 > now_bucket);
            let failures = recent.clone().filter(|(_, success)| !success).count() as u32;
            let successes = recent.filter(|(_, success)| *success).count() as u32;
            prop_assert_eq!(window.counts(start + Duration::from_millis(at)), Counts { successes, failures });
        }
    }
}
