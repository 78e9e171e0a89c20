//! The interface over HTTP, with raw requests: what the server itself decides.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::toxic::address::Reach;

async fn server() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, Api::new(1, Reach::Loopback)));
    (address, tasks)
}

/// What comes back until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has read enough may close before all is written.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn request(method: &str, path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n");
    format!("{head}{more}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_request_gets_its_answer_and_a_number() {
    let (address, _server) = server().await;
    let answer = exchange(address, &request("GET", "/version?x=1", "", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\r\nx-toxiproxy-request-id: "), "{answer}");
    assert!(answer.ends_with("{\"version\":\"2.12.0\"}\n"), "{answer}");
}

#[tokio::test]
async fn browsers_are_refused() {
    let (address, _server) = server().await;
    let answer = exchange(address, &request("GET", "/proxies", "User-Agent: Mozilla/5.0\r\n", "")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused() {
    let (address, _server) = server().await;
    let body = " ".repeat(BODY_BYTES_MAX + 1);
    let answer = exchange(address, &request("POST", "/populate", "", &body)).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") || answer.is_empty(), "{answer}");
    let answer = exchange(address, &request("GET", "/proxies", "", "")).await;
    assert!(answer.ends_with("{}\n"), "{answer}");
}
