//! One connection through a proxy: two streams, each read, moved through its pipeline and written. It accepts and
//! dials nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::toxic::chain::Chain;
use crate::toxic::kind::Stream;
use crate::toxic::pipeline::{End, Identity, Piece, Pipeline};
use crate::toxic::rule::Stop;

/// Read at a time.
const READ_BYTES: usize = 32 * 1024;
/// How long what stands before a close may take to be written; then the connection is closed without it.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of one stream of a proxy, over all connections.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Read from the source.
    pub(super) received: AtomicU64,
    /// Written to the target.
    pub(super) sent: AtomicU64,
}

/// The bytes of a proxy.
#[derive(Debug, Default)]
pub(super) struct Flows {
    pub(super) upstream: Flow,
    pub(super) downstream: Flow,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The source has ended, and the target knows.
    Finished,
    /// The connection is over.
    Stopped(Stop),
}

/// Carries a connection until it ends. Dropping the future closes both sockets.
pub(super) async fn carry(
    mut client: TcpStream,
    mut service: TcpStream,
    identity: impl Fn(Stream) -> Identity,
    toxics: &watch::Receiver<Chain>,
    flows: &Flows,
) {
    // Packets that a toxic cut apart must not be put together again.
    let _ = (client.set_nodelay(true), service.set_nodelay(true));
    let stop = {
        let (from_client, to_client) = client.split();
        let (from_service, to_service) = service.split();
        let up = link(from_client, to_service, identity(Stream::Upstream), toxics.clone(), &flows.upstream);
        let down =
            link(from_service, to_client, identity(Stream::Downstream), toxics.clone(), &flows.downstream);
        both(up, down).await
    };
    if stop == Some(Stop::Reset) {
        // Where the socket is broken already, there is nobody left to notice.
        let _ = (client.set_zero_linger(), service.set_zero_linger());
    }
}

/// Waits for both streams, or for the first that ends the connection.
async fn both(up: impl Future<Output = Ended>, down: impl Future<Output = Ended>) -> Option<Stop> {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        let ended = tokio::select! {
            ended = &mut up, if up_open => { up_open = false; ended }
            ended = &mut down, if down_open => { down_open = false; ended }
        };
        if let Ended::Stopped(stop) = ended {
            return Some(stop);
        }
    }
    None
}

/// What a turn of the loop brought.
enum Event {
    Changed,
    Wrote(std::io::Result<usize>),
    Finished,
    Read(std::io::Result<usize>),
    Due,
}

async fn link(
    mut source: impl AsyncRead + Unpin,
    mut target: impl AsyncWrite + Unpin,
    identity: Identity,
    mut toxics: watch::Receiver<Chain>,
    flow: &Flow,
) -> Ended {
    let chain = Chain::clone(&toxics.borrow_and_update());
    let mut pipeline = Pipeline::new(identity, &chain, Instant::now());
    let mut buffer = BytesMut::new();
    let mut flush_by = None;
    loop {
        let now = Instant::now();
        let wake = pipeline.pump(now);
        match pipeline.stop() {
            // Nothing that waits matters any more to a connection that is torn.
            Some(Stop::Reset) => return Ended::Stopped(Stop::Reset),
            Some(Stop::Close) if *flush_by.get_or_insert(now + FLUSH_LIMIT) <= now => {
                return Ended::Stopped(Stop::Close);
            }
            _ => {}
        }
        if let Some(Piece::End(End::Stopped(stop))) = pipeline.front() {
            return Ended::Stopped(*stop);
        }
        let due = [wake, flush_by].into_iter().flatten().min();
        let has_room = pipeline.has_room();
        let event = tokio::select! {
            // Toxics first: what comes after a change was asked for meets it.
            biased;
            Ok(()) = toxics.changed() => Event::Changed,
            event = write(&mut target, pipeline.front()), if pipeline.front().is_some() => event,
            read = read(&mut source, &mut buffer), if has_room => Event::Read(read),
            () = tokio::time::sleep_until(due.unwrap_or(now)), if due.is_some() => Event::Due,
            // Only where no toxic will ever change again and nothing is left to do.
            else => return Ended::Stopped(Stop::Close),
        };
        let now = Instant::now();
        match event {
            Event::Changed => {
                let chain = Chain::clone(&toxics.borrow_and_update());
                pipeline.adopt(&chain, now);
            }
            Event::Due => {}
            Event::Finished => return Ended::Finished,
            Event::Wrote(Ok(bytes)) if bytes > 0 => {
                flow.sent.fetch_add(bytes as u64, Ordering::Relaxed);
                pipeline.wrote(bytes);
            }
            Event::Read(Ok(bytes)) if bytes > 0 => {
                flow.received.fetch_add(bytes as u64, Ordering::Relaxed);
                pipeline.put(Piece::Data(buffer.split().freeze()), now);
            }
            // A source that breaks ends like one that closes; the toxics have the last word about when.
            Event::Read(_) => pipeline.put(Piece::End(End::Finished), now),
            // There is nobody to write to.
            Event::Wrote(_) => return Ended::Stopped(Stop::Close),
        }
    }
}

async fn read(source: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> std::io::Result<usize> {
    buffer.reserve(READ_BYTES);
    source.read_buf(buffer).await
}

async fn write(target: &mut (impl AsyncWrite + Unpin), piece: Option<&Piece>) -> Event {
    match piece {
        Some(Piece::Data(data)) => Event::Wrote(target.write(data).await),
        // A target that is gone already is as finished as it can be.
        Some(Piece::End(_)) => {
            let _ = target.shutdown().await;
            Event::Finished
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
