//! Readiness that does not flap: what the table says from moment to moment in, what the probe shows out.
//!
//! Two agreeing samples take readiness away, three seconds without a bad one give it back, and no change comes within ten
//! seconds of the one before. It knows neither the parts nor a clock.

use std::time::Duration;

use tokio::time::Instant;

/// Looks that are closer together than this count as one: readiness may be asked for a hundred times a second.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// So many agree before readiness goes.
const SAMPLES_DOWN: u8 = 2;
/// So long all must be well before it comes back.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// Between two changes: routers and their caches need longer than that to follow.
const CHANGES_APART: Duration = Duration::from_secs(10);

/// The readiness that is shown.
#[derive(Debug, Clone, Default)]
pub struct Steady {
    is_ready: bool,
    /// When it last changed; becoming ready for the first time is no flapping and leaves this empty.
    changed: Option<Instant>,
    /// What has spoken against what is shown, without a break.
    against: Option<Against>,
    was_ready: bool,
}

#[derive(Debug, Clone, Copy)]
struct Against {
    since: Instant,
    last: Instant,
    samples: u8,
}

impl Steady {
    /// A readiness that was never there: the first good look gives it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is shown after the table said `ready` at `now`.
    pub fn look(&mut self, ready: bool, now: Instant) -> bool {
        if ready == self.is_ready {
            self.against = None;
        } else if !self.was_ready {
            (self.is_ready, self.was_ready) = (true, true);
        } else if self.has_spoken(ready, now) && self.may_change(now) {
            (self.is_ready, self.changed, self.against) = (ready, Some(now), None);
        }
        self.is_ready
    }

    /// Whether enough has spoken against what is shown, this look included.
    fn has_spoken(&mut self, ready: bool, now: Instant) -> bool {
        let against = self.against.get_or_insert(Against { since: now, last: now, samples: 1 });
        if now.saturating_duration_since(against.last) >= SAMPLE_EVERY {
            (against.last, against.samples) = (now, against.samples.saturating_add(1));
        }
        if ready {
            now.saturating_duration_since(against.since) >= GOOD_FOR
        } else {
            against.samples >= SAMPLES_DOWN
        }
    }

    fn may_change(&self, now: Instant) -> bool {
        self.changed.is_none_or(|changed| now.saturating_duration_since(changed) >= CHANGES_APART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A readiness with a clock of its own.
    struct Shown {
        steady: Steady,
        start: Instant,
        changes: Vec<u64>,
    }

    impl Shown {
        /// Ready since a while.
        fn ready() -> Self {
            let mut shown = Self { steady: Steady::new(), start: Instant::now(), changes: Vec::new() };
            assert!(shown.at(0, true));
            shown
        }

        fn at(&mut self, milliseconds: u64, ready: bool) -> bool {
            let before = self.steady.is_ready;
            let after = self.steady.look(ready, self.start + Duration::from_millis(milliseconds));
            if before != after {
                self.changes.push(milliseconds);
            }
            after
        }
    }

    #[test]
    fn the_first_readiness_waits_for_nothing() {
        let mut steady = Steady::new();
        let now = Instant::now();
        assert!(!steady.look(false, now));
        assert!(steady.look(true, now));
    }

    #[test]
    fn one_bad_sample_between_good_ones_changes_nothing() {
        let mut shown = Shown::ready();
        for round in 0..20 {
            assert!(shown.at(100_000 + round * 1_000, false));
            assert!(shown.at(100_500 + round * 1_000, true));
        }
    }

    #[test]
    fn two_agreeing_samples_take_it_and_looks_in_between_are_no_samples() {
        let mut shown = Shown::ready();
        for milliseconds in (100_000..100_500).step_by(10) {
            assert!(shown.at(milliseconds, false), "{milliseconds}");
        }
        assert!(!shown.at(100_500, false));
    }

    #[test]
    fn it_comes_back_after_three_seconds_without_a_bad_one() {
        let mut shown = Shown::ready();
        assert!(shown.at(100_000, false));
        assert!(!shown.at(100_500, false));
        assert!(!shown.at(120_000, true));
        assert!(!shown.at(122_900, false));
        assert!(!shown.at(123_000, true));
        assert!(!shown.at(125_900, true));
        assert!(shown.at(126_000, true));
    }

    #[test]
    fn whatever_flaps_moves_it_at_most_once_in_ten_seconds() {
        for (down, up) in [(600, 600), (1_000, 3_500), (4_000, 4_000), (700, 9_000), (12_000, 3_100)] {
            let mut shown = Shown::ready();
            for milliseconds in (100_000..400_000).step_by(100) {
                let _ = shown.at(milliseconds, milliseconds % (down + up) >= down);
            }
            let close = shown.changes.windows(2).any(|pair| pair[1] - pair[0] < 10_000);
            assert!(!close && !shown.changes.is_empty(), "{down} down, {up} up: {:?}", shown.changes);
        }
    }
}
