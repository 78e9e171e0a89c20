//! Which answers come too late for keys of which nothing is kept: those to questions that were sent before an own write of
//! the key ended. It keeps neither keys nor answers.
//!
//! Many keys share a place, where the latest write counts for all of them. So an answer can be kept out for nothing, while
//! writes of other keys end; the next one is not.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

use super::CacheKey;

/// 32 KiB: few enough to cost nothing, and so many that a busy replay seldom keeps an answer out for nothing.
const PLACES: usize = 4_096;

/// When own writes ended that left nothing in the cache.
#[derive(Debug)]
pub(super) struct Ended {
    born: Instant,
    hashing: RandomState,
    /// Nanoseconds since `born`, and one more; 0 where none ended.
    places: Box<[AtomicU64]>,
}

impl Ended {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            hashing: RandomState::new(),
            places: std::iter::repeat_with(AtomicU64::default).take(PLACES).collect(),
        }
    }

    /// A write of this key ended at `at`.
    pub(super) fn note(&self, key: &CacheKey, at: Instant) {
        if let Some(place) = self.place(key) {
            place.fetch_max(self.number(at), Ordering::AcqRel);
        }
    }

    /// Whether a write of this key may have ended after `as_of`.
    pub(super) fn is_after(&self, key: &CacheKey, as_of: Instant) -> bool {
        self.place(key).is_some_and(|place| place.load(Ordering::Acquire) > self.number(as_of))
    }

    fn place(&self, key: &CacheKey) -> Option<&AtomicU64> {
        self.places.get(self.hashing.hash_one(key) as usize % PLACES)
    }

    fn number(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.born).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1).saturating_add(1)
    }
}
