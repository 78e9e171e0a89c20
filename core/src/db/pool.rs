//! Connections: made within a bound, handed out only while usable, destroyed whenever their state is in doubt.
//!
//! A thin shell around deadpool-postgres. It retries nothing and knows no breaker.

use std::{ops::Deref, sync::Arc};

use deadpool_postgres::{
    ClientWrapper, Connect, Manager, ManagerConfig, Object, Pool as Deadpool, PoolError, RecyclingMethod,
    Runtime, TimeoutType, Timeouts,
};
use futures_util::future::BoxFuture;
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, Config, NoTls};

use super::{
    classify::{self, Connection, Verdict},
    config::PoolConfig,
};
use crate::{
    breaker::CallResult,
    deadline::Deadline,
    error::{Error, ErrorClass, Phase, Stage},
    metrics,
};

/// A peer that vanished is noticed within half a minute also where nobody waits for it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The pool of one database.
#[derive(Debug)]
pub(crate) struct Pool {
    connections: Deadpool,
    dialler: Dialler,
}

/// Makes connections the same way for the pool, the prober and migrations.
#[derive(Debug, Clone)]
pub(crate) struct Dialler {
    target: Arc<Config>,
    limit: Duration,
    session: Arc<str>,
    /// Connections of the pool that may be in the making at once.
    dials: Arc<Semaphore>,
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
        let dialler = Dialler::new(target, config);
        let manager = Manager::from_connect(
            Config::clone(&dialler.target),
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

    /// Hands out a connection before `deadline`.
    pub(crate) async fn checkout(&self, deadline: Deadline) -> Result<Loan, NoConnection> {
        let left = deadline.remaining(Instant::now());
        let create = left.min(self.dialler.limit);
        let timeouts = Timeouts { wait: Some(left), create: Some(create), recycle: Some(left) };
        match self.connections.timeout_get(&timeouts).await {
            Ok(object) => Ok(Loan(Some(object))),
            Err(error) => Err(no_connection(error, left)),
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

fn no_connection(error: PoolError, limit: Duration) -> NoConnection {
    let timed_out = |breaker| NoConnection {
        error: Error::Timeout { stage: Stage::Connect, phase: Phase::NotSent, limit },
        breaker,
    };
    match error {
        PoolError::Backend(source) => {
            let (error, Verdict { breaker, .. }) = classify::error(source, Stage::Connect, Phase::NotSent);
            NoConnection { error, breaker }
        }
        // All connections are in use: that says nothing about the server.
        PoolError::Timeout(TimeoutType::Wait) => timed_out(CallResult::Neutral),
        PoolError::Timeout(_) => timed_out(CallResult::Failure),
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

impl Dialler {
    fn new(mut target: Config, config: &PoolConfig) -> Self {
        target
            .connect_timeout(config.connect)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_PROBES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        if target.get_application_name().is_none() {
            target.application_name("ridethrough");
        }
        Self {
            target: Arc::new(target),
            limit: config.connect,
            session: session_settings(config).into(),
            dials: Arc::new(Semaphore::new(config.dials)),
        }
    }

    /// A connection of its own within `limit`, with the session settings of the pool. It does not queue up behind the
    /// pool's: the prober must be heard when everybody dials.
    pub(crate) async fn dial(&self, limit: Duration) -> Result<(Client, JoinHandle<()>), Error> {
        let limit = limit.min(self.limit);
        match tokio::time::timeout(limit, self.handshake(&self.target)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(source)) => Err(classify::error(source, Stage::Connect, Phase::NotSent).0),
            Err(_) => Err(Error::Timeout { stage: Stage::Connect, phase: Phase::NotSent, limit }),
        }
    }

    /// Connects, authenticates, sets up the session; logs the connection's own end, whose last words are often the only
    /// place that says why.
    async fn handshake(&self, target: &Config) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let shaken = async {
            let (client, connection) = target.connect(NoTls).await?;
            let driver = AbortOnDrop(Some(tokio::spawn(async move {
                if let Err(error) = connection.await {
                    let code = error.code().map(|code| code.code().to_owned());
                    tracing::debug!(code, "a database connection ended");
                }
            })));
            client.batch_execute(&self.session).await?;
            Ok((client, driver.disarm()))
        };
        let shaken = shaken.await;
        metrics::connect_attempt(if shaken.is_ok() { "ok" } else { "failed" });
        shaken
    }
}

/// What the pool calls for a new connection, inside the pool's own time limit.
impl Connect for Dialler {
    fn connect(
        &self,
        target: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let target = target.clone();
        Box::pin(async move {
            let _place = self.dials.acquire().await;
            self.handshake(&target).await
        })
    }
}

/// Ends the connection's task where the connecting future is dropped half-way.
struct AbortOnDrop(Option<JoinHandle<()>>);

impl AbortOnDrop {
    fn disarm(mut self) -> JoinHandle<()> {
        self.0.take().expect("disarmed once")
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// One statement that sets what this server knows: `client_connection_check_interval` came with version 14.
fn session_settings(config: &PoolConfig) -> String {
    let settings = [
        ("statement_timeout", config.statement),
        ("lock_timeout", config.lock),
        ("idle_in_transaction_session_timeout", config.idle_in_transaction),
        // A server notices that nobody waits for the answer any more, and stops working for it.
        ("client_connection_check_interval", Duration::from_secs(1)),
    ];
    let values: Vec<String> =
        settings.iter().map(|(name, limit)| format!("('{name}', '{}')", limit.as_millis())).collect();
    format!(
        "SELECT set_config(name, wanted, false) FROM (VALUES {}) AS wish(name, wanted) \
         WHERE name IN (SELECT name FROM pg_settings)",
        values.join(", ")
    )
}
