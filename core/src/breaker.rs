//! The breaker: closed, open, half-open. It stops calls that would only find out again what is known already.
//!
//! Pure policy: it takes `now`, makes no call, spawns nothing. Which results count as failures is decided by the
//! caller (`db/classify` for PostgreSQL); the background probe may end the open interval early
//! ([`Breaker::probe_succeeded`]) or trip the breaker ([`Breaker::probe_failed`]).
//!
//! ```text
//!            3 failures in a row, bad ratio, failed probe
//!   closed ------------------------------------------------> open
//!     ^                                                     |    ^
//!     | enough trials succeeded      probe succeeded, or    |    | a trial failed,
//!     |                              the open time is over  v    | or its lease ran out
//!     +------------------------- half-open -------------------+
//! ```

mod config;
mod window;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use self::config::BreakerConfig;
use self::window::Window;
use crate::metrics;

/// While probes report at least this often, they alone end the open interval: no user's request has to be the one that
/// finds out. Without a probe, or when it falls silent, time ends it.
const PROBE_SILENCE: Duration = Duration::from_secs(5);

/// What the breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls flow.
    Closed,
    /// Calls are rejected.
    Open,
    /// A few calls, the trials, are let through to see.
    HalfOpen,
}

impl BreakerState {
    /// The word used in metrics, logs and `/debug/state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }

    fn level(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

/// Why the breaker last opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TripReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of failures.
    FailureRatio,
    /// The background probe found nobody there.
    Probe,
    /// A trial failed, or its lease ran out.
    Trial,
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsecutiveFailures => "consecutive failures",
            Self::FailureRatio => "failure ratio",
            Self::Probe => "failed probe",
            Self::Trial => "failed trial",
        })
    }
}

/// How one admitted call ended, as the breaker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// A living other side answered, be it with a statement error.
    Success,
    /// Nobody there, or no answer in time.
    Failure,
    /// Says nothing about the other side: the caller went away, or it was overload.
    Neutral,
}

/// A call that was not let through, and when it is worth asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the breaker is open after {reason}")]
pub struct BreakerOpen {
    /// Why it opened.
    pub reason: TripReason,
    /// When it opened.
    pub since: Instant,
    /// Time to the next trial.
    pub retry_after: Duration,
}

/// A breaker for one circuit. Cheap to ask; shared behind an `Arc`.
#[derive(Debug)]
pub struct Breaker {
    circuit: &'static str,
    config: BreakerConfig,
    machine: Mutex<Machine>,
}

#[derive(Debug)]
struct Machine {
    state: State,
    /// Grows with every transition, so that results of calls admitted before it are told apart and dropped.
    generation: u64,
    window: Window,
    consecutive_failures: u32,
    /// Open intervals since it was last closed; doubles the interval.
    trips_in_a_row: u32,
    last_trip: Option<(TripReason, Instant)>,
    /// When a background probe last reported, if there is one.
    last_probe: Option<Instant>,
    /// Transitions to tell of once the lock is free: a log that blocks must not block who asks for the state.
    untold: Vec<Transition>,
}

#[derive(Debug, Clone, Copy)]
enum Transition {
    Opened(TripReason),
    HalfOpened,
    Closed { open_for: Option<Duration> },
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { leases: Vec<(u64, Instant)>, next_lease: u64, successes: u32 },
}

/// An admitted call. Report how it ended with [`Admission::record`]; dropping it says nothing and frees its trial.
#[derive(Debug)]
#[must_use = "an admission that is dropped at once tells the breaker nothing"]
pub struct Admission {
    breaker: Arc<Breaker>,
    generation: u64,
    lease: Option<u64>,
    reported: bool,
}

impl Breaker {
    /// A closed breaker for `circuit`, the label in metrics and logs.
    #[must_use]
    pub fn new(circuit: &'static str, config: BreakerConfig, now: Instant) -> Arc<Self> {
        let window = Window::new(config.window, now);
        let machine = Machine {
            state: State::Closed,
            generation: 0,
            window,
            consecutive_failures: 0,
            trips_in_a_row: 0,
            last_trip: None,
            last_probe: None,
            untold: Vec::new(),
        };
        metrics::breaker_state(circuit, BreakerState::Closed.level());
        Arc::new(Self { circuit, config, machine: Mutex::new(machine) })
    }

    /// Asks whether a call may go on at `now`.
    ///
    /// # Errors
    /// [`BreakerOpen`] where it may not; costs nothing and waits for nothing.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Admission, BreakerOpen> {
        let (generation, lease) = self.change(|machine| self.admitted(machine, now))?;
        Ok(Admission { breaker: Arc::clone(self), generation, lease, reported: false })
    }

    fn admitted(&self, machine: &mut Machine, now: Instant) -> Result<(u64, Option<u64>), BreakerOpen> {
        self.end_of_open_interval(machine, now);
        self.fail_expired_leases(machine, now);
        let lease = match &mut machine.state {
            State::Closed => None,
            State::Open { until } => {
                let until = *until;
                return Err(machine.rejection(until.saturating_duration_since(now), now));
            }
            State::HalfOpen { leases, .. } if leases.len() >= self.config.trials.max(1) as usize => {
                let wait = leases.iter().map(|(_, until)| until.saturating_duration_since(now)).min();
                return Err(machine.rejection(wait.unwrap_or_default().min(self.config.open), now));
            }
            State::HalfOpen { leases, next_lease, .. } => {
                let lease = *next_lease;
                *next_lease += 1;
                leases.push((lease, now + self.config.trial_lease));
                Some(lease)
            }
        };
        Ok((machine.generation, lease))
    }

    /// The state at `now`. An open interval that is over reads as half-open.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        let machine = self.machine();
        match &machine.state {
            State::Closed => BreakerState::Closed,
            State::Open { until } if !machine.is_over(*until, now) => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Why and when it last opened, where it is not closed.
    #[must_use]
    pub fn evidence(&self) -> Option<(TripReason, Instant)> {
        let machine = self.machine();
        if matches!(machine.state, State::Closed) { None } else { machine.last_trip }
    }

    /// Time to the next trial at `now`; zero where calls flow.
    #[must_use]
    pub fn retry_after(&self, now: Instant) -> Duration {
        match &self.machine().state {
            State::Open { until } => until.saturating_duration_since(now),
            State::Closed | State::HalfOpen { .. } => Duration::ZERO,
        }
    }

    /// The background probe found the other side in order: ends the open interval, and counts as a success after that,
    /// so that probes alone close the breaker and no user's request has to be the one that finds out.
    pub fn probe_succeeded(&self, now: Instant) {
        self.change(|machine| {
            machine.last_probe = Some(now);
            match &mut machine.state {
                State::Closed => {}
                State::Open { .. } => machine.half_open(),
                State::HalfOpen { .. } => self.succeeded_while_half_open(machine, None, now),
            }
        });
    }

    /// The background probe found nobody there: opens, or keeps open until the next probe at `next_probe`.
    pub fn probe_failed(&self, now: Instant, next_probe: Instant) {
        self.change(|machine| {
            machine.last_probe = Some(now);
            if !matches!(machine.state, State::Open { .. }) {
                self.trip(machine, TripReason::Probe, now);
            }
            if let State::Open { until } = &mut machine.state {
                *until = next_probe;
            }
        });
    }

    fn record(&self, generation: u64, lease: Option<u64>, result: CallResult, now: Instant) {
        self.change(|machine| {
            if machine.generation == generation {
                self.count(machine, lease, result, now);
            } // else a late result, which speaks about a time that is over
        });
    }

    fn count(&self, machine: &mut Machine, lease: Option<u64>, result: CallResult, now: Instant) {
        match (&mut machine.state, result) {
            (State::Closed, CallResult::Success) => {
                machine.consecutive_failures = 0;
                machine.window.record(true, now);
            }
            (State::Closed, CallResult::Failure) => self.failed_while_closed(machine, now),
            (State::HalfOpen { .. }, CallResult::Success) => {
                self.succeeded_while_half_open(machine, lease, now);
            }
            (State::HalfOpen { .. }, CallResult::Failure) => self.trip(machine, TripReason::Trial, now),
            (State::HalfOpen { leases, .. }, CallResult::Neutral) => {
                leases.retain(|(id, _)| Some(*id) != lease);
            }
            (State::Closed, CallResult::Neutral) | (State::Open { .. }, _) => {}
        }
    }

    fn succeeded_while_half_open(&self, machine: &mut Machine, lease: Option<u64>, now: Instant) {
        let State::HalfOpen { leases, successes, .. } = &mut machine.state else { return };
        leases.retain(|(id, _)| Some(*id) != lease);
        *successes += 1;
        if *successes >= self.config.successes_to_close.max(1) {
            machine.close(now);
        }
    }

    fn failed_while_closed(&self, machine: &mut Machine, now: Instant) {
        machine.consecutive_failures += 1;
        machine.window.record(false, now);
        let counts = machine.window.counts(now);
        if machine.consecutive_failures >= self.config.consecutive_failures.max(1) {
            self.trip(machine, TripReason::ConsecutiveFailures, now);
        } else if counts.total() >= self.config.samples_min
            && counts.failure_ratio() >= self.config.failure_ratio
        {
            self.trip(machine, TripReason::FailureRatio, now);
        }
    }

    fn trip(&self, machine: &mut Machine, reason: TripReason, now: Instant) {
        let doublings = machine.trips_in_a_row.min(16);
        let open = self.config.open.saturating_mul(1 << doublings).min(self.config.open_max);
        machine.trips_in_a_row = machine.trips_in_a_row.saturating_add(1);
        machine.last_trip = Some((reason, now));
        machine.turn(State::Open { until: now + open }, Transition::Opened(reason));
    }

    fn end_of_open_interval(&self, machine: &mut Machine, now: Instant) {
        if matches!(machine.state, State::Open { until } if machine.is_over(until, now)) {
            machine.half_open();
        }
    }

    /// A trial whose lease ran out is a call that hangs: that is an answer too.
    fn fail_expired_leases(&self, machine: &mut Machine, now: Instant) {
        if matches!(&machine.state, State::HalfOpen { leases, .. } if leases.iter().any(|(_, until)| now >= *until))
        {
            self.trip(machine, TripReason::Trial, now);
        }
    }

    /// Changes the machine under its lock, and tells of the transitions after it.
    fn change<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let (changed, untold) = {
            let mut machine = self.machine();
            let changed = change(&mut machine);
            (changed, std::mem::take(&mut machine.untold))
        };
        for transition in untold {
            self.tell(transition);
        }
        changed
    }

    fn tell(&self, transition: Transition) {
        let circuit = self.circuit;
        let to = match transition {
            Transition::Opened(reason) => {
                tracing::warn!(circuit, reason = %reason, "breaker opened");
                BreakerState::Open
            }
            Transition::HalfOpened => {
                tracing::info!(circuit, "breaker half-open");
                BreakerState::HalfOpen
            }
            Transition::Closed { open_for } => {
                tracing::info!(circuit, open_for = ?open_for, "breaker closed");
                BreakerState::Closed
            }
        };
        metrics::breaker_transition(circuit, to.as_str());
        metrics::breaker_state(circuit, to.level());
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    fn turn(&mut self, to: State, transition: Transition) {
        self.state = to;
        self.generation += 1;
        self.untold.push(transition);
    }

    fn half_open(&mut self) {
        let state = State::HalfOpen { leases: Vec::new(), next_lease: 0, successes: 0 };
        self.turn(state, Transition::HalfOpened);
    }

    fn close(&mut self, now: Instant) {
        self.window.clear();
        self.consecutive_failures = 0;
        self.trips_in_a_row = 0;
        let open_for = self.last_trip.map(|(_, since)| now.saturating_duration_since(since));
        self.turn(State::Closed, Transition::Closed { open_for });
    }

    /// Whether an open interval until then is over at `now`.
    fn is_over(&self, until: Instant, now: Instant) -> bool {
        let probed = self.last_probe.is_some_and(|at| now.saturating_duration_since(at) < PROBE_SILENCE);
        now >= until && !probed
    }

    fn rejection(&self, retry_after: Duration, now: Instant) -> BreakerOpen {
        let (reason, since) = self.last_trip.unwrap_or((TripReason::Probe, now));
        BreakerOpen { reason, since, retry_after }
    }
}

impl Admission {
    /// Reports how the call ended at `now`.
    pub fn record(mut self, result: CallResult, now: Instant) {
        self.reported = true;
        self.breaker.record(self.generation, self.lease, result, now);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.reported && self.lease.is_some() {
            // The time does not matter: a neutral result only frees the trial.
            self.breaker.record(self.generation, self.lease, CallResult::Neutral, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
