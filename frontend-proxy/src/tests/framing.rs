//! Heads and framings that try to be two things at once: what the client gets, and what a backend hears of it.

use super::harness::{OK, Stub, proxy, raw, read_until};

struct Case {
    name: &'static str,
    bytes: String,
    status: u16,
    /// Heads the backend may hear of it.
    heard: usize,
}

fn case(name: &'static str, bytes: impl Into<String>, status: u16, heard: usize) -> Case {
    Case { name, bytes: bytes.into(), status, heard }
}

const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn cases() -> Vec<Case> {
    [hosts(), ends(), codings(), lines(), rest()].into_iter().flatten().collect()
}

/// Whose a request is.
fn hosts() -> Vec<Case> {
    vec![
        case("no host", "GET / HTTP/1.1\r\n\r\n", 400, 0),
        case("a host with a blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, 0),
        case("a host with a user name", "GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", 400, 0),
        case("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, 0),
        case("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, 0),
        case("the same host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, 0),
        case("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, 0),
    ]
}

/// Where a message ends.
fn ends() -> Vec<Case> {
    vec![
        case(
            "two lengths",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{SECOND}"),
            400,
            0,
        ),
        case(
            "the same length twice",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na{SECOND}"),
            400,
            0,
        ),
        case(
            "a list of lengths",
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na{SECOND}"),
            400,
            0,
        ),
        case(
            "a length and chunks",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SECOND}"
            ),
            400,
            0,
        ),
        case(
            "chunks and a length",
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{SECOND}"
            ),
            400,
            0,
        ),
    ]
}

/// Codings, and lengths that are none.
fn codings() -> Vec<Case> {
    vec![
        case(
            "chunked twice",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            0,
        ),
        case(
            "another coding before chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            400,
            0,
        ),
        case(
            "a vertical tab before chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
            400,
            0,
        ),
        case("a length with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400, 0),
        case(
            "an unknown coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            400,
            0,
        ),
        case(
            "chunked is not last",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            400,
            0,
        ),
        case(
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            0,
        ),
    ]
}

/// What a line may be.
fn lines() -> Vec<Case> {
    vec![
        case("a folded field", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400, 0),
        case("a blank before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, 0),
        case("a bare line feed after the first line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400, 0),
        case("a bare line feed after a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", 400, 0),
        case("a bare line feed as the blank line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, 0),
        case("a field without a name", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", 400, 0),
        case("a field without a colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400, 0),
        case("a blank in a name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", 400, 0),
        case("a NUL in a field", "GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}\r\n\r\n", 400, 0),
        case("a blank first", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
        case("two blanks before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
        case("a blank in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
        case("an unknown version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400, 0),
        case("no version", "GET /\r\nHost: a\r\n\r\n", 400, 0),
        case("a method that is no word", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
        case("a control byte in a field", "GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n", 400, 0),
        case("a lone CR in a field", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", 400, 0),
    ]
}

/// Limits, methods and targets, and what passes.
fn rest() -> Vec<Case> {
    let long_value = "a".repeat(40_000);
    let many_fields: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    vec![
        case("a head too large", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long_value}\r\n\r\n"), 431, 0),
        case("too many fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{many_fields}\r\n"), 431, 0),
        case("a target too long", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9_000)), 414, 0),
        case("a tunnel", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, 0),
        case("trace", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, 0),
        case("an option that strips host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n", 400, 0),
        case(
            "an option that strips the length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: content-length\r\n\r\na",
            400,
            0,
        ),
        case("a user name in the target", "GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
        case("https where there is no TLS", "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
        case(
            "another head after one that closes",
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{SECOND}"),
            200,
            1,
        ),
        case("the asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200, 1),
        case("empty lines first", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200, 1),
        case(
            "a byte that is not ASCII",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: \u{e4}\r\n\r\n",
            200,
            1,
        ),
        case("an encoded NUL", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, 0),
    ]
}

#[tokio::test]
async fn what_is_not_clear_is_refused_and_never_forwarded() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut wrong = Vec::new();
    for case in cases() {
        let before = stub.seen.count();
        let reply = raw(proxy.address, &case.bytes).await;
        let answers = reply.text.matches("HTTP/1.1 ").count();
        let heard = stub.seen.count() - before;
        if (reply.text.is_empty(), answers, heard) != (false, 1, case.heard) || reply.status() != case.status
        {
            wrong.push(format!("{}: {answers} answers, backend heard {heard}: {:?}", case.name, reply.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The page is what others hold against their own proxies.
#[test]
fn every_verdict_is_documented() {
    const PAGE: &str = include_str!("../../../docs/framing.md");
    let row = |case: &Case| format!("| {} | {} |", case.name, case.status);
    let missing: Vec<String> = cases().iter().map(row).filter(|row| !PAGE.contains(row)).collect();
    assert!(missing.is_empty(), "not in docs/framing.md:\n{}", missing.join("\n"));
}

#[tokio::test]
async fn a_bare_line_feed_between_chunks_is_refused() {
    let stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_until(&mut stream, "\r\n0\r\n\r\n").await;
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let bytes = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n";
    let reply = raw(proxy.address, bytes).await;
    assert_eq!(reply.status(), 400, "{}", reply.text);
}

#[tokio::test]
async fn the_absolute_form_is_forwarded_as_the_plain_one_with_its_own_host() {
    let stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let bytes = "GET http://b:81/x?y=%2F HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(proxy.address, bytes).await.status(), 200);
    let head = &stub.seen.heads()[0];
    assert!(head.starts_with("GET /x?y=%2F HTTP/1.1\r\n") && head.contains("\r\nhost: b:81\r\n"), "{head}");
}

#[tokio::test]
async fn what_belongs_to_one_connection_is_not_passed_on() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-hop, keep-alive\r\nKeep-Alive: timeout=9\r\n\
                  X-Hop: 1\r\nX-End: 1\r\nProxy-Connection: a\r\n\r\nok";
    let stub = Stub::answering(answer).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let bytes = "GET //a//../b;c?d HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nX-End: 1\r\n\
                 Proxy-Authorization: secret\r\nProxy: http://evil\r\nTE: gzip, trailers\r\nX-Forwarded-For: 1.2.3.4\r\n\
                 X-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nTrailer: x\r\nKeep-Alive: 5\r\n\r\n";
    let reply = raw(proxy.address, bytes).await;
    assert_eq!(reply.status(), 200);
    assert_eq!((reply.field("x-hop").as_str(), reply.field("x-end").as_str()), ("", "1"));
    assert_eq!(reply.field("keep-alive") + &reply.field("proxy-connection"), "");
    let head = stub.seen.heads().remove(0);
    assert!(head.starts_with("GET //a//../b;c?d HTTP/1.1"), "a path is never changed: {head}");
    for gone in ["x-hop", "proxy-authorization", "\nproxy:", "1.2.3.4", "keep-alive", "gzip", "connection"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    for there in [
        "x-end: 1",
        "te: trailers",
        "trailer: x",
        "x-forwarded-for: 127.0.0.1",
        "via: 1.1 ridethrough-proxy-",
    ] {
        assert!(head.contains(there), "{there} not in {head}");
    }
}
