//! A proxy between real sockets of the loopback. What takes time is tested elsewhere, with a clock that does not.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::toxic::kind::{Bandwidth, Kind, ResetPeer, Stream, Timeout};

/// No step of these tests takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(10);

/// A service that gives back what it gets, and ends when its client does.
async fn echo() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut clients = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            clients.spawn(async move {
                let (mut read, mut write) = client.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (address, task)
}

fn to(upstream: SocketAddr) -> Settings {
    Settings {
        name: "echo".to_owned(),
        listen: "localhost:0".to_owned(),
        upstream: upstream.to_string(),
        seed: 1,
        reach: Reach::Loopback,
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap()
}

async fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address().unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn said(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    within(stream.read_exact(&mut answer)).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn bytes_and_half_closes_go_both_ways_and_are_counted() {
    let (upstream, _echo) = echo().await;
    let proxy = Proxy::open(to(upstream)).await.unwrap();
    let mut stream = client(&proxy).await;
    assert_eq!(said(&mut stream, "hello").await.unwrap(), "hello");
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    within(stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "bye");
    let both = Carried { received: 8, sent: 8 };
    let expected = Traffic { accepted: 1, refused: 0, upstream: both, downstream: both };
    assert_eq!(proxy.traffic(), expected);
}

#[tokio::test]
async fn a_stopped_proxy_refuses_and_has_closed_what_ran_and_comes_back_on_its_port() {
    let (upstream, _echo) = echo().await;
    let mut proxy = Proxy::open(to(upstream)).await.unwrap();
    let address = proxy.address().unwrap();
    let mut stream = client(&proxy).await;
    assert_eq!(said(&mut stream, "a").await.unwrap(), "a");
    proxy.stop().await;
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(proxy.address(), None);
    proxy.start().await.unwrap();
    assert_eq!(proxy.address(), Some(address));
    assert_eq!(said(&mut client(&proxy).await, "b").await.unwrap(), "b");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_closes_the_client() {
    let (upstream, echo) = echo().await;
    echo.abort();
    let _ = echo.await;
    let proxy = Proxy::open(to(upstream)).await.unwrap();
    let mut stream = client(&proxy).await;
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(proxy.traffic().refused, 1);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_a_connection_that_ran_before_the_toxic_came() {
    let (upstream, _echo) = echo().await;
    let proxy = Proxy::open(to(upstream)).await.unwrap();
    let mut stream = client(&proxy).await;
    assert_eq!(said(&mut stream, "a").await.unwrap(), "a");
    let reset = Toxic::new(Stream::Downstream, Kind::ResetPeer(ResetPeer { timeout: 0 }));
    let on = proxy.put(reset).unwrap();
    let broken = said(&mut stream, "b").await.unwrap_err();
    assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(on.heal().resets, 1);
    assert_eq!(said(&mut client(&proxy).await, "c").await.unwrap(), "c");
}

#[tokio::test]
async fn slices_of_one_byte_arrive_one_by_one() {
    let (upstream, _echo) = echo().await;
    let proxy = Proxy::open(to(upstream)).await.unwrap();
    let slices = Toxic::new(Stream::Downstream, Kind::slices(1, Duration::from_millis(5)));
    let on = proxy.put(slices).unwrap();
    let mut stream = client(&proxy).await;
    stream.write_all(b"abcdefgh").await.unwrap();
    let (mut seen, mut reads) = (Vec::new(), 0);
    while seen.len() < 8 {
        within(stream.read_buf(&mut seen)).await.unwrap();
        reads += 1;
    }
    assert_eq!(seen, b"abcdefgh");
    // A busy machine may let two wait for one read, but not all.
    assert!(reads >= 4, "{reads} reads");
    assert!(on.witness().packets > 0);
}

/// Which of 20 connections a toxicity of a half silences, with this seed. Checks that those end with the toxic, and
/// that the others live on.
async fn silenced(seed: u64) -> Vec<bool> {
    let (upstream, _echo) = echo().await;
    let proxy = Proxy::open(Settings { seed, ..to(upstream) }).await.unwrap();
    let timeout = Kind::Timeout(Timeout { timeout: 0 });
    let on = proxy.put(Toxic { toxicity: 0.5, ..Toxic::new(Stream::Upstream, timeout) }).unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = client(&proxy).await;
        stream.write_all(b"a").await.unwrap();
        streams.push(stream);
    }
    within(async {
        while proxy.traffic().upstream.received < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let witness = on.heal();
    let mut met = Vec::new();
    for mut stream in streams {
        // Either the connection was met, and closes without an answer, or it was not, and answers.
        met.push(within(stream.read(&mut [0])).await.unwrap() == 0);
        if met.last() == Some(&false) {
            assert_eq!(said(&mut stream, "b").await.unwrap(), "b");
        }
    }
    let count = met.iter().filter(|met| **met).count() as u64;
    assert_eq!((witness.connections, witness.dropped_bytes), (count, count));
    met
}

#[tokio::test]
async fn a_seed_repeats_which_connections_are_silenced() {
    let first = silenced(1).await;
    assert_eq!(silenced(1).await, first);
    assert_ne!(silenced(2).await, first);
}

#[tokio::test]
async fn addresses_off_the_loopback_and_taken_ports_are_refused() {
    let (upstream, _echo) = echo().await;
    let remote = Settings { upstream: "192.0.2.7:80".to_owned(), ..to(upstream) };
    let error = Proxy::open(remote).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.7:80 is not on the loopback"), "{error}");
    let taken = Settings { listen: upstream.to_string(), ..to(upstream) };
    let error = Proxy::open(taken).await.unwrap_err();
    assert_eq!(error.to_string(), format!("listen tcp {upstream}: bind: address already in use"));
}

#[tokio::test]
async fn an_update_moves_the_upstream_and_keeps_toxics() {
    let (first, echo_of_first) = echo().await;
    let (second, _echo) = echo().await;
    let mut proxy = Proxy::open(to(first)).await.unwrap();
    let _on = proxy.put(Toxic::new(Stream::Upstream, Kind::Bandwidth(Bandwidth { rate: 1_000 }))).unwrap();
    let mut stream = client(&proxy).await;
    let listen = proxy.settings().listen.clone();
    proxy.update(&listen, &first.to_string(), true).await.unwrap();
    assert_eq!(said(&mut stream, "a").await.unwrap(), "a", "nothing changed, so nothing is closed");
    echo_of_first.abort();
    proxy.update(&listen, &second.to_string(), true).await.unwrap();
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(said(&mut client(&proxy).await, "b").await.unwrap(), "b");
    assert_eq!(proxy.toxics().all().len(), 1);
}
