//! An HTTP/1.1 client for the load: a bounded pool of keep-alive connections to one address, a deadline on
//! everything, and an exact account of whether a request left. Does not read the meaning of answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::history::Got;

/// Largest answer that is read; a list of ten todos with the longest titles is far below.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Connections kept for reuse; more are closed after their answer.
const IDLE_MAX: usize = 64;
/// A connection that nobody accepts is given up after this time, or at the deadline if that is earlier.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// One request of the load.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Its idempotency key: with it, sending twice is harmless.
    pub(crate) key: Option<String>,
    /// Beside those that every request has.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, key: None, headers: Vec::new(), body: String::new() }
    }

    /// Whether sending it twice cannot do more than sending it once.
    fn may_be_resent(&self) -> bool {
        self.method == Method::GET || self.key.is_some()
    }
}

/// What happened to one request.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) got: Got,
    pub(crate) sent: Option<Instant>,
    pub(crate) status: Option<u16>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) resent: bool,
    pub(crate) error: Option<String>,
}

impl Exchange {
    fn without_answer(got: Got, sent: Option<Instant>, error: String) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { got, sent, status: None, headers, body, resent: false, error: Some(error) }
    }
}

/// A pool of connections to one address. Cloning is cheap and shares the pool.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

/// A connection and the task that drives it, which ends with it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    reused: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// A pool that is empty until the first request. At most `connections_max` requests run at one time.
    pub(crate) fn new(address: SocketAddr, connections_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max));
        Self { address, idle: Arc::new(Mutex::new(Vec::new())), permits }
    }

    /// Sends one request and reads the whole answer, all before `deadline`.
    ///
    /// A request that meets a kept connection which the other side has closed is sent once more on a new
    /// one, if sending it twice is harmless; the exchange says so.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection in use; the request may or may not have taken effect.
    pub(crate) async fn send(&self, request: &Request, deadline: Instant) -> Exchange {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            return Exchange::without_answer(Got::NeverSent, None, "no connection came free in time".into());
        };
        let connection = match self.checkout(deadline).await {
            Ok(connection) => connection,
            Err(exchange) => return exchange,
        };
        let reused = connection.reused;
        let first = self.exchange(connection, request, deadline).await;
        if !(reused && first.got == Got::Cut && first.status.is_none() && request.may_be_resent()) {
            return first;
        }
        match self.dial(deadline).await {
            Ok(connection) => {
                let second = self.exchange(connection, request, deadline).await;
                Exchange { resent: true, sent: first.sent.or(second.sent), ..second }
            }
            // The first sending may have had an effect, so this is not "nothing was sent".
            Err(second) => Exchange { resent: true, sent: first.sent, got: Got::Cut, ..second },
        }
    }

    async fn checkout(&self, deadline: Instant) -> Result<Connection, Exchange> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = kept else {
                return self.dial(deadline).await;
            };
            // A closed one answers at once, a live one as soon as it has taken notice of its last answer.
            if let Ok(Ok(())) = timeout_at(deadline, connection.sender.ready()).await {
                connection.reused = true;
                return Ok(connection);
            }
        }
    }

    async fn dial(&self, deadline: Instant) -> Result<Connection, Exchange> {
        let until = deadline.min(Instant::now() + CONNECT_MAX);
        let stream = match timeout_at(until, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Exchange::without_answer(Got::Refused, None, error.to_string())),
            Err(_) => {
                let text = "the connection was not accepted in time".into();
                return Err(Exchange::without_answer(Got::NeverSent, None, text));
            }
        };
        // Without this, small requests on a kept connection would wait for the other side's delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            return Err(Exchange::without_answer(Got::Refused, None, error.to_string()));
        }
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Exchange::without_answer(Got::Refused, None, error.to_string()))?;
        let driver = tokio::spawn(async move {
            // Its error also reaches the request in flight, which records it.
            let _ = driver.await;
        });
        Ok(Connection { sender, driver: driver.abort_handle(), reused: false })
    }

    async fn exchange(&self, mut connection: Connection, request: &Request, deadline: Instant) -> Exchange {
        let message = match build(request, self.address) {
            Ok(message) => message,
            Err(error) => return Exchange::without_answer(Got::NeverSent, None, error.to_string()),
        };
        let sent = Some(Instant::now());
        let answer = match timeout_at(deadline, connection.sender.send_request(message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Exchange::without_answer(Got::Cut, sent, words(&error)),
            Err(_) => return Exchange::without_answer(Got::Deadline, sent, "no answer in time".into()),
        };
        let (head, body) = answer.into_parts();
        let status = Some(head.status.as_u16());
        let (got, body, error) =
            match timeout_at(deadline, Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
                Ok(Ok(body)) => (Got::Answer, body.to_bytes(), None),
                Ok(Err(error)) => (Got::Cut, Bytes::new(), Some(error.to_string())),
                Err(_) => (Got::Deadline, Bytes::new(), Some("the answer was not whole in time".into())),
            };
        if got == Got::Answer {
            self.keep(connection);
        }
        Exchange { got, sent, status, headers: head.headers, body, resent: false, error }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }
}

fn build(request: &Request, address: SocketAddr) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let mut builder = http::Request::builder()
        .method(request.method.clone())
        .uri(request.path.as_str())
        .header(http::header::HOST, address.to_string());
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let has = |wanted: &http::HeaderName| request.headers.iter().any(|(name, _)| name == wanted.as_str());
    if !has(&http::header::ACCEPT) {
        builder = builder.header(http::header::ACCEPT, "application/json");
    }
    if let Some(key) = &request.key {
        builder = builder.header("idempotency-key", key.as_str());
    }
    if !request.body.is_empty() && !has(&http::header::CONTENT_TYPE) {
        builder = builder.header(http::header::CONTENT_TYPE, "application/json");
    }
    builder.body(Full::new(Bytes::from(request.body.clone())))
}

fn words(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
