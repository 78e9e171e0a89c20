//! Listens for toxiproxy's HTTP interface and hands whole requests to it, one after another. It answers none itself but
//! those that never become whole.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::toxic::api::{Api, Ask};

/// Clients at a time; further ones wait to be accepted.
const CLIENTS_MAX: usize = 64;
/// Requests that may wait for the one before them.
const ASKS_MAX: usize = 16;
/// A list of all proxies there can be is far smaller.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long the head of a request may take, on a connection that is kept too, and then its body.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// Every answer is there long before; opening a proxy looks up names for seconds at the most.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
/// Accepting fails when the process is out of file descriptors; trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Names each request, as toxiproxy does.
const REQUEST_ID: &str = "x-toxiproxy-request-id";

/// A request on its way, and where its answer goes.
type Asked = (Ask, oneshot::Sender<Response<Bytes>>);

/// Serves the interface; it never ends. When it is dropped, every proxy of the interface is closed.
///
/// # Cancel safety
/// Requests under way get no answer.
pub async fn serve(listener: TcpListener, mut api: Api) {
    let (asks, mut asked) = mpsc::channel::<Asked>(ASKS_MAX);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some((ask, answer)) = asked.recv() => {
                // Whoever asked may have gone; what was asked for is done all the same.
                let _ = answer.send(Box::pin(api.answer(ask)).await);
            }
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => {
                if let Ok((client, _)) = accepted {
                    clients.spawn(talk(client, asks.clone()));
                } else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn talk(client: TcpStream, asks: mpsc::Sender<Asked>) {
    let service = service_fn(move |request| {
        let asks = asks.clone();
        async move { Ok::<_, Infallible>(answer(request, asks).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(READ_LIMIT);
    // A client that breaks off has nobody to tell it to.
    let _ = builder.serve_connection(TokioIo::new(client), service).await;
}

async fn answer(request: Request<Incoming>, asks: mpsc::Sender<Asked>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let agent = head.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let mut ask = Ask {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        user_agent: agent.map(str::to_owned),
        body: Bytes::new(),
    };
    let mut response = match tokio::time::timeout(READ_LIMIT, Limited::new(body, BODY_BYTES_MAX).collect())
        .await
    {
        Err(_) => status(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(_)) => status(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Ok(body)) => {
            ask.body = body.to_bytes();
            tokio::time::timeout(ANSWER_LIMIT, pass_on(ask, asks)).await.ok().flatten().unwrap_or_else(|| {
                // As toxiproxy says it where it is too slow.
                status(StatusCode::SERVICE_UNAVAILABLE)
            })
        }
    };
    let id = HeaderValue::from_str(&format!("{:016x}", fastrand::u64(..)));
    if let Ok(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(Full::new)
}

async fn pass_on(ask: Ask, asks: mpsc::Sender<Asked>) -> Option<Response<Bytes>> {
    let (answer, answered) = oneshot::channel();
    asks.send((ask, answer)).await.ok()?;
    answered.await.ok()
}

fn status(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
