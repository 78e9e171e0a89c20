//! Clients that are too slow, too large or too many, at raw sockets: each is cut off or refused within its bound, and the
//! others never notice.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use ridethrough_tests::{
    app::App,
    http::request,
    stack::{Lab, Server},
    within,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::steps::title;

/// Above every bound that a test sets; a machine that builds is slow.
const PATIENCE: Duration = Duration::from_secs(15);
/// A bound that is soon over.
const SOON: &str = "300ms";

async fn limited(lab: &Lab, limits: &[(&'static str, &str)]) -> App {
    let env = limits.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let server = lab.server_as("server-1", Server { env, ..Server::default() }).await;
    server.ready().await;
    server
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the server accepts")
}

/// What the server says until it closes the connection. A reset is an end, too.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let _ = within("the server ends the connection", PATIENCE, stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn exchange(address: SocketAddr, sent: &str) -> String {
    let mut stream = connect(address).await;
    let _ = stream.write_all(sent.as_bytes()).await;
    to_the_end(&mut stream).await
}

fn post(path: &str, length: usize, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_are_cut_off() {
    let lab = Lab::start().await;
    let limits = [("RIDETHROUGH_LIMITS__HEAD", SOON), ("RIDETHROUGH_LIMITS__BODY", SOON)];
    let server = limited(&lab, &limits).await;
    let address = server.main().address();
    // A head that grows by a byte now and then.
    let mut head = connect(address).await;
    let _ = head.write_all(b"GET /api/todos HTTP/1.1\r\nHost: a\r\nX: ").await;
    let (mut reading, mut writing) = head.split();
    let trickle = async {
        while writing.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut answer = Vec::new();
    let cut = async {
        tokio::select! {
            _ = reading.read_to_end(&mut answer) => {}
            () = trickle => {}
        }
    };
    within("a head that never ends is cut off", PATIENCE, cut).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    // A body that stops.
    let answer = exchange(address, &post("/api/todos", 100, "{\"title\":")).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("/problems/body-too-slow"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("ridethrough-outcome: rejected"), "{answer}");
    // And one in chunks.
    let chunked = "POST /api/todos HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                   Transfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n";
    let answer = exchange(address, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let _ = server.main().create("quick", &title("quick")).await.acknowledged();
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_by_its_name() {
    let lab = Lab::start().await;
    let server = limited(&lab, &[]).await;
    let address = server.main().address();
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n")
    };
    let many: String = (0..200).map(|number| format!("X-{number}: a\r\n")).collect();
    let cases = [
        (get("/livez", &format!("X: {}\r\n", "a".repeat(40_000))), "431", ""),
        (get("/livez", &many), "431", ""),
        (get(&format!("/api/todos?after={}", "a".repeat(9_000)), ""), "414", "/problems/uri-too-long"),
        (post("/api/todos", 70_000, &"a".repeat(70_000)), "413", "/problems/body-too-large"),
        ("NONSENSE\r\n\r\n".to_owned(), "400", ""),
    ];
    for (sent, status, word) in cases {
        let answer = within("an answer", PATIENCE, async {
            let mut stream = connect(address).await;
            let _ = stream.write_all(sent.as_bytes()).await;
            let mut first = vec![0; 4096];
            let read = stream.read(&mut first).await.unwrap_or_default();
            String::from_utf8_lossy(first.get(..read).unwrap_or_default()).into_owned()
        })
        .await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected) && answer.contains(word), "{expected} {word}: {answer}");
    }
    // Requests that are sent without waiting are answered one after the other, in their order.
    let piped = format!("{}{}", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", get("/nowhere", ""));
    let answer = exchange(address, &piped).await;
    let (first, second) = (answer.find("HTTP/1.1 200"), answer.find("HTTP/1.1 404"));
    assert!(first.is_some() && first < second, "{answer}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_give_their_places_back() {
    let lab = Lab::start().await;
    let limits = [("RIDETHROUGH_LIMITS__CONNECTIONS", "4"), ("RIDETHROUGH_LIMITS__HEAD", "1s")];
    let server = limited(&lab, &limits).await;
    let address = server.main().address();
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect(address).await);
    }
    let answer = exchange(address, "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(silent);
    lab.finish().await;
}

/// Bytes of memory that the process has.
fn memory(server: &App) -> u64 {
    let pid = server.pid().expect("the server runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kibibytes * 1024
}

/// Each connection could bring four mebibytes, and all of them were taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_never_end_are_refused_before_memory_grows() {
    const MEBIBYTE: usize = 1024 * 1024;
    const CONNECTIONS: usize = 60;
    let lab = Lab::start().await;
    let bound = (4 * MEBIBYTE).to_string();
    let server = limited(&lab, &[("RIDETHROUGH_LIMITS__BODIES_BYTES", &bound)]).await;
    let address = server.main().address();
    let before = memory(&server);
    let body = "a".repeat(MEBIBYTE);
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(address).await;
        let sent = post("/api/todos/batch", 2 * MEBIBYTE, &body);
        let _ = within("the server reads or refuses", PATIENCE, stream.write_all(sent.as_bytes())).await;
        open.push(stream);
    }
    let mut refused = 0;
    for stream in &mut open {
        let mut first = [0; 12];
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut first)).await;
        refused += usize::from(read.is_ok() && &first == b"HTTP/1.1 503");
    }
    assert!(refused >= CONNECTIONS - 4 - 4, "{refused} of {CONNECTIONS} were refused");
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 40 * MEBIBYTE as u64, "grown by {grown} bytes");
    let metrics = server.admin().get("/metrics").await.expect(200).text();
    assert!(metrics.contains("ridethrough_http_shed_total{reason=\"bodies\"}"), "{metrics}");
    drop(open);
    let room = async || {
        let answer = server.main().create("after", &title("after")).await;
        (answer.status == 201).then_some(())
    };
    ridethrough_tests::until("there is room again", PATIENCE, room).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_bound_of_requests_who_comes_is_told_at_once_when_to_come_back() {
    const ASKERS: usize = 12;
    let lab = Lab::start().await;
    lab.expect_outage();
    let server = limited(&lab, &[("RIDETHROUGH_LIMITS__REQUESTS", "3")]).await;
    let locker = lab.sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE todos IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    // All at once: who is let in waits for the lock, and everybody after the third is refused.
    let mut asking = JoinSet::new();
    for number in 1..=ASKERS {
        let client = server.main().clone();
        asking.spawn(async move {
            let started = Instant::now();
            (client.get(&format!("/api/todos?limit={number}")).await, started.elapsed())
        });
    }
    let asked = within("everybody is answered", PATIENCE, asking.join_all()).await;
    let refused = asked.iter().filter(|(answer, took)| {
        let kind = answer.json().get("type").cloned();
        *took < Duration::from_secs(1) && kind == Some(Value::from("/problems/overloaded"))
    });
    let mut count = 0;
    for (answer, _) in refused {
        assert!(answer.header("retry-after").parse::<u64>().expect("seconds") > 0);
        count += 1;
    }
    assert!((ASKERS / 2..ASKERS).contains(&count), "{count} of {ASKERS} were refused");
    let metrics = server.admin().get("/metrics").await.expect(200).text();
    let shed = metrics
        .lines()
        .find_map(|line| line.strip_prefix("ridethrough_http_shed_total{reason=\"requests\"} "));
    assert!(shed.and_then(|shed| shed.parse::<usize>().ok()) >= Some(count), "{shed:?} and {count}");
    let _ = server.main().get("/livez").await.expect(200);
    locker.batch_execute("ROLLBACK").await.expect("the lock is given back");
    let back = async || (server.main().get("/api/todos?limit=9").await.status == 200).then_some(());
    ridethrough_tests::until("the next one is let in", PATIENCE, back).await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_when_he_is_told_is_let_in() {
    let lab = Lab::start().await;
    let limits = [("RIDETHROUGH_LIMITS__RATE__PER_SECOND", "1"), ("RIDETHROUGH_LIMITS__RATE__BURST", "2")];
    let server = limited(&lab, &limits).await;
    let refused = async || {
        let answer = server.main().get("/api/todos").await;
        (answer.status == 429).then_some(answer)
    };
    let answer = ridethrough_tests::until("one is refused", PATIENCE, refused).await;
    assert_eq!(answer.problem(429).get("type"), Some(&Value::from("/problems/too-many-requests")));
    let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
    sleep(Duration::from_secs(seconds)).await;
    let let_in = server.main().send(request(Method::GET, "/api/todos", None, None)).await;
    let _ = let_in.expect(200);
    lab.finish().await;
}
