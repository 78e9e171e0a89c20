//! A proxy before a real PostgreSQL that understands its protocol: it breaks connections at chosen messages, makes the
//! server seem to say what it did not say, and counts what clients do. It passes on whatever no rule is about as it is,
//! in both directions at once.
//!
//! - [`Rule`]: what is done, and when; it has a text form for schedules. [`Proxy::plant`] puts one on, and the guard that
//!   it answers takes it back.
//! - `frame`, `message`, `sql`: bytes, messages, and as much of SQL as is needed. `follow`: which answer belongs to which
//!   statement. `plan`: which rule fires. `steps`, `relay`, `opening`: doing it. `tls`: encryption on both sides.
//!   `tally`: the counts.
//!
//! Client and server prove to each other who they are through the proxy: it knows no password. Where it speaks TLS with
//! both, a client must not tie its password to the certificate (`channel_binding=disable`), which is not the server's.
//! Packets that vanish are only acted out: the system below acknowledges them, so that no keepalive notices.

mod cut;
mod follow;
mod frame;
mod message;
mod opening;
mod plan;
mod relay;
mod shared;
mod sql;
mod steps;
mod tally;
mod tls;
mod trigger;
mod words;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Error;
use crate::pgwire::shared::{Shared, lock};
use crate::pgwire::tls::{Certificates, Connector};

pub use cut::Action;
pub use frame::{FIRST_BYTES_MAX, Frame, Frames, Kind, MESSAGE_BYTES_MAX, Sender};
pub use message::{Said, Severity};
pub use plan::Bite;
pub use tally::{Counts, Read, Recorded};
pub use tls::{ServerTls, Tls};
pub use trigger::{About, Edge, Pattern, Rule, Trigger, Which};

/// Connections at once: what more clients want waits, as before a listener that nobody serves.
const CONNECTIONS_MAX: usize = 1024;
/// Without a free descriptor accepting fails at once, again and again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// How a proxy is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens. Default 127.0.0.1 with a free port.
    pub listen: SocketAddr,
    /// Where PostgreSQL is.
    pub server: SocketAddr,
    /// TLS to PostgreSQL; `None` is without. Default `None`.
    pub server_tls: Option<ServerTls>,
    /// What clients get that ask for TLS. Default [`Tls::Refused`].
    pub tls: Tls,
}

impl Options {
    /// Before a PostgreSQL on this port of 127.0.0.1.
    #[must_use]
    pub fn before(port: u16) -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { listen: loopback(0), server: loopback(port), server_tls: None, tls: Tls::default() }
    }
}

/// A running proxy. Cheap to clone; its connections end with the last clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use ridethrough_chaos::pgwire::{Options, Proxy};
/// let (proxy, work) = Proxy::start(&Options::before(5432)).await?;
/// tokio::spawn(work);
/// // The server commits, and its client never hears of it.
/// let lost = proxy.plant("server CommandComplete(COMMIT) #17 before: reset".parse()?);
/// // … traffic through proxy.address() …
/// assert_eq!(lost.count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Its work ends when nobody has this any more.
    _alive: Arc<watch::Sender<()>>,
}

impl Proxy {
    /// Listens, and answers the proxy and its work: drive the future, which ends when the last clone is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] where the address cannot be listened on, [`Error::State`] where no certificate can be made, or the
    /// one of the server's authority is none.
    ///
    /// # Cancel safety
    /// A drop leaves nothing behind.
    pub async fn start(options: &Options) -> Result<(Self, impl Future<Output = ()> + Send + use<>), Error> {
        let listener = TcpListener::bind(options.listen).await;
        let listener = listener.map_err(Error::io(format!("listen on {}", options.listen)))?;
        let address = listener.local_addr().map_err(Error::io("ask for the address of a listener"))?;
        let connector = options.server_tls.as_ref().map(Connector::new).transpose()?;
        let shared = Shared::new(options.server, connector, Certificates::new()?, options.tls);
        let shared = Arc::new(shared);
        let (alive, gone) = watch::channel(());
        let work = accept(listener, Arc::clone(&shared), gone);
        Ok((Self { address, shared, _alive: Arc::new(alive) }, work))
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that leads to the server, led through the proxy; `None` where it does not name the server's address.
    #[must_use]
    pub fn through(&self, url: &str) -> Option<String> {
        let server = self.shared.target.to_string();
        url.contains(&server).then(|| url.replace(&server, &self.address.to_string()))
    }

    /// Puts a rule on; it is taken back when the guard is dropped.
    pub fn plant(&self, rule: Rule) -> Planted {
        let id = self.shared.plans().add(rule);
        Planted { id, shared: Arc::clone(&self.shared) }
    }

    /// Ends every connection, and each new one at once.
    pub fn shut(&self) -> Closed {
        self.shared.road.send_modify(|road| road.shut += 1);
        Closed { is_still: false, shared: Arc::clone(&self.shared) }
    }

    /// Lets every packet vanish, in both directions, without a word to anybody: connections stay, new ones are accepted,
    /// and nothing passes. What was sent meanwhile arrives late.
    pub fn black_hole(&self) -> Closed {
        self.shared.road.send_modify(|road| road.still += 1);
        Closed { is_still: true, shared: Arc::clone(&self.shared) }
    }

    /// Changes what clients get from now on that ask for TLS.
    pub fn offer(&self, tls: Tls) {
        *lock(&self.shared.tls) = tls;
    }

    /// The authority that signed the proxy's certificates, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.shared.certificates.authority()
    }

    /// How much of everything there was.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// When connections were asked for, whether or not the server was there; the last 100,000. Those of cancel requests are
    /// not among them, once they have said what they are.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Instant> {
        self.shared.tally().arrivals.all()
    }

    /// When statements were sent to the server; the last 100,000.
    #[must_use]
    pub fn statements(&self) -> Vec<Instant> {
        self.shared.tally().statements.all()
    }

    /// Notes from now on each statement that only reads, for [`Proxy::reads`].
    pub fn watch_reads(&self) {
        self.shared.tally().watch_reads();
    }

    /// The statements that only read since [`Proxy::watch_reads`], in the order of their ends; the last 100,000.
    #[must_use]
    pub fn reads(&self) -> Vec<Read> {
        self.shared.tally().reads()
    }

    /// Writes down from now on which messages pass, up to 10,000; begins anew where that was done already.
    pub fn record(&self) {
        self.shared.tally().record(true);
    }

    /// What passed since [`Proxy::record`], whose end this is.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        let mut tally = self.shared.tally();
        let recorded = tally.recorded();
        tally.record(false);
        recorded
    }
}

/// A rule that is on. It is taken back when this is dropped.
#[derive(Debug)]
#[must_use = "the rule is taken back as soon as this is dropped"]
pub struct Planted {
    id: u64,
    shared: Arc<Shared>,
}

impl Planted {
    /// How often it had its effect.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.plans().bites(self.id).0
    }

    /// Each time it had its effect; the first 10,000.
    #[must_use]
    pub fn bites(&self) -> Vec<Bite> {
        self.shared.plans().bites(self.id).1
    }

    /// Whether it will not have its effect any more: it had it, or the transaction it was for is over without it.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.shared.plans().is_spent(self.id)
    }

    /// Waits until it has its effect for the first time; without end where it never does.
    ///
    /// # Cancel safety
    /// A drop changes nothing.
    pub async fn bitten(&self) -> Option<Bite> {
        let _ = self.shared.changed.subscribe().wait_for(|()| self.count() > 0).await;
        self.bites().first().copied()
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        self.shared.take_back(self.id);
    }
}

/// Nothing passes the proxy while this is there.
#[derive(Debug)]
#[must_use = "traffic passes again as soon as this is dropped"]
pub struct Closed {
    is_still: bool,
    shared: Arc<Shared>,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let is_still = self.is_still;
        self.shared.road.send_modify(|road| {
            let count = if is_still { &mut road.still } else { &mut road.shut };
            *count = count.saturating_sub(1);
        });
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut gone: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((near, _)) => {
                    let mut tally = shared.tally();
                    tally.counts.connections += 1;
                    let arrived = Instant::now();
                    tally.arrivals.push(arrived);
                    drop(tally);
                    connections.spawn(relay::carry(near, arrived, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = gone.changed() => return,
        }
    }
}
