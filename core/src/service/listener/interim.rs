//! Interim answers (1xx) ahead of the final one, which the HTTP library's server cannot send itself.
//!
//! They are optional by nature: what cannot be sent in its place, between two messages, is thrown away. They are text of
//! HTTP/1, so they stand above TLS, and nowhere in HTTP/2. What an interim answer says, and whether a client takes any,
//! is the service's business.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than this is not kept for a client that does not read.
const BYTES_MAX: usize = 16 * 1024;

/// Sends interim answers to one request; an extension of every HTTP/1 request that
/// [`serve`](super::serve) hands on.
///
/// Once the final answer is there, what is sent goes nowhere.
#[derive(Debug, Clone)]
pub struct Interim {
    waiting: Waiting,
    request: u64,
}

/// What waits to be written on one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// The number of the latest request.
    request: u64,
    /// Its final answer is not there yet.
    is_open: bool,
    waker: Option<Waker>,
}

impl Interim {
    /// Sends an interim answer ahead of the final one; false where it is none (100 and 101 are the listener's own), too
    /// late, or too much.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let is_interim = status.is_informational() && status.as_u16() > 101;
        let mut state = self.waiting.lock();
        if !is_interim || !state.is_open || state.request != self.request {
            return false;
        }
        let message = encode(status, headers);
        if state.bytes.len() + message.len() > BYTES_MAX {
            return false;
        }
        state.bytes.extend_from_slice(&message);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }
}

fn encode(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or("Interim");
    let mut message = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            message.extend_from_slice(part);
        }
    }
    message.extend_from_slice(b"\r\n");
    message
}

impl Waiting {
    /// The next request on the connection begins.
    pub(super) fn open(&self) -> Interim {
        let mut state = self.lock();
        state.request += 1;
        state.is_open = true;
        Interim { waiting: self.clone(), request: state.request }
    }

    /// Its final answer is there.
    pub(super) fn close(&self) {
        self.lock().is_open = false;
    }

    /// Takes what waits; `waker` is woken when there is more.
    fn take(&self, waker: &Waker) -> Vec<u8> {
        let mut state = self.lock();
        state.waker = Some(waker.clone());
        std::mem::take(&mut state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream of HTTP/1 that writes what waits where a message has just ended.
pub(super) struct Between<S> {
    stream: S,
    waiting: Waiting,
    /// Interim answers on their way, and how much of them is written.
    sending: (Vec<u8>, usize),
    /// Everything that was given to be written is written.
    is_between: bool,
}

impl<S: AsyncWrite + Unpin> Between<S> {
    pub(super) fn new(stream: S, waiting: Waiting) -> Self {
        Self { stream, waiting, sending: (Vec::new(), 0), is_between: true }
    }

    /// Writes what waits, where a message has just ended. In the middle of one it is thrown away.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (bytes, sent) = &mut self.sending;
            let rest = bytes.get(*sent..).unwrap_or_default();
            if rest.is_empty() {
                let waits = self.waiting.take(context.waker());
                if waits.is_empty() || !self.is_between {
                    return Poll::Ready(Ok(()));
                }
                self.sending = (waits, 0);
                continue;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *sent += count,
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Between<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Between<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(context))?;
        self.is_between = false;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(context))?;
        self.is_between = false;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Whoever flushes has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_between = true;
        ready!(self.poll_interim(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
