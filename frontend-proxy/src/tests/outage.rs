//! Backends that are away, come back, break off or say no: what the client gets, and how often a request is sent.

use tokio::io::AsyncWriteExt as _;

use super::harness::{
    OK, OK_CLOSE, Reply, Reserved, Stub, answer_all, ask, proxy, read_head, read_until, soon,
};

const HTML: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8";

fn refused(answer: &Reply) -> bool {
    answer.field("proxy-status").ends_with("error=connection_refused")
}

/// Test number one: a proxy that is started first, before what it stands in front of.
#[tokio::test]
async fn it_starts_without_its_backend_shows_the_page_and_recovers_by_itself() {
    let reserved = Reserved::new();
    let proxy = proxy(&[reserved.address()], |_| {}).await;
    for _ in 0..5 {
        let page = ask(proxy.address, "GET /", &[HTML]).await;
        // Refused, until the breaker knows and nobody is asked any more.
        assert!(matches!(page.status(), 502 | 503), "{}", page.text);
        assert!(page.body().contains("We will be right back") && page.body().ends_with("</html>"));
        assert!(page.field("retry-after").parse::<u64>().unwrap() >= 1);
    }
    let stub = Stub::start_on(reserved.open(), |_, stream, seen| answer_all(OK, stream, seen));
    soon("the backend is used again", async {
        while ask(proxy.address, "GET /", &[]).await.status() != 200 {}
    })
    .await;
    assert!(stub.seen.count() >= 1);
}

#[tokio::test]
async fn with_every_backend_refusing_people_get_a_page_and_programs_a_problem() {
    let (one, two) = (Reserved::new(), Reserved::new());
    let proxy = proxy(&[one.address(), two.address()], |_| {}).await;
    let page = ask(proxy.address, "GET /a?secret=1", &[HTML, "Accept-Language: de"]).await;
    assert_eq!((page.status(), refused(&page)), (502, true), "{}", page.text);
    assert!(page.field("content-type").starts_with("text/html"));
    assert!(page.body().contains("lang=\"de\"") && page.body().contains("Wir sind gleich wieder da"));
    assert!(page.field("proxy-status").starts_with("ridethrough-proxy; error="), "{}", page.text);
    assert_eq!(page.field("cache-control"), "no-store");
    assert!(!page.text.contains("secret") && !page.text.contains(&one.address().port().to_string()));
    let wait: u64 = page.field("retry-after").parse().unwrap();
    assert!(
        page.body()
            .contains(&format!("<noscript><meta http-equiv=\"refresh\" content=\"{wait}\"></noscript>"))
    );

    let problem = ask(proxy.address, "GET /a", &["Accept: application/json"]).await;
    assert_eq!((problem.status(), refused(&problem)), (502, true), "{}", problem.text);
    assert_eq!(problem.field("content-type"), "application/problem+json");
    let document: serde_json::Value = serde_json::from_str(problem.body()).unwrap();
    assert_eq!(document["retry_after"].to_string(), problem.field("retry-after"));
    assert_eq!(document.get("outcome"), None);

    let head = ask(proxy.address, "HEAD /a", &[HTML]).await;
    assert_eq!((head.status(), head.body()), (502, ""));
    assert!(head.field("content-length").parse::<u64>().unwrap() > 500);
}

#[tokio::test]
async fn a_write_that_never_left_says_so() {
    let nobody = Reserved::new();
    let proxy = proxy(&[nobody.address()], |_| {}).await;
    let answer = ask(proxy.address, "POST /api/todos", &["Content-Length: 2", "", "{}"]).await;
    assert_eq!((answer.status(), refused(&answer)), (502, true), "{}", answer.text);
    assert_eq!(answer.field("ridethrough-outcome"), "rejected");
    let document: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
    assert_eq!(document["outcome"], "rejected");
    let page = ask(proxy.address, "POST /todos", &[HTML, "Content-Length: 2", "", "{}"]).await;
    assert!(page.body().contains("Nothing was stored"));
    assert!(!page.body().contains("http-equiv"), "a browser must not send a form again by itself");
}

#[tokio::test]
async fn a_post_without_a_key_is_sent_once_and_its_outcome_is_unknown() {
    let silent = || Stub::start(|_, stream, _| async move { drop(stream) });
    let (one, two) = (silent().await, silent().await);
    let proxy = proxy(&[one.address, two.address], |_| {}).await;
    let answer = ask(proxy.address, "POST /api/todos", &["Content-Length: 2", "", "{}"]).await;
    assert_eq!(answer.status(), 502, "{}", answer.text);
    assert_eq!(answer.field("ridethrough-outcome"), "unknown");
    assert_eq!(one.seen.count() + two.seen.count(), 1);
}

#[tokio::test]
async fn a_post_with_a_key_goes_to_another_backend_with_key_and_body() {
    let answer = |_: String, mut stream: tokio::net::TcpStream, seen: super::harness::Seen| async move {
        let body = read_until(&mut stream, "tea\"}").await.unwrap();
        seen.note(&body);
        stream.write_all(OK_CLOSE.as_bytes()).await.unwrap();
    };
    let breaks_off = Stub::start(|_, mut stream, _| async move {
        let _ = read_until(&mut stream, "tea\"}").await;
    })
    .await;
    let good = Stub::start(answer).await;
    let proxy = proxy(&[breaks_off.address, good.address], |_| {}).await;
    let fields = ["Idempotency-Key: k-1", "Content-Length: 15", "", "{\"title\":\"tea\"}"];
    soon("the first choice falls on the one that breaks off", async {
        while breaks_off.seen.count() == 0 {
            let before = good.seen.count();
            let answer = ask(proxy.address, "POST /api/todos", &fields).await;
            assert_eq!(answer.status(), 200, "{}", answer.text);
            let seen = good.seen.heads();
            assert_eq!(seen.len(), before + 2);
            assert!(seen[before].contains("idempotency-key: k-1"), "{seen:?}");
            assert_eq!(seen[before + 1], "{\"title\":\"tea\"}");
        }
    })
    .await;
}

/// A server was killed while its statement waited in the database. The proxy sent the write to another one, which was
/// overloaded and called it rejected; the user was told so, and the statement of the dead server committed all the same.
#[tokio::test]
async fn a_rejection_by_the_second_backend_does_not_speak_for_the_first() {
    const REJECTED: &str = "HTTP/1.1 503 Service Unavailable\r\nRidethrough-Outcome: rejected\r\n\
                            Content-Length: 8\r\nConnection: close\r\n\r\nrejected";
    const MISMATCH: &str = "HTTP/1.1 412 Precondition Failed\r\nRidethrough-Outcome: rejected\r\n\
                            Content-Length: 0\r\nConnection: close\r\n\r\n";
    for (second, told) in [(REJECTED, (502, "unknown")), (MISMATCH, (412, "rejected"))] {
        let breaks_off = Stub::start(|_, mut stream, _| async move {
            let _ = read_until(&mut stream, "tea\"}").await;
        })
        .await;
        let rejects = Stub::start(move |_, mut stream, _| async move {
            let _ = read_until(&mut stream, "tea\"}").await;
            stream.write_all(second.as_bytes()).await.unwrap();
        })
        .await;
        let proxy = proxy(&[breaks_off.address, rejects.address], |_| {}).await;
        let fields = ["Idempotency-Key: k-1", "Content-Length: 15", "", "{\"title\":\"tea\"}"];
        soon("the first choice falls on the one that breaks off", async {
            while breaks_off.seen.count() == 0 {
                let before = rejects.seen.count();
                let answer = ask(proxy.address, "POST /api/todos", &fields).await;
                assert_eq!(rejects.seen.count(), before + 1, "{}", answer.text);
                if breaks_off.seen.count() > 0 {
                    let outcome = answer.field("ridethrough-outcome");
                    assert_eq!((answer.status(), outcome.as_str()), told, "{}", answer.text);
                } else {
                    assert_eq!(answer.field("ridethrough-outcome"), "rejected", "{}", answer.text);
                }
            }
        })
        .await;
    }
}

/// Between two requests a backend may close a connection that we are about to use.
#[tokio::test]
async fn a_read_that_meets_a_closed_connection_is_repeated_on_a_fresh_one() {
    let stub = Stub::start(|_, mut stream, seen| async move {
        stream.write_all(OK.as_bytes()).await.unwrap();
        // The second request on a connection is read, and the connection closed without a word.
        if let Some(head) = read_head(&mut stream).await {
            seen.note(&head);
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    assert_eq!(ask(proxy.address, "GET /1", &[]).await.status(), 200);
    assert_eq!(ask(proxy.address, "GET /2", &[]).await.status(), 200);
    let seen = stub.seen.heads();
    assert_eq!(seen.iter().filter(|head| head.starts_with("GET /2 ")).count(), 2, "{seen:?}");
    assert_eq!(stub.seen.connections(), 2);
}

#[tokio::test]
async fn a_read_asks_another_backend_after_503_and_the_last_503_is_passed_on() {
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy";
    let (busy, good) = (Stub::answering(BUSY).await, Stub::answering(OK).await);
    let mixed = proxy(&[busy.address, good.address], |_| {}).await;
    soon("the busy one is asked first", async {
        while busy.seen.count() == 0 {
            assert_eq!(ask(mixed.address, "GET /", &[]).await.status(), 200);
        }
    })
    .await;
    let both_busy = proxy(&[busy.address, Stub::answering(BUSY).await.address], |_| {}).await;
    let answer = ask(both_busy.address, "GET /", &[]).await;
    assert_eq!((answer.status(), answer.field("retry-after").as_str()), (503, "7"));
    assert_eq!(answer.field("proxy-status"), "", "it is the backend's own answer");
}

#[tokio::test]
async fn the_callers_deadline_gives_504_and_does_not_hurt_the_backend() {
    let stub = Stub::start(|head, mut stream, _| async move {
        if head.starts_with("GET /slow ") {
            let _ = read_head(&mut stream).await;
        } else {
            stream.write_all(OK_CLOSE.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    for _ in 0..4 {
        let late = ask(proxy.address, "GET /slow", &["X-Envoy-Expected-Rq-Timeout-Ms: 20"]).await;
        assert_eq!(late.status(), 504, "{}", late.text);
        assert!(late.field("proxy-status").contains("error=http_response_timeout"));
        assert!(!late.field("retry-after").is_empty());
    }
    assert_eq!(ask(proxy.address, "GET /", &[]).await.status(), 200);
    assert!(stub.seen.heads()[0].contains("x-envoy-expected-rq-timeout-ms: "));
}

#[tokio::test]
async fn probes_are_about_the_proxy_and_what_is_inside_stays_inside() {
    let mut stub = Stub::answering(OK).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    for path in ["/livez", "/readyz", "/readyz/reads", "/readyz/writes", "/startupz"] {
        let answer = ask(proxy.address, &format!("GET {path}"), &[]).await;
        assert_eq!(
            (answer.status(), answer.field("content-type").as_str()),
            (200, "application/health+json")
        );
    }
    for path in ["/metrics", "/debug/state", "//debug/config", "/%6Detrics", "/x/../metrics", "/readyz/"] {
        let answer = ask(proxy.address, &format!("GET {path}"), &[]).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.field("content-type"), "application/problem+json");
    }
    assert_eq!(stub.seen.count(), 0);
    stub.stop();
    assert_eq!(ask(proxy.address, "GET /readyz", &[]).await.status(), 200);
}

/// A frozen backend takes requests and answers none. Readers once waited for the whole limit of 10 s and got an error,
/// although the checks had found it out long before and another backend was there.
#[tokio::test]
async fn a_read_at_a_backend_that_freezes_is_answered_by_another() {
    let freezes = Stub::start(|_, mut stream, seen| async move {
        seen.freeze();
        let _ = read_head(&mut stream).await;
    })
    .await;
    let good = Stub::answering(OK).await;
    let quick = std::time::Duration::from_millis(100);
    let proxy = proxy(&[freezes.address, good.address], |config| config.checks.timeout = quick).await;
    soon("the first choice falls on the one that freezes", async {
        while freezes.seen.count() == 0 {
            assert_eq!(ask(proxy.address, "GET /", &[]).await.status(), 200);
        }
    })
    .await;
}
