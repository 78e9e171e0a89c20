//! A ring of time buckets with the failures and slow successes of the last seconds.
//!
//! Successes, of which there are far more, are counted by `sliding`, on the same ticks. Whether a ratio is bad enough
//! to trip is the breaker's business.

use crate::sliding::BUCKETS;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// The tick that the counts belong to.
    tick: u64,
    failures: u64,
    slow: u64,
}

/// Failures and slow successes within the window. Lives under the breaker's lock.
#[derive(Debug, Default)]
pub(super) struct Window([Bucket; BUCKETS as usize]);

impl Window {
    pub(super) fn failed(&mut self, tick: u64) {
        if let Some(bucket) = self.bucket(tick) {
            bucket.failures += 1;
        }
    }

    pub(super) fn slow(&mut self, tick: u64) {
        if let Some(bucket) = self.bucket(tick) {
            bucket.slow += 1;
        }
    }

    /// Failures and slow successes in the window that ends with `tick`.
    pub(super) fn counts(&self, tick: u64) -> (u64, u64) {
        let window = tick.saturating_sub(BUCKETS - 1)..=tick;
        let buckets = self.0.iter().filter(|bucket| window.contains(&bucket.tick));
        buckets.fold((0, 0), |(failures, slow), bucket| (failures + bucket.failures, slow + bucket.slow))
    }

    /// The bucket of `tick`; none where its place belongs to a later time already.
    fn bucket(&mut self, tick: u64) -> Option<&mut Bucket> {
        let bucket = self.0.get_mut((tick % BUCKETS) as usize)?;
        if bucket.tick < tick {
            *bucket = Bucket { tick, ..Bucket::default() };
        }
        (bucket.tick == tick).then_some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The ring agrees with a plain list of ticks.
        #[test]
        fn the_ring_agrees_with_a_plain_list(results in prop::collection::vec((0u64..4, any::<bool>()), 0..200)) {
            let (mut window, mut list, mut tick) = (Window::default(), Vec::new(), 0);
            for (pause, failed) in results {
                tick += pause;
                if failed { window.failed(tick) } else { window.slow(tick) }
                list.push((tick, failed));
            }
            let recent = list.iter().filter(|(at, _)| at + BUCKETS > tick);
            let failures = recent.clone().filter(|(_, failed)| *failed).count() as u64;
            let slow = recent.filter(|(_, failed)| !failed).count() as u64;
            prop_assert_eq!(window.counts(tick), (failures, slow));
        }
    }
}
