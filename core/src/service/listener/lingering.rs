//! A stream that does not wait for ever for the other side to read, and is closed so that it can still read what was
//! written last.
//!
//! A socket closed with unread bytes in it sends a reset, and the reset makes the other side throw away the answer it
//! has not read yet: a client that is told 413 in the middle of its upload would see a broken connection. So the end
//! is announced first, and what still arrives is read and thrown away for a moment. When that is needed is decided by
//! the listener.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// Enough for a client on a slow line to read a short answer.
const LINGER: Duration = Duration::from_secs(2);
/// Whoever sends more than this after our end does not listen anyway.
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes a second that the other side must take in the mean, once it has been behind for as long as it may take nothing. Who
/// takes a byte now and then would otherwise keep an answer for ever. The slowest line that is worth serving has more.
const WRITE_BYTES_A_SECOND_MIN: u64 = 1024;

/// A TCP stream with a patient end.
#[derive(Debug)]
pub(super) struct Lingering {
    stream: TcpStream,
    /// Read already, to find out what is spoken; comes first again.
    ahead: BytesMut,
    /// Whether the other side may have sent bytes that nobody read.
    wanted: Arc<AtomicBool>,
    limit: Option<Pin<Box<Sleep>>>,
    thrown_away: usize,
    write_idle: Duration,
    /// Since the other side could not take all there was.
    behind: Option<Behind>,
}

/// How it goes with an answer that waits for its reader.
#[derive(Debug)]
struct Behind {
    since: Instant,
    taken: u64,
    until: Pin<Box<Sleep>>,
}

/// Until when a reader may take nothing more, who has taken so much since it fell behind.
fn patience(since: Instant, now: Instant, taken: u64, write_idle: Duration) -> Instant {
    let earned = Duration::from_secs(taken / WRITE_BYTES_A_SECOND_MIN);
    (now + write_idle).min(since + write_idle + earned)
}

impl Lingering {
    /// `write_idle` is how long the other side may take nothing of what is written.
    pub(super) fn new(stream: TcpStream, wanted: Arc<AtomicBool>, write_idle: Duration) -> Self {
        Self { stream, ahead: BytesMut::new(), wanted, limit: None, thrown_away: 0, write_idle, behind: None }
    }

    /// Whether the other side begins with `preface`. Waits for as many bytes as it takes to know; they are read again
    /// by whoever reads next.
    ///
    /// # Cancel safety
    /// What was read is kept.
    pub(super) async fn begins_with(&mut self, preface: &[u8]) -> io::Result<bool> {
        while let Some(missing) = preface.strip_prefix(self.ahead.as_ref()) {
            if missing.is_empty() {
                return Ok(true);
            }
            let mut limited = (&mut self.stream).take(missing.len() as u64);
            if limited.read_buf(&mut self.ahead).await? == 0 {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Passes a write's result on; one that has been waiting for too long becomes an error.
    fn or_stalled(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let write_idle = self.write_idle;
        if let Poll::Ready(written) = written {
            if let (Some(behind), Ok(bytes)) = (&mut self.behind, &written) {
                behind.taken += *bytes as u64;
                let until = patience(behind.since, Instant::now(), behind.taken, write_idle);
                behind.until.as_mut().reset(until);
            }
            return Poll::Ready(written);
        }
        let behind = self.behind.get_or_insert_with(|| Behind {
            since: Instant::now(),
            taken: 0,
            until: Box::pin(sleep(write_idle)),
        });
        behind.until.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_throw_away(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; 4096];
        while self.thrown_away < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.thrown_away += buffer.filled().len()
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let taken = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(self.ahead.get(..taken).unwrap_or_default());
            self.ahead.advance(taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.or_stalled(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.or_stalled(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked for once everything was written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.behind = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.limit.is_none() {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            if !self.wanted.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.limit = Some(Box::pin(sleep(LINGER)));
        }
        if self.poll_throw_away(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.limit {
            Some(limit) => limit.as_mut().poll(context).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who took a byte just before each end of his time was never cut off.
    #[test]
    fn a_reader_must_take_something_now_and_then_and_enough_in_the_mean() {
        let (start, idle) = (Instant::now(), Duration::from_secs(60));
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(patience(start, start, 0, idle), after(60));
        assert_eq!(patience(start, after(59), 1, idle), after(60), "a byte buys no time");
        assert_eq!(patience(start, after(59), 30 * 1024, idle), after(90));
        assert_eq!(
            patience(start, after(59), 10 * 1024 * 1024, idle),
            after(119),
            "much buys one pause, not many"
        );
    }
}
