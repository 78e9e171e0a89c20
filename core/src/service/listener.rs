//! An HTTP listener that survives what the network does to it and ends in bounded time.
//!
//! Accept loop, bounds of all connections together, drain; `connection` has what happens on one. What a request means is the business of the service it is given.

mod addresses;
mod connection;
mod framing;
mod interim;
mod lingering;
mod streams;

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

pub(super) use self::connection::ALPN_HTTP2;
pub use self::interim::Interim;
use self::{addresses::Addresses, connection::Terms};
use super::{files, tls::Certificate};
use crate::drain::{Drain, Draining, InFlight};

/// After a failed accept (out of file descriptors, say) the loop waits this long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bounds of one listener.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue. Fewer where the system allows too few open files: each may
    /// need another one behind us. Default 10,000.
    pub connections: usize,
    /// Connections at once from one address (of IPv6 its first 64 bits); more are closed at once. Default 5,000, so that
    /// nobody alone can take all places; a balancer in front is one address too.
    pub connections_per_address: usize,
    /// Time for the head of a request. Default 10 s.
    #[serde(with = "crate::duration_text")]
    pub head: Duration,
    /// How long a client may take nothing of an answer before it is cut off, and after how long it must have taken a kibibyte
    /// a second in the mean; and how long an HTTP/2 connection may have nothing to do. Default 60 s, for players that pause.
    #[serde(with = "crate::duration_text")]
    pub write_idle: Duration,
    /// Size of a request head in bytes. Default 32 KiB.
    pub head_bytes: usize,
    /// Headers in one request. Default 100.
    pub headers: usize,
    /// HTTP/2: requests at once on one connection. Default 100.
    pub streams: u32,
    /// How long to go on accepting after the drain began, so that every router has heard of it. Default 5 s.
    #[serde(with = "crate::duration_text")]
    pub drain_delay: Duration,
    /// How long requests in flight may take after that. Default 25 s.
    #[serde(with = "crate::duration_text")]
    pub drain_in_flight: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 5_000,
            head: Duration::from_secs(10),
            write_idle: Duration::from_secs(60),
            head_bytes: 32 * 1024,
            headers: 100,
            streams: 100,
            drain_delay: Duration::from_secs(5),
            drain_in_flight: Duration::from_secs(25),
        }
    }
}

/// The address a request came from; an extension of every request that [`serve`] hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Marks a request that came over TLS; an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encrypted;

/// Where a service listens, and what is spoken there. A [`TcpListener`] alone speaks HTTP/1.1 without TLS.
#[derive(Debug)]
pub struct Entrance {
    /// Listens already.
    pub listener: TcpListener,
    /// HTTP/2 as well: chosen by ALPN under TLS, and recognised by its first bytes without.
    pub http2: bool,
    /// TLS, and nothing without it.
    pub tls: Option<Arc<Certificate>>,
}

impl From<TcpListener> for Entrance {
    fn from(listener: TcpListener) -> Self {
        Self { listener, http2: false, tls: None }
    }
}

impl Limits {
    /// Checks what types cannot: a listener with these limits can serve somebody.
    ///
    /// # Errors
    /// The name of the field, and what it must be.
    pub fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        if self.connections == 0 {
            return Err(("connections", "must be 1 or more"));
        }
        if self.connections_per_address == 0 {
            return Err(("connections_per_address", "must be 1 or more"));
        }
        if !(1..=10_000).contains(&self.streams) {
            return Err(("streams", "must be between 1 and 10000"));
        }
        if !(1_024..=1024 * 1024).contains(&self.head_bytes) {
            return Err(("head_bytes", "must be between 1024 and 1048576"));
        }
        if !(20..=1_000).contains(&self.headers) {
            return Err(("headers", "must be between 20 and 1000: fewer is less than a browser sends"));
        }
        if self.head.is_zero() {
            return Err(("head", "must be longer than nothing"));
        }
        if self.write_idle.is_zero() {
            return Err(("write_idle", "must be longer than nothing"));
        }
        Ok(())
    }
}

/// How a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "cut connections belong into the exit code"]
pub struct Served {
    /// Connections that were still busy when time was up.
    pub cut: usize,
}

/// Serves HTTP/1.1 (upgrades included), and HTTP/2 and TLS where `entrance` says so, until the drain is over.
///
/// While draining it goes on accepting for `drain_delay`, answers HTTP/1.1 with `Connection: close`, then closes the listener
/// and waits for what is in flight. A hurried drain skips all waiting.
///
/// # Cancel safety
/// Dropping it closes the listener; connections in progress live on in their tasks until they end.
pub async fn serve<S, F, B>(
    entrance: impl Into<Entrance>,
    service: S,
    limits: &Limits,
    draining: Draining,
) -> Served
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let Entrance { listener, http2, tls } = entrance.into();
    let terms = Arc::new(Terms {
        limits: limits.clone(),
        http2,
        tls: tls.map(|certificate| certificate.acceptor()),
        draining: draining.clone(),
    });
    let addresses = Addresses::new(limits.connections_per_address);
    let (close, closing) = Drain::new();
    let in_flight = InFlight::default();
    let places = Arc::new(Semaphore::new(places(limits)));
    let mut stop = pin!(accepting_is_over(draining.clone(), limits.drain_delay));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(of_address) = addresses.admit(peer.ip()) else { continue };
                let (service, terms, closing) = (service.clone(), Arc::clone(&terms), closing.clone());
                let guards = (place, of_address, in_flight.begin());
                tokio::spawn(async move {
                    connection::serve(stream, Peer(peer), service, terms, closing).await;
                    drop(guards);
                });
            }
            Err(error) => {
                tracing::warn!(kind = ?error.kind(), "accept failed; pausing");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    close.begin();
    let mut draining = draining;
    tokio::select! {
        cut = in_flight.finish(limits.drain_in_flight) => Served { cut },
        () = draining.hurried() => Served { cut: in_flight.count() },
    }
}

fn places(limits: &Limits) -> usize {
    let (wanted, files) = (limits.connections, files::raise());
    let places = files::connections_max(wanted, files);
    if places < wanted {
        tracing::info!(places, wanted, files, "too few open files are allowed for all connections");
    }
    places
}

async fn accepting_is_over(mut draining: Draining, delay: Duration) {
    draining.requested().await;
    let _ = timeout(delay, draining.hurried()).await;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use http_body_util::Full;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    /// A configuration with these was called in order, and the server then refused everybody, probes included.
    #[test]
    fn limits_that_let_nobody_in_are_refused_by_name() {
        let field = |change: &dyn Fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.validate().map_err(|(field, _)| field)
        };
        assert_eq!(field(&|_| {}), Ok(()));
        assert_eq!(field(&|limits| limits.connections = 0), Err("connections"));
        assert_eq!(field(&|limits| limits.connections_per_address = 0), Err("connections_per_address"));
        assert_eq!(field(&|limits| limits.streams = 0), Err("streams"));
        assert_eq!(field(&|limits| limits.head_bytes = 10), Err("head_bytes"));
        assert_eq!(field(&|limits| limits.headers = 0), Err("headers"));
        assert_eq!(field(&|limits| limits.head = Duration::ZERO), Err("head"));
        assert_eq!(field(&|limits| limits.drain_delay = Duration::ZERO), Ok(()));
    }

    /// A client in the middle of its upload once got a reset instead of the answer, because the connection was closed with
    /// the rest of the upload unread.
    #[tokio::test]
    async fn an_answer_before_the_end_of_the_upload_arrives_and_is_no_reset() {
        for status in [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::OK] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (_drain, draining) = Drain::new();
            let answer = move |_: Request<Incoming>| async move {
                let mut answer = Response::new(Full::new(Bytes::from_static(b"enough")));
                *answer.status_mut() = status;
                answer
            };
            let limits = Limits::default();
            let _served = tokio::spawn(async move { serve(listener, answer, &limits, draining).await });
            let mut client = TcpStream::connect(address).await.unwrap();
            let upload = vec![b'a'; 4 * 1024 * 1024];
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", upload.len());
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&upload).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            let line = format!("HTTP/1.1 {}", status.as_str());
            assert!(answer.starts_with(&line) && answer.ends_with("enough"), "{answer}");
        }
    }

    /// A client that asks and never reads once held its connection, and whatever its answer held, for ever.
    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, draining) = Drain::new();
        let (asked, mut is_asked) = tokio::sync::mpsc::channel(1);
        let answer = move |_: Request<Incoming>| {
            let asked = asked.clone();
            async move {
                let _ = asked.send(()).await;
                Response::new(Full::new(Bytes::from(vec![b'a'; 64 * 1024 * 1024])))
            }
        };
        let limits = Limits {
            write_idle: Duration::from_millis(50),
            drain_delay: Duration::ZERO,
            drain_in_flight: Duration::from_secs(5),
            ..Limits::default()
        };
        let served = tokio::spawn(async move { serve(listener, answer, &limits, draining).await });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        is_asked.recv().await.unwrap();
        drain.begin();
        assert_eq!(served.await.unwrap(), Served { cut: 0 }, "it was still there when the drain was over");
    }

    /// One address alone once could take all places, and everybody else waited.
    #[tokio::test]
    async fn an_address_with_too_many_connections_gets_no_more_and_one_back_for_each_that_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_drain, draining) = Drain::new();
        let accept = |_: Request<Incoming>| async { Response::new(Full::<Bytes>::default()) };
        let limits = Limits { connections_per_address: 1, ..Limits::default() };
        let _served = tokio::spawn(async move { serve(listener, accept, &limits, draining).await });
        let ask = async |client: &mut TcpStream| {
            let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.read_u8().await.is_ok()
        };
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut first).await);
        assert!(!ask(&mut TcpStream::connect(address).await.unwrap()).await);
        drop(first);
        let again = async {
            while !ask(&mut TcpStream::connect(address).await.unwrap()).await {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), again).await.unwrap();
    }

    #[tokio::test]
    async fn interim_answers_come_before_the_final_one_and_never_after() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_drain, draining) = Drain::new();
        let (keep, mut kept) = tokio::sync::mpsc::channel::<Interim>(2);
        let (go_on, going) = (Arc::new(tokio::sync::Notify::new()), keep);
        let released = Arc::clone(&go_on);
        let hint = move |request: Request<Incoming>| {
            let interim = request.extensions().get::<Interim>().unwrap().clone();
            let (going, released) = (going.clone(), Arc::clone(&released));
            async move {
                let mut headers = http::HeaderMap::new();
                headers.insert("link", http::HeaderValue::from_static("</a.css>"));
                assert!(interim.send(StatusCode::EARLY_HINTS, &headers));
                assert!(
                    !interim.send(StatusCode::CONTINUE, &headers) && !interim.send(StatusCode::OK, &headers)
                );
                going.send(interim).await.unwrap();
                released.notified().await;
                Response::new(Full::new(Bytes::from_static(b"ok")))
            }
        };
        let limits = Limits::default();
        let _served = tokio::spawn(async move { serve(listener, hint, &limits, draining).await });
        let mut client = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let early = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
            let mut read = vec![0; early.len()];
            // It is here before the final answer is.
            client.read_exact(&mut read).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(early));
            go_on.notify_one();
            let mut answer = Vec::new();
            while !answer.ends_with(b"ok") {
                answer.push(client.read_u8().await.unwrap());
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
            let late = kept.recv().await.unwrap();
            assert!(!late.send(StatusCode::EARLY_HINTS, &http::HeaderMap::new()));
        }
    }

    #[tokio::test]
    async fn a_head_over_the_limit_is_refused_at_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_drain, draining) = Drain::new();
        let accept = |_: Request<Incoming>| async { Response::new(Full::<Bytes>::default()) };
        let limits = Limits { head_bytes: 10_000, ..Limits::default() };
        let _served = tokio::spawn(async move { serve(listener, accept, &limits, draining).await });
        for (size, status) in [(9_000, "HTTP/1.1 200"), (11_000, "HTTP/1.1 431")] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let value = "a".repeat(size);
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {value}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(status), "{size}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_request_knows_the_address_it_came_from() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, draining) = Drain::new();
        let echo = |request: Request<Incoming>| async move {
            let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string());
            Response::new(Full::new(Bytes::from(peer.unwrap_or_default())))
        };
        let limits = Limits { drain_delay: Duration::ZERO, ..Limits::default() };
        let served = tokio::spawn(async move { serve(listener, echo, &limits, draining).await });
        let mut client = TcpStream::connect(address).await.unwrap();
        let own = client.local_addr().unwrap().to_string();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&own), "{answer}");
        drain.begin();
        assert_eq!(served.await.unwrap(), Served { cut: 0 });
    }
}
