//! The tender of one host's lanes: opens them where they are wanted, has those in doubt prove themselves, and lets go of
//! broken and old ones.
//!
//! It serves no caller; the only connections it makes are lanes, one after the other, and only while the host is in order.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{Lane, Lanes, nanoseconds};
use crate::{db::pool::Pool, drain::Draining};

/// How long a lane in doubt has for an empty query. Its neighbours' statements are bounded by `statement_timeout` only.
const PROOF_LIMIT: Duration = Duration::from_secs(1);
/// Looks at the lanes this often when nobody calls. Those that were quiet since the last look have to prove themselves.
const TEND_EVERY: Duration = Duration::from_millis(500);
/// The least time between two looks, however many call.
const PAUSE: Duration = Duration::from_millis(20);

/// Closes the lanes when nobody tends them any more.
struct Tended<'l>(&'l Lanes);

impl Drop for Tended<'_> {
    fn drop(&mut self) {
        self.0.put(Vec::new());
    }
}

impl Lanes {
    /// Looks after the lanes until the drain begins, then closes them, as soon as nobody waits on them any more.
    /// `may_dial` says whether the host is one to open a lane to just now.
    ///
    /// # Cancel safety
    /// Dropping it closes the lanes.
    pub(in crate::db) async fn tended(
        &self,
        pool: &Pool,
        mut draining: Draining,
        may_dial: impl Fn(Instant) -> bool,
    ) {
        if self.count == 0 {
            return;
        }
        let tended = Tended(self);
        let work = async {
            loop {
                let _ = timeout(TEND_EVERY, tended.0.calls.notified()).await;
                tended.0.tend(pool, &may_dial).await;
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = draining.requested() => {}
        }
    }

    async fn tend(&self, pool: &Pool, may_dial: impl Fn(Instant) -> bool) {
        let now = Instant::now();
        let wished = self.wished.load(Ordering::Relaxed);
        let wanted = wished > 0 && self.since_start(now).saturating_sub(wished) <= nanoseconds(self.idle);
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        if open.is_empty() && !wanted {
            return;
        }
        let looks = open.into_iter().map(|lane| async move {
            let is_kept = wanted && now < lane.session.retire_at && lane.is_in_order(pool, now).await;
            is_kept.then_some(lane)
        });
        let mut open: Vec<_> = join_all(looks).await.into_iter().flatten().collect();
        self.put(open.clone());
        while wanted && open.len() < self.count && may_dial(Instant::now()) {
            // Where none is to be had the prober says what that means; whoever asks meanwhile takes one of the pool's.
            let Ok(session) = pool.dial_apart(pool.dialler().limit()).await else { return };
            open.push(Arc::new(Lane::new(session, Instant::now())));
            self.put(open.clone());
        }
    }

    fn put(&self, open: Vec<Arc<Lane>>) {
        let before = std::mem::replace(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner), open);
        // After the lock is free: the last one to let go of a lane ends its connection.
        drop(before);
    }
}

impl Lane {
    /// Whether it can stay.
    async fn is_in_order(&self, pool: &Pool, now: Instant) -> bool {
        let is_quiet = self.in_flight() == 0 && self.quiet_for(now) >= TEND_EVERY / 2;
        if !self.is_usable(pool) {
            return false;
        }
        !(self.is_in_doubt() || is_quiet) || self.proves_itself().await
    }

    /// An empty query is answered when everything before it was: then nobody's question is in the way any more.
    pub(super) async fn proves_itself(&self) -> bool {
        // Who leaves from here on may have asked behind the proof. A permit is owed before its doubt is counted.
        let doubts = self.doubts.load(Ordering::Acquire);
        let owed = self.owed().len();
        let proven = matches!(timeout(PROOF_LIMIT, self.session.batch_execute("")).await, Ok(Ok(())));
        if proven {
            self.owed().drain(..owed);
            self.move_to(Instant::now());
            self.is_told.store(false, Ordering::Release);
            self.settled.store(doubts, Ordering::Release);
        }
        proven
    }
}
