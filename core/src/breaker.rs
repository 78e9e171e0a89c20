//! The breaker: closed, open, half-open. It stops calls that would only find out again what is known already.
//!
//! Pure policy: it takes `now`, makes no call, spawns nothing. Which results count as failures is decided by the
//! caller (`db/classify` for PostgreSQL); the background probe may end the open interval early
//! ([`Breaker::probe_succeeded`]) or trip the breaker ([`Breaker::probe_failed`]).
//!
//! ```text
//!            failures in a row, bad ratio, slow calls, failed probe
//!   closed ------------------------------------------------------> open
//!     ^                                                           |    ^
//!     | top of the ramp: trials 1, 2, 4 ...   probe succeeded, or |    | a trial failed,
//!     | at once, each step earned             no probe and time v |    | or its lease ran out
//!     +------------------------------ half-open ------------------+----+
//! ```
//!
//! While closed, a call that succeeds reads one word and adds one to a counter of its own thread; while open, a
//! rejection reads a few words. Only failures, the first success after them, trials and transitions take a lock, for some
//! tens of nanoseconds.
//!
//! Defaults, metrics and what not to do: `docs/patterns/breaker.md`.

mod admission;
mod config;
mod counting;
mod explain;
mod machine;
mod ramp;
mod state;
mod telling;
mod window;
mod word;

use std::{
    borrow::Cow,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

pub use self::{
    admission::Admission,
    config::BreakerConfig,
    explain::{Counts, Explanation},
    state::{BreakerOpen, BreakerState, CallResult, Forced, TripReason},
    telling::BreakerChange,
};
use self::{
    machine::{Machine, later},
    word::Word,
};
use crate::{
    sliding::{Sliding, Ticks, epoch, nanos_between},
    sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering},
};

/// While probes report at least this often, they alone end the open interval: no user's request has to be the one that
/// finds out. Without a probe, or when it falls silent, time ends it.
const PROBE_SILENCE: Duration = Duration::from_secs(5);
/// A rejection never asks to come back at once: the caller would find the same.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);
/// Stands for "never" and for "no limit" in what is published.
const NEVER: u64 = u64::MAX;
const NO_LIMIT: u32 = u32::MAX;

/// A breaker for one circuit. Cheap to ask; shared behind an `Arc`.
///
/// ```
/// use ridethrough::breaker::{Breaker, BreakerConfig, BreakerState, CallResult};
/// use tokio::time::Instant;
///
/// let now = Instant::now();
/// let breaker = Breaker::new("reports", BreakerConfig::default(), now);
/// for _ in 0..3 {
///     let admission = breaker.admit(now).expect("closed breakers admit");
///     admission.record(CallResult::Failure, now);
/// }
/// assert_eq!(breaker.state(now), BreakerState::Open);
/// assert!(breaker.admit(now).is_err());
/// println!("{}", breaker.explain(now));
/// ```
#[derive(Debug)]
pub struct Breaker {
    circuit: Cow<'static, str>,
    config: BreakerConfig,
    /// Nanoseconds in the fields below count from here, the same instant for all breakers.
    epoch: Instant,
    ticks: Ticks,
    /// A [`Word`]. Written under the lock, after the fields it speaks about.
    word: AtomicU64,
    /// While open: when the interval ends, and from when on a user's request may be the trial.
    until: AtomicU64,
    trial_from: AtomicU64,
    /// The tick in which `trial_from` lies: in all before it there is no need to look closer. 0 where there always is.
    trial_tick: AtomicU64,
    since: AtomicU64,
    allowed: AtomicU32,
    machine: Mutex<Machine>,
    told: watch::Sender<BreakerChange>,
    successes: Sliding,
}

impl Breaker {
    /// A closed breaker for `circuit`, the label in metrics and logs, which must come from a small set.
    #[must_use]
    pub fn new(circuit: impl Into<Cow<'static, str>>, config: BreakerConfig, now: Instant) -> Arc<Self> {
        Self::build(circuit.into(), config, true, fastrand::Rng::new(), now)
    }

    /// A breaker that begins half-open, with one trial, because nobody knows yet whether the other side is there.
    #[must_use]
    pub fn new_unproven(
        circuit: impl Into<Cow<'static, str>>,
        config: BreakerConfig,
        now: Instant,
    ) -> Arc<Self> {
        Self::build(circuit.into(), config, false, fastrand::Rng::new(), now)
    }

    /// As [`Breaker::new`], with the source of the jitter: a seeded one makes every interval repeatable.
    #[must_use]
    pub fn with_random(
        circuit: impl Into<Cow<'static, str>>,
        config: BreakerConfig,
        random: fastrand::Rng,
        now: Instant,
    ) -> Arc<Self> {
        Self::build(circuit.into(), config, true, random, now)
    }

    fn build(
        circuit: Cow<'static, str>,
        config: BreakerConfig,
        is_proven: bool,
        random: fastrand::Rng,
        now: Instant,
    ) -> Arc<Self> {
        let machine = Machine::new(is_proven, &config, random);
        let ticks = Ticks::new(config.window, now);
        let breaker = Self {
            epoch: epoch(now),
            ticks,
            word: AtomicU64::new(machine.word.bits()),
            until: AtomicU64::new(0),
            trial_from: AtomicU64::new(0),
            trial_tick: AtomicU64::new(0),
            since: AtomicU64::new(0),
            allowed: AtomicU32::new(machine.allowed().unwrap_or(NO_LIMIT)),
            told: watch::Sender::new(BreakerChange::of(machine.word)),
            successes: Sliding::new(ticks),
            machine: Mutex::new(machine),
            circuit,
            config,
        };
        breaker.tell_start();
        Arc::new(breaker)
    }

    /// Asks whether a call may go on at `now`.
    ///
    /// # Errors
    /// [`BreakerOpen`] where it may not; costs nothing and waits for nothing.
    #[inline]
    pub fn admit(&self, now: Instant) -> Result<Admission<&Self>, BreakerOpen> {
        let (word, lease) = self.admitted(now)?;
        Ok(Admission::new(self, word, lease))
    }

    /// As [`Breaker::admit`], for an admission that outlives this borrow, as in a spawned task.
    ///
    /// # Errors
    /// [`BreakerOpen`] where the call may not go on.
    #[inline]
    pub fn admit_owned(self: &Arc<Self>, now: Instant) -> Result<Admission<Arc<Self>>, BreakerOpen> {
        let (word, lease) = self.admitted(now)?;
        Ok(Admission::new(Arc::clone(self), word, lease))
    }

    #[inline(always)]
    fn admitted(&self, now: Instant) -> Result<(Word, Option<u32>), BreakerOpen> {
        let word = self.word();
        if word.is_counting() {
            return Ok((word, None));
        }
        // Most rejections come long before the end of the open interval, and the tick alone tells.
        if word.state() == BreakerState::Open && self.ticks.of(now) < self.trial_tick.load(Ordering::Relaxed)
        {
            return Err(self.rejection(word, now));
        }
        self.admitted_after_all(word, now)
    }

    #[cold]
    #[inline(never)]
    fn admitted_after_all(&self, word: Word, now: Instant) -> Result<(Word, Option<u32>), BreakerOpen> {
        match word.state() {
            BreakerState::Closed => return Ok((word, None)),
            BreakerState::Open if self.nanos(now) < self.trial_from.load(Ordering::Relaxed) => {
                return Err(self.rejection_while_open(word, now));
            }
            BreakerState::Open | BreakerState::HalfOpen => {}
        }
        let (word, admitted) = self.change(|machine| {
            let admitted = machine.admit(&self.config, now);
            (machine.word, admitted)
        });
        let rejected =
            |wait: Duration| BreakerOpen { until: self.nanos(later(now, wait)), ..self.rejection(word, now) };
        admitted.map(|lease| (word, lease)).map_err(rejected)
    }

    #[inline(always)]
    fn rejection(&self, word: Word, now: Instant) -> BreakerOpen {
        BreakerOpen {
            reason: word.reason(),
            asked_at: now,
            since: self.since.load(Ordering::Relaxed),
            until: self.until.load(Ordering::Relaxed),
        }
    }

    /// As [`Breaker::rejection`], also where it is held open: nobody knows when a person will let go.
    fn rejection_while_open(&self, word: Word, now: Instant) -> BreakerOpen {
        let rejection = self.rejection(word, now);
        match word.forced() {
            Some(_) => BreakerOpen { until: self.nanos(later(now, self.config.open_max)), ..rejection },
            None => rejection,
        }
    }

    /// The state at `now`. An open interval that is over reads as half-open.
    #[must_use]
    #[inline]
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.word().state() {
            BreakerState::Open if self.nanos(now) >= self.trial_from.load(Ordering::Relaxed) => {
                BreakerState::HalfOpen
            }
            state => state,
        }
    }

    /// Why and when it last opened, where it is not closed.
    #[must_use]
    pub fn evidence(&self) -> Option<(TripReason, Instant)> {
        let machine = self.machine();
        if machine.word.state() == BreakerState::Closed { None } else { machine.last_trip }
    }

    /// Time to the next trial at `now`; zero where calls flow.
    #[must_use]
    pub fn retry_after(&self, now: Instant) -> Duration {
        let word = self.word();
        match self.state(now) {
            BreakerState::Open => self.rejection_while_open(word, now).retry_after(),
            BreakerState::Closed | BreakerState::HalfOpen => Duration::ZERO,
        }
    }

    /// Calls in progress at once that are let through at `now`: none while closed, when there is no limit; zero while
    /// open; 1, 2, 4 and so on while half-open. A pool dials no more than that many connections at once.
    #[must_use]
    pub fn ramp(&self, now: Instant) -> Option<u32> {
        match (self.state(now), self.allowed.load(Ordering::Relaxed)) {
            (BreakerState::Closed, _) => None,
            (BreakerState::Open, _) => Some(0),
            // Half-open by time, and nobody has asked yet; or closed in this very moment.
            (BreakerState::HalfOpen, 0 | NO_LIMIT) => Some(self.config.trials.max(1)),
            (BreakerState::HalfOpen, allowed) => Some(allowed),
        }
    }

    /// The position it is held in by [`Breaker::force`], if it is.
    #[must_use]
    pub fn forced(&self) -> Option<Forced> {
        self.word().forced()
    }

    /// Everything a person asks about a rejection at `now`.
    #[must_use]
    pub fn explain(&self, now: Instant) -> Explanation {
        let (word, opened, evidence) = {
            let machine = self.machine();
            let is_closed = machine.word.state() == BreakerState::Closed;
            let evidence = if is_closed { self.counts(&machine, now) } else { machine.evidence };
            let opened = if is_closed { None } else { machine.last_trip };
            (machine.word, opened, evidence)
        };
        Explanation {
            circuit: self.circuit.clone(),
            state: self.state(now),
            forced: word.forced(),
            opened,
            open_for: opened.map(|(_, since)| now.saturating_duration_since(since)),
            retry_after: self.retry_after(now),
            ramp: self.ramp(now),
            evidence,
        }
    }

    /// The background probe found the other side in order: ends the open interval, and is worth a step of the ramp after
    /// that, so that probes alone close the breaker and no user's request has to be the one that finds out.
    pub fn probe_succeeded(&self, now: Instant) {
        self.change(|machine| machine.probe_succeeded(&self.config, now));
    }

    /// The background probe found nobody there: opens, or keeps open until the next probe at `next_probe`.
    pub fn probe_failed(&self, now: Instant, next_probe: Instant) {
        self.change(|machine| {
            let counts = self.counts(machine, now);
            machine.probe_failed(&self.config, counts, now, next_probe);
        });
    }

    /// Holds the breaker open or closed, whatever calls and probes report, until [`Breaker::release`].
    pub fn force(&self, forced: Forced, now: Instant) {
        self.change(|machine| {
            let counts = self.counts(machine, now);
            machine.force(forced, counts, now);
        });
    }

    /// Ends a forced position: half-open after a forced open one, closed with an empty window after a forced closed one.
    /// Without a forced position it does nothing.
    pub fn release(&self, now: Instant) {
        self.change(|machine| machine.release(&self.config, now));
    }

    /// Changes the machine under its lock, publishes what calls look at, and tells of the transitions after it.
    fn change<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let (changed, untold) = {
            let mut machine = self.machine();
            let changed = change(&mut machine);
            self.publish(&machine);
            (changed, std::mem::take(&mut machine.untold))
        };
        for transition in untold {
            self.tell(&transition);
        }
        changed
    }

    fn publish(&self, machine: &Machine) {
        let times = machine.open_times();
        let until = times.map_or(0, |(until, _)| self.nanos(until));
        let trial_from = times.map_or(0, |(_, from)| from.map_or(NEVER, |from| self.nanos(from)));
        self.until.store(until, Ordering::Relaxed);
        self.trial_from.store(trial_from, Ordering::Relaxed);
        let trial_tick = times.and_then(|(_, from)| from).map_or(0, |from| self.ticks.number_of(from));
        self.trial_tick.store(trial_tick, Ordering::Relaxed);
        let since = machine.last_trip.map_or(0, |(_, since)| self.nanos(since));
        self.since.store(since, Ordering::Relaxed);
        self.allowed.store(machine.allowed().unwrap_or(NO_LIMIT), Ordering::Relaxed);
        let bits = machine.word.failing(machine.consecutive_failures > 0).bits();
        if self.word.load(Ordering::Relaxed) != bits {
            self.word.store(bits, Ordering::Release);
        }
    }

    #[inline]
    fn word(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::Acquire))
    }

    #[inline]
    fn nanos(&self, now: Instant) -> u64 {
        nanos_between(self.epoch, now)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
