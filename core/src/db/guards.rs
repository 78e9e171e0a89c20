//! The guards that every call passes, in order: schema, bulkhead, breaker, connection, time limit; and the pause before
//! the next attempt.
//!
//! What a call does and what becomes of its failure is decided in `db`.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Db, classify,
    pool::{Loan, NoConnection},
    transaction::Failed,
};
use crate::{
    breaker::{Admission, BreakerState, CallResult},
    bulkhead::{BulkheadFull, Permit, Priority},
    deadline::Deadline,
    error::{Error, Phase, RejectReason, Stage},
    health::SchemaPart,
    metrics,
};

/// Less than this is left of a deadline: nothing is begun, because its answer would come too late for everybody.
pub(super) const WORTH_BEGINNING: Duration = Duration::from_millis(2);

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
        let now = Instant::now();
        Self { is_whole: deadline.remaining(now) >= limit, deadline: deadline.capped(now, limit), limit }
    }

    /// What running out of time says about the server: nothing, where it was a caller in a hurry who gave too little.
    /// Else anybody could open the breaker for all with a few short deadlines.
    pub(crate) fn on_expiry(&self) -> CallResult {
        if self.is_whole { CallResult::Failure } else { CallResult::Neutral }
    }
}

/// A call that passed all guards.
pub(super) struct Connected {
    pub(super) admission: Admission,
    pub(super) loan: Loan,
}

impl Db {
    /// One autocommit question on a connection of the pool, through all guards.
    pub(super) async fn asked<T>(
        &self,
        deadline: Deadline,
        limit: Duration,
        ask: impl AsyncFnOnce(&Loan) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Failed> {
        let time = AttemptTime::new(deadline, limit);
        let Connected { admission, loan } = self.connected(&time, false).await?;
        match timeout_at(time.deadline.instant(), ask(&loan)).await {
            Ok(Ok(answer)) => {
                loan.give_back();
                admission.record(CallResult::Success, Instant::now());
                Ok(answer)
            }
            Ok(Err(source)) => {
                let (error, verdict) = classify::error(source, Stage::Query, Phase::Sent);
                loan.settle(verdict);
                admission.record(verdict.breaker, Instant::now());
                Err(Failed { error, breaker: verdict.breaker })
            }
            Err(_) => {
                admission.record(time.on_expiry(), Instant::now());
                let error = Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit };
                Err(Failed { error, breaker: time.on_expiry() })
            }
        }
    }

    /// Schema, bulkhead, breaker, connection.
    pub(super) async fn connected(&self, time: &AttemptTime, replayed: bool) -> Result<Connected, Failed> {
        let (permit, admission) = self.admitted(time.deadline, replayed).await?;
        match self.0.pool.checkout_with(time, permit).await {
            Ok(loan) => {
                metrics::db_attempt();
                Ok(Connected { admission, loan })
            }
            Err(NoConnection { error, breaker }) => {
                admission.record(breaker, Instant::now());
                Err(Failed { error, breaker })
            }
        }
    }

    async fn admitted(
        &self,
        deadline: Deadline,
        replayed: bool,
    ) -> Result<(Option<Permit>, Admission), Failed> {
        let rejected = |reason, retry_after| Failed {
            error: Error::rejected(reason, retry_after),
            breaker: CallResult::Neutral,
        };
        if deadline.remaining(Instant::now()) < WORTH_BEGINNING {
            return Err(rejected(RejectReason::DeadlinePassed, self.retry_after(Instant::now())));
        }
        if !matches!(*self.0.schema.borrow(), SchemaPart::Ok | SchemaPart::Pending) {
            return Err(rejected(RejectReason::SchemaUnusable, self.retry_after(Instant::now())));
        }
        // Asked first without a permit: in an outage nobody should queue up only to be rejected.
        if self.0.breaker.state(Instant::now()) == BreakerState::Open {
            return Err(rejected(RejectReason::BreakerOpen, self.retry_after(Instant::now())));
        }
        let permit = if replayed {
            None
        } else {
            let bulkhead = Arc::clone(&self.0.bulkhead);
            let permit = bulkhead.acquire_owned(Priority::Interactive, deadline, Instant::now()).await;
            let refused = |full| {
                let reason = match full {
                    BulkheadFull::Queue | BulkheadFull::Wait => RejectReason::Overloaded,
                    BulkheadFull::Deadline => RejectReason::DeadlinePassed,
                };
                rejected(reason, self.retry_after(Instant::now()))
            };
            Some(permit.map_err(refused)?)
        };
        match self.0.breaker.admit_owned(Instant::now()) {
            Ok(admission) => Ok((permit, admission)),
            Err(open) => {
                let spread = self.retry_after(Instant::now());
                Err(rejected(RejectReason::BreakerOpen, open.retry_after.max(spread)))
            }
        }
    }

    /// Waits before the next attempt, where budget and deadline allow one.
    pub(super) async fn pause_before_retry(&self, attempt: u32, deadline: Deadline) -> bool {
        let now = Instant::now();
        if self.0.breaker.state(now) != BreakerState::Closed {
            return false;
        }
        let delay = self.random(|random| self.0.config.backoff.delay(attempt, random));
        if delay >= deadline.remaining(now) || !self.0.budget.withdraw(now) {
            return false;
        }
        sleep(delay).await;
        true
    }
}
