//! A connection in memory that can be reset, which tokio's own cannot. It knows no protocol.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Bytes on their way in each direction; about what a socket holds.
const BUFFER_BYTES: usize = 64 * 1024;

/// The client's end of a connection in memory, for `Config::connect_raw` of the driver.
#[derive(Debug)]
pub struct ClientStream {
    inner: DuplexStream,
    is_reset: Arc<AtomicBool>,
}

/// The server's end.
#[derive(Debug)]
pub(super) struct ServerStream {
    inner: DuplexStream,
    is_reset: Arc<AtomicBool>,
}

pub(super) fn pair() -> (ClientStream, ServerStream) {
    let (client, server) = tokio::io::duplex(BUFFER_BYTES);
    let is_reset = Arc::new(AtomicBool::new(false));
    let client = ClientStream { inner: client, is_reset: Arc::clone(&is_reset) };
    (client, ServerStream { inner: server, is_reset })
}

impl ServerStream {
    /// Ends the connection so that the client sees a reset.
    pub(super) fn reset(self) {
        self.is_reset.store(true, Ordering::Release);
    }
}

impl ClientStream {
    fn reset_seen(&self) -> io::Result<()> {
        if self.is_reset.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() == before => Poll::Ready(self.reset_seen()),
            other => other,
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.reset_seen()?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
