//! Making connections: one way for the pool, the prober and migrations. Every step is bounded, and the pool's dials are
//! paced.
//!
//! It keeps no connection and retries nothing.

mod pace;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_postgres::{
    Client, Config,
    config::{SslMode, SslNegotiation},
};

use self::pace::{DialEnd, Pacer, Turn};
use super::{
    classify::{self, Connection, Verdict},
    config::{PoolConfig, Pooler},
    connector::{BoxStream, Connector, HostAddress},
    session::{Dialled, Ear, OnNotice, Setup},
    tls::{self, Tls},
};
use crate::{
    breaker::CallResult,
    error::{Error, ErrorClass, Evidence, Phase, RejectReason, Stage},
    metrics,
    sabotage::{self, Bug},
};

/// One cancel request, its own connection included.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);
/// Cancel requests of one host in progress; each is a connection of its own to a server that may be short of them.
const CANCELS_AT_ONCE: usize = 4;
/// Of the planted bug; longer than any process of a test lives.
const FOR_EVER: Duration = Duration::from_secs(86_400);

type Connected = (Client, JoinHandle<()>);

/// One host of the database, as a pool is made for it.
#[derive(Debug, Clone)]
pub(crate) struct HostTarget {
    /// How to reach it and as whom.
    pub(crate) config: Config,
    /// Its place in the URL, from 0.
    pub(crate) index: usize,
}

impl From<Config> for HostTarget {
    fn from(config: Config) -> Self {
        Self { config, index: 0 }
    }
}

/// Makes connections. Clones share what it has learned.
#[derive(Debug, Clone)]
pub(crate) struct Dialler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: Endpoint,
    limit: Duration,
    setup: Setup,
    connector: Arc<dyn Connector>,
    tls: Tls,
    pacer: Mutex<Paced>,
    /// A dial of the pool has ended.
    freed: Notify,
    cancels: Semaphore,
    can_cancel: bool,
    /// How many were made since the start.
    made: AtomicU64,
}

#[derive(Debug)]
struct Paced {
    pacer: Pacer,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Endpoint {
    config: Config,
    address: Option<HostAddress>,
    index: usize,
    /// TLS from the first byte on, without asking for it first.
    is_direct: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The driver's error: the server refused, or the connection broke while it was set up.
    #[error(transparent)]
    Driver(#[from] tokio_postgres::Error),
    /// No stream of bytes, or no TLS on it.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// No answer within this time.
    #[error("the host did not answer")]
    Silent(Duration),
    /// The server behind the host's name is not the one that the prober knows there.
    #[error("the connection led to another server than the host's")]
    Elsewhere,
    /// Dialling fails, and it is not yet time for another dial.
    #[error("the host did not answer lately; the next dial is due in {} ms", .0.as_millis())]
    NotYet(Duration),
}

impl DialError {
    /// The error for the caller, and what it says about the server.
    pub(super) fn into_error(self) -> (Error, CallResult) {
        let is = |class, breaker, source: Self| {
            let (stage, phase) = (Stage::Connect, Phase::NotSent);
            (
                Error::Database { stage, phase, class, code: None, cause: None, source: Box::new(source) },
                breaker,
            )
        };
        match self {
            Self::Driver(source) => {
                let (error, verdict) = classify::error(source, Stage::Connect, Phase::NotSent);
                let Verdict { breaker, connection: Connection::Destroy | Connection::Keep, .. } = verdict;
                (error, breaker)
            }
            Self::Silent(limit) => {
                let error = Error::Timeout { stage: Stage::Connect, phase: Phase::NotSent, limit };
                (error, CallResult::Failure)
            }
            // Nobody was asked, so it is no attempt: it costs no retry, and says nothing about the host.
            Self::NotYet(retry_after) => {
                let because = "dials to the host failed";
                let evidence = Some(Evidence { state: "waiting", since: None, because });
                let reason = RejectReason::BreakerOpen;
                (Error::Rejected { reason, retry_after, evidence }, CallResult::Neutral)
            }
            Self::Stream(ref refused) if tls::is_distrust(refused) => {
                is(ErrorClass::Permanent, CallResult::Failure, self)
            }
            Self::Elsewhere => is(ErrorClass::Failover, CallResult::Neutral, self),
            Self::Stream(_) => is(ErrorClass::Transient, CallResult::Failure, self),
        }
    }

    fn is_full(&self) -> bool {
        matches!(self, Self::Driver(error) if error.code().is_some_and(|code| code.code() == "53300"))
    }
}

impl Dialler {
    /// Dials nothing yet. `pool` is the size of the pool whose dials are paced.
    pub(super) fn new(target: &HostTarget, config: &PoolConfig, pool: usize) -> Self {
        let host = Endpoint {
            address: HostAddress::of(&target.config),
            is_direct: target.config.get_ssl_negotiation() == SslNegotiation::Direct,
            config: prepared(target.config.clone()),
            index: target.index,
        };
        Self(Arc::new(Shared {
            host,
            limit: if sabotage::planted(Bug::NoConnectDeadline) { FOR_EVER } else { config.connect },
            setup: Setup::new(config),
            connector: config.connector.connector(),
            // Nobody who asked for TLS is served without it because somebody forgot to pass it on.
            tls: match target.config.get_ssl_mode() {
                SslMode::Require => config.tls.demanded(),
                _ => config.tls.clone(),
            },
            pacer: Mutex::new(Paced { pacer: Pacer::new(pool, config.dials), random: fastrand::Rng::new() }),
            freed: Notify::new(),
            cancels: Semaphore::new(CANCELS_AT_ONCE),
            can_cancel: config.pooler == Pooler::None,
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
        self.dial_known(limit).await.map(Dialled::into_parts)
    }

    /// As [`dial`](Self::dial), with what the host said of itself and the ear on the connection.
    pub(super) async fn dial_known(&self, limit: Duration) -> Result<Dialled, Error> {
        self.dial_hearing(limit, None).await
    }

    /// As [`dial_known`](Self::dial_known), for a session that listens.
    pub(super) async fn dial_listening(&self, on_notice: OnNotice) -> Result<Dialled, Error> {
        self.dial_hearing(self.0.limit, Some(on_notice)).await
    }

    async fn dial_hearing(&self, limit: Duration, on_notice: Option<OnNotice>) -> Result<Dialled, Error> {
        let limit = match sabotage::planted(Bug::NoConnectDeadline) {
            true => self.0.limit,
            false => limit.min(self.0.limit),
        };
        let dialled = timeout(limit, self.connected(on_notice)).await;
        let dialled = dialled.unwrap_or(Err(DialError::Silent(limit)));
        count(&dialled);
        if dialled.is_ok() {
            self.paced().pacer.host_is_well();
            self.0.freed.notify_waiters();
        }
        dialled.map_err(|error| error.into_error().0)
    }

    /// A connection for the pool, when it is its turn.
    pub(super) async fn dial_paced(&self) -> Result<Dialled, DialError> {
        let dialling = self.turn().await?;
        let limit = self.0.limit;
        let dialled = timeout(limit, self.connected(None)).await.unwrap_or(Err(DialError::Silent(limit)));
        count(&dialled);
        dialling.ended(match &dialled {
            Ok(_) => DialEnd::Made,
            Err(error) if error.is_full() => DialEnd::Full,
            Err(_) => DialEnd::Failed,
        });
        dialled
    }

    /// Lets the pool make at most `limit` connections at once while the host recovers; `None` lifts that.
    pub(crate) fn set_dial_limit(&self, limit: Option<usize>) {
        self.paced().pacer.set_ramp(limit);
        self.0.freed.notify_waiters();
    }

    /// A random number from 0 to 1.
    pub(super) fn random(&self) -> f64 {
        self.paced().random.f64()
    }

    /// Whether a cancel request finds its way: a pooler would have to know which of its connections is meant.
    pub(super) fn can_cancel(&self) -> bool {
        self.0.can_cancel
    }

    /// Asks the server to give up what runs on the session of `ear`, and waits until the request has had its effect;
    /// `false` where that is not known.
    pub(super) async fn cancel(&self, ear: &Ear) -> bool {
        let Some(key) = ear.cancel_key().filter(|_| self.0.can_cancel) else { return false };
        let asked = async {
            let _place = self.0.cancels.acquire().await;
            let (mut stream, _) = self.stream().await?;
            // Length, the number that stands for "cancel", process and secret.
            stream.write_all(&[0, 0, 0, 16, 4, 210, 22, 46]).await?;
            stream.write_all(&key).await?;
            stream.flush().await?;
            // The server closes once the signal was sent. Without waiting for that, it could hit the next statement.
            match stream.read(&mut [0]).await {
                Ok(ended) => Ok(ended == 0),
                // It closed without a goodbye of TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
                Err(error) => Err(error),
            }
        };
        matches!(timeout(CANCEL_LIMIT, asked).await, Ok(Ok(true)))
    }

    async fn connected(&self, on_notice: Option<OnNotice>) -> Result<Dialled, DialError> {
        let host = &self.0.host;
        let stream = self.stream().await?;
        let dialled = Dialled::greet(stream, host.index, &host.config, &self.0.setup, on_notice).await?;
        self.0.made.fetch_add(1, Ordering::Relaxed);
        Ok(dialled)
    }

    /// A stream to the host, inside TLS where it should be, with the digest of the certificate.
    async fn stream(&self) -> io::Result<(BoxStream, Option<Vec<u8>>)> {
        let host = &self.0.host;
        let address = host.address.as_ref();
        let address = address.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no host is named"))?;
        let stream = self.0.connector.connect(address).await?;
        match address {
            // Nobody listens in between.
            HostAddress::Unix { .. } => Ok((stream, None)),
            HostAddress::Tcp { name, .. } => self.0.tls.secured(stream, name, host.is_direct).await,
        }
    }

    /// Waits for the turn to dial.
    async fn turn(&self) -> Result<Dialling<'_>, DialError> {
        loop {
            let freed = self.0.freed.notified();
            let now = Instant::now();
            let turn = self.paced().pacer.ask(now);
            match turn {
                Turn::Dial => return Ok(Dialling { dialler: self, since: now, is_over: false }),
                Turn::Refused(after) => return Err(DialError::NotYet(after)),
                Turn::Wait(None) => freed.await,
                Turn::Wait(Some(at)) => tokio::select! {
                    () = freed => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    fn paced(&self) -> std::sync::MutexGuard<'_, Paced> {
        self.0.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(dialled: &Result<Dialled, DialError>) {
    metrics::connect_attempt(match dialled {
        Ok(_) => "ok",
        Err(DialError::Silent(_)) => "timeout",
        Err(_) => "failed",
    });
}

/// A dial of the pool in progress; one that is dropped half-way is reported too.
struct Dialling<'a> {
    dialler: &'a Dialler,
    since: Instant,
    is_over: bool,
}

impl Dialling<'_> {
    fn ended(mut self, end: DialEnd) {
        self.report(end);
    }

    fn report(&mut self, end: DialEnd) {
        self.is_over = true;
        let mut paced = self.dialler.paced();
        let Paced { pacer, random } = &mut *paced;
        pacer.ended(end, self.since, Instant::now(), random);
        drop(paced);
        self.dialler.0.freed.notify_waiters();
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.report(DialEnd::Dropped);
        }
    }
}

/// The target split into one configuration for each of its hosts.
pub(super) fn single_hosts(target: &Config) -> Vec<Config> {
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
        .ssl_negotiation(target.get_ssl_negotiation())
        .channel_binding(target.get_channel_binding());
    copy
}

/// TLS is settled before the driver sees the stream; "direct" keeps it from asking the server for it once more.
fn prepared(mut host: Config) -> Config {
    host.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    if host.get_application_name().is_none() {
        host.application_name("ridethrough");
    }
    host
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

    /// A dial that was not made looked like a failed attempt, and each took a retry out of the budget.
    #[test]
    fn a_dial_that_is_not_due_is_a_rejection() {
        let wait = Duration::from_millis(70);
        let (error, breaker) = DialError::NotYet(wait).into_error();
        assert!(error.is_rejection());
        assert_eq!((error.retry_after(), breaker), (Some(wait), CallResult::Neutral));
        assert!(error.explain().unwrap().to_string().contains("dials to the host failed"));
    }
}
