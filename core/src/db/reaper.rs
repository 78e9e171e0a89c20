//! The reaper: what becomes of sessions whose user went away. It cancels what runs on them, waits for the end, and gives
//! back only what the server itself calls idle. It also closes what is old or has been idle for too long.
//!
//! Until it is done with a session, the permit of its user stays taken: the server is still busy with it.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::WeakPool;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    pool::{Abandoned, Manager, Sessions},
    session::Session,
};
use crate::drain::Draining;

/// Abandoned sessions that may wait for the reaper; more are destroyed at once.
const QUEUE: usize = 256;
/// For one session: after that it is destroyed, and the server ends the statement by its own limits.
const LIMIT: Duration = Duration::from_secs(2);
/// Looks at idle sessions this often.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// Before the first cancel request, and between it and the next.
const PATIENCE: Duration = Duration::from_millis(10);
const CANCEL_AGAIN: Duration = Duration::from_millis(250);
/// Questions to one session: a cancel request that came late may spoil one of them.
const QUESTIONS_MAX: usize = 3;

/// Takes care of abandoned, old and idle sessions until the drain. Made by [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without the reaper every abandoned connection is destroyed, and none is closed for its age"]
pub struct Reaper {
    abandoned: mpsc::Receiver<Abandoned>,
    watched: Arc<Watched>,
}

/// The way to the reaper. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ReaperHandle {
    abandoned: mpsc::Sender<Abandoned>,
    watched: Arc<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Somebody runs the reaper; else a session given to it would never come back.
    is_running: AtomicBool,
    pools: Mutex<Vec<WeakPool<Manager>>>,
}

impl ReaperHandle {
    /// Takes over an abandoned session, or hands it back where the reaper does not run or has too much to do.
    pub(super) fn take_over(&self, abandoned: Abandoned) -> Option<Abandoned> {
        if !self.watched.is_running.load(Ordering::Acquire) {
            return Some(abandoned);
        }
        self.abandoned.try_send(abandoned).err().map(|refused| match refused {
            mpsc::error::TrySendError::Full(abandoned) | mpsc::error::TrySendError::Closed(abandoned) => {
                abandoned
            }
        })
    }

    /// The sessions of this pool are to be closed when they are old or idle for long.
    pub(super) fn watch(&self, pool: &Sessions) {
        self.watched.pools().push(pool.weak());
    }
}

impl Watched {
    fn pools(&self) -> std::sync::MutexGuard<'_, Vec<WeakPool<Manager>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reaper {
    /// A reaper and the way to it. It holds no pool alive.
    pub(super) fn new() -> (ReaperHandle, Self) {
        let (sender, abandoned) = mpsc::channel(QUEUE);
        let watched = Arc::new(Watched::default());
        (ReaperHandle { abandoned: sender, watched: Arc::clone(&watched) }, Self { abandoned, watched })
    }

    /// Works until the drain begins; what is abandoned later is destroyed at once.
    ///
    /// # Cancel safety
    /// Dropping it destroys the sessions it was busy with.
    pub async fn run(mut self, mut draining: Draining) {
        self.watched.is_running.store(true, Ordering::Release);
        let mut in_hand = FuturesUnordered::new();
        let mut tending = interval(TEND_EVERY);
        tending.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(abandoned) = self.abandoned.recv() => in_hand.push(settle(abandoned)),
                Some(()) = in_hand.next(), if !in_hand.is_empty() => {}
                now = tending.tick() => self.tend(now),
                () = draining.requested() => return,
            }
        }
    }

    /// Closes what is old or has been idle for long, a few at a time, and lets go of what ended while it was idle: that
    /// would be found out only when it is to be lent, and counted as a connection until then.
    fn tend(&self, now: Instant) {
        self.watched.pools().retain(|pool| {
            let Some(pool) = pool.upgrade() else { return false };
            let _ = pool.retain(|session, _| pool.manager().shared().is_usable(session));
            let mut idle = pool.status().available;
            let _ = pool.retain(|session, _| {
                // One stays warm, unless it is old.
                let spare = idle > 1 || now >= session.retire_at;
                let close = spare && pool.manager().shared().should_close(session, now);
                idle -= usize::from(close);
                !close
            });
            true
        });
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.watched.is_running.store(false, Ordering::Release);
        // A sender that saw it running a moment ago must not leave a session here for ever.
        self.abandoned.close();
        while let Ok(abandoned) = self.abandoned.try_recv() {
            abandoned.destroy();
        }
    }
}

/// Brings one session to an end that is known: proven idle, or destroyed.
async fn settle(abandoned: Abandoned) {
    // Created first, so that a loss confirmed from here on is not missed.
    let shared = Arc::clone(abandoned.shared());
    let lost = shared.lost.notified();
    let is_idle = tokio::select! {
        proven = timeout(LIMIT, prove_idle(&abandoned)) => proven.unwrap_or(false),
        () = lost => false,
    };
    if is_idle { abandoned.give_back() } else { abandoned.destroy() }
}

/// Ends what runs on the session and asks until the server says that it is idle; `false` where it does not.
async fn prove_idle(abandoned: &Abandoned) -> bool {
    let session = abandoned.session();
    for _ in 0..QUESTIONS_MAX {
        let Some(answer) = answered(abandoned, pin!(ask(session))).await else { return false };
        match answer {
            Ok(()) if session.ear().is_idle() => return true,
            Ok(()) => {}
            // The cancel request came late and met the question instead.
            Err(error) if error.code().is_some_and(|code| code.code() == "57014") => {}
            Err(_) => return false,
        }
    }
    false
}

/// Waits for the answer to the question, and cancels what stands before it. What is over by itself in a moment is not
/// worth a cancel request; what was still on its way to the server when its user left is met by the next one. `None` where
/// a cancel request may still be under way: it could meet the statement of the next user.
async fn answered<T>(abandoned: &Abandoned, mut asking: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut patience = PATIENCE;
    loop {
        if let Ok(answer) = timeout(patience, asking.as_mut()).await {
            return Some(answer);
        }
        // COMMIT is never cancelled: interrupted while it waits for a standby, it has happened all the same.
        if !abandoned.is_committing && !abandoned.shared().dialler.cancel(abandoned.session().ear()).await {
            return None;
        }
        patience = CANCEL_AGAIN;
    }
}

/// The driver answers in order, so the answer comes after everything that the last user had asked.
async fn ask(session: &Session) -> Result<(), tokio_postgres::Error> {
    let is_quiet = !session.ear().is_busy();
    let question = if is_quiet && session.ear().is_in_transaction() { "ROLLBACK" } else { "" };
    session.simple_query(question).await.map(drop)
}

#[cfg(test)]
mod tests;
