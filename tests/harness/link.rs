//! The road between one server and PostgreSQL: a TCP relay that can be cut, lose the answer to a COMMIT, or abort a
//! transaction without the server's knowledge. It knows of the protocol only how a COMMIT of ours looks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

/// Connections at once: a pool's worth and more.
const CONNECTIONS_MAX: usize = 64;
/// PostgreSQL answers a COMMIT within this, or the test is lost anyway.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How the server ends a transaction.
const COMMIT: &[u8] = b"SELECT 1; COMMIT\0";
/// A statement that fails, as a simple query message, and the end of the answer to it: ready, in a failed transaction.
const FAILING: &[u8] = b"Q\0\0\0\x0fSELECT 1/0\0";
const FAILED_AND_READY: &[u8] = b"Z\0\0\0\x05E";

/// What happens to the next transaction that is to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// COMMIT arrives; its answer is lost with the connection.
    AnswerLost,
    /// The connection is lost before COMMIT arrives.
    CommitLost,
    /// The transaction was aborted before, which its owner does not know.
    Aborted,
}

/// A relay on a free port. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    open: watch::Sender<bool>,
    planned: Mutex<Option<Mishap>>,
    happened: AtomicUsize,
}

impl Link {
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
            open: watch::Sender::new(true),
            planned: Mutex::default(),
            happened: AtomicUsize::new(0),
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accept }
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and each new one at once.
    pub fn cut(&self) {
        self.shared.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.shared.open.send_replace(true);
    }

    /// Plans a mishap for the next transaction.
    ///
    /// # Panics
    /// Never, but for a lock that another panic poisoned.
    pub fn plan(&self, mishap: Mishap) {
        *self.shared.planned.lock().unwrap_or_else(PoisonError::into_inner) = Some(mishap);
    }

    /// How many planned mishaps have happened.
    #[must_use]
    pub fn happened(&self) -> usize {
        self.shared.happened.load(Ordering::SeqCst)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((near, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // An error on either side ends the connection, which is all a relay can tell the other side.
            let _ = relay(near, &shared).await;
            drop(place);
        });
    }
}

async fn relay(mut near: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut open = shared.open.subscribe();
    if !*open.borrow_and_update() {
        return Ok(());
    }
    let mut far = TcpStream::connect(shared.target).await?;
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut sent, mut answered) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            length = near.read(&mut sent) => {
                let bytes = sent.get(..length?).unwrap_or_default();
                if bytes.is_empty() {
                    return Ok(());
                }
                match commit_and_mishap(bytes, shared) {
                    Some(Mishap::AnswerLost) => {
                        far.write_all(bytes).await?;
                        // The answer says that it is committed; nobody else is to hear of it.
                        let _ = timeout(ANSWER_LIMIT, far.read(&mut answered)).await?;
                        shared.happened.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    Some(Mishap::CommitLost) => {
                        shared.happened.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    Some(Mishap::Aborted) => {
                        timeout(ANSWER_LIMIT, abort(&mut far)).await??;
                        shared.happened.fetch_add(1, Ordering::SeqCst);
                        far.write_all(bytes).await?;
                    }
                    None => far.write_all(bytes).await?,
                }
            }
            length = far.read(&mut answered) => {
                let bytes = answered.get(..length?).unwrap_or_default();
                if bytes.is_empty() {
                    return Ok(());
                }
                near.write_all(bytes).await?;
            }
            () = closed(&mut open) => return Ok(()),
        }
    }
}

async fn closed(open: &mut watch::Receiver<bool>) {
    let _ = open.wait_for(|open| !open).await;
}

/// The planned mishap, where these bytes commit a transaction.
fn commit_and_mishap(bytes: &[u8], shared: &Shared) -> Option<Mishap> {
    let commits = bytes.windows(COMMIT.len()).any(|window| window == COMMIT);
    if !commits {
        return None;
    }
    shared.planned.lock().unwrap_or_else(PoisonError::into_inner).take()
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
