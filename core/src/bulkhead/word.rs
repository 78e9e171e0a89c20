//! The one word that says how many are in, how many may be, and whether anybody waits; so that entering and leaving are
//! one atomic operation each, and nobody slips past a waiter between two of them.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

const COUNT: u64 = 0xffff;
const LIMIT_SHIFT: u32 = 16;
/// Somebody waits that may have a permit: nobody enters but through the queue, and who leaves hands over.
const QUEUED: u64 = 1 << 32;
const SERIAL_SHIFT: u32 = 33;
/// One more in, with the next serial number; the number wraps at the top of the word.
const ENTER: u64 = 1 | 1 << SERIAL_SHIFT;

/// Bits 0 to 15 count those in, 16 to 31 are the limit, 32 is the queue's flag, the rest numbers the entries.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) fn new(limit: usize) -> Self {
        Self(AtomicU64::new((limit as u64 & COUNT) << LIMIT_SHIFT))
    }

    /// Enters where there is room and nobody waits, and gives the number of the entry.
    #[inline]
    pub(super) fn enter(&self) -> Option<u32> {
        let mut word = self.0.load(Relaxed);
        loop {
            if word & QUEUED != 0 || is_full(word) {
                return None;
            }
            match self.0.compare_exchange_weak(word, word.wrapping_add(ENTER), Acquire, Relaxed) {
                Ok(_) => return Some((word >> SERIAL_SHIFT) as u32),
                Err(now) => word = now,
            }
        }
    }

    /// Enters where there is room, whoever waits; else raises the flag, so that whoever leaves next will look.
    pub(super) fn enter_or_flag(&self) -> bool {
        let mut word = self.0.load(Relaxed);
        loop {
            let full = is_full(word);
            let next = if full { word | QUEUED } else { word.wrapping_add(ENTER) };
            match self.0.compare_exchange_weak(word, next, AcqRel, Relaxed) {
                Ok(_) => return !full,
                Err(now) => word = now,
            }
        }
    }

    /// Leaves, and says whether anybody waited for it.
    #[inline]
    pub(super) fn leave(&self) -> bool {
        self.0.fetch_sub(1, AcqRel) & QUEUED != 0
    }

    pub(super) fn lower_flag(&self) {
        self.0.fetch_and(!QUEUED, AcqRel);
    }

    /// Whether anybody waits that may have a permit.
    #[inline]
    pub(super) fn has_flag(&self) -> bool {
        self.0.load(Relaxed) & QUEUED != 0
    }

    pub(super) fn set_limit(&self, limit: usize) {
        let bits = (limit as u64 & COUNT) << LIMIT_SHIFT;
        // The closure never refuses, so there is no failure to handle.
        let _ = self.0.fetch_update(AcqRel, Relaxed, |word| Some(word & !(COUNT << LIMIT_SHIFT) | bits));
    }

    /// The number of the newest entry, near enough for sampling.
    pub(super) fn serial(&self) -> u32 {
        (self.0.load(Relaxed) >> SERIAL_SHIFT) as u32
    }

    /// Whether more than half of the limit is in use.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        let word = self.0.load(Relaxed);
        (word & COUNT) * 2 > (word >> LIMIT_SHIFT) & COUNT
    }

    pub(super) fn in_use(&self) -> usize {
        (self.0.load(Relaxed) & COUNT) as usize
    }

    pub(super) fn limit(&self) -> usize {
        ((self.0.load(Relaxed) >> LIMIT_SHIFT) & COUNT) as usize
    }
}

#[inline]
fn is_full(word: u64) -> bool {
    word & COUNT >= (word >> LIMIT_SHIFT) & COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_past_the_limit_or_past_a_waiter() {
        let word = Word::new(2);
        assert_eq!((word.enter(), word.enter(), word.enter()), (Some(0), Some(1), None));
        assert!(!word.leave());
        assert!(word.enter_or_flag());
        assert!(!word.enter_or_flag(), "entered past the limit");
        assert!(word.leave(), "left without a look at the queue");
        assert_eq!(word.enter(), None, "slipped past a waiter");
        word.lower_flag();
        assert!(word.enter().is_some());
    }

    #[test]
    fn a_new_limit_changes_nothing_else() {
        let word = Word::new(9);
        assert_eq!((word.enter(), word.enter()), (Some(0), Some(1)));
        word.set_limit(1);
        assert_eq!((word.in_use(), word.limit(), word.serial()), (2, 1, 2));
        assert!(word.is_busy() && word.enter().is_none());
    }

    #[test]
    fn the_serial_number_wraps_without_touching_its_neighbours() {
        let word = Word(AtomicU64::new((u64::from(u32::MAX >> 1) << SERIAL_SHIFT) | 3 << LIMIT_SHIFT));
        assert_eq!(word.enter(), Some(u32::MAX >> 1));
        assert_eq!((word.serial(), word.in_use(), word.limit()), (0, 1, 3));
    }
}
