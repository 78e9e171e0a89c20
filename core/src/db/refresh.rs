//! Asking anew in the background for answers that were served from the cache: those that are about to lose their freshness,
//! and those that were served while they are revalidated.
//!
//! It comes after everybody else. Where calls wait for permits, or the circuit is not closed, what it was to ask is left
//! out: the next reader of the key asks for it again. It decides nothing about what is served.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    future::{BoxFuture, FutureExt as _},
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Db, Query,
    classify::Circuit,
    route::{Bound, Tried},
};
use crate::{
    breaker::BreakerState, bulkhead::Priority, cache::CacheKey, deadline::Deadline, drain::Draining,
};

/// Keys that wait to be asked for anew; one more is left to its next reader.
const WAITING_MAX: usize = 1_024;
/// Questions at once.
const AT_ONCE: usize = 4;

type Ask = Box<dyn FnOnce(Db, CacheKey) -> BoxFuture<'static, ()> + Send>;

/// One key to ask for.
struct Refresh {
    key: Waiting,
    ask: Ask,
}

/// The way to the background part, for readers.
pub(super) struct Refreshes {
    asked: mpsc::Sender<Refresh>,
    waiting: Arc<Mutex<HashSet<CacheKey>>>,
}

/// A key that nobody else needs to queue up. Dropped when it was asked for, or left out.
struct Waiting {
    key: CacheKey,
    among: Arc<Mutex<HashSet<CacheKey>>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.among.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Refreshes {
    pub(super) fn new() -> (Self, Queue) {
        let (asked, queue) = mpsc::channel(WAITING_MAX);
        (Self { asked, waiting: Arc::default() }, Queue(queue))
    }

    /// Has the question asked again, soon and once; nothing happens where too many wait already.
    pub(super) fn ask<Q: Query>(&self, query: &Q, key: &CacheKey) {
        let Ok(place) = self.asked.try_reserve() else { return };
        if !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let query = query.clone();
        place.send(Refresh {
            key: Waiting { key: key.clone(), among: Arc::clone(&self.waiting) },
            ask: Box::new(move |db, key| Box::pin(async move { db.refresh(&query, &key).await })),
        });
    }
}

/// What readers want asked.
pub(super) struct Queue(mpsc::Receiver<Refresh>);

/// Asks anew for what is served from the cache, until the drain. Made by [`Db::new`](super::Db::new).
#[must_use = "without it kept answers are asked for anew only when they have lost their freshness"]
pub struct Refresher {
    db: Db,
    queue: Queue,
}

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refresher").finish_non_exhaustive()
    }
}

impl Refresher {
    pub(super) fn new(db: Db, queue: Queue) -> Self {
        Self { db, queue }
    }

    /// Asks for what readers want asked, a few at once, until the drain begins.
    ///
    /// # Cancel safety
    /// Dropping it at any moment loses questions and no answers.
    pub async fn run(mut self, mut draining: Draining) {
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = draining.requested() => return,
                Some(()) = asking.next(), if !asking.is_empty() => {}
                next = self.queue.0.recv(), if asking.len() < AT_ONCE => {
                    let Some(Refresh { key, ask }) = next else { return };
                    let db = self.db.clone();
                    asking.push(async move {
                        // A question that panics is its readers' trouble, who ask it themselves; others are asked on.
                        let _ = AssertUnwindSafe(ask(db, key.key.clone())).catch_unwind().await;
                        drop(key);
                    });
                }
            }
        }
    }
}

impl Db {
    async fn refresh<Q: Query>(&self, query: &Q, key: &CacheKey) {
        let now = Instant::now();
        // Live traffic first, and after an outage the ramp is for users.
        if self.0.bulkhead.queued() > 0 {
            return;
        }
        let Some(route) = self.0.hosts.reader(Bound::PrimaryOnly, Tried::default(), now) else { return };
        let host = self.0.hosts.at(route.host());
        if host.is_none_or(|host| host.circuit(Circuit::Reads).state(now) != BreakerState::Closed) {
            return;
        }
        let Some(flight) = self.0.flights.begin(key) else { return };
        let Some(_lead) = flight.lead_now() else { return };
        let deadline = Deadline::after(now, self.0.timing.read.attempt());
        // What went wrong is known to breaker and bulkhead. Who joined meanwhile takes the lead then.
        if self.attempt_on(route, query, Priority::Batch, key, deadline, now).await.is_ok() {
            flight.end(None);
        }
    }
}
