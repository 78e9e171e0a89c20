//! The way to a host as a stream of bytes: DNS and TCP, or a Unix socket, or whatever a test puts in their place.
//!
//! It speaks no protocol: TLS and PostgreSQL's own words come on top of it.

mod lookup;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_postgres::{Config, config::Host};

use self::lookup::Lookups;

/// A peer that vanished is noticed within half a minute also where nobody waits for it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A name with several addresses: the next is tried beside one that did not answer for this long (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// More addresses of one name are not tried in one dial.
const ADDRESSES_MAX: usize = 8;
const DEFAULT_PORT: u16 = 5432;

/// Opens streams of bytes to database hosts. The default goes over the network; a test can answer from memory.
pub trait Connector: Send + Sync + fmt::Debug + 'static {
    /// A new stream to `host`. The caller bounds the time and may drop the future at any point.
    fn connect<'a>(&'a self, host: &'a HostAddress) -> BoxFuture<'a, io::Result<BoxStream>>;
}

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Any stream of bytes.
pub type BoxStream = Box<dyn ByteStream>;

/// Where one host of the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostAddress {
    /// Over the network.
    Tcp {
        /// The name as the URL gives it; also what a certificate must be made out to.
        name: String,
        /// Saves looking up the name.
        address: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// Through a socket of this machine.
    Unix {
        /// The folder of the socket.
        folder: PathBuf,
        /// The port, which is part of the socket's name.
        port: u16,
    },
}

/// What makes the streams of a pool. The default is the network.
#[derive(Debug, Clone, Default)]
pub struct Connecting(Option<Arc<dyn Connector>>);

/// DNS and TCP, or a Unix socket.
#[derive(Debug, Default)]
pub(super) struct Network(Lookups);

impl HostAddress {
    /// The first host of `config`; `None` where it names none.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let port = config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
        let address = config.get_hostaddrs().first().copied();
        match (config.get_hosts().first(), address) {
            (Some(Host::Tcp(name)), address) => Some(Self::Tcp { name: name.clone(), address, port }),
            #[cfg(unix)]
            (Some(Host::Unix(folder)), _) => Some(Self::Unix { folder: folder.clone(), port }),
            (None, Some(address)) => {
                Some(Self::Tcp { name: address.to_string(), address: Some(address), port })
            }
            (None, None) => None,
        }
    }
}

impl Connecting {
    /// Streams come from `connector`.
    #[must_use]
    pub fn through(connector: Arc<dyn Connector>) -> Self {
        Self(Some(connector))
    }

    /// The connector, or else the network.
    pub(super) fn connector(&self) -> Arc<dyn Connector> {
        self.0.clone().unwrap_or_else(|| Arc::new(Network::default()))
    }
}

/// Two are equal where they lead the same way.
impl PartialEq for Connecting {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        }
    }
}

impl Eq for Connecting {}

impl Connector for Network {
    fn connect<'a>(&'a self, host: &'a HostAddress) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            match host {
                HostAddress::Tcp { address: Some(address), port, .. } => {
                    tcp(&[(*address, *port).into()]).await
                }
                HostAddress::Tcp { name, port, .. } => {
                    let look_up = |asked| async { Ok(lookup_host(asked).await?.collect()) };
                    tcp(&self.0.find((name.clone(), *port), look_up).await?).await
                }
                #[cfg(unix)]
                HostAddress::Unix { folder, port } => {
                    let socket = folder.join(format!(".s.PGSQL.{port}"));
                    Ok(Box::new(tokio::net::UnixStream::connect(socket).await?) as BoxStream)
                }
                #[cfg(not(unix))]
                HostAddress::Unix { .. } => Err(io::ErrorKind::Unsupported.into()),
            }
        })
    }
}

/// The first address that accepts. Each next one is tried when the one before was refused or did not answer for a moment,
/// and those go on meanwhile: a silent address must not use up the time of the others, whatever time the caller gives.
async fn tcp(addresses: &[SocketAddr]) -> io::Result<BoxStream> {
    let mut waiting = addresses.iter().take(ADDRESSES_MAX);
    let mut dialling = FuturesUnordered::new();
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            dialling.push(TcpStream::connect(*address));
        } else if dialling.is_empty() {
            return Err(refused);
        }
        let head_start = if waiting.len() == 0 { Duration::MAX } else { HEAD_START };
        match timeout(head_start, dialling.next()).await {
            Ok(Some(Ok(stream))) => {
                tuned(&stream)?;
                return Ok(Box::new(stream));
            }
            Ok(Some(Err(error))) => refused = error,
            Ok(None) | Err(_) => {}
        }
    }
}

fn tuned(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // Keepalive is silent while sent bytes wait for their acknowledgement; this bounds that wait.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_in_every_form_of_the_url() {
        let of = |url: &str| HostAddress::of(&url.parse().unwrap());
        let tcp = |name: &str, address: Option<&str>, port| {
            let address = address.map(|text| text.parse().unwrap());
            Some(HostAddress::Tcp { name: name.to_owned(), address, port })
        };
        assert_eq!(of("postgres://app@db/todos"), tcp("db", None, 5432));
        assert_eq!(of("host=db hostaddr=10.0.0.7 port=6000"), tcp("db", Some("10.0.0.7"), 6000));
        assert_eq!(of("hostaddr=10.0.0.7"), tcp("10.0.0.7", Some("10.0.0.7"), 5432));
        let folder = PathBuf::from("/run/postgresql");
        assert_eq!(of("host=/run/postgresql port=5433"), Some(HostAddress::Unix { folder, port: 5433 }));
        assert_eq!(of("user=app"), None);
    }

    #[tokio::test]
    async fn a_stream_is_watched_by_the_kernel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tuned(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
    }

    #[tokio::test]
    async fn a_closed_first_address_does_not_hide_the_second() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(tcp(&[closed, open]).await.is_ok());
        assert!(tcp(&[closed]).await.is_err());
        assert!(tcp(&[]).await.is_err());
    }

    /// A name with two addresses, of which the first swallows packets: it was given half of the three seconds of
    /// `pool.connect`. A probe ends after one second and an attempt to read after 750 ms, so neither ever came to the
    /// second address, and a database that was well counted as away.
    #[tokio::test]
    async fn a_silent_first_address_leaves_time_for_the_second_within_one_attempt() {
        // A full queue of connections: the kernel lets further ones wait.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let silent = full.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(silent)).await {
            queued.push(stream);
        }
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reached = timeout(Duration::from_millis(750), tcp(&[silent, open.local_addr().unwrap()])).await;
        assert!(reached.is_ok_and(|stream| stream.is_ok()), "the second address was not reached");
    }
}
