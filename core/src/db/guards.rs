//! The guards that every call passes, in order: deadline, schema, bulkhead, breaker of the chosen host's circuit, connection,
//! time limit; and the pause before the next attempt.
//!
//! Which host is chosen is decided in `route`, what a call does and what becomes of its failure in `db`.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Span, field::Empty};

use super::{
    Db,
    classify::{Circuit, TripHint},
    hosts::{DAMAGED_HOLD, DISK_FULL_HOLD, Host},
    pool::{Loan, NoConnection},
    transaction::Failed,
};
use crate::{
    breaker::{Admission, Breaker, BreakerOpen, BreakerState, CallResult},
    bulkhead::{BulkheadFull, Ended, Permit, Priority},
    deadline::Deadline,
    error::{Error, ErrorClass, Evidence, RejectReason},
    metrics,
    retry::{WORTH_BEGINNING, paid_pause},
};

/// A write waits this long for news of a primary that has just been lost or has just refused a write; the prober looks at
/// once, so that news is a matter of milliseconds where there is any.
const FAILOVER_WAIT: Duration = Duration::from_millis(300);
/// A primary that is lost for longer than this will not be back within the wait.
const FAILOVER_IS_NEW: Duration = Duration::from_secs(2);

/// Why nobody takes a call while all circuits are closed.
const NO_PRIMARY: &str = "no host is known as the primary";

/// The time of one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptTime {
    pub(crate) deadline: Deadline,
    pub(super) limit: Duration,
    /// Whether the caller's deadline leaves the attempt all of its limit.
    is_whole: bool,
}

impl AttemptTime {
    pub(super) fn new(deadline: Deadline, limit: Duration) -> Self {
        Self::at(Instant::now(), deadline, limit)
    }

    pub(super) fn at(now: Instant, deadline: Deadline, limit: Duration) -> Self {
        Self { is_whole: deadline.remaining(now) >= limit, deadline: deadline.capped(now, limit), limit }
    }

    /// What running out of time says about the server: nothing, where it was a caller in a hurry who gave too little.
    /// Else anybody could open the breaker for all with a few short deadlines.
    pub(crate) fn on_expiry(&self) -> CallResult {
        if self.is_whole { CallResult::Failure } else { CallResult::Neutral }
    }

    /// The same for the bulkhead: callers in a hurry must not make the limit smaller for all.
    pub(super) fn ended(&self) -> Ended {
        if self.is_whole { Ended::TimedOut } else { Ended::Neutral }
    }
}

/// A call that passed all guards.
pub(super) struct Connected<'db> {
    pub(super) admission: Admission<&'db Breaker>,
    /// Holds the permit.
    pub(super) loan: Loan,
    /// The host it is connected to.
    pub(super) host: usize,
}

/// One attempt, for who watches at debug level; costs next to nothing while nobody does.
pub(super) fn attempt_span(operation: &str, circuit: Circuit, host: usize) -> Span {
    let circuit = circuit.as_str();
    tracing::debug_span!(
        "db.attempt",
        operation,
        circuit,
        host = host + 1,
        outcome = Empty,
        class = Empty,
        stage = Empty
    )
}

/// What the server is asked in an attempt, by the name that the service gave it; never its text.
#[inline]
pub(super) fn query_span(operation: &str) -> Span {
    tracing::debug_span!("db.query", operation)
}

/// Says in the span how the attempt ended.
pub(super) fn note_end(span: &Span, error: Option<&Error>) {
    if span.is_disabled() {
        return;
    }
    span.record("outcome", if error.is_some() { "failed" } else { "answered" });
    if let Some(error) = error {
        span.record("class", error.class().as_str()).record("stage", error.stage().as_str());
    }
}

impl Db {
    /// A connection to the primary, to write with, through all guards; past the bulkhead where there is no `priority`.
    pub(super) async fn connected(
        &self,
        time: &AttemptTime,
        priority: Option<Priority>,
    ) -> Result<Connected<'_>, Failed> {
        // In a failover the deadline is better spent waiting for the primary than on a host that is none.
        self.primary_is_known(time.deadline).await;
        let now = Instant::now();
        let primary = self.0.hosts.trusted_primary().ok_or_else(|| self.nowhere(Circuit::Writes, now))?;
        // Asked first without a permit: in an outage nobody should queue up only to be rejected.
        if self.0.hosts.is_open(primary, Circuit::Writes, now) {
            return Err(self.nowhere(Circuit::Writes, now));
        }
        let permit = self.permitted(time.deadline, Circuit::Writes, priority, now).await?;
        // It may be another one after the wait.
        let primary = self.0.hosts.trusted_primary().ok_or_else(|| self.nowhere(Circuit::Writes, now))?;
        self.connected_to(primary, Circuit::Writes, permit, time, now).await
    }

    /// A connection to the primary past schema, bulkhead and breaker, for replay's own records.
    pub(super) async fn connected_to_primary(&self, time: &AttemptTime) -> Result<Loan, NoConnection> {
        match self.0.hosts.trusted_primary().and_then(|host| self.0.hosts.at(host)) {
            Some(primary) => primary.pool.checkout(time).await,
            None => {
                let Failed { error, breaker } = self.nowhere(Circuit::Writes, Instant::now());
                Err(NoConnection { error, breaker })
            }
        }
    }

    /// What an attempt to write says about the host it was made on: one that refuses writes is no primary any more.
    pub(super) fn note_attempt(&self, host: usize, span: &Span, failed: Option<&Failed>) {
        let error = failed.map(|failed| &failed.error);
        note_end(span, error);
        let Some(error) = error else { return };
        if error.class() == ErrorClass::Failover {
            self.0.hosts.refused_write(host, Instant::now());
        }
        if TripHint::of(error) == TripHint::DiskFull {
            self.0.hosts.hold_writes(host, DISK_FULL_HOLD, Instant::now());
        }
        self.note_ills(host, error);
    }

    /// What a person must look at. Damaged data stop writes whoever found them.
    #[inline]
    pub(super) fn note_ills(&self, host: usize, error: &Error) {
        let what = match TripHint::of(error) {
            TripHint::DiskFull => "the disk of the database is full; a person must look",
            TripHint::Damaged => "the data of the database are damaged; a person must look",
            _ => return,
        };
        let now = Instant::now();
        if TripHint::of(error) == TripHint::Damaged {
            self.0.hosts.hold_writes(host, DAMAGED_HOLD, now);
        }
        if self.0.hosts.is_time_for_alarm(now) {
            tracing::error!(host = host + 1, code = error.code().unwrap_or_default(), "{what}");
        }
    }

    /// Waits for news of a primary, where one was lost or doubted just now.
    async fn primary_is_known(&self, deadline: Deadline) {
        let hosts = &self.0.hosts;
        if hosts.trusted_primary().is_some() {
            return;
        }
        let mut news = hosts.news();
        let now = Instant::now();
        let until = deadline.capped(now, FAILOVER_WAIT).instant();
        while hosts.without_primary(Instant::now()).is_some_and(|time| time < FAILOVER_IS_NEW) {
            hosts.nudge();
            if !matches!(timeout_at(until, news.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Deadline, schema, bulkhead. No permit where there is no `priority`.
    pub(super) async fn permitted(
        &self,
        deadline: Deadline,
        circuit: Circuit,
        priority: Option<Priority>,
        now: Instant,
    ) -> Result<Option<Permit>, Failed> {
        if deadline.remaining(now) < WORTH_BEGINNING {
            return Err(self.rejected(RejectReason::DeadlinePassed, circuit, now));
        }
        if !self.schema_is_usable() {
            return Err(self.rejected(RejectReason::SchemaUnusable, circuit, now));
        }
        let Some(priority) = priority else { return Ok(None) };
        match self.0.bulkhead.acquire(priority, deadline, now).await {
            Ok(permit) => Ok(Some(permit.into_owned())),
            Err(full) => {
                let (asked_at, now) = (now, Instant::now());
                let reason = match full {
                    BulkheadFull::Deadline => RejectReason::DeadlinePassed,
                    // In the first moments of a silence calls fill the bulkhead before any of them has run out of time,
                    // and so before the breaker can know.
                    _ if self.0.bulkhead.met_silence(asked_at, now) => RejectReason::Unanswered,
                    BulkheadFull::Queue | BulkheadFull::Wait => RejectReason::Overloaded,
                };
                Err(self.rejected(reason, circuit, now))
            }
        }
    }

    /// Breaker.
    pub(super) fn admitted(
        &self,
        index: usize,
        circuit: Circuit,
        time: &AttemptTime,
        now: Instant,
    ) -> Result<(&Host, Admission<&Breaker>), Failed> {
        let Some(host) = self.0.hosts.at(index) else { return Err(self.nowhere(circuit, now)) };
        let breaker = host.circuit(circuit);
        match breaker.admit(now) {
            // Who goes away after it has waited all of that time in vain.
            Ok(admission) if time.is_whole => Ok((host, admission.until(time.deadline))),
            Ok(admission) => Ok((host, admission)),
            Err(open) => {
                let retry_after = self.retry_after_of(circuit, now).max(open.retry_after());
                let evidence = Some(evidence_of(breaker, open, now));
                Err(refused(RejectReason::BreakerOpen, retry_after, evidence))
            }
        }
    }

    /// Breaker, connection.
    async fn connected_to(
        &self,
        index: usize,
        circuit: Circuit,
        permit: Option<Permit>,
        time: &AttemptTime,
        now: Instant,
    ) -> Result<Connected<'_>, Failed> {
        let (host, admission) = self.admitted(index, circuit, time, now)?;
        match host.pool.checkout_with(time, permit, Instant::now()).await {
            Ok(loan) => {
                metrics::db_attempt();
                Ok(Connected { admission, loan, host: index })
            }
            Err(NoConnection { error, breaker }) => {
                let now = Instant::now();
                admission.record(breaker, now);
                if error.class() == ErrorClass::Failover {
                    self.0.hosts.doubt(index, now);
                }
                Err(Failed { error, breaker })
            }
        }
    }

    /// No host takes this call: the circuit is open, or no host has the role.
    pub(super) fn nowhere(&self, circuit: Circuit, now: Instant) -> Failed {
        let main = self.0.hosts.main_circuit(circuit);
        let evidence = main.and_then(|breaker| {
            let (reason, since) = breaker.evidence()?;
            let state = breaker.state(now).as_str();
            Some(Evidence { state, since: Some(since), because: reason.as_str() })
        });
        let evidence = evidence.unwrap_or(Evidence { state: "waiting", since: None, because: NO_PRIMARY });
        refused(RejectReason::BreakerOpen, self.retry_after_of(circuit, now), Some(evidence))
    }

    fn rejected(&self, reason: RejectReason, circuit: Circuit, now: Instant) -> Failed {
        refused(reason, self.retry_after_of(circuit, now), None)
    }

    fn retry_after_of(&self, circuit: Circuit, now: Instant) -> Duration {
        self.0.hosts.retry_after(circuit, now) + self.spread()
    }

    /// A call whose first attempt was made earns its part of a retry. One that was refused here brought the database no
    /// traffic, and so it earns nothing: in an outage refusals would save up for a storm.
    #[inline]
    pub(super) fn earn(&self, attempt: u32, failed: Option<&Failed>, now: Instant) {
        if attempt == 1 && !failed.is_some_and(|failed| failed.error.is_rejection()) {
            self.0.budget.deposit(now);
        }
    }

    /// Waits before the next attempt to write, where budget and deadline allow one.
    pub(super) async fn pause_before_retry(&self, attempt: u32, deadline: Deadline) -> bool {
        let primary = self.0.hosts.primary().unwrap_or(0);
        self.pause_on(primary, Circuit::Writes, attempt, deadline).await
    }

    /// Waits before the next attempt on `host`, where its circuit, the budget and the deadline allow one.
    pub(super) async fn pause_on(
        &self,
        host: usize,
        circuit: Circuit,
        attempt: u32,
        deadline: Deadline,
    ) -> bool {
        let now = Instant::now();
        let host = self.0.hosts.at(host);
        if host.is_none_or(|host| host.circuit(circuit).state(now) != BreakerState::Closed) {
            return false;
        }
        let delay = self.random(|random| self.0.config.backoff.delay(attempt, random));
        let Some(delay) = paid_pause(delay, Some(deadline), &self.0.budget, now) else { return false };
        sleep(delay).await;
        true
    }
}

/// Nobody was asked, so it says nothing about a host.
fn refused(reason: RejectReason, retry_after: Duration, evidence: Option<Evidence>) -> Failed {
    Failed { error: Error::Rejected { reason, retry_after, evidence }, breaker: CallResult::Neutral }
}

fn evidence_of(breaker: &Breaker, open: BreakerOpen, now: Instant) -> Evidence {
    let state = breaker.state(now).as_str();
    Evidence { state, since: Some(open.since()), because: open.reason.as_str() }
}

/// What the end of a call with this error says about the server's load.
pub(super) fn ended(error: &Error) -> Ended {
    /// A lock was not to be had within our own limit: that says who holds it, and not how busy the server is.
    const LOCK_NOT_AVAILABLE: &str = "55P03";

    match error {
        Error::Timeout { .. } => Ended::TimedOut,
        Error::Database { code: Some(code), .. } if code == LOCK_NOT_AVAILABLE => Ended::Neutral,
        Error::Database { code: Some(code), .. } if code.starts_with("53") => Ended::Overloaded,
        Error::Database { code: Some(_), .. } => Ended::Answered,
        _ => Ended::Neutral,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_attempt_with_all_of_its_time_tells_of_the_server_when_it_runs_out() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let of = |left: Duration| AttemptTime::at(now, Deadline::after(now, left), second);
        let (whole, hurried) = (of(second), of(second / 2));
        assert_eq!((whole.on_expiry(), whole.ended()), (CallResult::Failure, Ended::TimedOut));
        assert_eq!((hurried.on_expiry(), hurried.ended()), (CallResult::Neutral, Ended::Neutral));
    }
}
