//! When the pool may dial: a few at once, spread over time, and hardly at all while dialling fails.
//!
//! A pure policy: it takes `now` and a random number, and neither waits nor dials.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::backoff::{Backoff, Jitter};

/// In each of these, at most a fifth of the pool is dialled: a server that has just come back starts a process for each.
const BURST_WINDOW: Duration = Duration::from_millis(50);
const BURST_SHARE: usize = 5;
/// In each of these, at most the whole pool.
const WINDOW: Duration = Duration::from_secs(1);
/// A tiny pool may still replace its connections.
const PER_WINDOW_MIN: usize = 4;
/// After "too many connections" one more dial at once is allowed for each of these that passes without it.
const REGAIN: Duration = Duration::from_secs(5);
/// A dial given up by its caller after this long says that the host does not answer.
const GIVEN_UP: Duration = Duration::from_millis(500);

/// Decides about the dials of one pool.
#[derive(Debug)]
pub(super) struct Pacer {
    pool: usize,
    /// Dials at once, as configured.
    dials: usize,
    /// Dials at once, as the server has shown to bear.
    borne: usize,
    changed_at: Option<Instant>,
    /// Dials at once, as the breaker allows while the host recovers.
    ramp: Option<usize>,
    dialling: usize,
    /// Starts of the newest dials, oldest first; as many as the windows look back.
    starts: VecDeque<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// What a caller who needs a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Dial now. The dial must be reported with [`Pacer::ended`].
    Dial,
    /// Ask again when a dial has ended, or at this instant where there is one.
    Wait(Option<Instant>),
    /// The host does not answer; asking again makes sense after this.
    Refused(Duration),
}

/// How a dial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialEnd {
    /// There is a session.
    Made,
    /// The host is away, or refused.
    Failed,
    /// The host has no room for another session.
    Full,
    /// The caller went away.
    Dropped,
}

impl Pacer {
    /// For a pool of `pool` connections and `dials` at once.
    pub(super) fn new(pool: usize, dials: usize) -> Self {
        let backoff =
            Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2), jitter: Jitter::Equal };
        let dials = dials.max(1);
        Self {
            pool: pool.max(1),
            dials,
            borne: dials,
            changed_at: None,
            ramp: None,
            dialling: 0,
            starts: VecDeque::new(),
            failures: 0,
            not_before: None,
            backoff,
        }
    }

    /// Asks for a turn at `now`.
    pub(super) fn ask(&mut self, now: Instant) -> Turn {
        if let Some(not_before) = self.not_before {
            // One dial for each step of the backoff; everybody else is told at once.
            let left = not_before.saturating_duration_since(now);
            if !left.is_zero() || self.dialling > 0 {
                return Turn::Refused(left.max(self.backoff.base));
            }
        } else if self.dialling >= self.at_once(now) {
            return Turn::Wait(None);
        } else if let Some(at) = self.next_start(now) {
            return Turn::Wait(Some(at));
        }
        self.dialling += 1;
        self.starts.push_back(now);
        while self.starts.len() > self.per_window() {
            self.starts.pop_front();
        }
        Turn::Dial
    }

    /// A dial that began at `since` ended at `now`; `random` spreads the pause after a failure.
    pub(super) fn ended(&mut self, end: DialEnd, since: Instant, now: Instant, random: &mut fastrand::Rng) {
        self.dialling = self.dialling.saturating_sub(1);
        match end {
            DialEnd::Made => {
                self.failures = 0;
                self.not_before = None;
            }
            DialEnd::Dropped if now.saturating_duration_since(since) < GIVEN_UP => {}
            DialEnd::Failed | DialEnd::Dropped => self.failed(now, random),
            DialEnd::Full => {
                self.borne = (self.at_once(now) / 2).max(1);
                self.changed_at = Some(now);
                self.failed(now, random);
            }
        }
    }

    /// Lets at most `limit` dials go at once while the host recovers; `None` lifts that.
    pub(super) fn set_ramp(&mut self, limit: Option<usize>) {
        self.ramp = limit.map(|limit| limit.max(1));
    }

    /// Forgets the failures: the host was seen well by somebody else.
    pub(super) fn host_is_well(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// Dials that may go at once at `now`.
    pub(super) fn at_once(&mut self, now: Instant) -> usize {
        if let Some(changed_at) = self.changed_at {
            let regained = now.saturating_duration_since(changed_at).as_secs() / REGAIN.as_secs();
            let regained = usize::try_from(regained).unwrap_or(usize::MAX);
            if regained > 0 {
                self.borne = self.borne.saturating_add(regained).min(self.dials);
                self.changed_at = (self.borne < self.dials).then_some(now);
            }
        }
        self.borne.min(self.ramp.unwrap_or(self.borne))
    }

    fn failed(&mut self, now: Instant, random: &mut fastrand::Rng) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + self.backoff.delay(self.failures, random));
    }

    fn per_window(&self) -> usize {
        self.pool.max(PER_WINDOW_MIN)
    }

    /// When the windows have room for one more; `None` where they have now.
    fn next_start(&self, now: Instant) -> Option<Instant> {
        let free_at = |count: usize, window: Duration| {
            let place = self.starts.len().checked_sub(count)?;
            self.starts.get(place).map(|start| *start + window)
        };
        let burst = free_at((self.pool / BURST_SHARE).max(1), BURST_WINDOW);
        let second = free_at(self.per_window(), WINDOW);
        burst.max(second).filter(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    #[test]
    fn no_more_than_the_configured_dials_go_at_once() {
        let now = Instant::now();
        let mut pacer = Pacer::new(40, 2);
        assert_eq!(
            [pacer.ask(now), pacer.ask(now), pacer.ask(now)],
            [Turn::Dial, Turn::Dial, Turn::Wait(None)]
        );
        pacer.ended(DialEnd::Made, now, now + MS, &mut random());
        assert_eq!(pacer.ask(now + MS), Turn::Dial);
    }

    #[test]
    fn while_dialling_fails_there_is_one_dial_for_each_step_and_the_others_are_told_at_once() {
        let mut now = Instant::now();
        let (mut pacer, mut random) = (Pacer::new(40, 8), random());
        assert_eq!(pacer.ask(now), Turn::Dial);
        pacer.ended(DialEnd::Failed, now, now, &mut random);
        let (start, mut dials) = (now, 0_u32);
        while now < start + Duration::from_secs(10) {
            if pacer.ask(now) == Turn::Dial {
                dials += 1;
                assert!(matches!(pacer.ask(now), Turn::Refused(_)));
                pacer.ended(DialEnd::Failed, now, now + MS, &mut random);
            }
            now += MS;
        }
        // Steps of 50 to 100 ms that double up to 1 to 2 s.
        assert!((8..=16).contains(&dials), "{dials} dials in ten seconds");
        pacer.host_is_well();
        assert_eq!(pacer.ask(now), Turn::Dial);
    }

    #[test]
    fn a_server_without_room_is_dialled_half_as_wide_and_slowly_wider_again() {
        let now = Instant::now();
        let mut pacer = Pacer::new(40, 8);
        assert_eq!((pacer.ask(now), pacer.at_once(now)), (Turn::Dial, 8));
        pacer.ended(DialEnd::Full, now, now, &mut random());
        assert_eq!(pacer.at_once(now), 4);
        assert_eq!(pacer.at_once(now + REGAIN), 5);
        assert_eq!(pacer.at_once(now + REGAIN * 10), 8);
        pacer.set_ramp(Some(1));
        assert_eq!(pacer.at_once(now + REGAIN * 11), 1);
        pacer.set_ramp(None);
        assert_eq!(pacer.at_once(now + REGAIN * 11), 8);
    }

    #[test]
    fn one_dial_at_once_remains_however_full_the_server_is() {
        let mut now = Instant::now();
        let (mut pacer, mut random) = (Pacer::new(4, 2), random());
        for _ in 0..20 {
            assert_eq!(pacer.ask(now), Turn::Dial);
            pacer.ended(DialEnd::Full, now, now, &mut random);
            now += Duration::from_secs(3);
        }
    }

    #[test]
    fn a_dial_given_up_late_counts_and_one_given_up_early_does_not() {
        let now = Instant::now();
        let (mut pacer, mut random) = (Pacer::new(10, 2), random());
        assert_eq!(pacer.ask(now), Turn::Dial);
        pacer.ended(DialEnd::Dropped, now, now + MS, &mut random);
        let later = now + Duration::from_millis(100);
        assert_eq!(pacer.ask(later), Turn::Dial);
        pacer.ended(DialEnd::Dropped, later, later + GIVEN_UP, &mut random);
        assert!(matches!(pacer.ask(later + GIVEN_UP), Turn::Refused(_)));
    }

    proptest! {
        /// Whatever the pool's size and however fast the dials end: no 50 ms with more than 30 % of the pool (one at
        /// least), no second with more than all of it.
        #[test]
        fn dials_are_spread(pool in 4_usize..100, dials in 1_usize..50, took in 0_u32..60) {
            let start = Instant::now();
            let (mut pacer, mut random) = (Pacer::new(pool, dials), random());
            let (mut starts, mut running) = (Vec::new(), VecDeque::new());
            for millisecond in 0..3_000 {
                let now = start + MS * millisecond;
                while running.front().is_some_and(|begun| *begun + MS * took <= now) {
                    let begun = running.pop_front().unwrap();
                    pacer.ended(DialEnd::Made, begun, now, &mut random);
                }
                while pacer.ask(now) == Turn::Dial {
                    starts.push(now);
                    running.push_back(now);
                }
                prop_assert!(running.len() <= dials);
            }
            for (at, begun) in starts.iter().enumerate() {
                let within = |window| starts[at..].iter().take_while(|start| **start < *begun + window).count();
                prop_assert!(within(BURST_WINDOW) <= (pool * 3 / 10).max(1));
                prop_assert!(within(WINDOW) <= pool);
            }
        }
    }
}
