//! The canary: an independent witness of when the database commits. Each try opens a new connection and commits one
//! row, past service and proxy. It judges nothing; faults and checks ask it what it saw.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::cluster::{self, Cluster};
use crate::error::{Error, describe_postgres};

/// A try begins at each of these ticks, unless the one before is still under way.
const EVERY: Duration = Duration::from_millis(20);
/// A try is given up after this. Short, so that few dead connections wait for a hung postmaster to wake; longer than
/// any healthy commit.
const TRY_LIMIT: Duration = Duration::from_millis(500);
/// Tries that are remembered: ten minutes of them.
const REMEMBERED: usize = 30_000;

/// One try to commit on a new connection.
#[derive(Debug, Clone)]
pub struct Try {
    /// When the connection was begun.
    pub began: Instant,
    /// When it had committed or failed.
    pub ended: Instant,
    /// Why it failed; `None` where it committed.
    pub error: Option<String>,
}

/// What a canary has seen so far. Cheap to clone; all clones share.
#[derive(Debug, Clone, Default)]
pub struct Canary(Arc<Mutex<VecDeque<Try>>>);

/// What was seen of the tries that began and ended in a span of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Tries that committed.
    pub committed: usize,
    /// Tries that failed.
    pub failed: usize,
    /// The first failure, in the driver's words.
    pub first_failure: Option<String>,
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.committed + self.failed;
        write!(out, "the canary committed {} of {total} tries", self.committed)?;
        match &self.first_failure {
            Some(failure) => write!(out, " (first failure: {failure})"),
            None => Ok(()),
        }
    }
}

impl Canary {
    /// A canary of a cluster, and its work: drive the future, for it never ends by itself. Each try is also handed
    /// to `tell`.
    pub fn of<F: FnMut(&Try) + Send>(
        cluster: &Cluster,
        tell: F,
    ) -> (Self, impl Future<Output = ()> + Send + use<F>) {
        let cluster = cluster.clone();
        Self::following(move || cluster.clone(), tell)
    }

    /// As [`Canary::of`], of a cluster that is asked for anew before each try: after a failover it is another one.
    pub fn following<C: Fn() -> Cluster + Send, F: FnMut(&Try) + Send>(
        which: C,
        mut tell: F,
    ) -> (Self, impl Future<Output = ()> + Send + use<C, F>) {
        let canary = Self::default();
        let handle = canary.clone();
        let work = async move {
            let mut ticks = tokio::time::interval(EVERY);
            // A late try does not make up for missed ones: they would pile up on a database that just came back.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let config = which().canary();
                let one = attempt(&config).await;
                tell(&one);
                canary.remember(one);
            }
        };
        (handle, work)
    }

    /// What became of the tries that began from `from` on and had ended by `until`. One that was under way then may have
    /// been answered by what came after, such as a database that was let go on.
    #[must_use]
    pub fn seen(&self, from: Instant, until: Instant) -> Seen {
        let tries = self.lock();
        let mut seen = Seen::default();
        for one in tries.iter().filter(|one| one.began >= from && one.ended <= until) {
            match &one.error {
                None => seen.committed += 1,
                Some(error) => {
                    seen.failed += 1;
                    seen.first_failure.get_or_insert_with(|| error.clone());
                }
            }
        }
        seen
    }

    /// When the first try committed that ended at or after `from`; `None` while none has.
    #[must_use]
    pub fn first_commit(&self, from: Instant) -> Option<Instant> {
        self.lock().iter().find(|one| one.error.is_none() && one.ended >= from).map(|one| one.ended)
    }

    /// Whether the last try committed; `None` before the first has ended.
    #[must_use]
    pub fn is_up(&self) -> Option<bool> {
        self.lock().back().map(|one| one.error.is_none())
    }

    fn remember(&self, one: Try) {
        let mut tries = self.lock();
        if tries.len() == REMEMBERED {
            tries.pop_front();
        }
        tries.push_back(one);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Try>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn attempt(config: &tokio_postgres::Config) -> Try {
    let began = Instant::now();
    let work = async {
        let client = cluster::connect(config, TRY_LIMIT).await?;
        let inserted = client.batch_execute("INSERT INTO public.canary DEFAULT VALUES").await;
        inserted.map_err(Error::postgres("insert"))
    };
    let error = match tokio::time::timeout(TRY_LIMIT, work).await {
        Ok(Ok(())) => None,
        Ok(Err(Error::Postgres { source, .. })) => Some(describe_postgres(&source)),
        Ok(Err(Error::Late { .. })) | Err(_) => {
            Some(format!("no answer within {} ms", TRY_LIMIT.as_millis()))
        }
        Ok(Err(other)) => Some(other.to_string()),
    };
    Try { began, ended: Instant::now(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(start: Instant, tries: &[(u64, u64, Option<&str>)]) -> Canary {
        let canary = Canary::default();
        for (began, ended, error) in tries {
            canary.remember(Try {
                began: start + Duration::from_millis(*began),
                ended: start + Duration::from_millis(*ended),
                error: error.map(str::to_owned),
            });
        }
        canary
    }

    /// A try that waited in a hung database was committed by the one that was just let go on, before anybody had looked; so
    /// a hang of seconds counted as none, and the run as inconclusive. That took a busy machine.
    #[test]
    fn only_tries_that_began_and_ended_in_the_span_tell_about_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let tries = [(0, 5, None), (20, 50, Some("closed")), (40, 45, Some("refused")), (50, 65, None)];
        let canary = canary(start, &tries);
        let seen = canary.seen(at(40), at(60));
        assert_eq!(seen, Seen { committed: 0, failed: 1, first_failure: Some("refused".to_owned()) });
        assert_eq!(seen.to_string(), "the canary committed 0 of 1 tries (first failure: refused)");
    }

    #[test]
    fn the_database_is_up_at_the_end_of_the_first_commit() {
        let start = Instant::now();
        let canary =
            canary(start, &[(0, 5, None), (20, 25, Some("refused")), (40, 90, None), (100, 105, None)]);
        assert_eq!(
            canary.first_commit(start + Duration::from_millis(20)),
            Some(start + Duration::from_millis(90))
        );
        assert_eq!(canary.first_commit(start + Duration::from_secs(1)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let canary = Canary::default();
        let now = Instant::now();
        for _ in 0..REMEMBERED + 5 {
            canary.remember(Try { began: now, ended: now, error: None });
        }
        assert_eq!(canary.lock().len(), REMEMBERED);
    }
}
