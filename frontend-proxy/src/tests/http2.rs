//! HTTP/2 towards clients: what becomes of a message on its way to an HTTP/1.1 backend, and how a connection ends.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use super::harness::{OK, Stub, proxy, read_until, soon};

/// A body whose frames are there at once.
#[derive(Debug, Default)]
pub(super) struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    fn of(parts: &[&'static str], trailers: Option<HeaderMap>) -> Self {
        let data = parts.iter().map(|part| Frame::data(Bytes::from_static(part.as_bytes())));
        Self(data.chain(trailers.map(Frame::trailers)).collect())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A client on a connection of its own.
pub(super) struct Client {
    sender: SendRequest<Frames>,
    pub(super) driver: JoinHandle<hyper::Result<()>>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    pub(super) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Self { sender, driver: tokio::spawn(driver) }
    }

    pub(super) async fn send(&mut self, request: Request<Frames>) -> Response<Incoming> {
        soon("an answer", self.sender.send_request(request)).await.unwrap()
    }
}

pub(super) fn get(uri: &str) -> Request<Frames> {
    Request::builder().version(Version::HTTP_2).uri(uri).body(Frames::default()).unwrap()
}

fn post(uri: &str, body: Frames) -> Request<Frames> {
    Request::builder().version(Version::HTTP_2).method("POST").uri(uri).body(body).unwrap()
}

#[tokio::test]
async fn a_request_becomes_one_of_http1() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = Client::connect(proxy.address).await;
    let mut asking = get("http://shop.example:81/x?y=%2F");
    for (name, value) in
        [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("host", "shop.example:81")]
    {
        asking.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = client.send(asking).await;
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    assert!(answer.headers().contains_key("x-request-id"));
    let body = soon("the body", answer.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "ok");
    let head = &stub.seen.heads()[0];
    assert!(head.starts_with("GET /x?y=%2F HTTP/1.1\r\n"), "{head}");
    for there in [
        "\r\nhost: shop.example:81\r\n",
        "\r\ncookie: a=1; b=2\r\n",
        "\r\nte: trailers\r\n",
        "\r\nvia: 2 ridethrough-proxy-",
    ] {
        assert_eq!(head.matches(there).count(), 1, "{there} in {head}");
    }
    // The second one finds the connection to the backend that the first one left.
    assert_eq!(client.send(get("http://a/")).await.status(), StatusCode::OK);
    assert_eq!(stub.seen.connections(), 1);
}

#[tokio::test]
async fn a_host_that_is_not_the_authority_is_refused_and_the_connection_lives() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = Client::connect(proxy.address).await;
    let mut asking = get("http://a/");
    asking.headers_mut().insert("host", "b".parse().unwrap());
    assert_eq!(client.send(asking).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(stub.seen.count(), 0);
    assert_eq!(client.send(get("http://a/")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let stub = Stub::start(|head, mut stream, _| async move {
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let body = read_until(&mut stream, "0\r\nx-sum: 7\r\n\r\n").await.unwrap();
        assert!(body.starts_with("3\r\none\r\n3\r\ntwo\r\n"), "{body}");
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                       2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = Client::connect(proxy.address).await;
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    let mut asking = post("http://a/", Frames::of(&["one", "two"], Some(trailers)));
    asking.headers_mut().insert("trailer", "x-sum".parse().unwrap());
    let answer = client.send(asking).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let whole = soon("the body", answer.into_body().collect()).await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-sum"], "42");
    assert_eq!(whole.to_bytes(), "ok");
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = Client::connect(proxy.address).await;
    let answer = client.send(get("http://a/")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(soon("the end", answer.into_body().collect()).await.is_err(), "a clean end was made up");
}

#[tokio::test]
async fn a_refused_upload_gets_its_answer_and_the_connection_lives() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |config| config.proxy.body_bytes_max = 1_000).await;
    let mut client = Client::connect(proxy.address).await;
    let large: &'static str = Box::leak("a".repeat(4 * 1024 * 1024).into_boxed_str());
    let mut asking = post("http://a/", Frames::of(&[large], None));
    asking.headers_mut().insert("content-length", large.len().into());
    let answer = client.send(asking).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let page = soon("the page", answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(!page.is_empty());
    assert_eq!(client.send(get("http://a/")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_that_is_given_up_takes_its_upstream_request_with_it() {
    let (gone, mut hear) = mpsc::channel::<usize>(1);
    let (asked, mut is_asked) = mpsc::channel::<()>(1);
    let stub = Stub::start(move |_, mut stream, _| {
        let (gone, asked) = (gone.clone(), asked.clone());
        async move {
            asked.send(()).await.unwrap();
            let left = stream.read(&mut [0; 8]).await.unwrap_or(0);
            gone.send(left).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = Client::connect(proxy.address).await;
    let waiting = client.sender.send_request(get("http://a/"));
    let waiting = tokio::spawn(waiting);
    soon("the request at the backend", is_asked.recv()).await.unwrap();
    waiting.abort();
    assert_eq!(soon("the end at the backend", hear.recv()).await, Some(0));
    assert!(!client.driver.is_finished());
}

#[tokio::test]
async fn a_drain_lets_answers_in_progress_finish_and_then_ends_the_connection() {
    let (go_on, wait) = mpsc::channel::<()>(1);
    let wait = std::sync::Arc::new(tokio::sync::Mutex::new(wait));
    let (asked, mut is_asked) = mpsc::channel::<()>(1);
    let stub = Stub::start(move |_, mut stream, _| {
        let (wait, asked) = (std::sync::Arc::clone(&wait), asked.clone());
        async move {
            asked.send(()).await.unwrap();
            wait.lock().await.recv().await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = Client::connect(proxy.address).await;
    let answer = tokio::spawn(client.sender.send_request(get("http://a/")));
    soon("the request at the backend", is_asked.recv()).await.unwrap();
    proxy.drain.begin();
    soon("the end of the listener", async {
        while TcpStream::connect(proxy.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    go_on.send(()).await.unwrap();
    let answer = soon("the answer", answer).await.unwrap().unwrap();
    assert_eq!(soon("the body", answer.into_body().collect()).await.unwrap().to_bytes(), "ok");
    soon("the end of the connection", &mut client.driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn where_it_is_switched_off_nobody_speaks_it() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |config| config.listen.http2 = false).await;
    let reply = super::harness::raw(proxy.address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(reply.text.is_empty() || reply.status() >= 400, "{:?}", reply.text);
}
