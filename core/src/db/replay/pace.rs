//! How much replay does at a time: as many entries to a transaction as take a moment, and less while users wait. Pure.

use std::time::Duration;

/// Entries in one transaction at the most.
const ENTRIES_MAX: usize = 1_000;
/// The first one's: a database that has just come back is not met with all of it.
const ENTRIES_FIRST: usize = 64;
/// While calls queue for a permit.
const ENTRIES_CROWDED: usize = 32;
/// A transaction that takes less may carry more: half of what no user should feel.
const QUICK: Duration = Duration::from_millis(50);
/// And one that takes longer must carry less: its locks are in somebody's way.
const SLOW: Duration = Duration::from_millis(150);
/// Between transactions while calls queue.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Learns from each transaction how many entries the next one should carry.
#[derive(Debug)]
pub(super) struct Pace {
    entries: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { entries: ENTRIES_FIRST }
    }
}

impl Pace {
    /// Entries for the next transaction; `crowded` while calls queue for a permit.
    pub(super) fn entries(&self, crowded: bool) -> usize {
        if crowded { self.entries.min(ENTRIES_CROWDED) } else { self.entries }
    }

    /// A transaction with this many entries took this long.
    pub(super) fn took(&mut self, entries: usize, took: Duration) {
        if took > SLOW {
            self.entries = (entries / 2).clamp(1, self.entries);
        } else if took < QUICK && entries >= self.entries {
            self.entries = (self.entries * 2).min(ENTRIES_MAX);
        }
    }

    /// How long to leave the database to users who queue, after a transaction that took this long.
    pub(super) fn pause(took: Duration) -> Duration {
        took.clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_quick_and_shrinks_when_slow() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.took(pace.entries(false), Duration::from_millis(10));
        }
        assert_eq!(pace.entries(false), ENTRIES_MAX);
        pace.took(ENTRIES_MAX, Duration::from_millis(100));
        assert_eq!(pace.entries(false), ENTRIES_MAX, "neither quick nor slow");
        for _ in 0..20 {
            pace.took(pace.entries(false), Duration::from_secs(1));
        }
        assert_eq!(pace.entries(false), 1);
    }

    #[test]
    fn a_few_entries_tell_nothing_of_many() {
        let mut pace = Pace::default();
        pace.took(3, Duration::from_millis(1));
        assert_eq!(pace.entries(false), ENTRIES_FIRST);
        pace.took(3, Duration::from_secs(1));
        assert_eq!(pace.entries(false), 1, "but slow is slow");
    }

    #[test]
    fn users_who_queue_go_first() {
        let mut pace = Pace::default();
        pace.took(ENTRIES_FIRST, Duration::from_millis(1));
        assert_eq!(pace.entries(true), ENTRIES_CROWDED);
        assert_eq!(Pace::pause(Duration::ZERO), PAUSE_MIN);
        assert_eq!(Pace::pause(Duration::from_secs(9)), PAUSE_MAX);
    }
}
