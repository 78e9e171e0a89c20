//! Each kind of request over a socket while nobody is behind the proxy, and the way back.

use tokio::io::AsyncWriteExt as _;

use super::harness::{OK, Reserved, Stub, answer_all, ask, proxy, read_head, read_until, soon};

const HTML: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

#[tokio::test]
async fn each_kind_of_request_gets_its_own_answer_from_a_proxy_without_backends() {
    let nobody = Reserved::new();
    let proxy =
        proxy(&[nobody.address()], |config| config.breaker.open = std::time::Duration::from_secs(60)).await;
    soon("the breaker knows that nobody is there", async {
        while ask(proxy.address, "GET /", &[]).await.status() != 503 {}
    })
    .await;
    let websocket =
        ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="];
    let cases: [(&[&str], u16, &str); 9] = [
        (&[HTML], 503, "text/html; charset=utf-8"),
        (&["Accept: */*"], 503, "application/problem+json"),
        (&["Sec-Fetch-Dest: image", "Accept: image/avif,image/*"], 503, "image/svg+xml"),
        (&["Sec-Fetch-Dest: style", "Accept: text/css,*/*;q=0.1"], 503, "text/css; charset=utf-8"),
        (&["Sec-Fetch-Dest: script", "Accept: */*"], 503, "text/javascript; charset=utf-8"),
        (&["Sec-Fetch-Dest: font", "Accept: */*"], 503, ""),
        (&["Content-Type: application/grpc"], 200, "application/grpc"),
        (&["Accept: text/event-stream", "Last-Event-ID: 7"], 200, "text/event-stream"),
        (&[HTML, "Range: bytes=0-0", "If-None-Match: *"], 503, "text/html; charset=utf-8"),
    ];
    for (fields, status, content_type) in cases {
        let answer = ask(proxy.address, "GET /a", fields).await;
        assert_eq!(
            (answer.status(), answer.field("content-type").as_str()),
            (status, content_type),
            "{fields:?}"
        );
        assert_eq!(answer.field("retry-after").is_empty(), status == 200, "{}", answer.text);
        assert_eq!(answer.body().contains("<html"), fields.contains(&HTML), "{fields:?}");
        assert_eq!(answer.field("content-length"), answer.body().len().to_string(), "{fields:?}");
        assert!(answer.field("proxy-status").starts_with("ridethrough-proxy; error="), "{}", answer.text);
    }
    let handshake = websocket.map(|line| format!("{line}\r\n")).concat();
    let handshake = format!("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n{handshake}\r\n");
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let head = soon("the answer to the handshake", read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("application/problem+json"), "{head}");
}

/// The backend breaks off after it has read the form: what was typed has passed the proxy by then.
#[tokio::test]
async fn a_form_that_failed_is_on_the_page_and_can_be_sent_again() {
    let mut stub = Stub::start(|_, mut stream, _| async move {
        let _ = read_until(&mut stream, "key=k-1").await;
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let post = async |target: &str, body: &str| {
        let length = format!("Content-Length: {}", body.len());
        ask(proxy.address, &format!("POST {target}"), &[HTML, FORM, &length, "", body]).await
    };
    let body = "title=tea+%26+%3Cb%3E&password=hunter2&key=k-1";
    let sent = post("/todos", body).await;
    assert_eq!((sent.status(), sent.field("ridethrough-outcome").as_str()), (502, "unknown"));
    assert_eq!(stub.seen.count(), 1, "it was sent once");
    // Sent again by the button of the page, it is the same write to a backend that knows keys.
    let action = sent.body().split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    let _ = post(&format!("/todos{action}"), body).await;
    let heads = stub.seen.heads();
    let key = |head: &str| {
        let line = head.lines().find(|line| line.starts_with("idempotency-key: "));
        line.map(str::to_owned).expect("a key")
    };
    assert_eq!(key(&heads[0]), key(&heads[1]));
    assert!(heads[1].starts_with("POST /todos HTTP/1.1"), "{}", heads[1]);
    stub.stop();
    let never_sent = post("/todos", body).await;
    assert_eq!(never_sent.field("ridethrough-outcome"), "rejected");
    for page in [sent, never_sent] {
        assert!(page.body().contains("<dd><bdi>tea &amp; &lt;b&gt;</bdi></dd>"), "{}", page.text);
        assert!(page.body().contains("type=\"hidden\" name=\"key\" value=\"k-1\""));
        assert!(page.body().contains("<button>Send again</button>") && !page.text.contains("hunter2"));
    }
    let large = post("/todos", &format!("title={}", "a".repeat(40_000))).await;
    assert!(large.status() >= 502 && !large.body().contains("aaaa"), "{}", large.status());
}

#[tokio::test]
async fn a_page_learns_from_the_proxy_alone_that_the_service_is_back() {
    let reserved = Reserved::new();
    let proxy = proxy(&[reserved.address()], |_| {}).await;
    let line = "GET /.ridethrough/status?waiter=00000000000000ff&round=1";
    let available = async || {
        let answer = ask(proxy.address, line, &[]).await;
        assert_eq!((answer.status(), answer.field("cache-control").as_str()), (200, "no-store"));
        let state: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        state["available"].as_bool().unwrap()
    };
    soon("it says that nobody is there", async { while available().await {} }).await;
    let stub = Stub::start_on(reserved.open(), |_, stream, seen| answer_all(OK, stream, seen));
    soon("it says that somebody is there", async { while !available().await {} }).await;
    assert_eq!(stub.seen.count(), 0, "no question of a page reached the backend");
    assert_eq!(
        ask(proxy.address, "GET /.ridethrough/other", &[]).await.status(),
        200,
        "that is the backend's"
    );
}
