//! The database is killed, hangs, or is not there when the server starts.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use ridethrough_chaos::{canary::Canary, cluster::Hang};
use ridethrough_tests::{
    app::App,
    http::request,
    stack::{Lab, Server},
    until,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::steps::{Watch, id, journal, member, stored_todo, title};

/// From the canary's first commit to the first fresh answer; the promise is 2 s.
const BACK_LIMIT: Duration = Duration::from_secs(5);
/// Reads and writes in each outage.
const ROUNDS: usize = 25;

/// What keeps the database away.
enum Gone {
    Killed,
    Hung(Hang),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_is_ridden_through() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    ride_through(&lab, &server, async || {
        lab.database_dies().await;
        Gone::Killed
    })
    .await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_is_ridden_through() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    ride_through(&lab, &server, async || {
        lab.expect_outage();
        Gone::Hung(lab.cluster().hang().await.expect("a running database can be stopped"))
    })
    .await;
    lab.finish().await;
}

/// The first calls of a hang fill the bulkhead. Writes that queued up behind them were refused, before one of them had run
/// out of time and so before anything could tell that the database was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_first_moments_of_a_hang_no_write_is_refused() {
    const WRITES: usize = 150;
    const EVERY: Duration = Duration::from_millis(10);

    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let warm = stored_todo(&server, "before").await;
    lab.expect_outage();
    let hang = lab.cluster().hang().await.expect("a running database can be stopped");
    let mut sent = tokio::task::JoinSet::new();
    for number in 0..WRITES {
        let (client, name) = (server.main(), format!("first-{number}"));
        sent.spawn(async move { client.create(&name, &title(&name)).await });
        tokio::time::sleep(EVERY).await;
    }
    for answer in sent.join_all().await {
        assert!(matches!(answer.acknowledged().status, 201 | 202));
    }
    assert_eq!(hang.stopped_now(), hang.processes(), "the test proves nothing");
    let read = server.main().get(&format!("/api/todos/{warm}")).await.expect(200);
    assert_ne!(read.freshness(), "fresh", "{read:?}");
    drop(hang);
    server.journal_is_empty().await;
    let titles: Vec<String> = (0..WRITES).map(|number| title(format!("first-{number}"))).collect();
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}

async fn ride_through(lab: &Lab, server: &App, breaks: impl AsyncFnOnce() -> Gone) {
    let client = server.main();
    let known = [stored_todo(server, "before-1").await, stored_todo(server, "before-2").await];
    for id in &known {
        assert_eq!(client.get(&format!("/api/todos/{id}")).await.expect(200).freshness(), "fresh");
    }
    assert_eq!(client.get("/api/todos").await.expect(200).freshness(), "fresh");
    let (canary, work) = Canary::of(lab.cluster(), |_| {});
    let canary_task = tokio::spawn(work);
    let watch = Watch::over(server, &["/livez", "/readyz", "/startupz"]);

    let gone = breaks().await;
    let titles = use_it_during_the_outage(server, &known).await;
    server.mode_becomes("degraded").await;
    assert_eq!(client.get("/readyz").await.expect(200).json().get("status"), Some(&Value::from("warn")));

    let healed = Instant::now();
    match gone {
        Gone::Killed => lab.database_returns().await,
        Gone::Hung(hang) => drop(hang),
    }
    let path = format!("/api/todos/{}", known.first().expect("two are known"));
    let fresh = async || (client.get(&path).await.expect(200).freshness() == "fresh").then(Instant::now);
    let first_fresh = until("the first fresh answer", Duration::from_secs(30), fresh).await;
    let committed =
        until("the canary commits", Duration::from_secs(30), async || canary.first_commit(healed)).await;
    let took = first_fresh.saturating_duration_since(committed);
    assert!(took <= BACK_LIMIT, "the first fresh answer came {took:?} after the database was back");

    server.mode_becomes("normal").await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    for number in 0..titles.len() {
        assert_eq!(client.write_status(&format!("in-outage-{number}")).await, "applied");
    }
    watch.was_always_well().await;
    canary_task.abort();
}

/// Reads and writes as a user would; each must be answered, and honestly. Gives the titles that were acknowledged.
async fn use_it_during_the_outage(server: &App, known: &[String]) -> Vec<String> {
    let client = server.main();
    let mut titles = Vec::new();
    let mut stale = 0;
    for round in 0..ROUNDS {
        for path in known.iter().map(|id| format!("/api/todos/{id}")).chain(["/api/todos".to_owned()]) {
            let answer = client.get(&path).await.expect(200);
            stale += usize::from(answer.freshness() != "fresh");
        }
        let text = title(format!("in-outage-{round}"));
        let written = client.create(&format!("in-outage-{round}"), &text).await.expect(202).acknowledged();
        let again = client.get(&format!("/api/todos/{}", id(&written))).await.expect(200);
        assert_eq!(again.freshness(), "pending", "{again:?}");
        assert_eq!(member(&again.json(), "title"), text);
        titles.push(text);
    }
    assert_eq!(stale, ROUNDS * (known.len() + 1), "an answer in the outage was called fresh");
    titles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_started_without_its_database_accepts_writes_and_takes_over_when_it_arrives() {
    let lab = Lab::start().await;
    lab.database_dies().await;
    let server = lab.server_as("server-1", Server::default()).await;
    let client = server.main();
    for listener in [server.main(), server.admin()] {
        let _ = listener.get("/startupz").await.expect(200);
        let _ = listener.get("/livez").await.expect(200);
        let not_ready = listener.get("/readyz").await.expect(503);
        assert!(not_ready.header("retry-after").parse::<u64>().is_ok(), "{not_ready:?}");
        assert_eq!(member(&not_ready.json(), "mode"), "warming");
    }
    let unknown = client.get("/api/todos").await;
    assert!(member(&unknown.problem(503), "retry_after").is_u64(), "{}", unknown.text());

    let text = title("early");
    let written = client.create("early", &text).await.expect(202).acknowledged();
    let read = client.get(&format!("/api/todos/{}", id(&written))).await.expect(200);
    assert_eq!(read.freshness(), "pending");
    assert_eq!(client.write_status("early").await, "pending");

    lab.database_returns().await;
    server.ready().await;
    server.journal_is_empty().await;
    server.mode_becomes("normal").await;
    assert_eq!(lab.stored(&id(&written)).await, Some((text, 1)));
    assert_eq!(client.write_status("early").await, "applied");
    let fresh = client.get(&format!("/api/todos/{}", id(&written))).await.expect(200);
    assert_eq!(fresh.freshness(), "fresh");
    let log = std::fs::read_to_string(server.log()).expect("there is a log");
    assert!(log.contains("the database answers") && log.contains("replayed journaled writes"), "{log}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_while_another_one_is_recovered_from_loses_nothing() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let mut titles = Vec::new();
    for round in 0..3 {
        crate::steps::outage(&lab, &[&server]).await;
        titles.extend(journal(&server, &format!("round-{round}"), 40).await);
        lab.database_returns().await;
        // Not waited for: the next outage comes in the middle of the replay.
        let some_replayed = async || (server.backlog().await < 80).then_some(());
        until("the replay has begun", Duration::from_secs(30), some_replayed).await;
    }
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_for_people_goes_on_working_and_says_what_it_shows() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let page = async |path: &str| {
        let mut question = request(Method::GET, path, None, None);
        question.headers_mut().insert("accept", HeaderValue::from_static("text/html"));
        let answer = server.main().send(question).await;
        assert!(answer.header("content-type").starts_with("text/html"), "{answer:?}");
        answer
    };
    let form = async |key: &str, title: &str| {
        let body = format!("key={key}&title={title}");
        let form = Request::post("/todos").header("content-type", "application/x-www-form-urlencoded");
        let answer = server.main().send(form.body(Full::new(Bytes::from(body))).expect("a form")).await;
        let place = answer.header("location");
        assert!(answer.status == 303 && (place == "/" || place.starts_with("/?wrote=")), "{}", answer.text());
    };
    form("before", "%3Cb%3Ebefore%3C%2Fb%3E").await;
    let before = page("/").await.expect(200);
    assert_eq!(before.freshness(), "fresh");
    assert!(before.text().contains("&lt;b&gt;before&lt;"), "{}", before.text());

    crate::steps::outage(&lab, &[&server]).await;
    form("during", "during").await;
    form("during", "during").await;
    let during = page("/").await.expect(200);
    assert_ne!(during.freshness(), "fresh");
    for word in ["&lt;b&gt;before&lt;", ">during<", "data-waiting>", "1 change waits to be stored"] {
        assert!(during.text().contains(word), "no `{word}` in {}", during.text());
    }
    let trouble = page("/api/todos/17").await;
    assert_eq!(trouble.status, 400, "{}", trouble.text());

    lab.database_returns().await;
    server.journal_is_empty().await;
    server.mode_becomes("normal").await;
    let after = page("/").await.expect(200);
    assert_eq!(after.freshness(), "fresh");
    assert!(after.text().contains(">during<") && !after.text().contains("data-waiting>"), "{}", after.text());
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 2);
    lab.finish().await;
}
