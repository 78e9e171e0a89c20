//! One proxy: a listener, its upstream, and a connection to it for each that is accepted. What happens to the bytes is
//! decided by its toxics.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::toxic::address::{self, AddressError, Reach};
use crate::toxic::chain::{PutOn, Toxics};
use crate::toxic::kind::Toxic;
use crate::toxic::link::{self, Flow, Flows};
use crate::toxic::pipeline::{Identity, mix};

/// Connections of one proxy at a time; each holds two sockets and up to 2 MiB. Further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1_000;
/// An upstream that does not answer is given up after this, and the client's connection closed.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Accepting fails when the process is out of file descriptors; trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a proxy cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// An address cannot be used.
    #[error("listen tcp: {0}")]
    Address(#[from] AddressError),
    /// The system does not let it listen there.
    #[error("listen tcp {address}: {}", refusal(source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// In the words that clients of toxiproxy know.
fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        _ => format!("bind: {error}"),
    }
}

impl From<ProxyError> for Error {
    fn from(error: ProxyError) -> Self {
        Self::state("open a proxy", error.to_string())
    }
}

/// What a proxy is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name, which also takes part in its random numbers.
    pub name: String,
    /// `host:port`; port 0 is a free one. Empty is a free port of 127.0.0.1.
    pub listen: String,
    /// `host:port`, looked up for each connection.
    pub upstream: String,
    /// Fixes jitter, slices and which connections a toxicity below 1 meets, for the same sequence of connections.
    pub seed: u64,
    /// How far away both addresses may be. Default the loopback.
    pub reach: Reach,
}

/// A proxy, listening or not. When it is dropped its listener and all its connections are closed.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    line: Arc<Line>,
    running: Option<Running>,
}

/// What the connections of a proxy share.
#[derive(Debug)]
struct Line {
    seed: u64,
    toxics: Toxics,
    flows: Flows,
    accepted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    /// Ends the task when it is dropped.
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

/// What a proxy has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Of those, the ones that were closed because the upstream could not be reached.
    pub refused: u64,
    /// From the clients to the upstream.
    pub upstream: Carried,
    /// From the upstream to the clients.
    pub downstream: Carried,
}

/// Bytes of one stream, over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Read from its source.
    pub received: u64,
    /// Written to its target.
    pub sent: u64,
}

impl Proxy {
    /// A proxy that does not listen yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let line = Line {
            seed: mix(settings.seed, settings.name.as_bytes()),
            toxics: Toxics::new(),
            flows: Flows::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self { settings, line: Arc::new(line), running: None }
    }

    /// A proxy that listens.
    ///
    /// # Errors
    /// [`ProxyError`] as of [`Proxy::start`].
    ///
    /// # Cancel safety
    /// Nothing is left when it is dropped.
    pub async fn open(settings: Settings) -> Result<Self, ProxyError> {
        let mut proxy = Self::new(settings);
        proxy.start().await?;
        Ok(proxy)
    }

    /// Starts to listen; does nothing where it does already. Its address is the one it really got from then on, so
    /// that a free port stays the same over stop and start.
    ///
    /// # Errors
    /// [`ProxyError`] where an address cannot be used.
    ///
    /// # Cancel safety
    /// It listens, or it does not.
    pub async fn start(&mut self) -> Result<(), ProxyError> {
        if self.running.is_some() {
            return Ok(());
        }
        self.check_upstream().await?;
        let found = address::resolve(&self.settings.listen, self.settings.reach).await?;
        let mut outcome = Err(AddressError::NoPort(self.settings.listen.clone()).into());
        for address in found {
            outcome = listen(address).await;
            if outcome.is_ok() {
                break;
            }
        }
        let (listener, address) = outcome?;
        self.settings.listen = address.to_string();
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        let upstream = Upstream { address: self.settings.upstream.clone(), reach: self.settings.reach };
        task.spawn(accept(listener, stopped, Arc::clone(&self.line), Arc::new(upstream)));
        self.running = Some(Running { address, stop, task });
        Ok(())
    }

    /// Stops listening and closes all connections; both are done when it returns. Its toxics stay.
    ///
    /// # Cancel safety
    /// Everything is closed all the same, only a moment later.
    pub async fn stop(&mut self) {
        if let Some(Running { stop, mut task, .. }) = self.running.take() {
            drop(stop);
            while task.join_next().await.is_some() {}
        }
    }

    /// Changes where it listens and where it leads to, which closes its connections where anything is different, and
    /// whether it listens.
    ///
    /// # Errors
    /// [`ProxyError`] where an address cannot be used; then it does not listen.
    ///
    /// # Cancel safety
    /// It may be left stopped.
    pub async fn update(&mut self, listen: &str, upstream: &str, enabled: bool) -> Result<(), ProxyError> {
        if !self.is_same(listen, upstream).await? {
            self.stop().await;
            listen.clone_into(&mut self.settings.listen);
            upstream.clone_into(&mut self.settings.upstream);
        }
        if enabled {
            return self.start().await;
        }
        self.stop().await;
        Ok(())
    }

    /// Whether these addresses, as they are found, are the ones it has.
    pub(super) async fn is_same(&self, listen: &str, upstream: &str) -> Result<bool, ProxyError> {
        let wanted = address::resolve(listen, self.settings.reach).await?;
        let own = address::resolve(&self.settings.listen, self.settings.reach).await?;
        Ok(wanted.first() == own.first() && upstream == self.settings.upstream)
    }

    /// Early, so that a wrong address shows here and not as closed connections. A name that nobody knows may be known
    /// later.
    async fn check_upstream(&self) -> Result<(), ProxyError> {
        match address::resolve(&self.settings.upstream, self.settings.reach).await {
            Ok(_) | Err(AddressError::Unknown { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Its settings, with the address it really listens on.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where it listens; `None` while it does not.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|running| running.address)
    }

    /// Its toxics, to be put on, looked at and taken off.
    #[must_use]
    pub fn toxics(&self) -> &Toxics {
        &self.line.toxics
    }

    /// Puts a toxic on until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::State`] where there is one of this name, or no room.
    pub fn put(&self, toxic: Toxic) -> Result<PutOn, Error> {
        let what = format!("put the toxic {} on", toxic.name);
        self.line.toxics.put(toxic).map_err(|error| Error::state(what, error.to_string()))
    }

    /// What it has seen so far, over stops and starts.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let carried = |flow: &Flow| Carried { received: of(&flow.received), sent: of(&flow.sent) };
        let Flows { upstream, downstream } = &self.line.flows;
        Traffic {
            accepted: of(&self.line.accepted),
            refused: of(&self.line.refused),
            upstream: carried(upstream),
            downstream: carried(downstream),
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ProxyError> {
    let wrong = |source| ProxyError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    Ok((listener, address))
}

#[derive(Debug)]
struct Upstream {
    address: String,
    reach: Reach,
}

/// Accepts until `stopped`, then closes the listener, then the connections.
async fn accept(
    listener: TcpListener,
    mut stopped: oneshot::Receiver<()>,
    line: Arc<Line>,
    upstream: Arc<Upstream>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                if let Ok((client, _)) = accepted {
                    let number = line.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(connect(client, number, Arc::clone(&line), Arc::clone(&upstream)));
                } else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connect(client: TcpStream, connection: u64, line: Arc<Line>, upstream: Arc<Upstream>) {
    let Ok(Ok(service)) = tokio::time::timeout(DIAL_LIMIT, dial(&upstream)).await else {
        line.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let identity = |stream| Identity { seed: line.seed, connection, stream };
    link::carry(client, service, identity, &line.toxics.watch(), &line.flows).await;
}

async fn dial(upstream: &Upstream) -> io::Result<TcpStream> {
    let found = address::resolve(&upstream.address, upstream.reach).await.map_err(io::Error::other)?;
    TcpStream::connect(found.as_slice()).await
}

#[cfg(test)]
mod tests;
