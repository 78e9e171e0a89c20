//! A count of the last seconds that costs next to nothing to add to: a ring of time buckets for each thread.
//!
//! It counts; what a count means is the business of the breaker and the retry budget. Adding takes no lock and, for
//! all but the most crowded processes, no locked instruction.

use std::{cell::Cell, sync::OnceLock, time::Duration};

use tokio::time::Instant;

use crate::sync::{self, AtomicU64, Mutex, Ordering};

/// Buckets that a look adds up: fine enough that a ratio moves smoothly.
pub(crate) const BUCKETS: u64 = 10;
/// Buckets of the ring. A power of two is found without a division, and the spare ones keep a thread that was held up
/// from writing where others read.
const RING: usize = 16;
/// Bits of a tag that hold the tick; the generation stands above them.
const TICK_BITS: u32 = 40;

/// Time cut into ticks of equal length, the same for everybody who asks for that length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    length_nanos: u64,
}

/// What a thread remembers, together, so that it is found with one look: its place, and the tick it looked at last. Most
/// calls fall into the same one as the call before, and two comparisons are far cheaper than the difference of two
/// instants and a division.
struct Here {
    place: sync::Place,
    length_nanos: Cell<u64>,
    begin: Cell<Instant>,
    end: Cell<Instant>,
    number: Cell<u64>,
    slot: Cell<usize>,
}

/// A tick, and the bucket of a place for it.
#[derive(Debug, Clone, Copy)]
struct Found {
    number: u64,
    /// The same in all counters.
    slot: usize,
}

sync::thread_local! {
    static HERE: Here = Here::new(sync::Place::take());
}

/// Ticks count from here: a day before the first look, so that nobody brings a time that lies before it.
static EPOCH: OnceLock<Instant> = OnceLock::new();
const HEAD_START: Duration = Duration::from_secs(86_400);

impl Ticks {
    /// A window of `length` in [`BUCKETS`] ticks; none is shorter than a millisecond or longer than a day.
    pub(crate) fn new(length: Duration, now: Instant) -> Self {
        epoch(now);
        let tick = (length / BUCKETS as u32).clamp(Duration::from_millis(1), HEAD_START);
        Self { length_nanos: tick.as_nanos() as u64 }
    }

    /// The number of the tick that `now` lies in.
    #[inline]
    pub(crate) fn of(self, now: Instant) -> u64 {
        self.found(now).number
    }

    /// The same without a trace in what the thread remembers: for times yet to come.
    pub(crate) fn number_of(self, now: Instant) -> u64 {
        nanos_between(epoch(now), now) / self.length_nanos
    }

    /// The tick, and the calling thread's bucket for it.
    #[inline(always)]
    fn found(self, now: Instant) -> Found {
        HERE.try_with(move |here| here.found(self, now)).unwrap_or_else(move |_| self.found_late(now))
    }

    /// For a thread that is about to end and has no place any more.
    #[cold]
    fn found_late(self, now: Instant) -> Found {
        let number = self.number_of(now);
        Found { number, slot: slot(&sync::Place::shared(), number) }
    }
}

impl Here {
    /// A thread that has looked at nothing yet: no tick has that length.
    fn new(place: sync::Place) -> Self {
        let now = Instant::now();
        Self {
            place,
            length_nanos: Cell::new(0),
            begin: Cell::new(now),
            end: Cell::new(now),
            number: Cell::new(0),
            slot: Cell::new(0),
        }
    }

    #[inline(always)]
    fn found(&self, ticks: Ticks, now: Instant) -> Found {
        if self.length_nanos.get() != ticks.length_nanos || now >= self.end.get() || now < self.begin.get() {
            self.look_up(ticks, now);
        }
        Found { number: self.number.get(), slot: self.slot.get() }
    }

    #[cold]
    #[inline(never)]
    fn look_up(&self, ticks: Ticks, now: Instant) {
        let number = ticks.number_of(now);
        let begin = epoch(now) + Duration::from_nanos(number * ticks.length_nanos);
        self.length_nanos.set(ticks.length_nanos);
        self.begin.set(begin);
        self.end.set(begin + Duration::from_nanos(ticks.length_nanos));
        self.number.set(number);
        self.slot.set(slot(&self.place, number));
    }
}

fn slot(place: &sync::Place, tick: u64) -> usize {
    place.index() * RING + tick as usize % RING
}

/// From where ticks and the breaker's nanoseconds count, the same for the whole process; `now` is any time.
pub(crate) fn epoch(now: Instant) -> Instant {
    *EPOCH.get_or_init(|| now.checked_sub(HEAD_START).unwrap_or(now))
}

/// Nanoseconds from one instant to a later one; zero where it is not later. Enough for 584 years.
#[inline]
pub(crate) fn nanos_between(from: Instant, to: Instant) -> u64 {
    let elapsed = to.saturating_duration_since(from);
    elapsed.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(elapsed.subsec_nanos()))
}

/// Events of the last window, told apart by generation: what an older generation counted is not seen any more, and what
/// it adds late is dropped.
#[derive(Debug)]
pub(crate) struct Sliding {
    ticks: Ticks,
    buckets: Buckets,
    /// Taken where a bucket that several threads share begins anew.
    rotation: Mutex<()>,
}

const SLOTS: usize = sync::PLACES * RING;

/// A ring for each place, one after the other. A ring fills whole pairs of cache lines, because processors fetch them in
/// pairs; so no two threads write to the same pair.
#[derive(Debug)]
#[repr(align(128))]
struct Buckets([Bucket; SLOTS]);

#[derive(Debug)]
struct Bucket {
    /// Generation and tick that the count belongs to.
    tag: AtomicU64,
    count: AtomicU64,
}

impl Sliding {
    pub(crate) fn new(ticks: Ticks) -> Self {
        let bucket = |_| Bucket { tag: AtomicU64::new(0), count: AtomicU64::new(0) };
        Self { ticks, buckets: Buckets(std::array::from_fn(bucket)), rotation: Mutex::new(()) }
    }

    /// Counts one event of `generation`.
    // Inlined always, though it is long: a call would cost more than what it does.
    #[inline(always)]
    pub(crate) fn add(&self, generation: u64, now: Instant) {
        let Found { number, slot } = self.ticks.found(now);
        let Some(bucket) = self.buckets.0.get(slot % SLOTS) else { return };
        let tag = tag(generation, number);
        if bucket.tag.load(Ordering::Acquire) != tag && !self.rotated(bucket, tag) {
            return;
        }
        if sync::is_exclusive(slot / RING) {
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

    /// Events of `generation` in the window that ends at `now`.
    pub(crate) fn count(&self, generation: u64, now: Instant) -> u64 {
        self.by_tick(generation, now).iter().map(|(_, count)| count).sum()
    }

    /// The same, tick by tick, oldest first. Ticks before the start are left at zero.
    pub(crate) fn by_tick(&self, generation: u64, now: Instant) -> [(u64, u64); BUCKETS as usize] {
        let newest = self.ticks.of(now);
        std::array::from_fn(|back| {
            let Some(tick) = newest.checked_sub(BUCKETS - 1 - back as u64) else { return (0, 0) };
            (tick, self.in_tick(tag(generation, tick), tick))
        })
    }

    fn in_tick(&self, tag: u64, tick: u64) -> u64 {
        let buckets = self.buckets.0.iter().skip(tick as usize % RING).step_by(RING);
        let current = buckets.filter(|bucket| bucket.tag.load(Ordering::Acquire) == tag);
        current.map(|bucket| bucket.count.load(Ordering::Relaxed)).sum()
    }
}

#[inline]
fn tag(generation: u64, tick: u64) -> u64 {
    // Ticks of a millisecond fill their bits after 34 years.
    generation << TICK_BITS | tick
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sliding(now: Instant) -> Sliding {
        Sliding::new(Ticks::new(SECOND * 10, now))
    }

    #[test]
    fn events_older_than_the_window_are_forgotten() {
        let now = Instant::now();
        let sliding = sliding(now);
        sliding.add(0, now);
        assert_eq!(sliding.count(0, now + SECOND * 9), 1);
        assert_eq!(sliding.count(0, now + SECOND * 10), 0);
    }

    #[test]
    fn another_generation_starts_from_nothing_and_late_events_of_the_old_one_are_dropped() {
        let now = Instant::now();
        let sliding = sliding(now);
        for generation in [4, 5, 4] {
            sliding.add(generation, now);
        }
        assert_eq!((sliding.count(5, now), sliding.count(4, now)), (1, 0));
    }

    #[test]
    fn nothing_is_lost_where_many_threads_add() {
        let now = Instant::now();
        let sliding = sliding(now);
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..2_000).for_each(|event| sliding.add(1, now + SECOND * (event % 10))));
            }
        });
        assert_eq!(sliding.count(1, now + SECOND * 9), 80_000);
    }

    /// Two lengths in turn on one thread, and times that jump to and fro: what the thread remembers is never wrong.
    #[test]
    fn ticks_of_different_lengths_do_not_disturb_each_other() {
        let now = Instant::now();
        let (short, long) = (Ticks::new(SECOND, now), Ticks::new(SECOND * 70, now));
        let epoch = *EPOCH.get().unwrap();
        for step in [0u32, 1, 500, 3, 100_000, 2, 2, 7_001, 7_000, 0] {
            let at = now + Duration::from_millis(u64::from(step));
            let elapsed = at.saturating_duration_since(epoch).as_nanos() as u64;
            assert_eq!(short.of(at), elapsed / 100_000_000);
            assert_eq!(long.of(at), elapsed / 7_000_000_000);
        }
    }

    proptest! {
        /// The rings agree with a plain list of ticks, also where a thread comes with a time that is a little old.
        #[test]
        fn the_rings_agree_with_a_plain_list(pauses in prop::collection::vec((0u64..3_000, 0u64..2_000), 0..200)) {
            let start = Instant::now();
            let sliding = sliding(start);
            let tick = |at: u64| {
                let elapsed = (start + Duration::from_millis(at)).duration_since(*EPOCH.get().unwrap());
                elapsed.as_secs()
            };
            let (mut list, mut at) = (Vec::new(), 0u64);
            for (pause, late) in pauses {
                at += pause;
                let seen = at.saturating_sub(late);
                sliding.add(3, start + Duration::from_millis(seen));
                list.push(tick(seen));
            }
            let recent = list.iter().filter(|seen| **seen + BUCKETS > tick(at)).count();
            prop_assert_eq!(sliding.count(3, start + Duration::from_millis(at)), recent as u64);
        }
    }
}
