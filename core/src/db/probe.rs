//! The prober: which hosts are there, and what are they? Asked in the background on connections of its own, one for each
//! host, so that no user's request has to be the one that finds out, neither that a host is gone nor that it is back,
//! nor who is the primary now.
//!
//! It tells the circuits and the hosts; it serves nobody. No host's silence holds up the look at another.

mod look;
mod question;

use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::{
    look::{Found, Session},
    question::Tongue,
};
use super::{
    Db,
    classify::{Circuit, TripHint},
    hosts::{ALARM_REPEAT, DISK_FULL_HOLD, Fence, Host, Role},
    route::{Bound, Tried},
};
use crate::{
    breaker::BreakerState,
    drain::Draining,
    error::{Error, ErrorClass},
};

/// Ends the open interval quickly once the database answered: the second look that confirms it. Also the least time
/// between two looks, however many calls wish for one.
const CONFIRM_AFTER: Duration = Duration::from_millis(50);
/// Who is refused asks again after this at first, and after the longest pause at last: nothing changes before a person acts,
/// and each attempt is one more line in the server's log, one more step towards a lock-out, and one more derivation of a
/// key.
const REFUSED_FIRST: Duration = Duration::from_secs(1);
const REFUSED_MAX: Duration = Duration::from_secs(30);

/// Who seems to be a second primary for this long is one.
const FENCE_CERTAIN: Duration = Duration::from_secs(2);

/// Watches the hosts of one database until the drain. Made by [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without the prober an outage ends only by users' requests, and with several hosts no primary is found"]
pub struct Prober {
    db: Db,
}

impl Prober {
    pub(super) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Probes until the drain begins.
    ///
    /// # Cancel safety
    /// Dropping it closes its connections.
    pub async fn run(self, draining: Draining) {
        let watching = (0..self.db.0.hosts.count())
            .map(|host| HostProber::new(self.db.clone(), host).run(draining.clone()));
        let tending = self.db.0.hosts.iter().enumerate().map(|(index, host)| {
            host.lanes.tended(&host.pool, draining.clone(), {
                let db = &self.db;
                move |now| db.may_open_lanes(index, now)
            })
        });
        join(join_all(watching), join_all(tending)).await;
    }
}

/// Watches one host.
#[derive(Debug)]
struct HostProber {
    db: Db,
    host: usize,
    nudges: watch::Receiver<u64>,
    session: Option<Session>,
    tongue: Tongue,
    answers: bool,
    misses: u32,
    /// The last pause while away, from which the next one is drawn.
    paused: Duration,
    /// Why it is away.
    trouble: TripHint,
    /// The pause after the last renewal of the session that was refused.
    renewal_paused: Duration,
    alarmed: Option<Instant>,
    fenced_since: Option<Instant>,
}

impl HostProber {
    fn new(db: Db, host: usize) -> Self {
        let (nudges, paused) = (db.0.hosts.nudges(), db.0.config.probe.away_first);
        Self {
            db,
            host,
            nudges,
            session: None,
            tongue: Tongue::default(),
            answers: false,
            misses: 0,
            paused,
            trouble: TripHint::Nothing,
            renewal_paused: REFUSED_FIRST,
            alarmed: None,
            fenced_since: None,
        }
    }

    async fn run(mut self, mut draining: Draining) {
        loop {
            let pause = tokio::select! {
                pause = self.step() => pause,
                // A host that says nothing does not hold up the end.
                () = draining.requested() => return,
            };
            // Wishes are about who the primary is, and who refuses us is none for us.
            let is_deaf = self.trouble.is_refusal();
            let wished = async {
                sleep(CONFIRM_AFTER).await;
                if is_deaf || self.nudges.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = wished => {}
                () = draining.requested() => return,
            }
        }
    }

    /// One look and its consequences; answers the pause until the next.
    async fn step(&mut self) -> Duration {
        let asked_at = Instant::now();
        let looked = self.look().await;
        let now = Instant::now();
        match looked {
            Ok(found) => self.found(&found, asked_at, now),
            Err(error) => self.missed(&error, now),
        }
        self.pace(now);
        let probe = &self.db.0.config.probe;
        if !self.answers {
            return self.paused;
        }
        (self.paused, self.trouble) = (probe.away_first, TripHint::Nothing);
        if self.misses > 0 || !self.is_settled(now) { CONFIRM_AFTER } else { probe.every }
    }

    /// Draws the pause until the next look at a host that is away for this reason.
    fn drawn_pause(&self, trouble: TripHint) -> Duration {
        let (first, longest) = (self.db.0.config.probe.away_first, self.db.0.config.probe.away_max);
        let (first, longest) = match trouble {
            trouble if trouble.is_refusal() => (REFUSED_FIRST, REFUSED_MAX),
            // A matter of moments.
            TripHint::Starting => (first, longest.min(first * 2)),
            _ => (first, longest),
        };
        // Another reason begins anew.
        let last = if trouble == self.trouble { self.paused } else { first };
        self.db.random(|random| decorrelated(first, longest, last, random))
    }

    /// The pool comes back as gently as the calls do, and while nobody can be asked no retries are saved up.
    fn pace(&self, now: Instant) {
        let hosts = &self.db.0.hosts;
        let ramp = self.host().circuit(Circuit::Reads).ramp(now);
        let at_once = ramp.map(|trials| usize::try_from(trials.max(1)).unwrap_or(usize::MAX));
        self.host().pool.dialler().set_dial_limit(at_once);
        let writes = hosts.main_circuit(Circuit::Writes);
        let takes_writes = writes.is_none_or(|breaker| breaker.state(now) != BreakerState::Open);
        let anybody = Bound::AtMost(Duration::MAX);
        if !takes_writes && hosts.reader(anybody, Tried::default(), now).is_none() {
            self.db.0.budget.freeze(now);
        } else {
            self.db.0.budget.thaw(now);
        }
    }

    fn host(&self) -> &Host {
        self.db.0.hosts.at(self.host).expect("there is a prober for each host and for no other")
    }

    /// Whether the circuits that this host's role uses are closed.
    fn is_settled(&self, now: Instant) -> bool {
        let is_closed = |circuit| self.host().circuit(circuit).state(now) == BreakerState::Closed;
        match self.host().role() {
            // No look before the time is any use.
            Role::Primary | Role::Alias if self.db.0.hosts.hold(self.host).is_some() => true,
            Role::Primary | Role::Alias => is_closed(Circuit::Reads) && is_closed(Circuit::Writes),
            Role::ReadOnly | Role::Standby => is_closed(Circuit::Reads),
            Role::Unknown | Role::Fenced(_) => true,
        }
    }

    fn found(&mut self, found: &Found, asked_at: Instant, now: Instant) {
        let before = self.db.0.hosts.last(self.host, now).0;
        let (was, role) = self.db.0.hosts.saw(self.host, found.sighting, asked_at, now);
        let host = self.host();
        let reads = host.circuit(Circuit::Reads);
        let writes = host.circuit(Circuit::Writes);
        match role {
            Role::Primary | Role::Alias => {
                reads.probe_succeeded(now);
                match (found.writes, found.hold) {
                    (true, hold) => {
                        writes.probe_succeeded(now);
                        hold.into_iter().for_each(|hold| self.db.0.hosts.end_hold(self.host, hold));
                    }
                    (false, Some(hold)) if now < hold.until => writes.probe_failed(now, hold.until),
                    (false, Some(_)) => self.db.0.hosts.hold_writes(self.host, DISK_FULL_HOLD, now),
                    (false, None) => writes.probe_failed(now, now + CONFIRM_AFTER),
                }
            }
            // The role keeps writes away; the circuit for them has its say when the host takes them again.
            Role::ReadOnly | Role::Standby => reads.probe_succeeded(now),
            Role::Unknown | Role::Fenced(_) => {}
        }
        if was != role || !self.answers {
            tracing::info!(
                host = self.host + 1,
                from = was.as_str(),
                to = role.as_str(),
                "the database answers"
            );
            if was != Role::Unknown && was != role {
                // What they led to is something else now.
                host.pool.invalidate();
            }
        }
        // The name or the address leads to another server than before, which has the same role.
        if was == role && before.is_some_and(|before| found.sighting.is_of_another_server(&before)) {
            tracing::info!(host = self.host + 1, "another server answers for this host");
            host.pool.invalidate();
        }
        if let Role::Fenced(fence) = role {
            self.fenced(fence, role, now);
        } else {
            self.fenced_since = None;
        }
        (self.answers, self.misses) = (true, 0);
    }

    /// A silent server may only be busy, so silence counts the second time; a refusal speaks for itself.
    fn missed(&mut self, error: &Error, now: Instant) {
        let hosts = &self.db.0.hosts;
        // A living server that has no room for one more session says nothing against those that exist.
        let trouble = TripHint::of(error);
        if error.class() == ErrorClass::Overload {
            if !self.answers {
                hosts.lost(self.host, false, now);
                (self.paused, self.trouble) = (self.drawn_pause(trouble), trouble);
            }
            return;
        }
        self.misses = self.misses.saturating_add(1);
        self.session = None;
        let silent = matches!(error, Error::Timeout { .. });
        // Unless the calls found the same: then there are two witnesses already.
        let is_tripped = [Circuit::Reads, Circuit::Writes]
            .into_iter()
            .any(|circuit| hosts.is_open(self.host, circuit, now));
        if silent && self.misses < 2 && self.answers && !is_tripped {
            return;
        }
        let refuses = trouble.is_refusal();
        hosts.lost(self.host, refuses, now);
        // Who comes back may be another server, which answers more or less than this one.
        self.tongue = Tongue::default();
        (self.paused, self.trouble) = (self.drawn_pause(trouble), trouble);
        let probe = &self.db.0.config.probe;
        let next = now + self.paused.max(probe.away_max);
        for circuit in [Circuit::Reads, Circuit::Writes] {
            self.host().circuit(circuit).probe_failed(now, next);
        }
        if self.answers {
            let (host, stage, code) = (self.host + 1, error.stage().as_str(), error.code().unwrap_or("none"));
            tracing::warn!(host, stage, code, silent, "the database does not answer");
            // Connections that led to it are gone or not to be trusted.
            self.host().pool.invalidate();
        }
        self.answers = false;
        if refuses {
            self.refused(error, now);
        }
    }

    fn refused(&mut self, error: &Error, now: Instant) {
        if self.is_time_for_alarm(now) {
            let (host, code) = (self.host + 1, error.code().unwrap_or_default());
            let what = match TripHint::of(error) {
                TripHint::Distrust => "the certificate of the database is not trusted",
                _ => "the database refuses our credentials or database name",
            };
            tracing::error!(host, code, "{what}; a person must look");
        }
    }

    fn fenced(&mut self, fence: Fence, role: Role, now: Instant) {
        // After a restart two names of one server are told apart for a moment, until both were asked again.
        let since = *self.fenced_since.get_or_insert(now);
        let is_sure = fence != Fence::SecondPrimary || now.saturating_duration_since(since) >= FENCE_CERTAIN;
        if !is_sure || !self.is_time_for_alarm(now) {
            return;
        }
        let (host, reason) = (self.host + 1, role.fence().unwrap_or_default());
        if fence == Fence::OldTimeline {
            tracing::warn!(host, reason, "a database host is fenced until it follows the primary");
        } else {
            tracing::error!(host, reason, "a database host is fenced; a person must look");
        }
    }

    fn is_time_for_alarm(&mut self, now: Instant) -> bool {
        let due = self.alarmed.is_none_or(|at| now.saturating_duration_since(at) >= ALARM_REPEAT);
        if due {
            self.alarmed = Some(now);
        }
        due
    }
}

/// Between the first pause and three times the last one, at most the longest: many replicas that lost the same host at
/// the same moment drift apart (the "decorrelated jitter" of M. Brooker, AWS Architecture Blog, 2015).
fn decorrelated(first: Duration, longest: Duration, last: Duration, random: &mut fastrand::Rng) -> Duration {
    let upper = last.saturating_mul(3).max(first).min(longest.max(first));
    let drawn = first + upper.saturating_sub(first).mul_f64(random.f64());
    drawn.min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_short_spread_out_and_stay_bounded() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(500));
        let mut random = fastrand::Rng::with_seed(7);
        let mut pause = first;
        let mut longest_seen = Duration::ZERO;
        for step in 0..1_000 {
            pause = decorrelated(first, longest, pause, &mut random);
            assert!((first..=longest).contains(&pause), "step {step}: {pause:?}");
            assert!(step > 0 || pause <= first * 3);
            longest_seen = longest_seen.max(pause);
        }
        assert!(longest_seen > Duration::from_millis(400));
        assert_eq!(decorrelated(longest, first, longest, &mut random), first, "the bound wins");
    }
}
