//! The way to a host as a stream of bytes: DNS and TCP, or a Unix socket, or whatever a test puts in their place.
//!
//! It speaks no protocol: TLS and PostgreSQL's own words come on top of it.

use std::{fmt, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_postgres::{Config, config::Host};

/// A peer that vanished is noticed within half a minute also where nobody waits for it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A name with several addresses: each gets a share of the time, but none less than this.
const ADDRESS_SHARE_MIN: Duration = Duration::from_millis(250);
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
#[derive(Debug)]
pub(super) struct Network {
    limit: Duration,
}

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

    /// The connector, or else the network with `limit` for each stream.
    pub(super) fn connector(&self, limit: Duration) -> Arc<dyn Connector> {
        self.0.clone().unwrap_or_else(|| Arc::new(Network { limit }))
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
                    tcp(&[(*address, *port).into()], self.limit).await
                }
                HostAddress::Tcp { name, port, .. } => {
                    let found: Vec<_> = lookup_host((name.as_str(), *port)).await?.collect();
                    tcp(&found, self.limit).await
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

/// The first address that accepts; a silent one does not use up the time of the others.
async fn tcp(addresses: &[std::net::SocketAddr], limit: Duration) -> io::Result<BoxStream> {
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let share = (limit / count).max(ADDRESS_SHARE_MIN);
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tuned(&stream)?;
                return Ok(Box::new(stream));
            }
            Ok(Err(error)) => refused = error,
            Err(_) => refused = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(refused)
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
        assert!(tcp(&[closed, open], Duration::from_secs(5)).await.is_ok());
        assert!(tcp(&[], Duration::from_secs(5)).await.is_err());
    }
}
