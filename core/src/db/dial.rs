//! Making connections: one way for the pool, the prober and migrations. Bounded, a few at a time, host by host.
//!
//! It keeps no connection and retries nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Connect;
use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::{classify, config::PoolConfig};
use crate::{
    error::{Error, Phase, Stage},
    metrics,
};

/// A peer that vanished is noticed within half a minute also where nobody waits for it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

type Connected = (Client, JoinHandle<()>);

/// Makes connections. Clones share what it has learned.
#[derive(Debug, Clone)]
pub(crate) struct Dialler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// One for each host of the URL. The driver would try them in order on every connect, and with a first host that
    /// swallows packets never come to the second.
    hosts: Vec<Config>,
    /// The host that answered last; asked first.
    preferred: AtomicUsize,
    limit: Duration,
    session: String,
    /// Connections of the pool that may be in the making at once.
    dials: Semaphore,
    /// How many were made since the start.
    made: AtomicU64,
}

impl Dialler {
    pub(super) fn new(target: &Config, config: &PoolConfig) -> Self {
        let hosts: Vec<Config> =
            single_hosts(target).into_iter().map(|host| prepared(host, config)).collect();
        Self(Arc::new(Shared {
            hosts,
            preferred: AtomicUsize::new(0),
            limit: config.connect,
            session: session_settings(config),
            dials: Semaphore::new(config.dials),
            made: AtomicU64::new(0),
        }))
    }

    /// The bound on making one connection.
    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }

    /// Connections made since the start: proof of a living server.
    pub(super) fn made(&self) -> u64 {
        self.0.made.load(Ordering::Relaxed)
    }

    /// A connection of its own within `limit`, with the session settings of the pool. It does not queue up behind the
    /// pool's: the prober must be heard when everybody dials.
    pub(super) async fn dial(&self, limit: Duration) -> Result<Connected, Error> {
        let limit = limit.min(self.0.limit);
        match timeout(limit, self.any_host(limit)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(Some(source))) => Err(classify::error(source, Stage::Connect, Phase::NotSent).0),
            Ok(Err(None)) | Err(_) => {
                Err(Error::Timeout { stage: Stage::Connect, phase: Phase::NotSent, limit })
            }
        }
    }

    /// Tries the hosts, the preferred one first, each for its share of `limit`. `None` where all were silent.
    async fn any_host(&self, limit: Duration) -> Result<Connected, Option<tokio_postgres::Error>> {
        let hosts = self.0.hosts.len().max(1);
        let share = limit / u32::try_from(hosts).unwrap_or(u32::MAX);
        let first = self.0.preferred.load(Ordering::Relaxed);
        let mut refused = None;
        for index in (0..hosts).map(|offset| (first + offset) % hosts) {
            let Some(host) = self.0.hosts.get(index) else { continue };
            match timeout(share, self.handshake(host)).await {
                Ok(Ok(connected)) => {
                    self.0.preferred.store(index, Ordering::Relaxed);
                    self.0.made.fetch_add(1, Ordering::Relaxed);
                    metrics::connect_attempt("ok");
                    return Ok(connected);
                }
                Ok(Err(error)) => {
                    metrics::connect_attempt("failed");
                    refused = Some(error);
                }
                Err(_) => metrics::connect_attempt("timeout"),
            }
        }
        Err(refused)
    }

    /// Connects, authenticates, sets up the session; logs the connection's own end, whose last words are often the only
    /// place that says why.
    async fn handshake(&self, host: &Config) -> Result<Connected, tokio_postgres::Error> {
        let (client, connection) = host.connect(NoTls).await?;
        let driver = AbortOnDrop(Some(tokio::spawn(async move {
            if let Err(error) = connection.await {
                let code = error.code().map(|code| code.code().to_owned());
                tracing::debug!(code, "a database connection ended");
            }
        })));
        client.batch_execute(&self.0.session).await?;
        Ok((client, driver.disarm()))
    }
}

/// What the pool calls for a new connection, inside the pool's own time limit.
impl Connect for Dialler {
    fn connect(&self, _target: &Config) -> BoxFuture<'_, Result<Connected, tokio_postgres::Error>> {
        Box::pin(async move {
            let _place = self.0.dials.acquire().await;
            match self.any_host(self.0.limit).await {
                Ok(connected) => Ok(connected),
                Err(Some(refused)) => Err(refused),
                // All were silent, for as long as the pool waits or longer: its own time limit ends this.
                Err(None) => std::future::pending().await,
            }
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

/// The target split into one configuration for each of its hosts.
fn single_hosts(target: &Config) -> Vec<Config> {
    let (names, addresses, ports) = (target.get_hosts(), target.get_hostaddrs(), target.get_ports());
    let count = names.len().max(addresses.len());
    if count < 2 {
        return vec![target.clone()];
    }
    (0..count)
        .map(|index| {
            let mut one = without_hosts(target);
            match names.get(index) {
                Some(tokio_postgres::config::Host::Tcp(name)) => one.host(name),
                #[cfg(unix)]
                Some(tokio_postgres::config::Host::Unix(path)) => one.host_path(path),
                None => &mut one,
            };
            if let Some(address) = addresses.get(index) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(index).or_else(|| ports.first()) {
                one.port(*port);
            }
            one
        })
        .collect()
}

fn without_hosts(target: &Config) -> Config {
    let mut copy = Config::new();
    if let Some(user) = target.get_user() {
        copy.user(user);
    }
    if let Some(password) = target.get_password() {
        copy.password(password);
    }
    if let Some(name) = target.get_dbname() {
        copy.dbname(name);
    }
    if let Some(options) = target.get_options() {
        copy.options(options);
    }
    if let Some(name) = target.get_application_name() {
        copy.application_name(name);
    }
    copy.ssl_mode(target.get_ssl_mode())
        .target_session_attrs(target.get_target_session_attrs())
        .channel_binding(target.get_channel_binding());
    copy
}

fn prepared(mut host: Config, config: &PoolConfig) -> Config {
    host.connect_timeout(config.connect)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_PROBES)
        .tcp_user_timeout(TCP_USER_TIMEOUT);
    if host.get_application_name().is_none() {
        host.application_name("ridethrough");
    }
    host
}

/// One message that sets what this server knows: `client_connection_check_interval` came with version 14.
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
    // Replay lets go of an entry when its COMMIT is answered, so that answer must mean that it is on disk.
    format!(
        "SELECT set_config(name, wanted, false) FROM (VALUES {}) AS wish(name, wanted) \
         WHERE name IN (SELECT name FROM pg_settings); \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'",
        values.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_gets_a_configuration_of_its_own() {
        let target: Config =
            "postgres://app:secret@one:5431,two:5432/todos?target_session_attrs=read-write".parse().unwrap();
        let hosts = single_hosts(&target);
        let ports: Vec<&[u16]> = hosts.iter().map(Config::get_ports).collect();
        assert_eq!(ports, [[5431], [5432]]);
        for host in hosts {
            assert_eq!(
                (host.get_hosts().len(), host.get_user(), host.get_dbname()),
                (1, Some("app"), Some("todos"))
            );
            assert_eq!(host.get_target_session_attrs(), target.get_target_session_attrs());
            assert_eq!(host.get_password(), target.get_password());
        }
    }

    /// The driver tries hosts in order on every connect: with a first host that accepts and then says nothing, every
    /// connect ended there, and the second one, which was well, was never asked.
    #[tokio::test]
    async fn a_silent_first_host_does_not_hide_the_second() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ports = [&silent, &asked].map(|listener| listener.local_addr().unwrap().port());
        let url = format!("postgres://app@127.0.0.1:{},127.0.0.1:{}/todos", ports[0], ports[1]);
        let dialler = Dialler::new(&url.parse().unwrap(), &PoolConfig::default());
        let dialling =
            tokio::spawn(async move { dialler.dial(Duration::from_millis(300)).await.map(|_| ()) });
        let reached = timeout(Duration::from_secs(5), asked.accept()).await;
        assert!(reached.is_ok(), "the second host was never asked");
        assert!(dialling.await.unwrap().is_err());
    }
}
