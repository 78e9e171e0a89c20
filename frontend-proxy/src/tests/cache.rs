//! What the cache does to traffic: many who ask the same, those who leave, changes, and broken answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Barrier, Notify},
    task::JoinSet,
};

use super::harness::{Running, Stub, ask, proxy, read_until, rest, soon};

const KEPT_HEAD: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn waiting(proxy: &Running, count: u64) {
    soon("all of them wait", async {
        while proxy.proxy.cache.as_ref().unwrap().describe()["clients_waiting"].as_u64().unwrap() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn request(proxy: &Running, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A backend that sends the head and a first part, and the rest when it is told to.
async fn in_two_parts(go_on: &Arc<Notify>) -> Stub {
    let go_on = Arc::clone(go_on);
    Stub::start(move |_, mut stream, _| {
        let go_on = Arc::clone(&go_on);
        async move {
            go_on.notified().await;
            stream.write_all(format!("{KEPT_HEAD}4\r\none \r\n").as_bytes()).await.unwrap();
            go_on.notified().await;
            stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn many_who_ask_the_same_are_one_request_and_get_bytes_as_they_come() {
    let go_on = Arc::new(Notify::new());
    let stub = in_two_parts(&go_on).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(request(&proxy, "/x").await);
    }
    waiting(&proxy, 20).await;
    go_on.notify_one();
    for client in &mut clients {
        assert!(soon("the first part", read_until(client, "one \r\n")).await.unwrap().contains("200 OK"));
    }
    // Also for one who comes in the middle.
    clients.push(request(&proxy, "/x").await);
    let late = clients.last_mut().unwrap();
    soon("the first part, later", read_until(late, "one \r\n")).await.unwrap();
    go_on.notify_one();
    for client in &mut clients {
        assert!(rest(client).await.text.contains("two"));
    }
    assert_eq!(stub.seen.count(), 1);
    let after = ask(proxy.address, "GET /x", &[]).await;
    assert!(after.field("cache-status").contains("hit") && after.body() == "one two", "{}", after.text);
}

#[tokio::test]
async fn the_one_who_asked_first_may_leave() {
    let go_on = Arc::new(Notify::new());
    let stub = in_two_parts(&go_on).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let first = request(&proxy, "/x").await;
    soon("the first is asked for", async {
        while stub.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut second = request(&proxy, "/x").await;
    waiting(&proxy, 2).await;
    drop(first);
    go_on.notify_one();
    go_on.notify_one();
    soon("the first part", read_until(&mut second, "one \r\n")).await.unwrap();
    go_on.notify_one();
    assert!(rest(&mut second).await.text.contains("two"));
    assert_eq!(stub.seen.count(), 1);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_up() {
    let closed = Arc::new(Notify::new());
    let told = Arc::clone(&closed);
    let stub = Stub::start(move |_, mut stream, _| {
        let told = Arc::clone(&told);
        async move {
            let _ = stream.read_u8().await;
            told.notify_one();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let only = request(&proxy, "/x").await;
    soon("it is asked for", async {
        while stub.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(only);
    soon("the backend's connection ends", closed.notified()).await;
}

/// Everybody waits for the first answer. It is for one alone; then all others are asked for at once, not one by one: the
/// backend answers none of them before it has seen them all.
#[tokio::test]
async fn an_answer_for_one_alone_lets_the_others_go_together() {
    const OTHERS: usize = 9;
    let (go_on, all, number) =
        (Arc::new(Notify::new()), Arc::new(Barrier::new(OTHERS)), Arc::new(AtomicUsize::new(0)));
    let (released, count) = (Arc::clone(&go_on), Arc::clone(&number));
    let stub = Stub::start(move |_, mut stream, _| {
        let (go_on, all, number) = (Arc::clone(&released), Arc::clone(&all), count.fetch_add(1, Ordering::SeqCst));
        async move {
            if number == 0 {
                go_on.notified().await;
            } else {
                all.wait().await;
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: private, max-age=9\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{number:02}"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut clients = JoinSet::new();
    let address = proxy.address;
    for _ in 0..=OTHERS {
        clients.spawn(async move { ask(address, "GET /x", &[]).await.body().to_owned() });
    }
    waiting(&proxy, OTHERS as u64 + 1).await;
    go_on.notify_one();
    let mut bodies = soon("all are answered", clients.join_all()).await;
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), OTHERS + 1, "everybody has an answer of his own: {bodies:?}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_kept_and_never_ends_well() {
    for (broken, missing) in [
        (format!("{KEPT_HEAD}4\r\nhalf\r\n"), "0\r\n"),
        ("HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nContent-Length: 9\r\n\r\nhalf".to_owned(), "rest"),
        // Its end cannot be told from a break.
        ("HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\n\r\nhalf".to_owned(), "rest"),
    ] {
        let stub = Stub::start(move |_, mut stream, _| {
            let broken = broken.clone();
            async move {
                let _ = stream.write_all(broken.as_bytes()).await;
            }
        })
        .await;
        let proxy = proxy(&[stub.address], |_| {}).await;
        for asked in 1..=2 {
            let mut client = request(&proxy, "/x").await;
            let reply = rest(&mut client).await;
            assert!(!reply.text.contains("; hit") && !reply.body().ends_with(missing), "{}", reply.text);
            assert!(stub.seen.count() >= asked, "{}", reply.text);
        }
    }
}

#[tokio::test]
async fn a_write_makes_what_it_changed_be_asked_for_again() {
    let answer = |head: &str| {
        let location = if head.starts_with("POST /list") { "Location: /item\r\n" } else { "" };
        let status = if head.starts_with("PUT /fails") { "500 Bad" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\n{location}Cache-Control: max-age=100\r\nContent-Length: 2\r\n\r\nok")
    };
    let stub = Stub::scripted(answer).await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let is_kept = async |path: &str| {
        ask(proxy.address, &format!("GET {path}"), &[]).await.field("cache-status").contains("; hit")
    };
    for path in ["/list", "/item", "/fails", "/other"] {
        assert!(!is_kept(path).await);
        assert!(is_kept(path).await, "{path}");
    }
    ask(proxy.address, "POST /list", &["Content-Length: 0"]).await;
    ask(proxy.address, "PUT /fails", &["Content-Length: 0"]).await;
    ask(proxy.address, "HEAD /other", &[]).await;
    assert!(!is_kept("/list").await && !is_kept("/item").await);
    assert!(is_kept("/fails").await && is_kept("/other").await);
}

/// A page was asked for before a change and came after it: it shows the state before, and must not be kept as the one after.
#[tokio::test]
async fn an_answer_asked_for_before_a_change_is_not_kept_after_it() {
    let go_on = Arc::new(Notify::new());
    let released = Arc::clone(&go_on);
    let stub = Stub::start(move |head, mut stream, seen| {
        let go_on = Arc::clone(&released);
        async move {
            let is_first = seen.heads().iter().filter(|head| head.starts_with("GET")).count() == 1;
            if head.starts_with("GET") && is_first {
                go_on.notified().await;
            }
            let body = if is_first { "old" } else { "new" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let mut slow = request(&proxy, "/x").await;
    soon("it is asked for", async {
        while stub.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(ask(proxy.address, "PUT /x", &["Content-Length: 0"]).await.status(), 200);
    // Who comes after the change does not wait for what was asked before it.
    assert_eq!(ask(proxy.address, "GET /x", &[]).await.body(), "new");
    go_on.notify_one();
    assert!(rest(&mut slow).await.text.ends_with("old"));
    assert_eq!(ask(proxy.address, "GET /x", &[]).await.body(), "new");
}

#[tokio::test]
async fn the_cache_can_be_switched_off_and_bounded() {
    let answer = |_: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n{}\r\n0\r\n\r\n",
            "x".repeat(0x4000)
        )
    };
    let stub = Stub::scripted(answer).await;
    let off = proxy(&[stub.address], |config| config.cache.enabled = false).await;
    for _ in 0..2 {
        assert_eq!(ask(off.address, "GET /x", &[]).await.field("cache-status"), "");
    }
    let small = proxy(&[stub.address], |config| config.cache.object_bytes_max = 0x3fff).await;
    for _ in 0..2 {
        let reply = ask(small.address, "GET /x", &[]).await;
        assert!(!reply.field("cache-status").contains("; hit") && reply.text.len() > 0x4000);
    }
    assert_eq!(stub.seen.count(), 4);
}

#[tokio::test]
async fn interim_answers_reach_who_asked_first_and_are_never_kept() {
    let stub = Stub::scripted(|_| {
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Early: 1\r\n\r\n\
         HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nContent-Length: 2\r\n\r\nok"
            .to_owned()
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    let first = ask(proxy.address, "GET /x", &[]).await;
    assert!(
        first
            .text
            .starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nx-early: 1\r\n\r\nHTTP/1.1 200"),
        "{}",
        first.text
    );
    let second = ask(proxy.address, "GET /x", &[]).await;
    assert!(second.text.starts_with("HTTP/1.1 200") && !second.text.contains("x-early"), "{}", second.text);
    // HTTP/1.0 has none.
    let old = super::harness::raw(proxy.address, "GET /old HTTP/1.0\r\nHost: test\r\n\r\n").await;
    assert!(old.text.contains("200 OK") && !old.text.contains("103"), "{}", old.text);
}

/// A kept redirect to https once would have sent those in a circle who came over https.
#[tokio::test]
async fn an_answer_is_kept_for_the_scheme_and_the_host_that_the_backend_heard_of() {
    let stub = Stub::scripted(|head| {
        let of =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let body = format!("{} {}", of("x-forwarded-proto: "), of("x-forwarded-host: "));
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nContent-Length: {length}\r\n\r\n{body}")
    })
    .await;
    let proxy = proxy(&[stub.address], |config| config.proxy.trusted = vec!["127.0.0.1".to_owned()]).await;
    for _ in 0..2 {
        for (scheme, host) in [("http", "a"), ("https", "a"), ("https", "b")] {
            let fields = [format!("X-Forwarded-Proto: {scheme}"), format!("X-Forwarded-Host: {host}")];
            let reply = ask(proxy.address, "GET /x", &fields.each_ref().map(String::as_str)).await;
            assert_eq!(reply.body(), format!("{scheme} {host}"));
        }
    }
    assert_eq!(stub.seen.count(), 3, "each is kept");
}

/// A HEAD that confirmed a stale answer once threw it away, because answers to HEAD are not kept.
#[tokio::test]
async fn head_and_those_who_want_nothing_stored_leave_what_is_kept() {
    let stub = Stub::scripted(|head| match head.contains("if-none-match") {
        true => "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=1\r\nAge: 2\r\nETag: \"a\"\r\n\r\n".to_owned(),
        false => {
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=1\r\nAge: 2\r\nETag: \"a\"\r\nContent-Length: 2\r\n\r\nok".to_owned()
        }
    })
    .await;
    let proxy = proxy(&[stub.address], |_| {}).await;
    assert_eq!(ask(proxy.address, "GET /x", &[]).await.body(), "ok");
    for fields in [&[][..], &["Cache-Control: no-store"], &["Cookie: a=b"], &["Authorization: b"]] {
        for line in ["HEAD /x", "GET /x"] {
            let reply = ask(proxy.address, line, fields).await;
            assert_eq!(reply.status(), 200);
            let is_asked_about = fields != ["Authorization: b"];
            assert_eq!(
                reply.field("cache-status").contains("fwd-status=304"),
                is_asked_about,
                "{line} {fields:?} {}",
                reply.text
            );
        }
    }
}
