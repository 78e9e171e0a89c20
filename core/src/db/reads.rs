//! Reads that ask: attempts at the hosts, one after the other. What is served from the cache, and what is kept there of an
//! answer, is decided in `kept`.

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
    cache::{CacheKey, Freshness, StaleReason},
    deadline::Deadline,
    error::{Error, ErrorClass, RejectReason},
};

/// A query as a question.
struct Fetch<'q, Q>(&'q Q, Priority);

impl<Q: Query> Question for Fetch<'_, Q> {
    type Answer = Option<Q::Answer>;

    fn operation(&self) -> &'static str {
        self.0.name()
    }

    fn is_short(&self) -> bool {
        self.0.is_short()
    }

    fn priority(&self) -> Priority {
        self.1
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
            if self.would_bring_back(key, route, now) {
                tried.add(route.host());
                continue;
            }
            let failed = match self.attempt_on(route, query, query.priority(), key, deadline, now).await {
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
            if !worth_it || attempt >= self.0.timing.read.attempts() {
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

    /// One attempt at one host; what it answers is kept.
    pub(super) async fn attempt_on<Q: Query>(
        &self,
        route: Route,
        query: &Q,
        priority: Priority,
        key: &CacheKey,
        deadline: Deadline,
        now: Instant,
    ) -> Result<(Read<Q::Answer>, Instant), Failed> {
        let time = AttemptTime::at(now, deadline, self.0.timing.read.attempt());
        let (answer, at) = self.asked_of(&Fetch(query, priority), route, &time, now).await?;
        let (as_of, freshness, source, standby) = match route {
            Route::Primary(_) => (Some(now), Freshness::Fresh, Source::Primary, None),
            Route::Standby { host, lag } => {
                let as_of = now.checked_sub(lag);
                let age = lag + at.saturating_duration_since(now);
                let freshness = Freshness::Stale { age, reason: StaleReason::Standby };
                (as_of, freshness, Source::Standby { host, lag }, Some(host))
            }
        };
        if let Some(as_of) = as_of {
            self.remember(query, key, answer.as_ref(), (as_of, at), standby);
        }
        Ok((Read::new(answer, freshness, source), at))
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
}
