//! An absolute time limit that every stage of one call spends from.
//!
//! It does not enforce anything by itself: whoever waits asks for [`Deadline::remaining`] and stops there.
//!
//! Defaults, metrics and what not to do: `docs/patterns/deadline.md`.

use std::time::Duration;

use tokio::time::Instant;

/// The instant after which nobody waits for the answer any more.
///
/// ```
/// use std::time::Duration;
/// use ridethrough::Deadline;
/// use tokio::time::Instant;
///
/// let now = Instant::now();
/// let deadline = Deadline::after(now, Duration::from_secs(2));
/// assert_eq!(deadline.remaining(now), Duration::from_secs(2));
/// assert!(deadline.is_past(now + Duration::from_secs(3)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The clock ends somewhere; nobody waits for longer than this.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

impl Deadline {
    /// The deadline `limit` after `now`; more than a year counts as a year.
    #[must_use]
    pub fn after(now: Instant, limit: Duration) -> Self {
        Self(now + limit.min(LONGEST))
    }

    /// The instant itself, for timers.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether nothing is left at `now`.
    #[must_use]
    pub fn is_past(self, now: Instant) -> bool {
        now >= self.0
    }

    /// This deadline with `reserve` of it, or a quarter of what is left at `now` where that is less, kept for a later stage.
    #[must_use]
    pub fn keeping(self, now: Instant, reserve: Duration) -> Self {
        let remaining = self.remaining(now);
        Self(now + (remaining - reserve.min(remaining / 4)))
    }

    /// The deadline `reserve` before this one: the end of a stage whose successors need that long.
    #[must_use]
    pub fn earlier(self, reserve: Duration) -> Self {
        Self(self.0.checked_sub(reserve).unwrap_or(self.0))
    }

    /// This deadline, or `limit` after `now` where that comes first: the limit of one stage.
    #[must_use]
    pub fn capped(self, now: Instant, limit: Duration) -> Self {
        Self(self.0.min(now + limit.min(LONGEST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_limit_never_extends_the_deadline() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Duration::from_millis(100));
        assert_eq!(deadline.capped(now, Duration::from_secs(5)), deadline);
        assert_eq!(deadline.capped(now, Duration::from_millis(10)).remaining(now), Duration::from_millis(10));
    }

    #[test]
    fn a_reserve_is_kept_from_long_and_short_deadlines_alike() {
        let now = Instant::now();
        let left = |milliseconds| {
            let deadline = Deadline::after(now, Duration::from_millis(milliseconds));
            deadline.keeping(now, Duration::from_millis(250)).remaining(now).as_millis()
        };
        assert_eq!((left(2_000), left(400), left(0)), (1_750, 300, 0));
    }

    /// "No limit", written as the longest duration there is, was a panic.
    #[test]
    fn the_longest_duration_is_a_deadline_too() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Duration::MAX);
        assert_eq!(deadline.remaining(now), LONGEST);
        assert_eq!(deadline.capped(now, Duration::MAX), deadline);
    }

    #[test]
    fn nothing_remains_after_the_deadline() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Duration::from_millis(1));
        assert_eq!(deadline.remaining(now + Duration::from_secs(1)), Duration::ZERO);
        assert!(!deadline.is_past(now));
    }
}
