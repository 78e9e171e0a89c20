//! Reads below [`Db::read`]: attempts at the hosts, what is remembered of the answer, and the stale answer instead.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Db, Query, Read, Source, Statements,
    asked::Question,
    classify::Circuit,
    guards::AttemptTime,
    route::{Bound, Route, Tried},
    transaction::Failed,
};
use crate::{
    bulkhead::Priority,
    cache::{CacheKey, Cacheable, Cached, Freshness, StaleReason, Usable},
    deadline::Deadline,
    error::{Error, ErrorClass, RejectReason, Stage},
    metrics,
};

/// A query as a question.
struct Fetch<'q, Q>(&'q Q);

impl<Q: Query> Question for Fetch<'_, Q> {
    type Answer = Option<Q::Answer>;

    fn operation(&self) -> &'static str {
        self.0.name()
    }

    fn is_short(&self) -> bool {
        self.0.is_short()
    }

    fn priority(&self) -> Priority {
        self.0.priority()
    }

    async fn ask<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Self::Answer, tokio_postgres::Error> {
        self.0.fetch(statements).await
    }
}

impl Db {
    /// The primary's answer, or a standby's where that will do; and when it came.
    pub(super) async fn read_hosts<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        deadline: Deadline,
        started: Instant,
    ) -> Result<(Read<Q::Answer>, Instant), Error> {
        let bound = self.bound_of(query);
        let (mut attempt, mut now, mut tried) = (1, started, Tried::default());
        loop {
            let Some(route) = self.0.hosts.reader(bound, tried, now) else {
                return Err(self.nowhere(Circuit::Reads, now).error);
            };
            if let Some(copy) = self.copy_as_good(query, key, route, now) {
                return Ok((copy, now));
            }
            let failed = match self.attempt_on(route, query, key, deadline, now).await {
                Ok(answered) => {
                    self.earn(attempt, None, answered.1);
                    return Ok(answered);
                }
                Err(failed) => failed,
            };
            tried.add(route.host());
            now = Instant::now();
            self.earn(attempt, Some(&failed), now);
            self.note_ills(route.host(), &failed.error);
            let elsewhere = self.0.hosts.reader(bound, tried, now).is_some();
            // A circuit that is half-open and takes no more trials: the call was not made, so another one is no retry.
            if matches!(failed.error, Error::Rejected { reason: RejectReason::BreakerOpen, .. }) && elsewhere
            {
                continue;
            }
            // A read has no effect, so a lost answer may be asked for again.
            let worth_it = failed.may_retry() || failed.error.class() == ErrorClass::Unknown;
            if !worth_it || attempt >= self.0.config.read.attempts {
                return Err(failed.error);
            }
            // Another host has not failed yet and can be asked at once; where the first one is known to be away by now, that
            // is where any new read goes too, and so it is no retry to be paid for.
            let known_away = self.0.hosts.is_open(route.host(), Circuit::Reads, now);
            if !(elsewhere && (known_away || self.0.budget.withdraw(now))) {
                if !self.pause_on(route.host(), Circuit::Reads, attempt, deadline).await {
                    return Err(failed.error);
                }
                (tried, now) = (Tried::default(), Instant::now());
            }
            attempt += 1;
        }
    }

    async fn attempt_on<Q: Query>(
        &self,
        route: Route,
        query: &Q,
        key: &CacheKey,
        deadline: Deadline,
        now: Instant,
    ) -> Result<(Read<Q::Answer>, Instant), Failed> {
        let time = AttemptTime::at(now, deadline, self.0.config.read.attempt);
        let (answer, at) = self.asked_of(&Fetch(query), route, &time, now).await?;
        let (as_of, freshness, source) = match route {
            Route::Primary(_) => (Some(now), Freshness::Fresh, Source::Primary),
            Route::Standby { host, lag } => {
                let as_of = now.checked_sub(lag);
                let age = lag + at.saturating_duration_since(now);
                let freshness = Freshness::Stale { age, reason: StaleReason::Standby };
                (as_of, freshness, Source::Standby { host, lag })
            }
        };
        if let Some(as_of) = as_of {
            self.remember(query, key, answer.as_ref(), as_of, at);
        }
        Ok((Read { value: answer, freshness, source }, at))
    }

    fn bound_of<Q: Query>(&self, query: &Q) -> Bound {
        let usual = self.0.config.read.standby_staleness;
        match query.max_staleness() {
            Some(Duration::ZERO) => Bound::PrimaryOnly,
            Some(limit) => Bound::AtMost(limit),
            None if usual.is_zero() => Bound::PrimaryOnly,
            None => Bound::Rather(usual),
        }
    }

    /// Where only a standby is left: the copy in the cache, if that is no older than the standby's answer would be. It
    /// costs nothing, and so nobody sees a thing go back to what it was before.
    fn copy_as_good<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        route: Route,
        now: Instant,
    ) -> Option<Read<Q::Answer>> {
        let Route::Standby { lag, .. } = route else { return None };
        let cached = self.0.cache.peek(key, now).filter(|cached| cached.age() <= lag)?;
        (cached.usable(&query.policy()) < Usable::Expired).then_some(())?;
        labelled(&cached, StaleReason::DatabaseAway)
    }

    fn remember<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        answer: Option<&Q::Answer>,
        as_of: Instant,
        now: Instant,
    ) {
        let fill = self.0.cache.fill(as_of, now);
        match answer {
            Some(answer) => {
                fill.put_tagged(key, answer.encode(), || query.tags());
                query.fill(answer, &fill);
            }
            None => fill.put_nothing(key, || query.tags()),
        }
    }

    /// The last good answer, if the read can do with its age.
    pub(super) fn stale<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        error: &Error,
    ) -> Option<Read<Q::Answer>> {
        // A wrong question stays wrong; an old answer to it would only hide that.
        if error.class() == ErrorClass::Permanent && error.stage() == Stage::Query {
            return None;
        }
        let (policy, bound) = (query.policy(), query.max_staleness());
        let usable = |cached: &Cached| {
            cached.usable(&policy) < Usable::Expired && bound.is_none_or(|bound| cached.age() <= bound)
        };
        let found = self.0.cache.find(key, Instant::now());
        metrics::cache_request(match &found {
            Some(cached) if usable(cached) => "stale",
            Some(_) => "expired",
            None => "miss",
        });
        // Nobody was asked, or nobody waited: the database itself may be well.
        let slow = matches!(
            error,
            Error::Timeout { .. }
                | Error::Rejected { reason: RejectReason::Overloaded | RejectReason::DeadlinePassed, .. }
        );
        let reason = if slow { StaleReason::Slow } else { StaleReason::DatabaseAway };
        labelled(&found.filter(usable)?, reason)
    }
}

/// What is kept, as an answer that says so; `None` where it cannot be read any more.
fn labelled<T: Cacheable>(cached: &Cached, reason: StaleReason) -> Option<Read<T>> {
    let value = match cached.value() {
        Some(bytes) => Some(T::decode(bytes)?),
        None => None,
    };
    let age = cached.age();
    metrics::stale_age(age);
    Some(Read { value, freshness: Freshness::Stale { age, reason }, source: Source::Cache { age } })
}
