//! HTTP/2 connections that break the rules or bend them: raw frames in, and what the proxy does about it.
//!
//! The rules of the protocol itself are checked by the implementation's own tests and by h2spec; here are those that
//! bound what a client can cost, and those that keep requests of HTTP/1.1 from being smuggled.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::harness::{OK, Running, Stub, proxy, read_head, soon};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const ENHANCE_YOUR_CALM: u32 = 11;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

struct Raw(TcpStream);

/// A frame as it came: its type, its stream, its payload.
type Came = (u8, u32, Vec<u8>);

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Self(stream);
        assert!(raw.send(SETTINGS, 0, 0, &[]).await);
        raw
    }

    /// False where the proxy has closed the connection.
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        soon("room for a frame", self.0.write_all(&frame)).await.is_ok()
    }

    async fn next(&mut self) -> Option<Came> {
        let mut head = [0; 9];
        soon("a frame", self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon("its payload", self.0.read_exact(&mut payload)).await.ok()?;
        if (head[3], head[4]) == (PING, 0) {
            self.send(PING, ACK, 0, &payload).await;
        }
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// The first frame of one of these types; `None` where the connection ends before.
    async fn first(&mut self, kinds: &[u8]) -> Option<Came> {
        loop {
            let came = self.next().await?;
            if kinds.contains(&came.0) {
                return Some(came);
            }
        }
    }

    /// Reads to the end; the code of the GOAWAY, where there was one.
    async fn end(mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, payload)) = self.next().await {
            if kind == GOAWAY {
                code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
            }
        }
        code
    }
}

/// A header block without compression.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

fn post_with(fields: &[(&'static str, &'static str)]) -> Vec<u8> {
    let mut all = vec![(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    all.extend(fields);
    block(&all)
}

#[tokio::test]
async fn only_so_many_requests_at_once_are_allowed_on_a_connection() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_head(&mut stream).await;
    })
    .await;
    let proxy = proxy(&[stub.address], |config| config.limits.streams = 3).await;
    let mut raw = Raw::connect(proxy.address).await;
    let (_, _, settings) = raw.first(&[SETTINGS]).await.unwrap();
    let value = settings.chunks(6).find(|entry| entry.starts_with(&[0, 3])).map(|entry| entry[5]);
    assert_eq!(value, Some(3));
    for stream in [1, 3, 5, 7] {
        assert!(raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &block(GET)).await);
    }
    let (_, stream, code) = raw.first(&[RST_STREAM]).await.unwrap();
    assert_eq!((stream, code[3]), (7, 7), "REFUSED_STREAM");
}

/// A proxy in which no request waits for the answer to another one like it: each is one of the backend's.
async fn uncached(stub: &Stub) -> Running {
    proxy(&[stub.address], |config| config.cache.enabled = false).await
}

/// CVE-2023-44487: streams opened and given up at once cost the client a few bytes each.
#[tokio::test]
async fn a_client_that_opens_streams_and_gives_them_up_at_once_is_cut_off() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_head(&mut stream).await;
    })
    .await;
    let proxy = uncached(&stub).await;
    let mut raw = Raw::connect(proxy.address).await;
    for stream in (1..10_001).step_by(2) {
        let opened = raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &block(GET)).await;
        if !(opened && raw.send(RST_STREAM, 0, stream, &CANCEL).await) {
            break;
        }
    }
    let code = raw.end().await;
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{code:?}");
    assert!(stub.seen.count() < 500, "the backend heard of {} of them", stub.seen.count());
}

/// The protocol's own limit counts only what nobody has looked at yet. A client that waits a moment before it gives up
/// makes each stream a request to the backend, and a connection of it.
#[tokio::test]
async fn a_client_that_gives_up_what_was_begun_is_cut_off_too() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_head(&mut stream).await;
    })
    .await;
    let proxy = uncached(&stub).await;
    let mut raw = Raw::connect(proxy.address).await;
    for (begun, stream) in (1..2_001).step_by(2).enumerate() {
        if !raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &block(GET)).await {
            break;
        }
        let heard = async {
            while stub.seen.count() <= begun {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), heard).await.is_err() {
            break;
        }
        let _ = raw.send(RST_STREAM, 0, stream, &CANCEL).await;
    }
    assert!((200..300).contains(&stub.seen.count()), "the backend heard of {}", stub.seen.count());
    raw.end().await;
}

/// CVE-2025-8671: frames that make the server reset streams count as well.
#[tokio::test]
async fn a_client_that_makes_us_reset_streams_is_cut_off() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_head(&mut stream).await;
    })
    .await;
    let proxy = uncached(&stub).await;
    let mut raw = Raw::connect(proxy.address).await;
    let too_wide = 0x7fff_ffff_u32.to_be_bytes();
    for stream in (1..2_001).step_by(2) {
        let opened = raw.send(HEADERS, END_STREAM | END_HEADERS, stream, &block(GET)).await;
        if !(opened && raw.send(WINDOW_UPDATE, 0, stream, &too_wide).await) {
            break;
        }
    }
    let code = raw.end().await;
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{code:?}");
    assert!(stub.seen.count() < 500, "the backend heard of {} of them", stub.seen.count());
}

/// CVE-2024-27316 and others: a head that never ends.
#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut raw = Raw::connect(proxy.address).await;
    assert!(raw.send(HEADERS, END_STREAM, 1, &block(GET)).await);
    let more = block(&[("x", "1"); 1_000]);
    let mut sent = 0;
    while sent < 10_000 && raw.send(CONTINUATION, 0, 1, &more).await {
        sent += 1;
    }
    assert!(sent < 10_000, "it went on for ever");
    assert_eq!(stub.seen.count(), 0);
}

/// A body that is longer or shorter than it says would be the beginning of another request in HTTP/1.1.
#[tokio::test]
async fn a_length_that_is_not_the_bodys_is_refused() {
    let stub = Stub::start(|_, mut stream, seen| async move {
        while let Some(head) = read_head(&mut stream).await {
            seen.note(&head);
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    for (declared, body) in
        [("3", "GET /smuggled HTTP/1.1\r\n\r\n"), ("30", "short"), ("+5", "fives"), ("5, 5", "fives")]
    {
        let mut raw = Raw::connect(proxy.address).await;
        let head = post_with(&[("content-length", declared)]);
        assert!(raw.send(HEADERS, END_HEADERS, 1, &head).await);
        assert!(raw.send(DATA, END_STREAM, 1, body.as_bytes()).await);
        let came = raw.first(&[RST_STREAM, GOAWAY, HEADERS]).await;
        assert!(
            matches!(&came, Some((RST_STREAM, 1, code)) if code[3] == 1)
                || matches!(&came, Some((HEADERS, ..))),
            "{declared}: {came:?}"
        );
    }
    assert!(!stub.seen.heads().iter().any(|head| head.starts_with("GET /smuggled")));
}

#[tokio::test]
async fn fields_of_http1_that_say_where_a_message_ends_are_refused() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    for fields in [
        ("transfer-encoding", "chunked"),
        ("connection", "x"),
        ("upgrade", "websocket"),
        ("x", "1\r\nhost: b"),
        ("x\r\ny", "1"),
        ("X-Upper", "1"),
        (":path", "/twice"),
        ("te", "gzip"),
    ] {
        let mut raw = Raw::connect(proxy.address).await;
        assert!(raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &post_with(&[fields])).await);
        let came = raw.first(&[RST_STREAM, GOAWAY]).await;
        assert!(matches!(came, Some((RST_STREAM | GOAWAY, ..))), "{fields:?}: {came:?}");
    }
    assert_eq!(stub.seen.count(), 0);
}

#[tokio::test]
async fn half_a_preface_does_not_keep_a_connection() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |config| config.limits.head = Duration::from_millis(50)).await;
    for said in ["", "PRI * HT"] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut heard)).await;
        assert!(heard.is_empty(), "{heard:?}");
    }
}

#[tokio::test]
async fn a_connection_with_nothing_to_do_is_ended() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |config| config.limits.write_idle = Duration::from_millis(50)).await;
    let mut raw = Raw::connect(proxy.address).await;
    assert!(raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &block(GET)).await);
    assert!(raw.first(&[HEADERS]).await.is_some());
    assert!(soon("the end", raw.first(&[GOAWAY])).await.is_some());
    raw.end().await;
}

/// A client that opens no window takes nothing of its answer, and its requests would be there for ever.
#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_loses_it() {
    const LARGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let stub = Stub::answering(LARGE).await;
    let proxy = proxy(&[stub.address], |config| config.limits.write_idle = Duration::from_millis(200)).await;
    let mut raw = Raw::connect(proxy.address).await;
    let no_window = [0, 4, 0, 0, 0, 0];
    assert!(raw.send(SETTINGS, 0, 0, &no_window).await);
    assert!(raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &block(GET)).await);
    let reset = soon("the end of the stream", raw.first(&[RST_STREAM])).await;
    let (_, stream, _) = reset.expect("the stream is reset");
    assert_eq!(stream, 1);
}
