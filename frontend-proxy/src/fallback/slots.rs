//! When each of those who wait may ask again: soon where few wait, spread where many do, later while an outage lasts.
//!
//! It knows nobody by name: how many wait follows from how often and for how long it told them to.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Slots are spread over no less than this: a restart of a moment must not end in one moment either.
const SPREAD_MIN: Duration = Duration::from_secs(2);
/// And over no more: after a long outage people are there to see the page return.
const SPREAD_MAX: Duration = Duration::from_secs(60);
/// The share of [`SPREAD_MAX`] that the length of an outage alone can bring about.
const PATIENCE_MAX: Duration = Duration::from_secs(15);
/// Rounds that double the spread.
const DOUBLINGS_MAX: u32 = 4;
/// Nobody is told to come back at once.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// How long is looked back to see how many wait.
const WINDOW: Duration = Duration::from_secs(10);
/// At the start of a crowd nothing shorter than this is taken for a rate.
const LOOKED_AT_MIN: Duration = Duration::from_secs(1);

/// Who asks: the same waiter gets the same place in the same round, however often it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// Made when the waiter was told to wait first.
    pub(crate) token: u64,
    /// How often it has asked.
    pub(crate) round: u32,
}

/// Gives out the slots.
#[derive(Debug)]
pub(crate) struct Slots {
    asks_per_second: f64,
    given: Mutex<Given>,
}

/// The waits that were given out in this window and the one before.
#[derive(Debug)]
struct Given {
    since: Instant,
    now: Duration,
    before: Duration,
}

impl Slots {
    /// `asks_per_second` is how many may come back in each second at the most, as far as spreading can bring that
    /// about.
    pub(crate) fn new(asks_per_second: u32, now: Instant) -> Self {
        let given = Given { since: now, now: Duration::ZERO, before: Duration::ZERO };
        Self { asks_per_second: f64::from(asks_per_second.max(1)), given: Mutex::new(given) }
    }

    /// How long `waiter` should wait: until the next chance, plus its part of the spread. The longer an outage has
    /// lasted, the longer it is likely to last; the more wait, the wider they are spread.
    pub(crate) fn give(
        &self,
        waiter: Waiter,
        next_chance: Duration,
        down_for: Duration,
        now: Instant,
    ) -> Duration {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.turn(now);
        // Spread over so long, each asks every half of it on the average.
        let crowd = Duration::try_from_secs_f64(2.0 * given.waiting(now) / self.asks_per_second);
        let patience = (down_for / 4).max(Duration::from_secs(1 << waiter.round.min(DOUBLINGS_MAX)));
        let spread =
            patience.min(PATIENCE_MAX).max(crowd.unwrap_or(SPREAD_MAX)).clamp(SPREAD_MIN, SPREAD_MAX);
        let wait = next_chance.max(WAIT_MIN) + spread.mul_f64(waiter.place());
        given.now = given.now.saturating_add(wait);
        wait
    }
}

impl Given {
    fn turn(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW {
            self.before = if elapsed < 2 * WINDOW { self.now } else { Duration::ZERO };
            self.now = Duration::ZERO;
            self.since = now;
        }
    }

    /// Little's law: as many wait as are told to in a second, times how long they are told to.
    fn waiting(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.since);
        if self.before.is_zero() {
            return self.now.div_duration_f64(elapsed.max(LOOKED_AT_MIN));
        }
        let fading = 1.0 - elapsed.div_duration_f64(WINDOW).min(1.0);
        (self.now + self.before.mul_f64(fading)).div_duration_f64(WINDOW)
    }
}

impl Waiter {
    /// From 0 to 1, evenly spread over tokens, different in each round (the mixing of splitmix64).
    fn place(self) -> f64 {
        let mut bits = self.token ^ u64::from(self.round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (bits ^ (bits >> 31)) >> 40;
        mixed as f64 / (1_u64 << 24) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    const SOON: Duration = Duration::from_millis(700);

    /// What `count` waiters are told who all come at `now`.
    fn waits(slots: &Slots, count: u64, down_for: Duration, now: Instant) -> Vec<Duration> {
        let waiter = |token| Waiter { token, round: 0 };
        (0..count).map(|token| slots.give(waiter(token), SOON, down_for, now)).collect()
    }

    #[tokio::test]
    async fn the_wait_is_never_a_constant_and_grows_wider_with_the_outage() {
        let now = Instant::now();
        let slots = Slots::new(1_000, now);
        let early = waits(&slots, 200, Duration::ZERO, now);
        let late = waits(&slots, 200, Duration::from_secs(600), now);
        assert!(early.iter().all(|wait| (SOON..=SOON + SPREAD_MIN).contains(wait)), "{early:?}");
        assert!(early.iter().any(|wait| *wait != early[0]));
        assert!(late.iter().all(|wait| (SOON..=SOON + PATIENCE_MAX).contains(wait)));
        assert!(late.iter().any(|wait| *wait > SOON + PATIENCE_MAX / 2));
    }

    #[tokio::test]
    async fn a_waiter_that_asks_again_gets_the_same_place_and_cannot_jump_the_queue() {
        let now = Instant::now();
        let slots = Slots::new(1_000, now);
        let waiter = Waiter { token: 7, round: 1 };
        let first = slots.give(waiter, SOON, Duration::ZERO, now);
        assert!((0..20).all(|_| slots.give(waiter, SOON, Duration::ZERO, now) == first));
        let rounds: Vec<Duration> = (0..12)
            .map(|round| slots.give(Waiter { token: 7, round }, Duration::ZERO, Duration::ZERO, now))
            .collect();
        assert!(rounds.iter().all(|wait| *wait <= PATIENCE_MAX), "{rounds:?}");
        assert!(rounds[4..].iter().any(|wait| *wait > 2 * SPREAD_MIN), "it doubles: {rounds:?}");
    }

    /// Ten thousand pages that all came back in the two seconds of a fixed spread would be 5,000 requests per second.
    #[tokio::test]
    async fn a_crowd_comes_back_no_faster_than_it_may() {
        let start = Instant::now();
        let slots = Slots::new(200, start);
        let come = (0..6_000).map(|token| Reverse((start + Duration::from_micros(token * 300), token, 0)));
        let (mut due, mut asks): (BinaryHeap<_>, [u32; 120]) = (come.collect(), [0; 120]);
        // Each asks when it was told to, for two minutes.
        while let Some(Reverse((now, token, round))) = due.pop() {
            let second = usize::try_from((now - start).as_secs()).unwrap();
            let Some(count) = asks.get_mut(second) else { break };
            *count += 1;
            let wait = slots.give(Waiter { token, round }, Duration::ZERO, now - start, now);
            due.push(Reverse((now + wait, token, round + 1)));
        }
        assert!(asks[60..].iter().all(|count| (50..=400).contains(count)), "asks in each second: {asks:?}");
    }
}
