//! One connection from its first byte to its last: TLS where it is wanted, HTTP/1.1 or HTTP/2, limits, drain.
//!
//! It accepts nothing and counts nothing; see the listener. What a request means is the business of the service.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Encrypted, Limits, Peer,
    framing::Clear,
    interim::{Between, Waiting},
    lingering::Lingering,
    streams::{Streams, Watched},
};
use crate::drain::Draining;

/// What an HTTP/2 client says first; no request of HTTP/1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The name of HTTP/2 in ALPN.
pub(in crate::service) const ALPN_HTTP2: &[u8] = b"h2";
/// What a client may send for one stream before the service has read it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection together, which bounds what one connection can make us keep.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is kept of an answer that a client does not take.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Streams that a client has reset before anybody saw them; above it the connection is closed.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that a client made us reset by breaking the rules; above it the connection is closed. A client with a
/// mistake in it does so now and then, an attacker thousands of times.
const LOCAL_RESETS_MAX: usize = 100;

/// What holds for every connection of a listener.
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) http2: bool,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) draining: Draining,
}

enum Opened {
    Plain(Lingering),
    Encrypted(Box<TlsStream<Lingering>>),
}

/// Serves one connection until it ends; once `closing` is asked for, it ends after the answers in progress.
///
/// # Cancel safety
/// Dropping it closes the connection; HTTP/2 requests in progress end with it.
pub(super) async fn serve<S, F, B>(
    stream: TcpStream,
    peer: Peer,
    service: S,
    terms: Arc<Terms>,
    mut closing: Draining,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    // Small answers leave at once instead of waiting for more to send.
    let _ = stream.set_nodelay(true);
    // Wanted from the start: a head that cannot be read is refused before there is a request.
    let linger = Arc::new(AtomicBool::new(true));
    let stream = Lingering::new(stream, Arc::clone(&linger), terms.limits.write_idle);
    // Whoever says nothing has nothing to lose by the end of the listener.
    let opened = tokio::select! {
        opened = timeout(terms.limits.head, open(stream, &terms)) => opened,
        () = closing.requested() => return,
    };
    let Ok(Ok((opened, is_http2))) = opened else { return };
    let served = Served { peer, service, linger, terms, closing };
    match (opened, is_http2) {
        (Opened::Plain(stream), false) => served.http1(stream, false).await,
        (Opened::Plain(stream), true) => served.http2(stream, false).await,
        (Opened::Encrypted(stream), false) => served.http1(stream, true).await,
        (Opened::Encrypted(stream), true) => served.http2(stream, true).await,
    }
}

/// Finds out what the client speaks; the second part says whether it is HTTP/2.
async fn open(mut stream: Lingering, terms: &Terms) -> std::io::Result<(Opened, bool)> {
    let Some(tls) = &terms.tls else {
        let is_http2 = terms.http2 && stream.begins_with(PREFACE).await?;
        return Ok((Opened::Plain(stream), is_http2));
    };
    let stream = tls.accept(stream).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
    Ok((Opened::Encrypted(Box::new(stream)), is_http2))
}

/// A connection whose protocol is known.
struct Served<S> {
    peer: Peer,
    service: S,
    linger: Arc<AtomicBool>,
    terms: Arc<Terms>,
    closing: Draining,
}

impl<S, F, B> Served<S>
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    async fn http1(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, encrypted: bool) {
        let Self { peer, service, linger, terms, mut closing } = self;
        let limits = &terms.limits;
        let draining = terms.draining.clone();
        let is_upgraded = Arc::new(AtomicBool::new(false));
        let interim = Waiting::default();
        let stream = Between::new(Clear::new(stream, Arc::clone(&is_upgraded)), interim.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            introduce(&mut request, peer, encrypted);
            request.extensions_mut().insert(interim.open());
            // An answer may come before the end of the upload, whatever it says.
            let has_body = !request.body().is_end_stream();
            let (linger, is_upgraded) = (Arc::clone(&linger), Arc::clone(&is_upgraded));
            let (answer, draining, interim) = (service(request), draining.clone(), interim.clone());
            async move {
                let mut answer = answer.await;
                interim.close();
                let status = answer.status();
                let is_wanted = has_body || status.is_client_error() || status.is_server_error();
                linger.store(is_wanted, Ordering::Relaxed);
                if status == StatusCode::SWITCHING_PROTOCOLS {
                    is_upgraded.store(true, Ordering::Relaxed);
                } else if draining.is_requested() {
                    // An upgrade says something else in that field, and ends as the two sides agree.
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            // The buffer alone lets heads of nearly twice its size through.
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes.max(8 * 1024))
            .max_headers(limits.headers)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        // Errors of a connection are the peer's doing; the service has logged its own.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = closing.requested() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }

    async fn http2(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, encrypted: bool) {
        let Self { peer, service, linger: _, terms, closing } = self;
        let limits = &terms.limits;
        let streams = Streams::new(limits.write_idle);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            introduce(&mut request, peer, encrypted);
            let answer = service(request);
            async move { Ok::<_, Infallible>(answer.await.map(Watched::new)) }
        });
        let head_bytes = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(streams.clone())
            .timer(TokioTimer::new())
            // Finds out that a client is gone without having said so.
            .keep_alive_interval(limits.write_idle / 2)
            .keep_alive_timeout(limits.write_idle / 2)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(head_bytes)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        drive_http2(pin!(connection), http2::Connection::graceful_shutdown, &streams, closing, limits).await;
    }
}

/// Drives an HTTP/2 connection until it ends, is asked to end, has had nothing to do for long, or is abused.
async fn drive_http2<C: Future>(
    mut connection: Pin<&mut C>,
    shut_down: fn(Pin<&mut C>),
    streams: &Streams,
    mut closing: Draining,
    limits: &Limits,
) {
    let mut is_ending = false;
    loop {
        let begun = streams.begun();
        tokio::select! {
            _ = connection.as_mut() => return,
            () = streams.abused() => return,
            () = closing.requested(), if !is_ending => {
                is_ending = true;
                shut_down(connection.as_mut());
            }
            () = sleep(limits.write_idle), if !is_ending => {
                if streams.open() == 0 && streams.begun() == begun {
                    is_ending = true;
                    shut_down(connection.as_mut());
                }
            }
        }
    }
}

fn introduce(request: &mut Request<Incoming>, peer: Peer, encrypted: bool) {
    request.extensions_mut().insert(peer);
    if encrypted {
        request.extensions_mut().insert(Encrypted);
    }
}
