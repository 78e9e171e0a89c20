//! What all sessions of a pool share, and the rules by which one is usable, in need of a check, or at its end.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::{sync::Notify, time::Instant};

use super::expected::Expected;
use crate::db::{
    config::PoolConfig,
    dial::{DialError, Dialler},
    reaper::ReaperHandle,
    session::{Dialled, Life, Session},
    statements::Preparing,
};

/// Old sessions of a pool are closed no faster than one in this time: each is a dial later.
const CLOSE_EVERY: Duration = Duration::from_millis(500);

/// What belongs to the pool rather than to one session.
#[derive(Debug)]
pub(in crate::db) struct Shared {
    pub(in crate::db) dialler: Dialler,
    pub(in crate::db) reaper: ReaperHandle,
    pub(super) preparing: Preparing,
    config: PoolConfig,
    /// Confirmed losses of the host. Sessions of an older epoch are not used again.
    pub(super) epoch: AtomicU64,
    /// Sessions of this host that ended by surprise. Those that have not answered since are checked first.
    doubts: AtomicU64,
    /// The host was lost: nothing more is expected of its sessions.
    pub(in crate::db) lost: Notify,
    closed_at: Mutex<Option<Instant>>,
    /// What the server behind each session must be.
    pub(super) expected: Expected,
}

/// Makes and judges sessions on behalf of the pool.
#[derive(Debug)]
pub(in crate::db) struct Manager(pub(super) Arc<Shared>);

impl Shared {
    pub(super) fn new(dialler: Dialler, config: PoolConfig, reaper: ReaperHandle) -> Self {
        Self {
            dialler,
            reaper,
            preparing: Preparing::new(&config),
            config,
            epoch: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            lost: Notify::new(),
            closed_at: Mutex::new(None),
            expected: Expected::default(),
        }
    }

    /// Confirmed losses and doubts so far, for a session that is about to be made.
    pub(super) fn now(&self) -> (u64, u64) {
        (self.epoch.load(Ordering::Acquire), self.doubts.load(Ordering::Acquire))
    }

    /// How long a new session is to live.
    fn life(&self) -> Life {
        Life::drawn(&self.config, self.dialler.random())
    }

    /// A session, unless it leads elsewhere: the host's name may stand for several servers, or for another one than a moment
    /// ago.
    pub(super) fn made(&self, dialled: Dialled, epoch: u64, doubts: u64) -> Result<Session, DialError> {
        if !self.expected.fits(&dialled.identity) {
            return Err(DialError::Elsewhere);
        }
        Ok(dialled.into_session(epoch, doubts, Instant::now(), self.life()))
    }

    /// Whether it may be used at all.
    pub(in crate::db) fn is_usable(&self, session: &Session) -> bool {
        !session.is_closed()
            && session.epoch >= self.epoch.load(Ordering::Acquire)
            && self.expected.fits(session.identity())
    }

    /// Whether it must answer before it is used: it lay idle for long, or another one ended by surprise since.
    pub(super) fn needs_check(&self, session: &Session, now: Instant) -> bool {
        session.doubts != self.doubts.load(Ordering::Acquire)
            || now.saturating_duration_since(session.idle_since) >= self.config.check_after
    }

    /// A session ended by surprise: the others may have, too.
    pub(super) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// It has just answered.
    pub(super) fn vouch(&self, session: &mut Session, now: Instant) {
        session.idle_since = now;
        session.doubts = self.doubts.load(Ordering::Acquire);
    }

    /// Whether the session should be closed now: it is old, or idle for long, and none was closed just before.
    pub(in crate::db) fn should_close(&self, session: &Session, now: Instant) -> bool {
        let idle = now.saturating_duration_since(session.idle_since);
        if now < session.retire_at && idle < session.idle_max {
            return false;
        }
        let mut closed_at = self.closed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if closed_at.is_some_and(|at| now.saturating_duration_since(at) < CLOSE_EVERY) {
            return false;
        }
        *closed_at = Some(now);
        true
    }
}

impl Manager {
    pub(in crate::db) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl managed::Manager for Manager {
    /// Boxed, because the pool moves it a dozen times for each checkout.
    type Type = Box<Session>;
    type Error = DialError;

    async fn create(&self) -> Result<Box<Session>, DialError> {
        // Read first: a loss that is confirmed while this dials is about this session too.
        let (epoch, doubts) = self.0.now();
        // Boxed: a dial can pay for it, and every checkout would carry the weight of greeting a server.
        let dialled = Box::pin(self.0.dialler.dial_paced()).await?;
        self.0.made(dialled, epoch, doubts).map(Box::new)
    }

    /// Costs no round trip: liveness comes from what calls report; a check at each checkout would cost a third of the
    /// throughput.
    async fn recycle(&self, session: &mut Box<Session>, _: &Metrics) -> RecycleResult<DialError> {
        if self.0.is_usable(session) {
            return Ok(());
        }
        Err(RecycleError::message("the session ended, or its host was lost"))
    }
}
