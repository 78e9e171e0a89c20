//! Keys of writes whose end nobody here knows: on their way, or ended without anybody finding out. Who asks for one of these
//! and finds no row must not be told that it was never seen, because a COMMIT may still come.
//!
//! Memory only, and bounded: after a restart the database alone says what is true.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Keys of unknown end that are remembered.
const UNKNOWN_MAX: usize = 10_000;
/// A transaction that nobody looks after has ended by then: the sessions' time limits are seconds, and what is left of it is
/// a wait for a synchronous standby.
const UNKNOWN_FOR: Duration = Duration::from_secs(10 * 60);

/// All of them.
#[derive(Debug)]
pub(super) struct Doubts {
    /// How many calls there are for each key.
    under_way: Mutex<HashMap<String, usize>>,
    /// Since when nobody knows.
    unknown: Cache<String, Instant>,
}

/// A write on its way. Dropped without a word its end is unknown.
#[derive(Debug)]
#[must_use = "dropped at once it says that the end of this write is unknown"]
pub(super) struct UnderWay<'d> {
    doubts: &'d Doubts,
    key: &'d str,
    is_told: bool,
}

impl Default for Doubts {
    fn default() -> Self {
        Self { under_way: Mutex::default(), unknown: Cache::new(UNKNOWN_MAX) }
    }
}

impl Doubts {
    /// A write under this key begins.
    pub(super) fn begin<'d>(&'d self, key: &'d str) -> UnderWay<'d> {
        *self.under_way().entry(key.to_owned()).or_default() += 1;
        UnderWay { doubts: self, key, is_told: false }
    }

    /// Whether a write under this key may have an effect that the database does not show yet.
    pub(super) fn holds(&self, key: &str, now: Instant) -> bool {
        let is_recent = |since| now.saturating_duration_since(since) < UNKNOWN_FOR;
        self.under_way().contains_key(key) || self.unknown.get(key).is_some_and(is_recent)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// Its end is known: it had its effect, waits in the journal, or had none and never will.
    pub(super) fn ended(mut self) {
        self.is_told = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.doubts.unknown.insert(self.key.to_owned(), Instant::now());
        }
        // After the note, so that there is no moment without doubt.
        let mut under_way = self.doubts.under_way();
        if let Some(calls) = under_way.get_mut(self.key) {
            *calls -= 1;
            if *calls == 0 {
                under_way.remove(self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_in_doubt_until_its_end_is_told_or_can_be_no_other() {
        let doubts = Doubts::default();
        let holds = |key| doubts.holds(key, Instant::now());
        let (first, second) = (doubts.begin("k"), doubts.begin("k"));
        assert!(holds("k") && !holds("other"));
        first.ended();
        assert!(holds("k"), "another call is on its way");
        drop(second);
        tokio::time::advance(UNKNOWN_FOR - Duration::from_secs(1)).await;
        // One that had no effect says nothing of the one before it.
        doubts.begin("k").ended();
        assert!(holds("k"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!holds("k") && doubts.under_way().is_empty());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let doubts = Doubts::default();
        (0..3 * UNKNOWN_MAX).for_each(|number| drop(doubts.begin(&number.to_string())));
        assert!(doubts.unknown.len() <= UNKNOWN_MAX && doubts.under_way().is_empty());
    }
}
