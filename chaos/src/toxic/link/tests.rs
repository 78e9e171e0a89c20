//! One stream over pipes in memory, with the clock paused: what its reader sees, and when.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::toxic::chain::Toxics;
use crate::toxic::kind::{Bandwidth, Kind, LimitData, ResetPeer, SlowClose, Timeout, Toxic};

const IDENTITY: Identity = Identity { seed: 1, connection: 0, stream: Stream::Upstream };

struct Bench {
    toxics: Toxics,
    source: DuplexStream,
    target: DuplexStream,
    link: tokio::task::JoinHandle<Ended>,
    start: Instant,
}

/// A stream with this toxic on it; `room` is what its target takes before it reads.
fn bench(kind: Option<Kind>, room: usize) -> Bench {
    let toxics = Toxics::new();
    if let Some(kind) = kind {
        toxics.put(Toxic::new(Stream::Upstream, kind)).unwrap().leave();
    }
    let (source, from) = duplex(1024);
    let (to, target) = duplex(room);
    let watch = toxics.watch();
    let link = tokio::spawn(async move { link(from, to, IDENTITY, watch, &Flow::default()).await });
    Bench { toxics, source, target, link, start: Instant::now() }
}

impl Bench {
    fn elapsed(&self) -> u128 {
        self.start.elapsed().as_millis()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_toxics_carries_bytes_and_its_end() {
    let mut bench = bench(None, 1024);
    bench.source.write_all(b"hello").await.unwrap();
    drop(bench.source);
    let mut seen = String::new();
    bench.target.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "hello");
    assert_eq!(bench.link.await.unwrap(), Ended::Finished);
}

#[tokio::test(start_paused = true)]
async fn latency_comes_in_the_middle_and_goes_again() {
    let mut bench = bench(None, 1024);
    let on =
        bench.toxics.put(Toxic::new(Stream::Upstream, Kind::latency(FLUSH_LIMIT, Duration::ZERO))).unwrap();
    bench.source.write_all(b"a").await.unwrap();
    assert_eq!(bench.target.read_u8().await.unwrap(), b'a');
    assert_eq!(bench.elapsed(), 5_000);
    bench.source.write_all(b"b").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(on.heal().delayed_bytes, 2);
    assert_eq!(bench.target.read_u8().await.unwrap(), b'b');
    assert_eq!(bench.elapsed(), 5_100, "what waited is let go with the toxic");
}

#[tokio::test(start_paused = true)]
async fn a_slow_close_delays_the_end_alone() {
    let mut bench = bench(Some(Kind::SlowClose(SlowClose { delay: 700 })), 1024);
    bench.source.write_all(b"a").await.unwrap();
    bench.source.shutdown().await.unwrap();
    assert_eq!(bench.target.read_u8().await.unwrap(), b'a');
    assert_eq!(bench.elapsed(), 0);
    assert_eq!(bench.target.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(bench.elapsed(), 700);
}

#[tokio::test(start_paused = true)]
async fn bandwidth_paces_a_long_text() {
    let mut bench = bench(Some(Kind::Bandwidth(Bandwidth { rate: 10 })), 64);
    let text = vec![b'x'; 5_000];
    let write = async {
        bench.source.write_all(&text).await.unwrap();
        bench.source.shutdown().await.unwrap();
    };
    let mut seen = Vec::new();
    let (_, read) = tokio::join!(write, bench.target.read_to_end(&mut seen));
    assert_eq!(read.unwrap(), 5_000);
    // The timer ticks in milliseconds, and the line makes up for it.
    assert!((500..=502).contains(&bench.start.elapsed().as_millis()), "{:?}", bench.start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_limit_delivers_its_bytes_and_then_stops_the_connection() {
    let mut bench = bench(Some(Kind::LimitData(LimitData { bytes: 3 })), 1024);
    bench.source.write_all(b"abcdef").await.unwrap();
    let mut seen = [0; 3];
    bench.target.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"abc");
    assert_eq!(bench.link.await.unwrap(), Ended::Stopped(Stop::Close));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_puts_a_close_off_for_a_while_only() {
    let mut bench = bench(Some(Kind::LimitData(LimitData { bytes: 50 })), 10);
    bench.source.write_all(&[0; 60]).await.unwrap();
    assert_eq!((&mut bench.link).await.unwrap(), Ended::Stopped(Stop::Close));
    assert_eq!(bench.elapsed(), FLUSH_LIMIT.as_millis());
}

#[tokio::test(start_paused = true)]
async fn a_reset_waits_for_nobody() {
    let mut bench = bench(Some(Kind::ResetPeer(ResetPeer { timeout: 40 })), 1024);
    bench.source.write_all(b"a").await.unwrap();
    assert_eq!((&mut bench.link).await.unwrap(), Ended::Stopped(Stop::Reset));
    assert_eq!(bench.elapsed(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_closes_a_silent_connection_too() {
    let mut bench = bench(Some(Kind::Timeout(Timeout { timeout: 250 })), 1024);
    assert_eq!((&mut bench.link).await.unwrap(), Ended::Stopped(Stop::Close));
    assert_eq!(bench.elapsed(), 250);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_gone_ends_the_connection() {
    let mut bench = bench(None, 1024);
    drop(bench.target);
    bench.source.write_all(b"a").await.unwrap();
    assert_eq!(bench.link.await.unwrap(), Ended::Stopped(Stop::Close));
}
