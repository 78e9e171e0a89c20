//! Bodies and connections on their way through: nothing is collected, nothing ends better than it was.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use super::harness::{OK, Stub, ask, proxy, raw, read_head, read_until, rest, soon};

#[tokio::test]
async fn the_first_chunk_arrives_before_the_last_is_sent() {
    let (go_on, wait) = mpsc::channel::<()>(1);
    let wait = std::sync::Arc::new(tokio::sync::Mutex::new(wait));
    let stub = Stub::start(move |_, mut stream, _| {
        let wait = std::sync::Arc::clone(&wait);
        async move {
            let start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(start).await.unwrap();
            wait.lock().await.recv().await.unwrap();
            stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    soon("the first chunk", read_until(&mut client, "first")).await.unwrap();
    go_on.send(()).await.unwrap();
    assert!(rest(&mut client).await.text.ends_with("4\r\nlast\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn an_upload_reaches_the_backend_while_it_is_still_coming() {
    let (heard, mut hear) = mpsc::channel::<()>(1);
    let stub = Stub::start(move |_, mut stream, _| {
        let heard = heard.clone();
        async move {
            read_until(&mut stream, "first").await.unwrap();
            heard.send(()).await.unwrap();
            read_until(&mut stream, "last\r\n0\r\n\r\n").await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let start = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    client.write_all(start).await.unwrap();
    soon("the first part at the backend", hear.recv()).await.unwrap();
    client.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(rest(&mut client).await.status(), 200);
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete() {
    let stub = Stub::start(|head, mut stream, _| async move {
        let answer: &[u8] = if head.starts_with("GET /chunked ") {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf "
        };
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let chunked = ask(proxy.address, "GET /chunked", &[]).await;
    assert_eq!(chunked.status(), 200);
    assert!(!chunked.text.contains("\r\n0\r\n"), "a clean end was made up: {:?}", chunked.text);
    let counted = ask(proxy.address, "GET /counted", &[]).await;
    assert_eq!(counted.field("content-length"), "100");
    assert!(counted.body().len() < 100);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    let (gone, mut hear) = mpsc::channel::<usize>(1);
    let stub = Stub::start(move |_, mut stream, _| {
        let gone = gone.clone();
        async move {
            let left = stream.read(&mut [0; 8]).await.unwrap_or(0);
            gone.send(left).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    soon("the request at the backend", async {
        while stub.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    assert_eq!(soon("the end at the backend", hear.recv()).await, Some(0));
}

#[tokio::test]
async fn trailers_pass_where_the_client_takes_them() {
    const WITH_TRAILER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                                2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n";
    let stub = Stub::answering(WITH_TRAILER).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let asking = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    let answer = raw(proxy.address, asking).await;
    assert_eq!(answer.field("trailer"), "x-sum");
    assert!(answer.text.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{:?}", answer.text);
    assert!(stub.seen.heads()[0].contains("te: trailers"));
}

#[tokio::test]
async fn too_much_body_is_413_whether_it_is_declared_or_not() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let mut sink = vec![0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let proxy = proxy(&[stub.address], |config| config.proxy.body_bytes_max = 1_000).await;
    let declared = ask(proxy.address, "POST /", &["Content-Length: 1001"]).await;
    assert_eq!(declared.status(), 413);
    assert_eq!(declared.field("ridethrough-outcome"), "rejected");
    assert_eq!(stub.seen.count(), 0, "the backend heard of it");
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "a".repeat(1_001));
    let counted = ask(proxy.address, "POST /", &["Transfer-Encoding: chunked", "", &chunk]).await;
    assert_eq!(counted.status(), 413, "{}", counted.text);
}

#[tokio::test]
async fn a_refusal_does_not_invite_the_body() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |config| config.proxy.body_bytes_max = 10).await;
    let refused = ask(proxy.address, "POST /", &["Expect: 100-continue", "Content-Length: 11"]).await;
    assert!(refused.text.starts_with("HTTP/1.1 413"), "{}", refused.text);
}

#[tokio::test]
async fn connections_are_used_again_and_head_and_304_do_not_confuse_them() {
    let stub = Stub::start(|head, mut stream, seen| async move {
        let mut head = head;
        loop {
            let answer = match head.split(' ').nth(1).unwrap_or_default() {
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                _ if head.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n",
                _ => OK,
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            let Some(next) = read_head(&mut stream).await else { return };
            seen.note(&next);
            head = next;
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let head = ask(proxy.address, "HEAD /", &[]).await;
    assert_eq!((head.field("content-length").as_str(), head.body()), ("9000", ""));
    let unchanged = ask(proxy.address, "GET /304", &[]).await;
    assert_eq!((unchanged.status(), unchanged.body()), (304, ""));
    assert_eq!(ask(proxy.address, "GET /204", &[]).await.text.matches("HTTP/1.1").count(), 1);
    assert_eq!(ask(proxy.address, "GET /", &[]).await.body(), "ok");
    assert_eq!(stub.seen.connections(), 1);
}

#[tokio::test]
async fn a_websocket_passes_through() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let accept =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        stream.write_all(accept).await.unwrap();
        let heard = read_until(&mut stream, "ping").await.unwrap();
        stream.write_all(heard.as_bytes()).await.unwrap();
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let asking = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(asking).await.unwrap();
    let head = soon("the switch", read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.write_all(b"ping").await.unwrap();
    assert_eq!(rest(&mut client).await.text, "helloping");
    assert!(stub.seen.heads()[0].contains("upgrade: websocket"));
}

#[tokio::test]
async fn a_backend_that_switches_unasked_gives_a_bad_answer() {
    let stub =
        Stub::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let asking = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(raw(proxy.address, asking).await.status(), 502);
    assert!(!stub.seen.heads()[0].contains("upgrade"));
}
