//! The grid: what is kept, times how the backend is, gives the rung; and what a broken backend has to bear meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::harness::{Reply, Running, Stub, ask, proxy, read_head, soon};

/// What is kept of the address: how it was answered while all was well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Fresh,
    WhileRevalidate,
    IfError,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Healthy,
    /// Answers 503.
    Erring,
    /// Refuses connections.
    Down,
    /// Says to its checks that it is not ready, and would answer all the same.
    Sick,
}

/// As `rung`, and how often the backend was asked by ten requests: at the least, and at the most.
type Expected = (&'static str, u16, std::ops::RangeInclusive<usize>);

const GRID: [(Content, [Expected; 4]); 4] = [
    (
        Content::Fresh,
        [("fresh", 200, 0..=0), ("fresh", 200, 0..=0), ("fresh", 200, 0..=0), ("fresh", 200, 0..=0)],
    ),
    (
        Content::WhileRevalidate,
        [
            ("stale-while-revalidate", 200, 1..=10),
            ("stale-while-revalidate", 200, 1..=3),
            ("stale-while-revalidate", 200, 0..=0),
            ("stale-while-revalidate", 200, 0..=0),
        ],
    ),
    (
        Content::IfError,
        [
            ("passed", 200, 10..=10),
            ("stale-if-error", 200, 1..=3),
            ("stale-if-error", 200, 0..=0),
            ("stale-if-error", 200, 0..=0),
        ],
    ),
    (
        Content::Nothing,
        [
            ("passed", 200, 10..=10),
            ("passed", 503, 10..=10),
            ("fallback", 503, 0..=0),
            ("passed", 200, 10..=10),
        ],
    ),
];

fn answer(content: Content) -> String {
    let control = match content {
        Content::Fresh => "max-age=1000",
        Content::WhileRevalidate => "max-age=10, stale-while-revalidate=1000\r\nAge: 11",
        Content::IfError => "max-age=10, stale-if-error=1000\r\nAge: 11",
        Content::Nothing => "no-store",
    };
    format!("HTTP/1.1 200 OK\r\nCache-Control: {control}\r\nContent-Length: 4\r\n\r\nkept")
}

/// The rung an answer says it stands on.
fn rung(reply: &Reply) -> String {
    let (cache, proxy) = (reply.field("cache-status"), reply.field("proxy-status"));
    if let Some((_, rung)) = cache.split_once("; detail=") {
        return rung.to_owned();
    }
    let word = match (cache.contains("; hit"), cache.contains("fwd="), proxy.contains("error=")) {
        (true, ..) => "fresh",
        (_, true, _) => "passed",
        (.., true) => "fallback",
        _ => "none",
    };
    word.to_owned()
}

async fn believed_away(proxy: &Running) {
    soon("the checks find out", async {
        while proxy.proxy.backends.any_up(Instant::now()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn cell(content: Content, backend: Backend, (expected, status, asked): Expected) {
    let (errs, what) = (Arc::new(AtomicBool::new(false)), format!("{content:?} x {backend:?}"));
    let erring = Arc::clone(&errs);
    let mut stub = Stub::scripted(move |_| match erring.load(Ordering::SeqCst) {
        true => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad".to_owned(),
        false => answer(content),
    })
    .await;
    let proxy = proxy(&[stub.address], |config| config.checks.timeout = Duration::from_millis(100)).await;
    assert_eq!(ask(proxy.address, "GET /x", &[]).await.body(), "kept", "{what}");
    match backend {
        Backend::Healthy => {}
        Backend::Erring => errs.store(true, Ordering::SeqCst),
        Backend::Down => {
            stub.stop();
            believed_away(&proxy).await;
        }
        Backend::Sick => {
            stub.seen.sicken();
            believed_away(&proxy).await;
        }
    }
    let before = stub.seen.count();
    for _ in 0..10 {
        let reply = ask(proxy.address, "GET /x", &[]).await;
        assert_eq!((rung(&reply).as_str(), reply.status()), (expected, status), "{what}: {}", reply.text);
        let setback = reply.field("proxy-status");
        assert!(expected != "stale-if-error" || !setback.is_empty(), "{what}: why is not said");
    }
    if content == Content::WhileRevalidate && *asked.start() > 0 {
        soon("it is asked anew beside", async {
            while stub.seen.count() == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let hits = stub.seen.count() - before;
    assert!(asked.contains(&hits), "{what}: asked {hits} times, not {asked:?}");
}

#[tokio::test]
async fn every_cell_of_the_grid_has_its_rung() {
    const BACKENDS: [Backend; 4] = [Backend::Healthy, Backend::Erring, Backend::Down, Backend::Sick];
    for (content, row) in GRID {
        for (backend, expected) in BACKENDS.into_iter().zip(row) {
            cell(content, backend, expected).await;
        }
    }
}

/// A backend that says 503 is not away. Every reader of a stale page once asked it again, which keeps it down.
#[tokio::test]
async fn many_readers_of_a_stale_page_are_one_question_to_a_broken_backend() {
    let errs = Arc::new(AtomicBool::new(false));
    let erring = Arc::clone(&errs);
    let stub = Stub::scripted(move |_| match erring.load(Ordering::SeqCst) {
        true => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad".to_owned(),
        false => answer(Content::IfError),
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    ask(proxy.address, "GET /x", &[]).await;
    errs.store(true, Ordering::SeqCst);
    let (before, started) = (stub.seen.count(), std::time::SystemTime::now());
    for _ in 0..100 {
        assert_eq!(ask(proxy.address, "GET /x", &[]).await.status(), 200);
    }
    let seconds = started.elapsed().unwrap_or_default().as_secs() as usize;
    assert!(stub.seen.count() - before <= 2 + seconds, "asked {} times", stub.seen.count() - before);
}

#[tokio::test]
async fn a_backend_that_comes_back_is_asked_again() {
    let stub = Stub::scripted(|_| answer(Content::IfError)).await;
    let proxy = proxy(&[stub.address], |config| config.checks.timeout = Duration::from_millis(100)).await;
    ask(proxy.address, "GET /x", &[]).await;
    stub.seen.freeze();
    believed_away(&proxy).await;
    assert_eq!(rung(&ask(proxy.address, "GET /x", &[]).await), "stale-if-error");
    stub.seen.thaw();
    soon("it is asked again", async { while rung(&ask(proxy.address, "GET /x", &[]).await) != "passed" {} })
        .await;
}

#[tokio::test]
async fn only_if_cached_asks_nobody() {
    let stub = Stub::scripted(|_| answer(Content::Fresh)).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let none = ask(proxy.address, "GET /x", &["Cache-Control: only-if-cached"]).await;
    assert_eq!((none.status(), stub.seen.count()), (504, 0), "{}", none.text);
    ask(proxy.address, "GET /x", &[]).await;
    let kept = ask(proxy.address, "GET /x", &["Cache-Control: only-if-cached"]).await;
    assert_eq!((kept.status(), kept.body(), stub.seen.count()), (200, "kept", 1));
}

/// One client with a time limit of a few milliseconds could have had everybody else shown a stale page.
#[tokio::test]
async fn a_client_in_a_hurry_gets_the_stale_page_and_nobody_else_does() {
    let stub = Stub::start(|first, mut stream, seen| async move {
        let mut head = first;
        while !head.contains("hurry") {
            stream.write_all(answer(Content::IfError).as_bytes()).await.unwrap();
            let Some(next) = read_head(&mut stream).await else { return };
            seen.note(&next);
            head = next;
        }
        let _ = read_head(&mut stream).await;
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    ask(proxy.address, "GET /x", &[]).await;
    let hurried = ask(proxy.address, "GET /x", &["X-Envoy-Expected-Rq-Timeout-Ms: 20", "X: hurry"]).await;
    assert_eq!(rung(&hurried), "stale-if-error", "{}", hurried.text);
    assert_eq!(rung(&ask(proxy.address, "GET /x", &[]).await), "passed");
}
