//! Lanes: shared connections for short reads. Several questions are on their way on one connection at once, which spares
//! both sides most of their waking up; PostgreSQL answers them in order.
//!
//! A lane is only ever an extra: where none is open, has room, or suits the operation, the read takes a connection of
//! its own from the pool. It takes no writes and no transactions, cancels nothing (a cancel could hit a neighbour), and
//! is opened, proven and replaced by its tender alone, never for a caller.

mod pace;
mod tender;

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::ClientWrapper;
use tokio::{sync::Notify, time::Instant};

use self::pace::Paces;
use super::{
    classify::{self, Connection, Hearing, Verdict},
    config::{PoolConfig, Pooler},
    pool::Pool,
    session::Session,
};
use crate::{
    breaker::CallResult,
    bulkhead::{Ended, Permit},
    error::{Error, ErrorClass, Phase, Stage},
};

/// A lane that has questions and gave no answer for this long has a slow one in front: nobody lines up behind it.
const STALLED: Duration = Duration::from_millis(20);
/// Who waits longer than this on a lane leaves it for a connection of its own, where the retry budget allows.
pub(super) const PATIENCE: Duration = Duration::from_millis(40);
/// A lane that was neither used nor looked at for this long may lead nowhere by now.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Wishes are noted this often: that lanes are wanted at all is what counts.
const WISH_EVERY: Duration = Duration::from_secs(1);

/// The lanes to one host.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Written by the tender alone.
    open: RwLock<Vec<Arc<Lane>>>,
    count: usize,
    depth_max: usize,
    /// Lanes that nobody wished for during this time are closed.
    idle: Duration,
    started: Instant,
    /// Nanoseconds since `started` at which somebody wished for a lane; 0 for never.
    wished: AtomicU64,
    /// The tender is wanted.
    calls: Notify,
    paces: Paces,
}

/// One shared connection.
#[derive(Debug)]
struct Lane {
    session: Session,
    opened: Instant,
    in_flight: AtomicUsize,
    /// Nanoseconds since `opened` at which it last moved: an answer was complete, or the first question got on.
    moved: AtomicU64,
    /// How many left without the answer, and how many of them it has proven itself after: while these differ it is in
    /// doubt, and nobody new gets on.
    doubts: AtomicUsize,
    settled: AtomicUsize,
    /// An error said that it is not to be used again.
    is_spoiled: AtomicBool,
    /// The breaker was told of its loss or silence: that is one failure, however many shared it.
    is_told: AtomicBool,
    /// Permits of those who left without the answer: the server is still busy for them until the lane is proven idle.
    owed: Mutex<Vec<Permit>>,
}

/// A place on a lane for one question, with the permit of its call. Dropped before [`Seat::answered`] or
/// [`Seat::failed`], it puts the lane in doubt, and the permit stays taken until that is over.
#[derive(Debug)]
#[must_use = "a seat that is dropped at once puts its lane in doubt"]
pub(super) struct Seat<'l> {
    lanes: &'l Lanes,
    lane: Arc<Lane>,
    operation: &'static str,
    permit: Option<Permit>,
    asked_at: Instant,
    is_over: bool,
}

impl Lanes {
    /// Room for as many as `config` says; none behind a pooler, where a shared connection is what one gets anyway. Opens
    /// nothing.
    pub(super) fn new(config: &PoolConfig, now: Instant) -> Self {
        Self {
            open: RwLock::default(),
            count: if config.pooler == Pooler::None { config.lanes } else { 0 },
            depth_max: config.lane_depth,
            idle: config.idle,
            started: now,
            wished: AtomicU64::new(0),
            calls: Notify::new(),
            paces: Paces::new(now),
        }
    }

    /// A place for a question of `operation` on the lane with the fewest; the permit comes back where the pool should be
    /// used.
    pub(super) fn seat(
        &self,
        pool: &Pool,
        operation: &'static str,
        permit: Option<Permit>,
        now: Instant,
    ) -> Result<Seat<'_>, Option<Permit>> {
        if self.count == 0 || !self.paces.may_share(operation, now) {
            return Err(permit);
        }
        self.wish(now);
        let lane = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let lanes = open.iter().filter(|lane| lane.is_open(pool, now));
            lanes.min_by_key(|lane| lane.in_flight()).map(Arc::clone)
        };
        let Some(lane) = lane else { return Err(permit) };
        match lane.in_flight.fetch_add(1, Ordering::Relaxed) {
            0 => lane.move_to(now),
            before if before >= self.depth_max => {
                lane.in_flight.fetch_sub(1, Ordering::Relaxed);
                return Err(permit);
            }
            _ => {}
        }
        Ok(Seat { lanes: self, lane, operation, permit, asked_at: now, is_over: false })
    }

    /// Whether it is of any use to tell [`Lanes::saw`].
    pub(super) fn may_open(&self) -> bool {
        self.count > 0
    }

    /// A question of `operation` kept a connection of its own busy for `busy`.
    pub(super) fn saw(&self, operation: &'static str, busy: Duration, now: Instant) {
        self.paces.saw(operation, busy, now);
    }

    /// How many lanes are open, and how many questions are on them.
    pub(super) fn size(&self) -> (usize, usize) {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        (open.len(), open.iter().map(|lane| lane.in_flight()).sum())
    }

    fn wish(&self, now: Instant) {
        let before = self.wished.load(Ordering::Relaxed);
        let at = self.since_start(now);
        if before == 0 || at.saturating_sub(before) > nanoseconds(WISH_EVERY) {
            self.wished.store(at.max(1), Ordering::Relaxed);
            if before == 0 {
                self.calls.notify_one();
            }
        }
    }

    fn since_start(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.started))
    }
}

impl Lane {
    fn new(session: Session, now: Instant) -> Self {
        Self {
            session,
            opened: now,
            in_flight: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            doubts: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            is_spoiled: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            owed: Mutex::default(),
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it may be used at all.
    fn is_usable(&self, pool: &Pool) -> bool {
        !self.is_spoiled.load(Ordering::Acquire) && pool.is_usable(&self.session)
    }

    /// Whether somebody may get on at `now`: it is in no doubt, and moves.
    fn is_open(&self, pool: &Pool, now: Instant) -> bool {
        let limit = if self.in_flight() > 0 { STALLED } else { QUIET_MAX };
        self.quiet_for(now) <= limit && !self.is_in_doubt() && self.is_usable(pool)
    }

    fn is_in_doubt(&self) -> bool {
        self.doubts.load(Ordering::Acquire) != self.settled.load(Ordering::Acquire)
    }

    fn quiet_for(&self, now: Instant) -> Duration {
        let moved = self.moved.load(Ordering::Relaxed);
        Duration::from_nanos(self.since_opened(now).saturating_sub(moved))
    }

    fn move_to(&self, now: Instant) {
        self.moved.store(self.since_opened(now), Ordering::Relaxed);
    }

    fn since_opened(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.opened))
    }

    /// Whether this is the first to tell the breaker of this loss or silence.
    fn is_first_to_tell(&self) -> bool {
        !self.is_told.swap(true, Ordering::AcqRel)
    }

    fn owed(&self) -> std::sync::MutexGuard<'_, Vec<Permit>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// The connection. Only for one short statement outside of transactions.
    pub(super) fn client(&self) -> &ClientWrapper {
        &self.lane.session
    }

    /// The answer is complete. Answers come in the order of the questions, so this one alone kept the lane busy from when
    /// the one before was answered, or from when it was asked.
    pub(super) fn answered(mut self, now: Instant) {
        let (begun, done) = (self.lane.since_opened(self.asked_at), self.lane.since_opened(now));
        let before = self.lane.moved.swap(done, Ordering::Relaxed);
        let busy = Duration::from_nanos(done.saturating_sub(begun.max(before)));
        self.lanes.paces.saw(self.operation, busy, now);
        self.end(Ended::Answered, now);
    }

    /// Judges an error that came instead of an answer, with what the connection heard. A loss counts as a failure for the
    /// first who tells of it only.
    pub(super) fn failed(
        mut self,
        source: tokio_postgres::Error,
        pool: &Pool,
        ended: impl FnOnce(&Error) -> Ended,
        now: Instant,
    ) -> (Error, Verdict) {
        let words = self.lane.session.ear().last_words();
        // Other questions went out on the same connection: nobody can prove that this one did not.
        let hearing = Hearing { behind_pooler: false, unsent: false, cause: words.as_ref() };
        let (error, mut verdict) = classify::error_heard(source, Stage::Query, Phase::Sent, hearing);
        if verdict.class == ErrorClass::Heal {
            self.lane.session.forget_statements();
        }
        if verdict.connection == Connection::Destroy {
            self.lane.is_spoiled.store(true, Ordering::Release);
            self.lanes.calls.notify_one();
            if verdict.breaker == CallResult::Failure && !self.lane.is_first_to_tell() {
                (verdict.breaker, verdict.reads) = (CallResult::Neutral, None);
            } else if verdict.breaker == CallResult::Failure {
                pool.doubt();
            }
        } else {
            self.lane.move_to(now);
        }
        self.end(ended(&error), now);
        (error, verdict)
    }

    /// The time of the call is over and no answer came: what that says about the server, told once for all who share.
    pub(super) fn expired(self, on_expiry: CallResult, now: Instant) -> CallResult {
        if let Some(permit) = &self.permit {
            // A caller who gave too little time says nothing about the load.
            let is_telling = on_expiry == CallResult::Failure;
            permit.report(if is_telling { Ended::TimedOut } else { Ended::Neutral }, now);
        }
        if on_expiry == CallResult::Failure && !self.lane.is_first_to_tell() {
            return CallResult::Neutral;
        }
        on_expiry
    }

    /// The question took too long: leaves the lane in doubt, for a connection of its own with the same permit. The first
    /// to leave is the one in front, and its operation stays away from lanes for a while.
    pub(super) fn leave(mut self, now: Instant) -> Option<Permit> {
        if !self.lane.is_in_doubt() {
            self.lanes.paces.saw(self.operation, now.saturating_duration_since(self.asked_at), now);
        }
        self.permit.take()
    }

    fn end(&mut self, ended: Ended, now: Instant) {
        self.is_over = true;
        if let Some(permit) = self.permit.take() {
            permit.finish(ended, now);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            if let Some(permit) = self.permit.take() {
                self.lane.owed().push(permit);
            }
            self.lane.doubts.fetch_add(1, Ordering::AcqRel);
            self.lanes.calls.notify_one();
        }
        self.lane.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
