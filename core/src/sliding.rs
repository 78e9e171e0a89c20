//! A count of the last seconds that costs next to nothing to add to: a ring of time buckets for each thread.
//!
//! It counts; what a count means is the business of the breaker and the retry budget. Adding takes no lock and, for
//! all but the most crowded processes, no locked instruction.

use std::time::Duration;

use crate::sync::{self, AtomicU64, Mutex, Ordering};

/// Buckets that a look adds up: fine enough that a ratio moves smoothly.
pub(crate) const BUCKETS: u64 = 10;
/// Buckets of the ring. A power of two is found without a division, and the spare ones keep a thread that was held up
/// from writing where others read.
const RING: usize = 16;
/// Bits of a tag that hold the tick; the generation stands above them.
const TICK_BITS: u32 = 40;

/// Time cut into ticks of equal length. Nanoseconds count from a start that the owner keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    nanos: u64,
    /// 2^64 divided by `nanos`: a multiplication is a third of the price of a division.
    reciprocal: u64,
}

impl Ticks {
    /// A window of `length` in [`BUCKETS`] ticks; none is shorter than a millisecond.
    pub(crate) fn new(length: Duration) -> Self {
        let tick = (length / BUCKETS as u32).max(Duration::from_millis(1)).as_nanos();
        let nanos = u64::try_from(tick).unwrap_or(u64::MAX);
        Self { nanos, reciprocal: u64::MAX / nanos }
    }

    /// Exactly `nanos / self.nanos`: the product falls short of the quotient by less than one and a bit, never by two.
    #[inline]
    pub(crate) fn of(self, nanos: u64) -> u64 {
        let guess = ((u128::from(nanos) * u128::from(self.reciprocal)) >> 64) as u64;
        guess + u64::from(nanos - guess * self.nanos >= self.nanos)
    }
}

/// Events of the last window, told apart by generation: what an older generation counted is not seen any more, and what
/// it adds late is dropped.
#[derive(Debug)]
pub(crate) struct Sliding {
    ticks: Ticks,
    shards: [Shard; sync::PLACES],
    /// Taken where a bucket that several threads share begins anew.
    rotation: Mutex<()>,
}

/// Apart from its neighbours by two cache lines, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Shard([Bucket; RING]);

#[derive(Debug)]
struct Bucket {
    /// Generation and tick that the count belongs to.
    tag: AtomicU64,
    count: AtomicU64,
}

impl Sliding {
    pub(crate) fn new(ticks: Ticks) -> Self {
        let bucket = |_| Bucket { tag: AtomicU64::new(0), count: AtomicU64::new(0) };
        let shards = std::array::from_fn(|_| Shard(std::array::from_fn(bucket)));
        Self { ticks, shards, rotation: Mutex::new(()) }
    }

    /// Counts one event of `generation`.
    #[inline]
    pub(crate) fn add(&self, generation: u64, nanos: u64) {
        let tick = self.ticks.of(nanos);
        let place = sync::place();
        let Some(shard) = self.shards.get(place.index) else { return };
        let Some(bucket) = shard.0.get(tick as usize % RING) else { return };
        let tag = tag(generation, tick);
        if bucket.tag.load(Ordering::Acquire) != tag && !self.rotated(bucket, tag) {
            return;
        }
        if place.is_exclusive {
            let count = bucket.count.load(Ordering::Relaxed);
            bucket.count.store(count + 1, Ordering::Relaxed);
        } else {
            bucket.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins a bucket anew; false where it belongs to a later time already.
    #[cold]
    #[inline(never)]
    fn rotated(&self, bucket: &Bucket, tag: u64) -> bool {
        let _rotation = self.rotation.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_later = |one: u64, other: u64| one.wrapping_sub(other).cast_signed() > 0;
        let current = bucket.tag.load(Ordering::Relaxed);
        if is_later(tag, current) {
            bucket.count.store(0, Ordering::Relaxed);
            bucket.tag.store(tag, Ordering::Release);
        }
        !is_later(current, tag)
    }

    /// Events of `generation` in the window that ends at `nanos`.
    pub(crate) fn count(&self, generation: u64, nanos: u64) -> u64 {
        self.by_tick(generation, nanos).iter().map(|(_, count)| count).sum()
    }

    /// The same, tick by tick, oldest first. Ticks before the start are left at zero.
    pub(crate) fn by_tick(&self, generation: u64, nanos: u64) -> [(u64, u64); BUCKETS as usize] {
        let newest = self.ticks.of(nanos);
        std::array::from_fn(|back| {
            let Some(tick) = newest.checked_sub(BUCKETS - 1 - back as u64) else { return (0, 0) };
            (tick, self.in_tick(tag(generation, tick), tick))
        })
    }

    fn in_tick(&self, tag: u64, tick: u64) -> u64 {
        let buckets = self.shards.iter().filter_map(|shard| shard.0.get(tick as usize % RING));
        let current = buckets.filter(|bucket| bucket.tag.load(Ordering::Acquire) == tag);
        current.map(|bucket| bucket.count.load(Ordering::Relaxed)).sum()
    }
}

#[inline]
fn tag(generation: u64, tick: u64) -> u64 {
    generation << TICK_BITS | tick & ((1 << TICK_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn sliding() -> Sliding {
        Sliding::new(Ticks::new(Duration::from_secs(10)))
    }

    #[test]
    fn events_older_than_the_window_are_forgotten() {
        let sliding = sliding();
        sliding.add(0, 0);
        assert_eq!(sliding.count(0, 10 * SECOND - 1), 1);
        assert_eq!(sliding.count(0, 10 * SECOND), 0);
    }

    #[test]
    fn another_generation_starts_from_nothing_and_late_events_of_the_old_one_are_dropped() {
        let sliding = sliding();
        sliding.add(4, SECOND);
        sliding.add(5, SECOND);
        sliding.add(4, SECOND);
        assert_eq!((sliding.count(5, SECOND), sliding.count(4, SECOND)), (1, 0));
    }

    #[test]
    fn nothing_is_lost_where_many_threads_add() {
        let sliding = sliding();
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..2_000).for_each(|event| sliding.add(1, event % 10 * SECOND)));
            }
        });
        assert_eq!(sliding.count(1, 9 * SECOND), 80_000);
    }

    proptest! {
        #[test]
        fn a_tick_is_the_exact_quotient(nanos: u64, tick in 1_000_000u64..) {
            let ticks = Ticks { nanos: tick, reciprocal: u64::MAX / tick };
            prop_assert_eq!(ticks.of(nanos), nanos / tick);
            let boundary = nanos - nanos % tick;
            prop_assert_eq!(ticks.of(boundary), boundary / tick);
        }

        /// The rings agree with a plain list of times, also where a thread comes with a time that is a little old.
        #[test]
        fn the_rings_agree_with_a_plain_list(pauses in prop::collection::vec((0u64..3_000, 0u64..2_000), 0..200)) {
            let sliding = sliding();
            let (mut list, mut at) = (Vec::new(), 0u64);
            for (pause, late) in pauses {
                at += pause;
                let seen = at.saturating_sub(late);
                sliding.add(3, seen * 1_000_000);
                list.push(seen / 1_000);
            }
            let recent = list.iter().filter(|tick| **tick + BUCKETS > at / 1_000 && **tick <= at / 1_000).count();
            prop_assert_eq!(sliding.count(3, at * 1_000_000), recent as u64);
        }
    }
}
