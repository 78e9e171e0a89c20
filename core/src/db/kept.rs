//! Answers from the cache: instead of asking, where the query's policy says so, or instead of an error. Always labelled.
//!
//! Asking is the business of `reads`.

use std::time::Duration;

use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{Db, Query, Read, Source, route::Route};
use crate::{
    cache::{CacheKey, Cacheable, Cached, Flight, Freshness, StaleReason, Usable},
    deadline::Deadline,
    error::{Error, ErrorClass, Phase, Stage},
    metrics,
    sabotage::{self, Bug},
};

/// Who came while the first one asked is served by the second. If that is of no use either, each asks for itself.
const COLD_ROUNDS: usize = 2;

/// What waiting for the lead came to.
enum Turn<'f, A> {
    Lead(SemaphorePermit<'f>),
    Kept(Read<A>),
}

impl Db {
    /// A kept answer that is good enough without asking; or else the database's, for which one asks and all others who
    /// want the same wait. They get it from the cache, and so labelled: it may be older than their question.
    pub(super) async fn read_kept<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Read<Q::Answer>, Error> {
        if let Some(read) = self.unasked(query, key, started) {
            return Ok(read);
        }
        let Some(flight) = self.0.flights.join(key) else {
            return self.read_asking(query, key, deadline, started).await;
        };
        let Some(lead) = self.turn(&flight, query, key, deadline, started).await? else {
            let now = Instant::now();
            let stale = || self.stale_because(query, key, flight.was_stale()?);
            if let Some(read) = self.unasked(query, key, now).or_else(stale) {
                return Ok(read);
            }
            // What was brought is of no use to this one: from here on each for itself, as far as the guards let it.
            return self.read_asking(query, key, deadline, now).await;
        };
        let _lead = match lead {
            Turn::Lead(lead) => lead,
            Turn::Kept(read) => return Ok(read),
        };
        let now = Instant::now();
        let read = self.read_asking(query, key, deadline, now).await;
        // Where it failed, the lead goes to the next one with the end of this call, and all others go on waiting. So it does
        // where it took what is kept for lack of time of its own: that says nothing of the database.
        let has_time = deadline.remaining(now) >= self.0.timing.read.attempt();
        match read.as_ref().map(|read| failure(read.freshness())) {
            Ok(Some(StaleReason::Slow)) if !has_time => {}
            Ok(stale) => flight.end(stale),
            Err(_) => {}
        }
        read
    }

    /// Nothing is kept of this. Of those who want it at once one asks. Its answer may be older than the questions of those who
    /// came meanwhile, so of them one asks again, and that is fresh for all of them: what many want of a cold replica is
    /// asked for twice, one after the other, and not by everybody.
    pub(super) async fn read_cold<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Read<Q::Answer>, Error> {
        for _ in 0..COLD_ROUNDS {
            let Some(flight) = self.0.flights.join(key) else { break };
            let Some(lead) = self.turn(&flight, query, key, deadline, started).await? else {
                if let Some(read) = self.asked_since(query, key, started) {
                    return Ok(read);
                }
                continue;
            };
            let _lead = match lead {
                Turn::Lead(lead) => lead,
                Turn::Kept(read) => return Ok(read),
            };
            let read = self.read_asking(query, key, deadline, Instant::now()).await;
            // Where it failed, the lead goes to the next one with the end of this call.
            if read.is_ok() {
                flight.end(None);
            }
            return read;
        }
        self.read_asking(query, key, deadline, Instant::now()).await
    }

    /// What is kept, where that was asked for after `started`: fresh for whoever came then, whatever was changed since.
    fn asked_since<Q: Query>(&self, query: &Q, key: &CacheKey, started: Instant) -> Option<Read<Q::Answer>> {
        let now = Instant::now();
        let took = now.saturating_duration_since(started);
        let cached = self.0.cache.peek(key, now).filter(|cached| cached.age() <= took)?;
        let value = decoded(&cached)?;
        metrics::fresh_read(query.name(), took);
        Some(Read::new(value, Freshness::Fresh, Source::Cache { age: cached.age() }))
    }

    /// Waits for the lead; `None` where another one has brought an answer. One that waits for longer than an attempt takes
    /// what is kept, and where nothing is, it waits on: whoever leads is as good as anybody.
    async fn turn<'f, Q: Query>(
        &self,
        flight: &'f Flight<'f>,
        query: &Q,
        key: &CacheKey,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Option<Turn<'f, Q::Answer>>, Error> {
        let limit = self.0.timing.read.attempt();
        if let Ok(turn) = timeout_at(deadline.capped(started, limit).instant(), flight.turn()).await {
            return Ok(turn.map(Turn::Lead));
        }
        let too_late = Error::Timeout { stage: Stage::Query, phase: Phase::NotSent, limit };
        if let Some(read) = self.stale(query, key, &too_late) {
            return Ok(Some(Turn::Kept(read)));
        }
        match timeout_at(deadline.instant(), flight.turn()).await {
            Ok(turn) => Ok(turn.map(Turn::Lead)),
            Err(_) => {
                metrics::db_call(query.name(), "failed", too_late.class().as_str(), started.elapsed());
                Err(too_late)
            }
        }
    }

    /// What is kept, where that is served without asking; has it asked anew where it is time for that.
    fn unasked<Q: Query>(&self, query: &Q, key: &CacheKey, now: Instant) -> Option<Read<Q::Answer>> {
        let policy = query.policy();
        let cached = self.0.cache.peek(key, now).filter(|cached| is_within_bound(query, cached))?;
        let (result, reason) = match cached.usable(&policy) {
            Usable::Fresh => ("fresh", StaleReason::Kept),
            Usable::WhileRevalidating => ("stale", StaleReason::Revalidating),
            Usable::IfError | Usable::Expired => return None,
        };
        let read = labelled(&cached, reason)?;
        metrics::cache_request(result);
        if policy.is_worth_refreshing(cached.age(), || self.random(fastrand::Rng::f64)) {
            self.0.refreshes.ask(query, key);
        }
        Some(read)
    }

    /// Where only a standby is left: the copy in the cache, if that is no older than the standby's answer would be, or may
    /// be newer. It costs nothing, and so nobody sees a thing go back to what it was before.
    pub(super) fn copy_as_good<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        route: Route,
        now: Instant,
    ) -> Option<Read<Q::Answer>> {
        let Route::Standby { host, lag } = route else { return None };
        let cached = self.0.cache.peek(key, now)?;
        let usable = cached.usable(&query.policy()) < Usable::Expired && is_within_bound(query, &cached);
        if usable && cached.goes_before(host, now, lag) {
            labelled(&cached, StaleReason::DatabaseAway)
        } else {
            None
        }
    }

    /// Whether a standby may still have what was deleted or seen to be gone here: without an answer nobody sees it come back.
    pub(super) fn would_bring_back(&self, key: &CacheKey, route: Route, now: Instant) -> bool {
        let Route::Standby { host, lag } = route else { return false };
        self.0.cache.is_gone_before(key, host, now, lag)
    }

    /// Keeps an answer that was true at `as_of` or later and came at `now`, from the standby `host` where there is one.
    pub(super) fn remember<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        answer: Option<&Q::Answer>,
        (as_of, now): (Instant, Instant),
        standby: Option<usize>,
    ) {
        let mut fill = self.0.cache.fill(as_of, now).by_standby(standby);
        if query.policy().serves_unasked() {
            fill = fill.at_any_age();
        }
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
        // Nobody was asked, or nobody waited: the database itself may be well.
        let reason = match error {
            Error::Timeout { .. } => StaleReason::Slow,
            Error::Rejected { .. } if error.stage() == Stage::Bulkhead => StaleReason::Slow,
            _ => StaleReason::DatabaseAway,
        };
        self.stale_because(query, key, reason)
    }

    fn stale_because<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        reason: StaleReason,
    ) -> Option<Read<Q::Answer>> {
        let policy = query.policy();
        let usable =
            |cached: &Cached| cached.usable(&policy) < Usable::Expired && is_within_bound(query, cached);
        let found = self.0.cache.find(key, Instant::now());
        metrics::cache_request(match &found {
            Some(cached) if usable(cached) => "stale",
            Some(_) => "expired",
            None => "miss",
        });
        labelled(&found.filter(usable)?, reason)
    }
}

/// Why the answer of one that asked is an old one, if it is because asking failed.
fn failure(freshness: Freshness) -> Option<StaleReason> {
    match freshness {
        Freshness::Stale { reason: reason @ (StaleReason::DatabaseAway | StaleReason::Slow), .. } => {
            Some(reason)
        }
        Freshness::Stale { .. } | Freshness::Fresh => None,
    }
}

fn is_within_bound<Q: Query>(query: &Q, cached: &Cached) -> bool {
    query.max_staleness().is_none_or(|bound| cached.age() <= bound)
}

/// What is kept; `None` where it cannot be read any more.
fn decoded<T: Cacheable>(cached: &Cached) -> Option<Option<T>> {
    match cached.value() {
        Some(bytes) => T::decode(bytes).map(Some),
        None => Some(None),
    }
}

/// What is kept, as an answer that says so; `None` where it cannot be read any more.
fn labelled<T: Cacheable>(cached: &Cached, reason: StaleReason) -> Option<Read<T>> {
    let value = decoded(cached)?;
    let age = if sabotage::planted(Bug::UnderstatedAge) { Duration::ZERO } else { cached.age() };
    metrics::stale_age(age);
    let freshness = match sabotage::planted(Bug::UnlabelledStale) {
        true => Freshness::Fresh,
        false => Freshness::Stale { age, reason },
    };
    Some(Read::new(value, freshness, Source::Cache { age }))
}
