//! How long to wait before the next attempt: attempt number in, jittered delay out.
//!
//! It does not decide whether there is a next attempt: that is a matter of class, budget and deadline (`db`).
//!
//! Defaults, metrics and what not to do: `docs/patterns/retry-and-budget.md`.

use std::time::Duration;

/// How the computed delay is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Jitter {
    /// Anywhere between nothing and the whole delay; spreads a herd best.
    #[default]
    Full,
    /// Between half of the delay and the whole; keeps a floor.
    Equal,
    /// No spread at all. For tests.
    None,
}

/// An exponential schedule with a cap.
///
/// ```
/// use std::time::Duration;
/// use ridethrough::backoff::{Backoff, Jitter};
///
/// let backoff = Backoff { jitter: Jitter::Equal, ..Backoff::default() };
/// let third = backoff.delay(3, &mut fastrand::Rng::new());
/// assert!((Duration::from_millis(40)..=Duration::from_millis(80)).contains(&third));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct Backoff {
    /// The delay before the first retry, before jitter. Default 20 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub base: Duration,
    /// No delay is longer than this. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub cap: Duration,
    /// Default [`Jitter::Full`].
    pub jitter: Jitter,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(20), cap: Duration::from_secs(1), jitter: Jitter::Full }
    }
}

impl Backoff {
    /// The delay after the failed `attempt` (the first attempt is 1), drawn from `random`.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: &mut fastrand::Rng) -> Duration {
        // 2^20 times any sensible base is past any sensible cap, so the exponent stops there.
        let doublings = attempt.saturating_sub(1).min(20);
        let whole = self.base.saturating_mul(1 << doublings).min(self.cap);
        match self.jitter {
            Jitter::Full => whole.mul_f64(random.f64()),
            Jitter::Equal => whole.mul_f64(0.5 + random.f64() / 2.0),
            Jitter::None => whole,
        }
    }
}

/// Where the delays of one call come from.
///
/// The default is [`Backoff`]; with the feature `backoff`, any schedule of the crate of that name serves too.
pub trait Schedule: Send {
    /// The delay after the failed `attempt` (the first attempt is 1), or `None` where the schedule gives up.
    fn next_delay(&mut self, attempt: u32, random: &mut fastrand::Rng) -> Option<Duration>;
}

impl Schedule for Backoff {
    fn next_delay(&mut self, attempt: u32, random: &mut fastrand::Rng) -> Option<Duration> {
        Some(self.delay(attempt, random))
    }
}

/// A schedule of the crate `backoff`; its own randomisation replaces ours.
#[cfg(feature = "backoff")]
#[derive(Debug)]
pub struct Foreign<B>(pub B);

#[cfg(feature = "backoff")]
impl<B: ::backoff::backoff::Backoff + Send> Schedule for Foreign<B> {
    fn next_delay(&mut self, _attempt: u32, _random: &mut fastrand::Rng) -> Option<Duration> {
        self.0.next_backoff()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let backoff =
            Backoff { base: Duration::from_millis(10), cap: Duration::from_millis(70), jitter: Jitter::None };
        let mut random = fastrand::Rng::with_seed(1);
        let delays: Vec<u128> = (1..=5).map(|n| backoff.delay(n, &mut random).as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 70, 70]);
    }

    #[test]
    fn full_jitter_stays_within_the_delay_and_really_spreads() {
        let backoff = Backoff { base: Duration::from_millis(100), ..Backoff::default() };
        let mut random = fastrand::Rng::with_seed(7);
        let delays: Vec<Duration> = (0..200).map(|_| backoff.delay(1, &mut random)).collect();
        assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(100)));
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(20)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_millis(80)));
    }

    #[test]
    fn equal_jitter_keeps_a_floor() {
        let backoff = Backoff { jitter: Jitter::Equal, ..Backoff::default() };
        let mut random = fastrand::Rng::with_seed(7);
        assert!((0..100).all(|_| backoff.delay(1, &mut random) >= backoff.base / 2));
    }

    #[test]
    fn a_very_late_attempt_does_not_overflow() {
        let backoff = Backoff { jitter: Jitter::None, ..Backoff::default() };
        assert_eq!(backoff.delay(u32::MAX, &mut fastrand::Rng::with_seed(1)), backoff.cap);
    }

    #[cfg(feature = "backoff")]
    #[test]
    fn a_schedule_of_the_backoff_crate_serves() {
        let schedule = ::backoff::ExponentialBackoff {
            initial_interval: Duration::from_millis(10),
            randomization_factor: 0.0,
            max_elapsed_time: None,
            current_interval: Duration::from_millis(10),
            ..::backoff::ExponentialBackoff::default()
        };
        let mut foreign = Foreign(schedule);
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(foreign.next_delay(1, &mut random), Some(Duration::from_millis(10)));
        assert_eq!(foreign.next_delay(2, &mut random), Some(Duration::from_millis(15)));
    }
}
