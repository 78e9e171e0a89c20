//! The byte stream of a session with an ear on it, plain or inside TLS, in the shape that the driver takes.

use std::{
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready as done},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::{ear::Ear, frames::Frames};
use crate::db::connector::BoxStream;

/// The driver keeps every notice of a greeting in memory until the server is ready. More than this is no greeting: servers
/// say less than a kilobyte, and a login trigger that talks adds a few.
const GREETING_MAX: usize = 256 * 1024;

/// A stream whose bytes are listened to.
pub(crate) struct Heard {
    stream: BoxStream,
    ear: Arc<Ear>,
    server: Frames,
    client: Frames,
    /// What the server may still say before it must be ready for the first time.
    greeting_left: usize,
    /// The digest of the server's certificate, where there is one.
    binding: Option<Vec<u8>>,
}

/// Tells the driver that TLS is a matter of the past: the stream it gets has been through it already, or needs none.
/// It is the driver's only way to learn the certificate's digest, which ties the password to this very server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settled;

impl Heard {
    pub(crate) fn new(stream: BoxStream, ear: Arc<Ear>, binding: Option<Vec<u8>>) -> Self {
        Self {
            stream,
            ear,
            server: Frames::of_server(),
            client: Frames::of_client(),
            greeting_left: GREETING_MAX,
            binding,
        }
    }
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard").field("ear", &self.ear).finish_non_exhaustive()
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        done!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let (ear, heard) = (&this.ear, buffer.filled().get(before..).unwrap_or_default());
        this.server.follow(heard, |message| ear.heard(message));
        if this.server.is_lost() {
            ear.lose();
        }
        if !ear.was_ready() {
            this.greeting_left = this.greeting_left.saturating_sub(heard.len());
            if this.greeting_left == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the greeting has no end",
                )));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.ear.offer(bytes.len()) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = done!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        let ear = &this.ear;
        this.client.follow(bytes.get(..written).unwrap_or_default(), |message| ear.said(message));
        if !this.client.is_between_messages() {
            ear.began();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl TlsStream for Heard {
    fn channel_binding(&self) -> ChannelBinding {
        self.binding.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl TlsConnect<Heard> for Settled {
    type Stream = Heard;
    type Error = io::Error;
    type Future = Ready<io::Result<Heard>>;

    fn connect(self, stream: Heard) -> Self::Future {
        ready(Ok(stream))
    }
}
