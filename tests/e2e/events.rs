//! A broker that goes away while todos change: requests notice nothing, and every event arrives once, those of one todo in
//! their order. So it is where a server dies between publishing and knowing that it did. Where `nats-server` is not
//! installed these tests are skipped.
//!
//! The program is `ridethrough-server-sabotage`, which is built with the feature `nats`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt as _;
use ridethrough_tests::{
    app::App,
    launch::{Exit, program},
    nats::{Nats, STREAM, User},
    stack::{Lab, Server},
    until,
};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::steps::{Watch, id, title};

const LIMIT: Duration = Duration::from_secs(40);
/// No request took longer, whatever the broker did; an idle machine needs a hundredth of it.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const WRITERS: usize = 4;
const TODOS: usize = 12;
const CHANGES: usize = 6;
const EVERYTHING: &str = "SELECT todo::text, kind, version FROM todo_events ORDER BY at, version";

/// What was told: the id, the todo, what happened to it, and its place in the order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) todo: String,
    pub(crate) kind: String,
    pub(crate) version: i64,
    pub(crate) place: i64,
}

impl Told {
    pub(crate) fn of(payload: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(payload).expect("an event is JSON");
        let text = |name: &str| document.get(name).and_then(Value::as_str).expect(name).to_owned();
        let number = |name: &str| document.get(name).and_then(Value::as_i64).expect(name);
        Self {
            id: text("id"),
            todo: text("todo"),
            kind: text("kind"),
            version: number("version"),
            place: number("place"),
        }
    }

    fn what(&self) -> (String, String, i64) {
        (self.todo.clone(), self.kind.clone(), self.version)
    }
}

/// A lab with a broker, which runs; nothing where none is installed.
pub(crate) async fn lab_with_broker() -> Option<(Lab, Nats)> {
    let lab = Lab::start().await;
    match Nats::below(lab.run_folder()) {
        Some(mut nats) => {
            nats.start().await;
            nats.furnish().await;
            lab.expect_in_logs(&["events cannot be published", "breaker opened"]);
            Some((lab, nats))
        }
        None => {
            eprintln!("skipped: nats-server is not installed");
            lab.finish().await;
            None
        }
    }
}

/// How a server publishes to this broker.
pub(crate) fn publishing(nats: &Nats) -> Server {
    let env = vec![
        ("RIDETHROUGH_NATS__URL", nats.url()),
        ("RIDETHROUGH_NATS__CREDENTIALS_FILE", nats.credentials(User::Publisher)),
        ("RIDETHROUGH_NATS__BATCH", "32".to_owned()),
        ("RIDETHROUGH_NATS__EVERY", "20ms".to_owned()),
    ];
    Server { env, program: Some(program("ridethrough-server-sabotage")), ..Server::default() }
}

/// Waits until the database knows that events are wanted: those from before are nobody's.
pub(crate) async fn events_are_wanted(lab: &Lab) {
    let wanted = async || {
        let sql = "SELECT count(*) FROM todo_outbox_wanted WHERE until > now()";
        (lab.number(sql, &[]).await == 1).then_some(())
    };
    until("events are wanted", LIMIT, wanted).await;
}

/// Waits until nothing is left to publish.
pub(crate) async fn outbox_is_empty(lab: &Lab) {
    let empty = async || (lab.number("SELECT count(*) FROM todo_outbox", &[]).await == 0).then_some(());
    until("the outbox is empty", LIMIT, empty).await;
}

/// Everything in the stream, in its order, without what the broker recognised.
async fn stream(nats: &Nats) -> Vec<Told> {
    let context = jetstream::new(nats.client(User::Operator).await);
    let config = pull::Config { ack_policy: jetstream::consumer::AckPolicy::None, ..pull::Config::default() };
    let consumer = context.create_consumer_on_stream(config, STREAM).await.expect("a consumer can be made");
    let mut told = Vec::new();
    loop {
        let mut messages = consumer.fetch().max_messages(500).messages().await.expect("a consumer answers");
        let before = told.len();
        while let Some(message) = messages.next().await {
            let message = message.expect("a message");
            let event = Told::of(&message.payload);
            let header = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
            assert_eq!(header.map(|id| id.as_str()), Some(event.id.as_str()));
            assert_eq!(message.subject.as_str(), format!("todos.{}", event.kind));
            told.push(event);
        }
        if told.len() == before {
            return told;
        }
    }
}

/// Says that these are all events of the database, each once, and those of a todo in their order.
async fn are_all_once_and_in_order(lab: &Lab, told: &[Told]) {
    let rows = lab.rows(EVERYTHING, &[]).await;
    let happened: BTreeSet<(String, String, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(happened.len(), rows.len(), "no todo of this test is made twice");
    let seen: BTreeSet<_> = told.iter().map(Told::what).collect();
    let missing: Vec<_> = happened.difference(&seen).collect();
    assert!(missing.is_empty(), "{} of {} did not arrive: {missing:?}", missing.len(), happened.len());
    assert_eq!(seen, happened, "something arrived that did not happen");
    let ids: BTreeSet<&str> = told.iter().map(|event| event.id.as_str()).collect();
    assert_eq!((ids.len(), seen.len()), (told.len(), told.len()), "something is in the stream twice");
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for event in told {
        let before = last.insert(&event.todo, event.place).unwrap_or_default();
        assert!(before < event.place, "{event:?} came after place {before}");
    }
}

/// Makes, changes and removes todos; every answer is a commit, and in time.
async fn writer(server: App, prefix: String) -> Duration {
    let mut longest = Duration::ZERO;
    let mut timed = async |answer: std::pin::Pin<Box<dyn Future<Output = u16> + Send>>| {
        let from = Instant::now();
        let status = answer.await;
        longest = longest.max(from.elapsed());
        assert!((200..300).contains(&status) && status != 202, "{prefix} was answered {status}");
    };
    for number in 0..TODOS {
        let key = format!("{prefix}-{number}");
        let made = server.main().create(&key, &title(&key)).await.expect(201).acknowledged();
        let todo = id(&made);
        for change in 0..CHANGES {
            let (client, todo, key) = (server.main(), todo.clone(), format!("{key}-{change}"));
            timed(Box::pin(async move { client.replace(&key, &todo, &title(&key)).await.status })).await;
        }
        if number % 3 == 0 {
            let (client, key) = (server.main(), format!("{key}-gone"));
            timed(Box::pin(async move { client.remove(&key, &todo).await.status })).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    longest
}

/// The sum of a metric's samples, or one of them where its labels are given.
pub(crate) async fn metric(app: &App, sample: &str) -> f64 {
    let text = app.admin().get("/metrics").await.expect(200).text();
    let rest = text.lines().filter_map(|line| line.strip_prefix(sample));
    let samples = rest.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit_once(' '));
    samples.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_and_hangs_holds_up_no_request_and_misses_no_event() {
    let Some((lab, mut nats)) = lab_with_broker().await else { return };
    let servers = [
        lab.server_as("server-1", publishing(&nats)).await,
        lab.server_as("server-2", publishing(&nats)).await,
    ];
    for server in &servers {
        server.ready().await;
    }
    events_are_wanted(&lab).await;
    let watch = Watch::over(&servers[0], &["/readyz", "/livez"]);
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let server = servers[number % servers.len()].clone();
        writers.spawn(writer(server, format!("w{number}")));
    }
    sleep(Duration::from_millis(300)).await;
    nats.kill().await;
    let opened = async || {
        let mut states = Vec::new();
        for server in &servers {
            states.push(metric(server, "ridethrough_breaker_state{circuit=\"nats\"}").await);
        }
        states.contains(&2.0).then_some(())
    };
    until("the breaker of the broker opens", LIMIT, opened).await;
    nats.start().await;
    sleep(Duration::from_millis(700)).await;
    nats.hang();
    sleep(Duration::from_secs(3)).await;
    nats.go_on();
    while let Some(longest) = writers.join_next().await {
        let longest = longest.expect("a writer does not panic");
        assert!(longest < ANSWER_MAX, "an answer took {longest:?}");
    }
    watch.was_always_well().await;
    outbox_is_empty(&lab).await;
    let told = stream(&nats).await;
    are_all_once_and_in_order(&lab, &told).await;
    let (mut published, mut leaders) = (0.0, 0.0);
    for server in &servers {
        published += metric(server, "ridethrough_events_published_total").await;
        leaders += metric(server, "ridethrough_events_publishing").await;
        assert_eq!(metric(server, "ridethrough_events_given_up_total").await, 0.0);
    }
    assert!(published >= told.len() as f64, "{published} of {} were counted", told.len());
    assert_eq!(leaders, 1.0, "one replica publishes, and the other would");
    drop(nats);
    lab.finish().await;
}

/// The server is killed when the broker has a batch and the outbox still holds it: what comes next publishes it again, and
/// the broker knows it by its ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_between_publishing_and_noting_it_tells_nothing_twice() {
    let Some((lab, nats)) = lab_with_broker().await else { return };
    let server = lab.server_as("server-1", publishing(&nats)).await;
    server.ready().await;
    events_are_wanted(&lab).await;
    for nth in 1..=3 {
        server.kill().await;
        server.restart_with(&[("RIDETHROUGH_FAILPOINT", format!("after-publish:{nth}"))]).await;
        server.ready().await;
        let writing = tokio::spawn({
            let server = server.clone();
            async move {
                for number in 0..200 {
                    let key = format!("k{nth}-{number}");
                    let request = ridethrough_tests::http::create(&key, &title(&key));
                    if server.main().try_send(request).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(30)).await;
                }
            }
        });
        assert_eq!(server.ended(LIMIT).await, Exit::Signal(9));
        writing.await.expect("a writer does not panic");
        let waiting = lab.number("SELECT count(*) FROM todo_outbox", &[]).await;
        assert!(waiting > 0, "it died before it noted what it had published");
        server.restart().await;
        server.ready().await;
        outbox_is_empty(&lab).await;
        let known = metric(&server, "ridethrough_events_published_total{outcome=\"known\"}").await;
        assert!(known > 0.0, "the broker had them already");
    }
    are_all_once_and_in_order(&lab, &stream(&nats).await).await;
    drop(nats);
    lab.finish().await;
}

/// More events wait than may: the oldest are given up, which is said and counted, and the rest arrives in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_that_is_full_gives_up_the_oldest_and_one_that_nobody_wants_is_emptied() {
    const KEPT: usize = 20;
    const MADE: usize = 50;
    let Some((lab, mut nats)) = lab_with_broker().await else { return };
    lab.expect_in_logs(&["more events wait to be published than may"]);
    nats.kill().await;
    let mut how = publishing(&nats);
    how.env.push(("RIDETHROUGH_NATS__KEEP_MAX", KEPT.to_string()));
    let server = lab.server_as("server-1", how).await;
    server.ready().await;
    events_are_wanted(&lab).await;
    let mut todos = Vec::new();
    for number in 0..MADE {
        let key = format!("k{number}");
        todos.push(id(&server.main().create(&key, &title(&key)).await.expect(201).acknowledged()));
    }
    let given_up = async || {
        let given_up = metric(&server, "ridethrough_events_given_up_total").await;
        (given_up == (MADE - KEPT) as f64).then_some(())
    };
    until("the oldest are given up", LIMIT, given_up).await;
    assert_eq!(metric(&server, "ridethrough_events_unpublished").await, KEPT as f64);
    nats.start().await;
    outbox_is_empty(&lab).await;
    let told: Vec<String> = stream(&nats).await.into_iter().map(|event| event.todo).collect();
    assert_eq!(told, todos[MADE - KEPT..]);

    // The last server that publishes is gone, and one goes on that does not: events are kept for a time, and then no more.
    server.terminate();
    assert_eq!(server.ended(LIMIT).await, Exit::Code(0));
    let every = vec![("RIDETHROUGH_EVENTS__EVERY", "1s".to_owned())];
    let other = lab.server_as("server-2", Server { env: every, ..Server::default() }).await;
    other.ready().await;
    let _ = other.main().create("kept", &title("kept")).await.expect(201).acknowledged();
    assert_eq!(lab.number("SELECT count(*) FROM todo_outbox", &[]).await, 1);
    let boss = lab.sql().await;
    boss.batch_execute("UPDATE todo_outbox_wanted SET until = now()").await.expect("a superuser may");
    outbox_is_empty(&lab).await;
    let _ = other.main().create("unwanted", &title("unwanted")).await.expect(201).acknowledged();
    assert_eq!(lab.number("SELECT count(*) FROM todo_outbox", &[]).await, 0, "nobody wants it");
    drop(nats);
    lab.finish().await;
}
