//! Reads below [`Db::read`]: attempts at PostgreSQL, what is remembered of the answer, and the stale answer instead.

use tokio::time::Instant;

use super::{Db, Query, Read, Statements, pool::Loan};
use crate::{
    cache::{Cacheable, Freshness, StaleReason},
    deadline::Deadline,
    error::{Error, ErrorClass, RejectReason, Stage},
    metrics,
};

impl Db {
    pub(super) async fn read_fresh<Q: Query>(
        &self,
        query: &Q,
        key: &str,
        deadline: Deadline,
    ) -> Result<Option<Q::Answer>, Error> {
        let mut attempt = 1;
        loop {
            let asked_at = Instant::now();
            let asked = self.asked(deadline, self.0.config.read.attempt, async |loan: &Loan| {
                let statements = Statements(loan);
                query.fetch(&statements).await
            });
            match asked.await {
                Ok(answer) => {
                    self.remember(query, key, answer.as_ref(), asked_at);
                    return Ok(answer);
                }
                Err(failed) => {
                    let attempts = self.0.config.read.attempts;
                    // A read has no effect, so a lost answer may be asked for again.
                    let worth_it = failed.may_retry() || failed.error.class() == ErrorClass::Unknown;
                    if !worth_it || attempt >= attempts || !self.pause_before_retry(attempt, deadline).await {
                        return Err(failed.error);
                    }
                }
            }
            attempt += 1;
        }
    }

    fn remember<Q: Query>(&self, query: &Q, key: &str, answer: Option<&Q::Answer>, asked_at: Instant) {
        let fill = self.0.cache.fill(asked_at, Instant::now());
        match answer {
            Some(answer) => {
                fill.put(key, answer.encode());
                query.fill(answer, &fill);
            }
            None => fill.remove(key),
        }
    }

    pub(super) fn stale<T: Cacheable>(&self, key: &str, error: &Error) -> Option<Read<T>> {
        // A wrong question stays wrong; an old answer to it would only hide that.
        if error.class() == ErrorClass::Permanent && error.stage() == Stage::Query {
            return None;
        }
        let cached = self.0.cache.peek(key, Instant::now());
        metrics::cache_request(if cached.is_some() { "stale" } else { "miss" });
        let cached = cached?;
        metrics::stale_age(cached.age);
        // Nobody was asked, or nobody waited: the database itself may be well.
        let slow = matches!(
            error,
            Error::Timeout { .. }
                | Error::Rejected { reason: RejectReason::Overloaded | RejectReason::DeadlinePassed, .. }
        );
        let reason = if slow { StaleReason::Slow } else { StaleReason::DatabaseAway };
        let freshness = Freshness::Stale { age: cached.age, reason };
        Some(Read { value: Some(T::decode(&cached.value)?), freshness })
    }
}
