//! Counts of times in buckets that many threads add to without waiting for each other.
//!
//! Eight buckets to each doubling, so that a time is kept to a sixteenth; from 8 microseconds to a minute.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Nanoseconds, 2 to this power: below it the first bucket takes all.
const SMALLEST: u32 = 13;
const PARTS_SHIFT: u32 = 3;
const PARTS: u32 = 1 << PARTS_SHIFT;
/// Up to 8 us << 23, which is 69 s; the last bucket takes all above.
const BUCKETS: usize = 23 * PARTS as usize;
/// Bits of a float below those that tell the bucket: its exponent counts doublings, and the highest bits of its fraction
/// are the part of the doubling.
const FRACTION_REST: u32 = f64::MANTISSA_DIGITS - 1 - PARTS_SHIFT;
/// What those bits say of the smallest time.
const FIRST: u64 = ((1_u64 << SMALLEST) as f64).to_bits() >> FRACTION_REST;

/// The counts of all buckets.
#[derive(Debug)]
pub(crate) struct Times([AtomicU32; BUCKETS]);

impl Times {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }

    /// Counts one time, and gives the count of its bucket before.
    #[inline]
    pub(crate) fn add(&self, time: Duration) -> u32 {
        self.0.get(bucket(time)).map_or(0, |count| count.fetch_add(1, Relaxed))
    }

    /// Takes the count of the bucket of `time` out, for one that grew large.
    #[cfg(feature = "postgres")]
    pub(crate) fn take(&self, time: Duration) -> u32 {
        self.0.get(bucket(time)).map_or(0, |count| count.swap(0, Relaxed))
    }

    /// Takes all counts out, and gives each with the time in the middle of its bucket.
    #[cfg(feature = "postgres")]
    pub(crate) fn take_all(&self) -> impl Iterator<Item = (Duration, u32)> {
        let filled = self.0.iter().enumerate().filter(|(_, count)| count.load(Relaxed) > 0);
        filled.map(|(bucket, count)| (time_of(bucket), count.swap(0, Relaxed)))
    }

    pub(crate) fn clear(&self) {
        for count in &self.0 {
            count.store(0, Relaxed);
        }
    }

    /// How many are counted here and in `others`, and their median; zero where there are none.
    pub(crate) fn median_with(&self, others: Option<&Self>) -> (u32, Duration) {
        let mut counts = self.0.each_ref().map(|count| count.load(Relaxed));
        for (count, other) in counts.iter_mut().zip(others.iter().flat_map(|others| &others.0)) {
            *count = count.saturating_add(other.load(Relaxed));
        }
        let total = counts.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        let mut seen = 0_u32;
        let middle = counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen > 0 && seen >= total.div_ceil(2)
        });
        (total, middle.map(time_of).unwrap_or_default())
    }
}

#[inline]
fn bucket(time: Duration) -> usize {
    let nanos = time.as_secs().min(1 << 30) * 1_000_000_000 + u64::from(time.subsec_nanos());
    // Signed, because processors turn only those into floats with one instruction.
    let bits = (nanos.cast_signed() as f64).to_bits() >> FRACTION_REST;
    (bits.saturating_sub(FIRST) as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn time_of(bucket: usize) -> Duration {
    let (doubling, part) = (bucket as u32 / PARTS + SMALLEST, bucket as u64 % u64::from(PARTS));
    let sixteenth = (1 << doubling) >> (PARTS_SHIFT + 1);
    Duration::from_nanos((1 << doubling) + (2 * part + 1) * sixteenth)
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_taken_out_is_not_there_again() {
        let times = Times::new();
        for milliseconds in [1, 1, 40] {
            times.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(times.take(Duration::from_millis(1)), 2);
        let left: Vec<_> = times.take_all().map(|(_, count)| count).collect();
        assert_eq!(left, [1]);
        assert_eq!(times.take_all().count(), 0);
    }

    #[test]
    fn the_extremes_have_a_bucket_too() {
        let times = Times::new();
        times.add(Duration::ZERO);
        times.add(Duration::MAX);
        assert_eq!(times.median_with(None).0, 2);
    }

    proptest! {
        #[test]
        fn a_bucket_stands_for_its_times_to_a_sixteenth(micros in 16_u64..60_000_000) {
            let middle = time_of(bucket(Duration::from_micros(micros))).as_nanos() as f64 / 1e3;
            prop_assert!((middle - micros as f64).abs() <= micros as f64 / 16.0, "{micros} us is {middle} us");
        }

        #[test]
        fn the_median_is_that_of_the_sorted_times(mut list in prop::collection::vec(16_u64..60_000_000, 1..50)) {
            let (some, others) = (Times::new(), Times::new());
            for (place, micros) in list.iter().enumerate() {
                if place % 2 == 0 { &some } else { &others }.add(Duration::from_micros(*micros));
            }
            list.sort_unstable();
            let expected = time_of(bucket(Duration::from_micros(list[list.len().div_ceil(2) - 1])));
            prop_assert_eq!(some.median_with(Some(&others)), (list.len() as u32, expected));
        }
    }
}
