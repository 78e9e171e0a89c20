//! Whether a process is ready, asked over HTTP. Only the status line is read; users' requests are in `workload.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One question.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The status of a `GET`; `None` where no answer came.
pub(super) async fn status(address: SocketAddr, path: &str) -> Option<u16> {
    tokio::time::timeout(ASK_LIMIT, ask(address, path)).await.ok()?.ok()?
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<Option<u16>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0_u8; 12];
    stream.read_exact(&mut start).await?;
    Ok(parse(&start))
}

/// `HTTP/1.1 200`
fn parse(start: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(start).ok()?;
    text.strip_prefix("HTTP/1.")?.split_once(' ')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_gives_its_number() {
        assert_eq!(parse(b"HTTP/1.1 200"), Some(200));
        assert_eq!(parse(b"HTTP/1.0 503"), Some(503));
        assert_eq!(parse(b"SSH-2.0-Open"), None);
    }
}
