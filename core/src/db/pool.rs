//! The pool of one host: sessions lent while they are usable, taken back when their state is known, and destroyed or
//! handed to the reaper whenever it is in doubt.
//!
//! It retries nothing and knows no breaker.

mod expected;
mod loan;
mod manager;

use std::sync::{Arc, atomic::Ordering};

use deadpool::{
    Runtime,
    managed::{self, PoolError, QueueMode, TimeoutType, Timeouts},
};
use deadpool_postgres::ClientWrapper;
use tokio::time::{Duration, Instant, timeout};

pub(crate) use self::loan::Loan;
pub(super) use self::{
    loan::Abandoned,
    manager::{Manager, Shared},
};
use super::{
    config::PoolConfig,
    dial::{DialError, Dialler, HostTarget},
    guards::AttemptTime,
    hosts::{Role, Sighting},
    reaper::ReaperHandle,
    session::Session,
    statements::Statements,
};
use crate::{
    breaker::CallResult,
    bulkhead::Permit,
    error::{Error, ErrorClass, Phase, Stage},
};

/// How long the check of a session that has lain idle may take.
const CHECK_LIMIT: Duration = Duration::from_millis(500);
/// So many dead sessions may one checkout meet; then all that would need a check are let go, and it dials.
const STALE_MAX: usize = 3;

pub(super) type Sessions = managed::Pool<Manager>;
type Object = managed::Object<Manager>;

/// The pool of one host.
#[derive(Debug)]
pub(crate) struct Pool {
    sessions: Sessions,
    shared: Arc<Shared>,
}

/// Why no connection could be had.
#[derive(Debug)]
pub(crate) struct NoConnection {
    pub(crate) error: Error,
    pub(crate) breaker: CallResult,
}

impl Pool {
    /// A pool of at most `connections_max` to `host`; dials nothing yet. What is abandoned goes to `reaper`, which also
    /// closes what is old or idle for too long.
    pub(crate) fn new(
        host: impl Into<HostTarget>,
        config: &PoolConfig,
        connections_max: usize,
        reaper: &ReaperHandle,
    ) -> Self {
        let dialler = Dialler::new(&host.into(), config, connections_max);
        let shared = Arc::new(Shared::new(dialler, config.clone(), reaper.clone()));
        let sessions = Sessions::builder(Manager(Arc::clone(&shared)))
            .max_size(connections_max)
            // The sessions at the bottom fall idle and can be closed when there is less to do.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with a runtime can always be built");
        reaper.watch(&sessions);
        Self { sessions, shared }
    }

    /// A session to this host outside of the pool, as queries use it.
    pub(crate) fn statements<'c>(&'c self, client: &'c ClientWrapper) -> Statements<'c> {
        Statements::new(client, &self.shared.preparing)
    }

    /// Makes connections that do not belong to the pool.
    pub(crate) fn dialler(&self) -> &Dialler {
        &self.shared.dialler
    }

    /// A session that the pool does not count, made within `limit`.
    ///
    /// # Cancel safety
    /// A dropped call leaves no session behind.
    pub(crate) async fn dial_apart(&self, limit: Duration) -> Result<Session, Error> {
        // Read first: a loss that is confirmed while this dials is about this session too.
        let (epoch, doubts) = self.shared.now();
        let dialled = self.dialler().dial_known(limit).await?;
        self.shared.made(dialled, epoch, doubts).map_err(|error| error.into_error().0)
    }

    /// Whether a session of this pool, or one beside it, may be used at all: it lives, and its host was not lost since.
    pub(crate) fn is_usable(&self, session: &Session) -> bool {
        self.shared.is_usable(session)
    }

    /// A session ended by surprise: the others may have, too.
    pub(crate) fn doubt(&self) {
        self.shared.doubt();
    }

    /// Hands out a session within the time of the attempt.
    pub(crate) async fn checkout(&self, time: &AttemptTime) -> Result<Loan, NoConnection> {
        self.checkout_with(time, None, Instant::now()).await
    }

    /// As [`checkout`](Self::checkout), as of `now`, with the permit of the call: it stays taken until the session is proven
    /// idle or destroyed, also where the call is over long before.
    ///
    /// # Cancel safety
    /// A dropped call leaves neither session nor permit behind.
    pub(crate) async fn checkout_with(
        &self,
        time: &AttemptTime,
        permit: Option<Permit>,
        mut now: Instant,
    ) -> Result<Loan, NoConnection> {
        let mut stale = 0;
        loop {
            let object = self.take(time, now).await?;
            if !self.shared.needs_check(&object, now) || Box::pin(self.passes_check(&object, time)).await {
                return Ok(Loan::new(object, Arc::clone(&self.shared), permit));
            }
            drop(Object::take(object));
            stale += 1;
            if stale >= STALE_MAX {
                self.shared.doubt();
                let _ = self.sessions.retain(|session, _| !self.shared.needs_check(session, now));
            }
            now = Instant::now();
        }
    }

    /// Destroys the idle sessions, and the others when they come back: the server they led to is known to be gone. What
    /// is running on them is left alone.
    pub(crate) fn invalidate(&self) {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        self.shared.lost.notify_waiters();
        let _ = self.sessions.retain(|_, _| false);
    }

    /// From now on only sessions are used whose server was then what the prober says the host is.
    pub(crate) fn expect(&self, role: Role, sighting: Option<Sighting>) {
        self.shared.expected.set(role, sighting);
    }

    /// Sessions that exist, and those of them that are idle.
    pub(crate) fn size(&self) -> (usize, usize) {
        let status = self.sessions.status();
        (status.size, status.available)
    }

    async fn take(&self, time: &AttemptTime, now: Instant) -> Result<Object, NoConnection> {
        let left = time.deadline.remaining(now);
        let dialler = &self.shared.dialler;
        let create = Some(left.min(dialler.limit()));
        let timeouts = |wait| Timeouts { wait: Some(wait), create, recycle: None };
        let made_before = dialler.made();
        // Mostly there is one, and who need not wait needs no timer. Else boxed, as who waits can pay for it.
        let taken = match self.sessions.timeout_get(&timeouts(Duration::ZERO)).await {
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                Box::pin(async { self.sessions.timeout_get(&timeouts(left)).await }).await
            }
            at_once => at_once,
        };
        match taken {
            Ok(object) => Ok(object),
            // Others got through meanwhile, so this one only waited for its turn to dial.
            Err(PoolError::Timeout(_)) if dialler.made() != made_before => {
                Err(timed_out(left, CallResult::Neutral))
            }
            Err(error) => Err(no_connection(error, left, time.on_expiry())),
        }
    }

    /// One empty round trip, in the time there is.
    async fn passes_check(&self, object: &Object, time: &AttemptTime) -> bool {
        let limit = CHECK_LIMIT.min(time.deadline.remaining(Instant::now()));
        matches!(timeout(limit, object.check_connection()).await, Ok(Ok(())))
    }
}

fn timed_out(limit: Duration, breaker: CallResult) -> NoConnection {
    NoConnection { error: Error::Timeout { stage: Stage::Connect, phase: Phase::NotSent, limit }, breaker }
}

fn no_connection(error: PoolError<DialError>, limit: Duration, on_expiry: CallResult) -> NoConnection {
    match error {
        PoolError::Backend(DialError::Silent(_)) => timed_out(limit, on_expiry),
        PoolError::Backend(refused) => {
            let (error, breaker) = refused.into_error();
            NoConnection { error, breaker }
        }
        // All connections are in use: that says nothing about the server.
        PoolError::Timeout(TimeoutType::Wait) => timed_out(limit, CallResult::Neutral),
        PoolError::Timeout(_) => timed_out(limit, on_expiry),
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => NoConnection {
            error: Error::Database {
                stage: Stage::Connect,
                phase: Phase::NotSent,
                class: ErrorClass::Transient,
                code: None,
                cause: None,
                source: "the pool is closed".into(),
            },
            breaker: CallResult::Neutral,
        },
    }
}

#[cfg(test)]
mod tests;
