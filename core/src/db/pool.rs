//! The pool: connections handed out only while usable, and destroyed whenever their state is in doubt.
//!
//! A thin shell around deadpool-postgres. It retries nothing and knows no breaker.

use std::ops::Deref;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool as Deadpool, PoolError, RecyclingMethod, Runtime,
    TimeoutType, Timeouts,
};
use tokio::time::{Duration, Instant};
use tokio_postgres::Config;

use super::{
    classify::{self, Connection, Verdict},
    config::PoolConfig,
    dial::Dialler,
    guards::AttemptTime,
};
use crate::{
    breaker::CallResult,
    error::{Error, ErrorClass, Phase, Stage},
};

/// The pool of one database.
#[derive(Debug)]
pub(crate) struct Pool {
    connections: Deadpool,
    dialler: Dialler,
}

/// A connection on loan. Unless it is given back with [`Loan::give_back`] it is destroyed: a dropped future can leave a
/// statement running on it, and the next user must not get its answer.
#[derive(Debug)]
pub(crate) struct Loan(Option<Object>);

/// Why no connection could be had.
#[derive(Debug)]
pub(crate) struct NoConnection {
    pub(crate) error: Error,
    pub(crate) breaker: CallResult,
}

impl Pool {
    /// A pool of at most `connections_max`; dials nothing yet.
    pub(crate) fn new(target: Config, config: &PoolConfig, connections_max: usize) -> Self {
        let dialler = Dialler::new(&target, config);
        let manager = Manager::from_connect(
            target,
            dialler.clone(),
            // Liveness comes from what calls report; a ping at each checkout would cost a third of the throughput.
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let builder = Deadpool::builder(manager).max_size(connections_max).runtime(Runtime::Tokio1);
        let connections = builder.build().expect("a pool with a runtime can always be built");
        Self { connections, dialler }
    }

    /// Makes connections that do not belong to the pool.
    pub(crate) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// Hands out a connection within the time of the attempt.
    pub(crate) async fn checkout(&self, time: &AttemptTime) -> Result<Loan, NoConnection> {
        let left = time.deadline.remaining(Instant::now());
        let create = left.min(self.dialler.limit());
        let timeouts = Timeouts { wait: Some(left), create: Some(create), recycle: Some(left) };
        let made_before = self.dialler.made();
        match self.connections.timeout_get(&timeouts).await {
            Ok(object) => Ok(Loan(Some(object))),
            // Others got through meanwhile, so this one only waited for its turn to dial.
            Err(PoolError::Timeout(_)) if self.dialler.made() != made_before => {
                Err(timed_out(left, CallResult::Neutral))
            }
            Err(error) => Err(no_connection(error, left, time.on_expiry())),
        }
    }

    /// Destroys all idle connections: the server they led to is known to be gone.
    pub(crate) fn evict_idle(&self) {
        let _ = self.connections.retain(|_, _| false);
    }

    /// Connections that exist, and those of them that are idle.
    pub(crate) fn size(&self) -> (usize, usize) {
        let status = self.connections.status();
        (status.size, status.available)
    }
}

fn timed_out(limit: Duration, breaker: CallResult) -> NoConnection {
    NoConnection { error: Error::Timeout { stage: Stage::Connect, phase: Phase::NotSent, limit }, breaker }
}

fn no_connection(error: PoolError, limit: Duration, on_expiry: CallResult) -> NoConnection {
    match error {
        PoolError::Backend(source) => {
            let (error, Verdict { breaker, .. }) = classify::error(source, Stage::Connect, Phase::NotSent);
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
                source: "the pool is closed".into(),
            },
            breaker: CallResult::Neutral,
        },
    }
}

impl Loan {
    /// Gives the connection back for the next user. Only for a connection that is idle and in no transaction.
    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }

    /// Gives it back or destroys it, as the verdict on an error says.
    pub(crate) fn settle(self, verdict: Verdict) {
        if verdict.class == ErrorClass::Heal {
            self.statement_cache.clear();
        }
        if verdict.connection == Connection::Keep {
            self.give_back();
        }
    }
}

impl Deref for Loan {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.0.as_ref().expect("a loan holds its connection until it is given back")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
