//! An upgraded connection: bytes both ways until one side ends or nothing moves for too long.
//!
//! It understands nothing of what it carries.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    time::{sleep, timeout},
};

/// Carried at once in each direction.
const BUFFER_BYTES: usize = 8 * 1024;
/// Both sides have agreed by now, so the connections are free within moments.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries bytes between the two sides. `guard` is held as long as the tunnel lives.
///
/// # Cancel safety
/// Dropping it closes both sides.
pub(crate) async fn run<G>(client: OnUpgrade, backend: OnUpgrade, idle: Duration, guard: G) {
    let both = async { tokio::try_join!(client, backend) };
    let Ok(Ok((client, backend))) = timeout(UPGRADE_TIMEOUT, both).await else { return };
    carry(TokioIo::new(client), TokioIo::new(backend), idle).await;
    drop(guard);
}

async fn carry<C, B>(client: C, backend: B, idle: Duration)
where
    C: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let moved = AtomicU64::new(0);
    let (from_client, to_client) = split(client);
    let (from_backend, to_backend) = split(backend);
    let both_ways = async {
        tokio::try_join!(copy(from_client, to_backend, &moved), copy(from_backend, to_client, &moved))
    };
    tokio::select! {
        _ = both_ways => {}
        () = stands_still(&moved, idle) => {}
    }
}

/// Copies until the end of `from`, then ends `to` as well: the other direction may go on.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        to.flush().await?;
        moved.fetch_add(read as u64, Ordering::Relaxed);
    }
}

async fn stands_still(moved: &AtomicU64, idle: Duration) {
    let mut seen = moved.load(Ordering::Relaxed);
    loop {
        sleep(idle).await;
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_an_end_ends_one_direction_only() {
        let (mut client, client_side) = duplex(64);
        let (mut backend, backend_side) = duplex(64);
        let tunnel = tokio::spawn(carry(client_side, backend_side, IDLE));
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        backend.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"ping");
        backend.write_all(b"pong").await.unwrap();
        drop(backend);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"pong");
        tunnel.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_on_which_nothing_moves_is_closed() {
        let (mut client, client_side) = duplex(64);
        let (_backend, backend_side) = duplex(64);
        let tunnel = tokio::spawn(carry(client_side, backend_side, IDLE));
        sleep(IDLE / 2).await;
        client.write_all(b"still here").await.unwrap();
        sleep(IDLE).await;
        assert!(!tunnel.is_finished(), "it moved half an idle time ago");
        tunnel.await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
