//! Backends that break the rules, and answers that are unusual but right: what the client gets of them.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::harness::{OK, OK_CLOSE, Reserved, Stub, ask, proxy, raw, read_head, read_until, rest, soon};

/// Name, what the backend says, status and body at the client.
type Case = (&'static str, String, u16, &'static str);

fn case(name: &'static str, answer: &str, status: u16, body: &'static str) -> Case {
    (name, format!("HTTP/1.1 {answer}"), status, body)
}

fn cases() -> Vec<Case> {
    const CHUNKED: &str = "200 OK\r\nTransfer-Encoding: chunked\r\n";
    vec![
        case(
            "a length and chunks",
            &format!("{CHUNKED}Content-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            502,
            "",
        ),
        case(
            "chunks and a length",
            "200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            502,
            "",
        ),
        case("two lengths", "200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 502, ""),
        case("the same length twice", "200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 502, ""),
        case("a list of lengths", "200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 502, ""),
        case("a length with a sign", "200 OK\r\nContent-Length: +2\r\n\r\nok", 502, ""),
        case(
            "an unknown coding",
            "200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            502,
            "",
        ),
        case("a folded field", "200 OK\r\nX: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok", 502, ""),
        case("a blank before the colon", "200 OK\r\nContent-Length : 2\r\n\r\nok", 502, ""),
        case("a NUL in a field", "200 OK\r\nX: \u{0}\r\nContent-Length: 2\r\n\r\nok", 502, ""),
        case("a lone CR in a field", "200 OK\r\nX: 1\rY: 2\r\nContent-Length: 2\r\n\r\nok", 502, ""),
        case("no status", "OK\r\nContent-Length: 2\r\n\r\nok", 502, ""),
        case("a status of two digits", "20 OK\r\nContent-Length: 2\r\n\r\nok", 502, ""),
        case("a head that breaks off", "200 OK\r\nContent-Le", 502, ""),
        case(
            "an invitation nobody asked for",
            "100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
        ),
        case(
            "a part",
            "206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok",
            206,
            "ok",
        ),
        case("no length at all", "200 OK\r\n\r\nok", 200, "2\r\nok\r\n0\r\n\r\n"),
        case("no reason", "200\r\nContent-Length: 2\r\n\r\nok", 200, "ok"),
    ]
}

#[tokio::test]
async fn an_answer_that_is_not_clear_is_a_bad_gateway_and_an_odd_one_passes() {
    let stub = Stub::start(|head, mut stream, _| async move {
        let number = head.split(['/', ' ']).nth(2).unwrap_or_default().parse::<usize>().unwrap();
        stream.write_all(cases()[number].1.as_bytes()).await.unwrap();
    })
    .await;
    let mut wrong = Vec::new();
    for (number, (name, _, status, body)) in cases().iter().enumerate() {
        // Each has a proxy of its own: many bad answers in a row are an outage.
        let proxy = proxy(&[stub.address], |_| {}).await;
        let reply = ask(proxy.address, &format!("GET /{number}"), &["Range: bytes=0-1"]).await;
        if reply.status() != *status || (*status < 300 && reply.body() != *body) {
            wrong.push(format!("{name}: {:?}", reply.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(stub.seen.heads().iter().all(|head| head.contains("range: bytes=0-1")));
}

/// Bytes after the end of an answer would be the answer to somebody else's request.
#[tokio::test]
async fn what_a_backend_sends_unasked_reaches_nobody() {
    let stub = Stub::start(|_, mut stream, seen| async move {
        loop {
            let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
            if stream.write_all(twice.as_bytes()).await.is_err() {
                return;
            }
            let Some(head) = read_head(&mut stream).await else { return };
            seen.note(&head);
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    for _ in 0..20 {
        let reply = ask(proxy.address, "GET /", &[]).await;
        assert_eq!((reply.status(), reply.body()), (200, "ok"));
    }
}

#[tokio::test]
async fn the_body_is_invited_once_there_is_somebody_to_take_it() {
    let stub = Stub::start(|head, mut stream, _| async move {
        assert!(!head.contains("\r\nexpect:"), "{head}");
        read_until(&mut stream, "body").await.unwrap();
        stream.write_all(OK_CLOSE.as_bytes()).await.unwrap();
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    client.write_all(head).await.unwrap();
    let invited = soon("the invitation", read_head(&mut client)).await.unwrap();
    assert_eq!(invited, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.unwrap();
    assert_eq!(rest(&mut client).await.status(), 200);
}

#[tokio::test]
async fn the_body_is_not_invited_where_nobody_would_take_it() {
    let nobody = Reserved::new();
    let proxy = proxy(&[nobody.address()], |_| {}).await;
    let head = ["Expect: 100-continue", "Content-Length: 4"];
    let refused = ask(proxy.address, "POST /", &head).await;
    assert!(matches!(refused.status(), 502 | 503), "{}", refused.text);
    assert!(!refused.text.contains("100 Continue"));
}

#[tokio::test]
async fn a_backend_that_closes_soon_is_not_asked_on_an_old_connection() {
    const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=1\r\n\r\nok";
    let stub = Stub::answering(SHORT).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    for _ in 0..2 {
        assert_eq!(ask(proxy.address, "GET /", &[]).await.status(), 200);
    }
    assert_eq!(stub.seen.connections(), 2);
}

/// A client that ends its side has gone, as far as anybody can tell: the two look the same.
#[tokio::test]
async fn a_client_that_ends_its_side_takes_its_request_with_it() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_head(&mut stream).await;
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.text, "");
}

#[tokio::test]
async fn an_upload_without_end_is_given_up() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let mut sink = vec![0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let proxy = proxy(&[stub.address], |config| {
        config.proxy.body_total = std::time::Duration::from_millis(300);
    })
    .await;
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = client.split();
    let dripping = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(10));
        while write.write_all(b"a").await.is_ok() {
            pace.tick().await;
        }
    };
    let answer = soon("an answer", async {
        tokio::select! {
            answer = read_until(&mut read, "\r\n\r\n") => answer,
            () = dripping => None,
        }
    });
    let answer = answer.await.unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn trusted_proxies_are_believed_and_others_are_not() {
    let stub = Stub::answering(OK).await;
    for (trusted, chain, scheme) in
        [(&[][..], "127.0.0.1", "http"), (&["127.0.0.0/8"], "203.0.113.9, 127.0.0.1", "https")]
    {
        let trusted: Vec<String> = trusted.iter().map(|network: &&str| (*network).to_owned()).collect();
        let proxy = proxy(&[stub.address], |config| config.proxy.trusted = trusted).await;
        let before = stub.seen.count();
        let bytes = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\
                     X-Forwarded-Proto: https\r\n\r\n";
        assert_eq!(raw(proxy.address, bytes).await.status(), 200);
        let head = &stub.seen.heads()[before];
        assert!(head.contains(&format!("\r\nx-forwarded-for: {chain}\r\n")), "{head}");
        assert!(head.contains(&format!("\r\nx-forwarded-proto: {scheme}\r\n")), "{head}");
    }
}
