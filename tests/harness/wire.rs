//! A relay to PostgreSQL that reads messages: it can end a connection at the boundary of any message of a transaction,
//! in either direction, let packets vanish, abort a transaction without the client's knowledge, and tell when connections
//! were asked for. It changes no message.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::Instant,
};

/// Connections at once: a large pool's worth, and those that a storm asks for.
const CONNECTIONS_MAX: usize = 512;
/// No message of a test is larger.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// When the server learns that a silent client is gone.
pub const SERVER_NOTICES: Duration = Duration::from_millis(150);
/// A message's type and length.
const HEADER: usize = 5;
/// The simple query that opens a transaction.
const BEGIN: &[u8] = b"BEGIN";
/// The simple query that ends one of the server.
const COMMIT: &[u8] = b"SELECT 1; COMMIT\0";
/// The server's sign that it is ready and in no transaction.
const IDLE: &[u8] = b"Z\0\0\0\x05I";
/// A statement that fails, as a simple query message, and the end of the answer to it: ready, in a failed transaction.
const FAILING: &[u8] = b"Q\0\0\0\x0fSELECT 1/0\0";
const FAILED_AND_READY: &[u8] = b"Z\0\0\0\x05E";
/// Whether the server speaks TLS, asked before the first message and answered with one byte: here it does not.
const ENCRYPTION: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The program under test.
    Client,
    /// PostgreSQL.
    Server,
}

/// On which side of the message the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The message does not arrive.
    Before,
    /// The message is the last one that arrives.
    After,
}

/// What the ends see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An orderly end (FIN).
    Close,
    /// A reset (RST).
    Reset,
    /// Nothing at all: both sides stay open and carry nothing any more.
    Silence,
    /// As silence to the client; the server's side ends after [`SERVER_NOTICES`], as by its keepalives.
    Vanished,
    /// An orderly end, and nobody gets through any more until [`Wire::mend`].
    Partition,
    /// None: the connection goes on, but its transaction was aborted before the message, which the client does not know.
    Aborted,
}

/// Where and how a transaction loses its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Whose messages are counted.
    pub sender: Sender,
    /// Which message, from 1; the one that counting begins with is the client's first, the first of its answer the
    /// server's.
    pub message: usize,
    /// Before or after it.
    pub edge: Edge,
    /// How it looks.
    pub ending: Ending,
}

/// What the relay does with traffic as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Open,
    /// Packets vanish: connections stay, new ones are accepted, nothing passes.
    BlackHole,
    /// Connections end, and new ones at once.
    Shut,
}

/// A relay on a free port. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    road: watch::Sender<Road>,
    /// A cut, and the query from which on its messages are counted.
    planned: Mutex<Option<(Cut, &'static [u8])>>,
    happened: AtomicUsize,
    arrivals: Mutex<Vec<Instant>>,
}

impl Wire {
    /// A relay to `port` of the loopback.
    ///
    /// # Panics
    /// Where no port is free.
    ///
    /// # Cancel safety
    /// Leaves nothing behind.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            road: watch::Sender::new(Road::Open),
            planned: Mutex::default(),
            happened: AtomicUsize::new(0),
            arrivals: Mutex::default(),
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accept }
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url` with this relay as its host.
    ///
    /// # Panics
    /// Where the URL does not lead to the relay's target.
    #[must_use]
    pub fn through(&self, url: &str) -> String {
        let target = self.shared.target.to_string();
        assert!(url.contains(&target), "the URL does not lead to {target}");
        url.replace(&target, &self.address.to_string())
    }

    /// Plans a cut for the next transaction that begins, whose messages are counted from BEGIN; takes the place of an
    /// earlier plan.
    pub fn plan(&self, cut: Cut) {
        *lock(&self.shared.planned) = Some((cut, BEGIN));
    }

    /// As [`Wire::plan`], for the next transaction of the server that is to be committed, counted from COMMIT.
    pub fn plan_from_commit(&self, cut: Cut) {
        *lock(&self.shared.planned) = Some((cut, COMMIT));
    }

    /// Withdraws a plan that no transaction has taken up.
    pub fn forget_plan(&self) {
        *lock(&self.shared.planned) = None;
    }

    /// How many cuts have happened.
    #[must_use]
    pub fn happened(&self) -> usize {
        self.shared.happened.load(Ordering::SeqCst)
    }

    /// Lets every packet vanish, in both directions, without a word to anybody.
    pub fn black_hole(&self) {
        self.shared.road.send_replace(Road::BlackHole);
    }

    /// Ends every connection, and each new one at once.
    pub fn shut(&self) {
        self.shared.road.send_replace(Road::Shut);
    }

    /// Lets traffic pass again.
    pub fn mend(&self) {
        self.shared.road.send_replace(Road::Open);
    }

    /// When connections were asked for, whether or not the other side was there.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Instant> {
        lock(&self.shared.arrivals).clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accept.abort();
        self.shut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((near, _)) = listener.accept().await else { continue };
        lock(&shared.arrivals).push(Instant::now());
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut road = shared.road.subscribe();
            tokio::select! {
                // An error on either side ends the connection, which is all a relay can tell the other side.
                _ = carry(near, &shared) => {}
                _ = road.wait_for(|road| *road == Road::Shut) => {}
            }
            drop(place);
        });
    }
}

/// What is counted on one connection.
#[derive(Debug, Default)]
struct Count {
    cut: Option<Cut>,
    client: usize,
    server: usize,
}

async fn carry(mut near: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut road = shared.road.subscribe();
    let _ = road.wait_for(|road| *road != Road::BlackHole).await;
    let mut far = TcpStream::connect(shared.target).await?;
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let mut from_client = Messages { begun: false, ..Messages::default() };
    let mut from_server = Messages { begun: true, ..Messages::default() };
    let mut count = Count::default();
    loop {
        // Whatever a black hole lets pass later arrives late, as on a real network.
        let _ = road.wait_for(|road| *road != Road::BlackHole).await;
        let sender = tokio::select! {
            length = near.read_buf(&mut from_client.bytes) => (length? > 0).then_some(Sender::Client),
            length = far.read_buf(&mut from_server.bytes) => (length? > 0).then_some(Sender::Server),
        };
        let Some(sender) = sender else { return Ok(()) };
        let _ = road.wait_for(|road| *road != Road::BlackHole).await;
        let messages = if sender == Sender::Client { &mut from_client } else { &mut from_server };
        while let Some(message) = messages.next()? {
            if message == ENCRYPTION {
                far.write_all(&message).await?;
                near.write_u8(far.read_u8().await?).await?;
                messages.begun = false;
                continue;
            }
            let mut ends = count.ends_at(sender, &message, shared);
            if ends.take_if(|cut| cut.ending == Ending::Aborted).is_some() {
                abort(&mut far).await?;
                shared.happened.fetch_add(1, Ordering::SeqCst);
            }
            if ends.is_none_or(|cut| cut.edge == Edge::After) {
                let to = if sender == Sender::Client { &mut far } else { &mut near };
                to.write_all(&message).await?;
            }
            if let Some(cut) = ends {
                shared.happened.fetch_add(1, Ordering::SeqCst);
                return end(near, far, cut.ending, shared).await;
            }
        }
    }
}

/// Makes a statement fail in the transaction, and keeps the answer.
async fn abort(far: &mut TcpStream) -> std::io::Result<()> {
    far.write_all(FAILING).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(FAILED_AND_READY) {
        if far.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn end(near: TcpStream, far: TcpStream, ending: Ending, shared: &Shared) -> std::io::Result<()> {
    match ending {
        Ending::Close | Ending::Aborted => {}
        Ending::Partition => {
            shared.road.send_replace(Road::Shut);
        }
        Ending::Reset => near.set_zero_linger()?,
        Ending::Silence => {
            let _both_stay_open = (near, far);
            // Until the relay goes, or is shut.
            std::future::pending::<()>().await;
        }
        Ending::Vanished => {
            tokio::time::sleep(SERVER_NOTICES).await;
            drop(far);
            let _stays_open = near;
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

impl Count {
    /// The planned cut, where this message is the one.
    fn ends_at(&mut self, sender: Sender, message: &Bytes, shared: &Shared) -> Option<Cut> {
        if self.cut.is_none() && sender == Sender::Client {
            let planned = lock(&shared.planned).take_if(|(_, first)| is_query(message, first));
            if let Some((cut, _)) = planned {
                *self = Self { cut: Some(cut), ..Self::default() };
            }
        }
        let counter = if sender == Sender::Client { &mut self.client } else { &mut self.server };
        *counter += 1;
        let ends = self.cut.filter(|cut| cut.sender == sender && cut.message == *counter);
        if sender == Sender::Server && message.as_ref() == IDLE {
            // The transaction is over; the plan was for this one alone.
            self.cut = None;
        }
        ends
    }
}

fn is_query(message: &Bytes, beginning: &[u8]) -> bool {
    message.first() == Some(&b'Q') && message.get(HEADER..).is_some_and(|text| text.starts_with(beginning))
}

/// Splits a stream into messages.
#[derive(Debug, Default)]
struct Messages {
    bytes: BytesMut,
    /// The client's first message has no type.
    begun: bool,
}

impl Messages {
    fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let kind = usize::from(self.begun);
        let Some(length) = self.bytes.get(kind..kind + 4) else { return Ok(None) };
        let whole = kind + usize::try_from((&mut &*length).get_u32()).unwrap_or(usize::MAX);
        if whole > MESSAGE_BYTES_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if self.bytes.len() < whole {
            return Ok(None);
        }
        self.begun = true;
        Ok(Some(self.bytes.split_to(whole).freeze()))
    }
}
