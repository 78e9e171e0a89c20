//! The rare part of the breaker, under its lock: transitions, trials, failures while closed.
//!
//! Successes while closed and rejections while open do not come here; they read what `Breaker` publishes after each
//! change. It tells nobody of a transition but leaves it in `untold`.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    BreakerConfig, BreakerState, Counts, Forced, PROBE_SILENCE, TripReason, ramp::Ramp, window::Window,
    word::Word,
};

/// Instants are not reckoned further ahead than this, so that no configured duration overflows one.
const HORIZON: Duration = Duration::from_secs(7 * 86_400);

/// `duration` after `now`.
pub(super) fn later(now: Instant, duration: Duration) -> Instant {
    now + duration.min(HORIZON)
}

#[derive(Debug)]
pub(super) struct Machine {
    position: Position,
    /// Changes with every transition, so that results of calls admitted before it are told apart and dropped.
    pub(super) word: Word,
    pub(super) window: Window,
    /// Failures since the last success.
    pub(super) consecutive_failures: u32,
    /// Open intervals since it was last closed; doubles the interval.
    trips_in_a_row: u32,
    pub(super) last_trip: Option<(TripReason, Instant)>,
    /// What was counted at the last trip.
    pub(super) evidence: Counts,
    /// When a background probe last reported, if there is one.
    last_probe: Option<Instant>,
    random: fastrand::Rng,
    /// Transitions to tell of once the lock is free: a log that blocks must not block who asks for the state.
    pub(super) untold: Vec<Transition>,
}

#[derive(Debug)]
enum Position {
    Closed,
    Open { until: Instant },
    HalfOpen(Ramp),
}

/// A transition, with what a person wants to read of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transition {
    pub(super) word: Word,
    pub(super) evidence: Counts,
    /// Since the last trip, for the way back.
    pub(super) open_for: Option<Duration>,
    /// Until the next trial, for a trip.
    pub(super) retry_after: Duration,
}

impl Machine {
    pub(super) fn new(is_proven: bool, config: &BreakerConfig, random: fastrand::Rng) -> Self {
        let (position, state) = if is_proven {
            (Position::Closed, BreakerState::Closed)
        } else {
            (Position::HalfOpen(Ramp::new(config)), BreakerState::HalfOpen)
        };
        Self {
            position,
            word: Word::new(state, None, TripReason::Unproven, 1),
            window: Window::default(),
            consecutive_failures: 0,
            trips_in_a_row: 0,
            last_trip: None,
            evidence: Counts::default(),
            last_probe: None,
            random,
            untold: Vec::new(),
        }
    }

    /// Until when it is open and, where it is, from when on a user's request may be the trial.
    pub(super) fn open_times(&self) -> Option<(Instant, Option<Instant>)> {
        let Position::Open { until } = self.position else { return None };
        if self.word.forced().is_some() {
            return Some((until, None));
        }
        let silent_from = self.last_probe.map_or(until, |at| later(at, PROBE_SILENCE));
        Some((until, Some(until.max(silent_from))))
    }

    /// Trials in progress at once that are allowed; none where there is no limit.
    pub(super) fn allowed(&self) -> Option<u32> {
        match &self.position {
            Position::Closed => None,
            Position::Open { .. } => Some(0),
            Position::HalfOpen(ramp) => Some(ramp.allowed()),
        }
    }

    /// A place for one call, with its lease where it is a trial.
    ///
    /// # Errors
    /// Where there is none: the time to the next.
    pub(super) fn admit(&mut self, config: &BreakerConfig, now: Instant) -> Result<Option<u32>, Duration> {
        let is_over = self.open_times().and_then(|(_, from)| from).is_some_and(|from| now >= from);
        if is_over {
            self.half_open(config, now);
        }
        self.fail_lost_leases(config, now);
        match &mut self.position {
            Position::Closed => Ok(None),
            Position::Open { until } => Err(until.saturating_duration_since(now)),
            Position::HalfOpen(ramp) => {
                ramp.lease(config, now).map(Some).map_err(|wait| wait.min(config.open))
            }
        }
    }

    /// How a trial ended.
    pub(super) fn trial_ended(
        &mut self,
        config: &BreakerConfig,
        lease: Option<u32>,
        result: super::CallResult,
        now: Instant,
    ) {
        self.fail_lost_leases(config, now);
        let Position::HalfOpen(ramp) = &mut self.position else { return };
        ramp.give_back(lease);
        match result {
            super::CallResult::Success => {
                if ramp.succeeded(config, false) {
                    self.close(now);
                }
            }
            super::CallResult::Failure => self.trip(config, TripReason::Trial, Counts::default(), now),
            super::CallResult::Neutral => {}
        }
    }

    pub(super) fn probe_succeeded(&mut self, config: &BreakerConfig, now: Instant) {
        self.last_probe = Some(now);
        if self.word.forced().is_some() {
            return;
        }
        self.fail_lost_leases(config, now);
        match &mut self.position {
            Position::Closed => {}
            Position::Open { .. } => self.half_open(config, now),
            Position::HalfOpen(ramp) => {
                if ramp.succeeded(config, true) {
                    self.close(now);
                }
            }
        }
    }

    pub(super) fn probe_failed(
        &mut self,
        config: &BreakerConfig,
        counts: Counts,
        now: Instant,
        next_probe: Instant,
    ) {
        self.last_probe = Some(now);
        if self.word.forced().is_some() {
            return;
        }
        if !matches!(self.position, Position::Open { .. }) {
            self.trip(config, TripReason::Probe, counts, now);
        }
        if let Position::Open { until } = &mut self.position {
            *until = next_probe;
            if let Some(told) = self.untold.last_mut() {
                told.retry_after = next_probe.saturating_duration_since(now);
            }
        }
    }

    pub(super) fn force(&mut self, forced: Forced, counts: Counts, now: Instant) {
        if self.word.forced() == Some(forced) {
            return;
        }
        let state = match forced {
            Forced::Open => {
                self.evidence = counts;
                self.last_trip = Some((TripReason::Forced, now));
                self.position = Position::Open { until: later(now, HORIZON) };
                BreakerState::Open
            }
            Forced::Closed => {
                self.trips_in_a_row = 0;
                self.position = Position::Closed;
                BreakerState::Closed
            }
        };
        self.turn(state, Some(forced), TripReason::Forced, now, Duration::ZERO);
    }

    /// Ends a forced position. Nothing is known after a forced open one, so the way back goes over the ramp.
    pub(super) fn release(&mut self, config: &BreakerConfig, now: Instant) {
        match self.word.forced() {
            None => {}
            Some(Forced::Open) => self.half_open(config, now),
            Some(Forced::Closed) => self.close(now),
        }
    }

    pub(super) fn trip(
        &mut self,
        config: &BreakerConfig,
        reason: TripReason,
        evidence: Counts,
        now: Instant,
    ) {
        let doublings = self.trips_in_a_row.min(16);
        let longest = config.open.saturating_mul(1 << doublings).min(config.open_max).min(HORIZON);
        let jitter = if config.jitter.is_finite() { config.jitter.clamp(0.0, 1.0) } else { 0.0 };
        let open = longest.mul_f64(1.0 + jitter * (2.0 * self.random.f64() - 1.0));
        self.trips_in_a_row = self.trips_in_a_row.saturating_add(1);
        self.last_trip = Some((reason, now));
        self.evidence = evidence;
        self.position = Position::Open { until: later(now, open) };
        self.turn(BreakerState::Open, None, reason, now, open);
    }

    fn half_open(&mut self, config: &BreakerConfig, now: Instant) {
        self.position = Position::HalfOpen(Ramp::new(config));
        let reason = self.word.reason();
        self.turn(BreakerState::HalfOpen, None, reason, now, Duration::ZERO);
    }

    fn close(&mut self, now: Instant) {
        self.trips_in_a_row = 0;
        self.position = Position::Closed;
        let reason = self.word.reason();
        self.turn(BreakerState::Closed, None, reason, now, Duration::ZERO);
    }

    fn fail_lost_leases(&mut self, config: &BreakerConfig, now: Instant) {
        if matches!(&self.position, Position::HalfOpen(ramp) if ramp.has_lost_a_lease(now)) {
            self.trip(config, TripReason::Trial, Counts::default(), now);
        }
    }

    /// Every transition ends here: a new generation, which begins with an empty window.
    fn turn(
        &mut self,
        state: BreakerState,
        forced: Option<Forced>,
        reason: TripReason,
        now: Instant,
        retry_after: Duration,
    ) {
        self.window = Window::default();
        self.consecutive_failures = 0;
        self.word = Word::new(state, forced, reason, self.word.generation() + 1);
        let open_for = self.last_trip.map(|(_, since)| now.saturating_duration_since(since));
        self.untold.push(Transition { word: self.word, evidence: self.evidence, open_for, retry_after });
    }
}
