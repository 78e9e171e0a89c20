//! A small HTTP client: one connection a request, a deadline on everything, and a look for secrets in every error.
//! It retries nothing and follows nothing, so that a test sees what a user would.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use crate::logs::Secrets;

/// Above every deadline of server and proxy.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// No answer of ours is longer.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// By this a page of the list is known.
const LIST: &str = "<main id=\"page\"";

/// One listener, and what its errors must not tell.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    secrets: Secrets,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// No answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection: nothing was sent.
    Refused(String),
    /// The connection ended before the answer did.
    Broken(String),
    /// Nothing for 20 s.
    Late,
}

impl Answer {
    /// The text of a header; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: no JSON in {self:?}"))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `fresh`, or the reason of a stale answer.
    ///
    /// # Panics
    /// Where the answer is not labelled as the contract says.
    #[must_use]
    pub fn freshness(&self) -> &str {
        let label = self.header("ridethrough-freshness");
        if label == "fresh" {
            return label;
        }
        let stale = label.strip_prefix("stale; age=").and_then(|rest| rest.split_once("; reason="));
        let Some((age, reason)) = stale else { panic!("no valid freshness in {self:?}") };
        assert!(age.parse::<u64>().is_ok(), "no valid age in {self:?}");
        reason
    }

    /// Says that it has this status.
    ///
    /// # Panics
    /// Where it has another one.
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}: {}", self.text());
        self
    }

    /// Says that it acknowledges a write: committed or journaled, and labelled accordingly.
    ///
    /// # Panics
    /// Where it does not.
    #[must_use]
    pub fn acknowledged(self) -> Self {
        let expected = match self.status {
            200 | 201 | 204 => "committed",
            202 => "journaled",
            _ => panic!("not acknowledged: {self:?}: {}", self.text()),
        };
        assert_eq!(self.header("ridethrough-outcome"), expected, "{self:?}");
        assert_ne!(self.header("idempotency-key"), "", "{self:?}");
        self
    }

    /// Says that it is a problem document with this status; gives the document.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}: {}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}: {}", self.text());
        let document = self.json();
        let kind = document.get("type").and_then(Value::as_str).unwrap_or_default();
        assert!(kind.starts_with("/problems/"), "{document}");
        assert_eq!(document.get("status"), Some(&Value::from(status)), "{document}");
        document
    }
}

impl Client {
    /// A client of one listener.
    #[must_use]
    pub fn new(address: SocketAddr, secrets: Secrets) -> Self {
        Self { address, secrets }
    }

    /// Where it sends to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request on a connection of its own.
    ///
    /// # Errors
    /// [`Failure`] where no whole answer came.
    ///
    /// # Panics
    /// Where an error answer tells a secret.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection; the server may have acted.
    pub async fn try_send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let what = format!("{} {}", request.method(), request.uri());
        let answer =
            timeout(ANSWER_LIMIT, exchange(self.address, request)).await.map_err(|_| Failure::Late)??;
        if answer.status >= 400 {
            let text = answer.text();
            let is_list = text.contains(LIST);
            let leak =
                if is_list { self.secrets.leaked_by_page(&text) } else { self.secrets.leaked_by(&text) };
            assert!(leak.is_none(), "{what}: the error tells {}: {text}", leak.unwrap_or_default());
        }
        Ok(answer)
    }

    /// As [`Client::try_send`], where an answer is certain.
    ///
    /// # Panics
    /// Where none comes.
    ///
    /// # Cancel safety
    /// As [`Client::try_send`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let what = format!("{} {}", request.method(), request.uri());
        self.try_send(request).await.unwrap_or_else(|failure| panic!("{what}: {failure:?}"))
    }

    /// `GET`.
    ///
    /// # Panics
    /// Where no answer comes.
    ///
    /// # Cancel safety
    /// As [`Client::try_send`].
    pub async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, None, None)).await
    }

    /// `POST` of a new todo.
    ///
    /// # Panics
    /// Where no answer comes.
    ///
    /// # Cancel safety
    /// As [`Client::try_send`].
    pub async fn create(&self, key: &str, title: &str) -> Answer {
        self.send(create(key, title)).await
    }

    /// `PUT` of a todo.
    ///
    /// # Panics
    /// Where no answer comes.
    ///
    /// # Cancel safety
    /// As [`Client::try_send`].
    pub async fn replace(&self, key: &str, id: &str, title: &str) -> Answer {
        let body = serde_json::json!({"title": title, "done": false});
        self.send(request(Method::PUT, &format!("/api/todos/{id}"), Some(key), Some(&body))).await
    }

    /// `DELETE` of a todo.
    ///
    /// # Panics
    /// Where no answer comes.
    ///
    /// # Cancel safety
    /// As [`Client::try_send`].
    pub async fn remove(&self, key: &str, id: &str) -> Answer {
        self.send(request(Method::DELETE, &format!("/api/todos/{id}"), Some(key), None)).await
    }

    /// What the server says became of a key: the word, or `404`.
    ///
    /// # Panics
    /// Where it says neither.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn write_status(&self, key: &str) -> String {
        let answer = self.get(&format!("/api/writes/{key}")).await;
        match answer.status {
            200 => answer.json().get("status").and_then(Value::as_str).expect("a status").to_owned(),
            other => other.to_string(),
        }
    }
}

/// The `POST` of a new todo under a key.
#[must_use]
pub fn create(key: &str, title: &str) -> Request<Full<Bytes>> {
    request(Method::POST, "/api/todos", Some(key), Some(&serde_json::json!({"title": title})))
}

/// A request with a JSON body, or without one.
///
/// # Panics
/// Where path or key cannot stand in a request.
#[must_use]
pub fn request(method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        builder = builder.header("idempotency-key", key);
    }
    if body.is_some() {
        builder = builder.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    builder.body(Full::new(body)).expect("the tests write valid requests")
}

/// Ends the connection's task with the request.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
    let broken = |error: hyper::Error| Failure::Broken(error.to_string());
    let stream = TcpStream::connect(address).await.map_err(|error| refused(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _driver = Driver(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let host = address.to_string().parse().expect("an address is a header value");
    request.headers_mut().entry(header::HOST).or_insert(host);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Failure::Broken(error.to_string()))?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}
