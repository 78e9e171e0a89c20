//! What a kept answer may be used for at its age: a pure table over four durations. It keeps nothing and asks nobody.

use std::time::Duration;

/// How long the answers to one kind of question are good for. Each time counts from where the one before it ends; the
/// age of an answer counts from when its question was sent.
///
/// ```text
///   age 0 ── fresh_for ──┬── stale_while_revalidate ──┐
///        served unasked  │  served, asked anew beside │
///                        └── stale_if_error ──────────┴─────────> expired
///                           served where the database fails
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPolicy {
    /// Younger answers are served without asking, labelled with their age. Default 0: every read asks.
    pub fresh_for: Duration,
    /// For this long after `fresh_for` an answer is served at once, labelled, and asked for anew in the background.
    /// Default 0.
    pub stale_while_revalidate: Duration,
    /// For this long after `fresh_for` an answer is served, labelled, where the database fails or is too slow. Default
    /// [`Duration::MAX`]: as long as the cache keeps it, [`CacheConfig::stale_max`](super::CacheConfig::stale_max).
    pub stale_if_error: Duration,
    /// The answer that there is no such thing is good for no longer than this, whatever the other three allow: soon there
    /// may be one. Default 5 s. 0 keeps no such answer.
    pub negative_for: Duration,
}

impl Default for ReadPolicy {
    fn default() -> Self {
        Self {
            fresh_for: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::MAX,
            negative_for: Duration::from_secs(5),
        }
    }
}

/// What a kept answer may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Usable {
    /// Instead of asking.
    Fresh,
    /// Instead of asking, where somebody asks anew beside.
    WhileRevalidating,
    /// Where asking failed.
    IfError,
    /// For nothing.
    Expired,
}

impl ReadPolicy {
    /// What an answer of this age may be used for. `negative` says that it is the answer that there is no such thing,
    /// `doubtful` that it may have changed since: such a one only helps where the database cannot be asked.
    #[must_use]
    pub fn usable(&self, age: Duration, negative: bool, doubtful: bool) -> Usable {
        let within = |after: Duration| !after.is_zero() && age <= self.fresh_for.saturating_add(after);
        if negative && age >= self.negative_for {
            Usable::Expired
        } else if age < self.fresh_for && !doubtful {
            Usable::Fresh
        } else if within(self.stale_while_revalidate) && !doubtful {
            Usable::WhileRevalidating
        } else if within(self.stale_if_error) || age < self.fresh_for {
            Usable::IfError
        } else {
            Usable::Expired
        }
    }

    /// Whether an answer of this age, served without asking, is to be asked for anew beside: it has lost its freshness, or
    /// is about to. When in the last fifth of `fresh_for` that begins is drawn, 0 to 1 from `draw`, so that keys that were
    /// filled together do not come due together.
    #[must_use]
    pub fn is_worth_refreshing(&self, age: Duration, draw: impl FnOnce() -> f64) -> bool {
        let ahead = self.fresh_for / 5;
        age >= self.fresh_for
            || (age >= self.fresh_for - ahead
                && age >= self.fresh_for - ahead.mul_f64(draw().clamp(0.0, 1.0)).min(ahead))
    }

    /// Whether any kept answer may be served without asking.
    #[must_use]
    pub fn serves_unasked(&self) -> bool {
        !self.fresh_for.is_zero() || !self.stale_while_revalidate.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn asking_anew_begins_in_the_last_fifth_at_a_drawn_time() {
        let policy = ReadPolicy { fresh_for: SECOND * 10, ..ReadPolicy::default() };
        let never_drawn = || panic!("no draw is needed");
        assert!(!policy.is_worth_refreshing(SECOND * 7, never_drawn));
        assert!(policy.is_worth_refreshing(SECOND * 10, never_drawn));
        for (draw, begins) in [(1.0, 8_000), (0.5, 9_000), (0.0, 10_000)] {
            let at = |milliseconds| policy.is_worth_refreshing(Duration::from_millis(milliseconds), || draw);
            assert!(at(begins) && !at(begins - 1), "{draw}");
        }
        let endless = ReadPolicy { fresh_for: Duration::MAX, ..policy };
        assert!(!endless.is_worth_refreshing(SECOND, never_drawn));
        assert!(endless.is_worth_refreshing(Duration::MAX / 10 * 9, || 1.0));
    }

    #[test]
    fn the_table_of_ages() {
        use Usable::{Expired, Fresh, IfError, WhileRevalidating};
        let all = ReadPolicy {
            fresh_for: SECOND * 2,
            stale_while_revalidate: SECOND * 3,
            stale_if_error: SECOND * 60,
            negative_for: SECOND * 4,
        };
        let (plain, none) =
            (ReadPolicy::default(), ReadPolicy { stale_if_error: Duration::ZERO, ..ReadPolicy::default() });
        let long_while = ReadPolicy { stale_while_revalidate: SECOND * 90, ..all };
        let table = [
            // policy, age in seconds, negative, doubtful
            (all, 0, false, false, Fresh),
            (all, 1, false, false, Fresh),
            (all, 2, false, false, WhileRevalidating),
            (all, 5, false, false, WhileRevalidating),
            (all, 6, false, false, IfError),
            (all, 62, false, false, IfError),
            (all, 63, false, false, Expired),
            (all, 1, true, false, Fresh),
            (all, 3, true, false, WhileRevalidating),
            (all, 4, true, false, Expired),
            (all, 1, false, true, IfError),
            (all, 3, false, true, IfError),
            (all, 63, false, true, Expired),
            (all, 4, true, true, Expired),
            (long_while, 80, false, false, WhileRevalidating),
            (long_while, 80, false, true, Expired),
            (plain, 0, false, false, IfError),
            (plain, 1_000_000, false, false, IfError),
            (plain, 4, true, false, IfError),
            (plain, 5, true, false, Expired),
            (none, 0, false, false, Expired),
        ];
        for (row, (policy, age, negative, doubtful, expected)) in table.into_iter().enumerate() {
            assert_eq!(policy.usable(SECOND * age, negative, doubtful), expected, "row {row}");
        }
    }
}
