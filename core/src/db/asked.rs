//! One autocommit question, through all guards: on a lane where it may share one, else on a connection of its own.
//!
//! Which host is asked is decided in `route`, what becomes of a failure in `reads`.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use super::{
    Db,
    classify::Circuit,
    guards::{AttemptTime, attempt_span, ended, note_end, query_span},
    hosts::{Host, Role},
    lanes::{PATIENCE, Seat},
    pool::NoConnection,
    route::{Bound, Route, Tried},
    statements::Statements,
    transaction::Failed,
};
use crate::{
    breaker::{BreakerState, CallResult},
    bulkhead::{Ended, Permit, Priority},
    deadline::Deadline,
    error::{Error, Phase, Stage},
    metrics,
    retry::WORTH_BEGINNING,
};

/// One autocommit question. It is asked again where it took too long on a lane.
pub(super) trait Question: Sync {
    type Answer: Send;

    fn operation(&self) -> &'static str;

    /// It may share a connection.
    fn is_short(&self) -> bool;

    /// Who goes first where permits are short.
    fn priority(&self) -> Priority {
        Priority::Interactive
    }

    fn ask<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> impl Future<Output = Result<Self::Answer, tokio_postgres::Error>> + Send + 'c;
}

/// An answer, or why there is none; and when that was known.
type Answered<T> = (Result<T, Failed>, Instant);

/// How waiting on a lane ended.
enum OnLane<T> {
    Ended(Result<T, tokio_postgres::Error>),
    /// It takes too long there; there is time to ask elsewhere.
    Slow,
    /// The time of the call is over.
    Expired,
}

impl Db {
    /// One autocommit question to a host that has the truth, through all guards.
    pub(super) async fn asked<T: Question>(
        &self,
        question: &T,
        deadline: Deadline,
        limit: Duration,
    ) -> Result<T::Answer, Failed> {
        let now = Instant::now();
        let Some(route) = self.0.hosts.reader(Bound::PrimaryOnly, Tried::default(), now) else {
            return Err(self.nowhere(Circuit::Reads, now));
        };
        let time = AttemptTime::at(now, deadline, limit);
        self.asked_of(question, route, &time, now).await.map(|(answer, _)| answer)
    }

    /// One autocommit question to the host of `route`, as of `now`; answers also when the answer came.
    pub(super) async fn asked_of<T: Question>(
        &self,
        question: &T,
        route: Route,
        time: &AttemptTime,
        now: Instant,
    ) -> Result<(T::Answer, Instant), Failed> {
        let permit = self.permitted(time.deadline, Circuit::Reads, Some(question.priority()), now).await?;
        let (host, admission) = self.admitted(route.host(), Circuit::Reads, time, now)?;
        let now = permit.as_ref().map_or(now, Permit::granted_at);
        let span = attempt_span(question.operation(), Circuit::Reads, route.host());
        let asking = async {
            let (permit, now) = if question.is_short() {
                match host.lanes.seat(&host.pool, question.operation(), permit, now) {
                    Ok(seat) => match self.on_lane(question, host, seat, time, now).await {
                        Ok(answered) => return answered,
                        Err(permit) => (permit, Instant::now()),
                    },
                    Err(permit) => (permit, now),
                }
            } else {
                (permit, now)
            };
            on_loan(question, host, permit, time, now).await
        };
        // Where nobody watches, which is nearly always, the future need not be moved into a span.
        let (answered, at) =
            if span.is_disabled() { asking.await } else { Box::pin(asking.instrument(span.clone())).await };
        admission.record(answered.as_ref().err().map_or(CallResult::Success, |failed| failed.breaker), at);
        note_end(&span, answered.as_ref().err().map(|failed| &failed.error));
        answered.map(|answer| (answer, at))
    }

    /// On a lane. The permit comes back from a question that took too long there and is to be asked again, on a connection
    /// of its own: that is a retry, and so the budget has its say.
    async fn on_lane<T: Question>(
        &self,
        question: &T,
        host: &Host,
        seat: Seat<'_>,
        time: &AttemptTime,
        now: Instant,
    ) -> Result<Answered<T::Answer>, Option<Permit>> {
        metrics::db_attempt();
        let statements = host.pool.statements(seat.client());
        let asking = question.ask(&statements).instrument(query_span(question.operation()));
        let end = self.wait_on_lane(time, now, asking).await;
        let at = Instant::now();
        match end {
            OnLane::Ended(Ok(answer)) => {
                seat.answered(at);
                Ok((Ok(answer), at))
            }
            OnLane::Ended(Err(source)) => {
                let (error, verdict) = seat.failed(source, &host.pool, ended, at);
                Ok((Err(Failed { error, breaker: verdict.breaker_for(Circuit::Reads) }), at))
            }
            OnLane::Expired => {
                let breaker = seat.expired(time.on_expiry(), at);
                Ok((Err(Failed { error: too_late(time), breaker }), at))
            }
            OnLane::Slow => Err(seat.leave(at)),
        }
    }

    async fn wait_on_lane<T>(
        &self,
        time: &AttemptTime,
        now: Instant,
        asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> OnLane<T> {
        let mut asking = pin!(asking);
        let patient_until = time.deadline.capped(now, PATIENCE).instant();
        if let Ok(answered) = timeout_at(patient_until, asking.as_mut()).await {
            return OnLane::Ended(answered);
        }
        let late = Instant::now();
        if time.deadline.remaining(late) >= WORTH_BEGINNING && self.0.budget.withdraw(late) {
            return OnLane::Slow;
        }
        timeout_at(time.deadline.instant(), asking).await.map_or(OnLane::Expired, OnLane::Ended)
    }

    /// Whether lanes to this host may be opened at `now`: it is the primary, in order, and used at all.
    pub(super) fn may_open_lanes(&self, index: usize, now: Instant) -> bool {
        let hosts = &self.0.hosts;
        let in_order = |host: &Host| {
            host.role() == Role::Primary && host.circuit(Circuit::Reads).state(now) == BreakerState::Closed
        };
        self.schema_is_usable() && hosts.primary() == Some(index) && hosts.at(index).is_some_and(in_order)
    }
}

/// On a connection of its own.
async fn on_loan<T: Question>(
    question: &T,
    host: &Host,
    permit: Option<Permit>,
    time: &AttemptTime,
    now: Instant,
) -> Answered<T::Answer> {
    let mut loan = match host.pool.checkout_with(time, permit, now).await {
        Ok(loan) => loan,
        Err(NoConnection { error, breaker }) => return (Err(Failed { error, breaker }), Instant::now()),
    };
    metrics::db_attempt();
    let began = (question.is_short() && host.lanes.may_open()).then(Instant::now);
    let (statements, limit) = loan.asking();
    let asking = question.ask(&statements).instrument(query_span(question.operation()));
    let answered = limit.bound(time.deadline.instant(), asking).await;
    let at = Instant::now();
    if let Some(began) = began {
        host.lanes.saw(question.operation(), at.saturating_duration_since(began), at);
    }
    let failed = match answered {
        Some(Ok(answer)) => {
            loan.report(Ended::Answered, at);
            loan.give_back_at(at);
            return (Ok(answer), at);
        }
        Some(Err(source)) => {
            let (error, verdict) = loan.judge(source, Stage::Query, Phase::Sent);
            loan.report(ended(&error), at);
            loan.settle(verdict);
            Failed { error, breaker: verdict.breaker_for(Circuit::Reads) }
        }
        None => {
            // The loan goes to the reaper, with its permit.
            loan.report(time.ended(), at);
            Failed { error: too_late(time), breaker: time.on_expiry() }
        }
    };
    (Err(failed), at)
}

fn too_late(time: &AttemptTime) -> Error {
    Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit: time.limit }
}
