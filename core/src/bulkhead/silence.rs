//! Silence: that while calls wait, none of those in progress is answered.
//!
//! It remembers two instants, in nanoseconds since the bulkhead was made. Who waits, who is answered, and how long a silence
//! must be to tell, the bulkhead says.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When a call was last answered, or when the first of those began to wait who wait now.
    heard_at: AtomicU64,
    /// When an answer ended the last one.
    until: AtomicU64,
}

impl Silence {
    /// Somebody begins to wait, and nobody did: of what was answered before, nothing was noted.
    pub(super) fn may_begin(&self, at: u64) {
        self.heard_at.fetch_max(at, Relaxed);
    }

    /// A call was answered while others waited.
    pub(super) fn answered(&self, at: u64, enough: u64) {
        let before = self.heard_at.fetch_max(at, Relaxed);
        if at.saturating_sub(before) >= enough {
            self.until.fetch_max(at, Relaxed);
        }
    }

    /// Whether one lasts at `at`, or has ended since `since`.
    pub(super) fn was_met(&self, since: u64, at: u64, enough: u64) -> bool {
        self.until.load(Relaxed) > since || at.saturating_sub(self.heard_at.load(Relaxed)) >= enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_met_while_it_lasts_and_by_who_was_there_when_it_ended() {
        let silence = Silence::default();
        silence.may_begin(1_000);
        assert!(!silence.was_met(1_000, 1_099, 100) && silence.was_met(1_000, 1_100, 100));
        silence.answered(1_200, 100);
        assert!(silence.was_met(1_199, 1_210, 100) && !silence.was_met(1_200, 1_210, 100));
        silence.answered(1_299, 100);
        assert!(!silence.was_met(1_200, 1_300, 100), "shorter than one must be");
    }

    #[test]
    fn it_does_not_begin_before_somebody_waits() {
        let silence = Silence::default();
        silence.may_begin(9_000);
        silence.answered(9_050, 100);
        assert!(!silence.was_met(9_000, 9_060, 100));
    }
}
