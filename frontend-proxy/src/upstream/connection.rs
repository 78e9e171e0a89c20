//! One HTTP/1.1 connection to a backend, and the count of bytes that really went over it.
//!
//! The count is what the retry rule needs to know: a request whose first byte never left can be sent again whatever
//! it is. Pooling is not done here.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::dial_error;
use crate::{body::RequestBody, config::Authority};

/// Largest head of an answer, and what is buffered of its body at once.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Fields in the head of an answer.
const HEADERS_MAX: usize = 200;

/// Why there is no connection. Nothing was sent in any of these cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    #[error("connection refused")]
    Refused,
    #[error("no connection in time")]
    TimedOut,
    #[error("no route")]
    Unroutable,
    #[error("name not found")]
    Name,
    #[error("connect failed")]
    Failed,
}

/// Bytes that went over a connection since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) read: u64,
    pub(super) written: u64,
}

impl Tally {
    pub(super) fn since(self, before: Self) -> Self {
        Self { read: self.read - before.read, written: self.written - before.written }
    }
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
}

/// A connection that is free for the next request, or carries one.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    counts: Arc<Counts>,
    reused: bool,
}

/// Opens a connection. The task that drives it ends with the connection, or when the [`Connection`] is dropped.
///
/// # Errors
/// [`DialError`]; nothing was sent then.
///
/// # Cancel safety
/// Dropping it closes what was opened.
pub(super) async fn dial(authority: &Authority) -> Result<Connection, DialError> {
    let stream = open(authority).await?;
    let counts = Arc::new(Counts::default());
    let io = TokioIo::new(Counted { stream, counts: Arc::clone(&counts) });
    let handshake =
        Builder::new().max_buf_size(BUFFER_BYTES_MAX).max_headers(HEADERS_MAX).handshake(io).await;
    let (sender, driver) = handshake.map_err(|_| DialError::Failed)?;
    // Its error reaches whoever waits for the answer; without one nobody cares how it ended.
    tokio::spawn(async move {
        let _ = driver.with_upgrades().await;
    });
    Ok(Connection { sender, counts, reused: false })
}

async fn open(authority: &Authority) -> Result<TcpStream, DialError> {
    let connected = match authority.host.parse::<std::net::IpAddr>() {
        Ok(address) => TcpStream::connect((address, authority.port)).await,
        Err(_) => {
            let addresses = tokio::net::lookup_host((authority.host.as_str(), authority.port)).await;
            let addresses: Vec<_> = addresses.map_err(|_| DialError::Name)?.collect();
            TcpStream::connect(addresses.as_slice()).await
        }
    };
    let stream = connected.map_err(|error| dial_error(&error))?;
    // A request leaves at once instead of waiting for more to send.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

impl Connection {
    pub(super) fn tally(&self) -> Tally {
        Tally {
            read: self.counts.read.load(Ordering::Acquire),
            written: self.counts.written.load(Ordering::Acquire),
        }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(super) fn mark_reused(&mut self) {
        self.reused = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the next request can be sent; false where the connection is closed.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request; the answer's head is the result.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        self.sender.send_request(request)
    }
}

pin_project! {
    /// A stream that counts what the system took and gave.
    struct Counted {
        #[pin]
        stream: TcpStream,
        counts: Arc<Counts>,
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.stream.poll_read(context, buffer);
        this.counts.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::AcqRel);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.stream.poll_write(context, bytes);
        count(this.counts, &written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.stream.poll_write_vectored(context, buffers);
        count(this.counts, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(context)
    }
}

fn count(counts: &Counts, written: &Poll<io::Result<usize>>) {
    if let Poll::Ready(Ok(bytes)) = written {
        counts.written.fetch_add(*bytes as u64, Ordering::AcqRel);
    }
}
