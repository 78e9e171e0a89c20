//! One HTTP probe as the kubelet sends it: a connection of its own, no keep-alive, and only the status counts. What follows
//! from results is in `worker`.
//!
//! A redirect counts as good, as one to another host does for the kubelet; it is not followed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// As much of an answer is read.
const ANSWER_BYTES_MAX: u64 = 10 * 1024;

/// Whether the probe was good.
pub(super) async fn ask(address: SocketAddr, path: &str, limit: Duration) -> bool {
    matches!(timeout(limit, exchange(address, path)).await, Ok(Ok(answer)) if is_good(&answer))
}

async fn exchange(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe/1.32\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// `HTTP/1.1 200` to `HTTP/1.1 399`.
fn is_good(answer: &[u8]) -> bool {
    let status = || {
        let start = std::str::from_utf8(answer.get(..12)?).ok()?;
        start.strip_prefix("HTTP/1.")?.split_once(' ')?.1.parse::<u16>().ok()
    };
    status().is_some_and(|status| (200..400).contains(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kubelet_calls_good() {
        for status in [200, 204, 301, 304, 399] {
            assert!(is_good(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()), "{status}");
        }
        for answer in
            ["HTTP/1.1 400 X\r\n", "HTTP/1.1 503 X\r\n", "HTTP/1.1 199 X\r\n", "HTTP/1.1 2", "SSH-2.0-Open X"]
        {
            assert!(!is_good(answer.as_bytes()), "{answer}");
        }
    }
}
