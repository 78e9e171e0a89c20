//! The load generator against a small server in the test: what leaves, when it is counted, what is recorded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::*;
use crate::history::{Completion, Writer, read};
use crate::workload::client::Request;

#[derive(Default)]
struct Fake {
    todos: Mutex<HashMap<String, Value>>,
    by_key: Mutex<HashMap<String, String>>,
    requests: AtomicU64,
    hang: AtomicBool,
}

impl Fake {
    async fn answer(&self, request: http::Request<Incoming>) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let (head, body) = request.into_parts();
        if head.uri.path() == "/livez" {
            return Response::new(Full::default());
        }
        if head.uri.path() == "/debug/state" {
            return Response::new(Full::from(json!({"journal": {"entries": 0}}).to_string()));
        }
        if self.hang.load(Ordering::SeqCst) {
            sleep(Duration::from_secs(60)).await;
        }
        if let Some(key) = head.uri.path().strip_prefix("/api/writes/") {
            return Response::new(Full::from(json!({"key": key, "status": "applied"}).to_string()));
        }
        let body: Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
        let mut todos = self.todos.lock().unwrap();
        let mut answer = Response::builder().header("ridethrough-freshness", "fresh");
        let todo = match head.method {
            Method::POST => {
                let key = head.headers["idempotency-key"].to_str().unwrap().to_owned();
                let next = format!("id-{}", todos.len());
                let id = self.by_key.lock().unwrap().entry(key).or_insert(next).clone();
                answer = answer.status(StatusCode::CREATED).header("ridethrough-outcome", "committed");
                let todo = json!({"id": id, "title": body["title"], "version": 1, "done": false});
                todos.insert(id, todo.clone());
                todo
            }
            Method::PUT => {
                let id = head.uri.path().rsplit('/').next().unwrap();
                answer = answer.status(StatusCode::ACCEPTED).header("ridethrough-outcome", "journaled");
                json!({"id": id, "title": body["title"], "version": 2, "done": true})
            }
            _ if head.uri.path() == "/api/todos" => {
                json!({"items": todos.values().take(10).collect::<Vec<_>>(), "next": null})
            }
            _ => todos[head.uri.path().rsplit('/').next().unwrap()].clone(),
        };
        answer.body(Full::from(todo.to_string())).unwrap()
    }
}

/// Serves until the test's runtime ends. With `close_after`, a connection is closed without a word after so
/// many answers, as a server does whose keep-alive time is over.
async fn serve(fake: Arc<Fake>, close_after: Option<Duration>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fake = Arc::clone(&fake);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let fake = Arc::clone(&fake);
                    async move { Ok::<_, Infallible>(fake.answer(request).await) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                match close_after {
                    None => drop(connection.await),
                    Some(age) => drop(tokio::time::timeout(age, connection).await),
                }
            });
        }
    });
    address
}

struct Bench {
    plan: Plan,
    recorder: Recorder,
    writer: Writer,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn bench(address: SocketAddr, load: history::Plan) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let (recorder, writer) = Recorder::create(&path).unwrap();
    let header = history::Run {
        format: history::FORMAT,
        seed: 9,
        scenario: "test".into(),
        plan: load.clone(),
        ..history::Run::default()
    };
    recorder.record(Event::Run(Box::new(header)));
    let servers = vec![Target {
        name: "server-1".into(),
        main: address,
        admin: address,
        live: "/livez".into(),
        ready: "/readyz".into(),
    }];
    Bench {
        plan: Plan {
            seed: 9,
            load,
            doors: vec![("proxy".into(), address)],
            servers,
            dialect: Dialect::Todos,
            counts: Counts::default(),
        },
        recorder,
        writer,
        path,
        _folder: folder,
    }
}

fn short() -> history::Plan {
    history::Plan {
        rate_per_second: 200,
        load_ms: 500,
        warm_todos: 30,
        deadline_ms: 300,
        repeat_share: 0.2,
        ..Default::default()
    }
}

fn completions(events: &[Event]) -> Vec<&Completion> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Ok(done) | Event::Fail(done) | Event::Info(done) if done.op >= LOAD_OPS_FROM => Some(done),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn every_planned_request_is_sent_and_ends_once() {
    let fake = Arc::new(Fake::default());
    let bench = bench(serve(Arc::clone(&fake), None).await, short());
    let warmed = warm_up(&bench.plan, &bench.recorder).await.unwrap();
    assert_eq!(warmed.len(), 30);
    let driven = drive(bench.plan.clone(), warmed, bench.recorder.clone()).await;
    let settled =
        settle(&bench.plan, &bench.recorder, &driven, Duration::from_secs(2), Duration::from_secs(2)).await;
    assert_eq!(settled, Settled { journals_empty: true, open: 0 });
    bench.writer.finish().unwrap();

    let events = read(&bench.path).unwrap();
    let planned = events.iter().find_map(|event| match event {
        Event::Load(load) => Some(load.reads + load.writes),
        _ => None,
    });
    let done = completions(&events);
    assert_eq!(planned, Some(done.len() as u64));
    assert_eq!(driven.sent, done.len() as u64);
    assert!(done.iter().all(|done| done.got == Got::Answer && done.error.is_none()), "{done:?}");
    assert!(driven.unknown.is_empty() && !driven.journaled.is_empty());
    let statuses = events.iter().filter(|event| matches!(event, Event::WriteStatus(_))).count();
    let distinct: std::collections::HashSet<_> = driven.journaled.iter().collect();
    assert_eq!(statuses, distinct.len());
    let unique_titles = fake.by_key.lock().unwrap().len();
    assert_eq!(fake.todos.lock().unwrap().len(), unique_titles, "the second sending had the same key");
}

/// The repetition of a write came from another user, and so at another replica, than the write itself. In an outage that
/// replica cannot know the write: it accepted it as new, showed an old value for the newest, and was called a liar (S2).
#[tokio::test]
async fn who_sends_a_write_again_is_who_sent_it_first() {
    let fake = Arc::new(Fake::default());
    let bench = bench(serve(fake, None).await, short());
    let warmed = warm_up(&bench.plan, &bench.recorder).await.unwrap();
    let _driven = drive(bench.plan.clone(), warmed, bench.recorder.clone()).await;
    bench.writer.finish().unwrap();

    let events = read(&bench.path).unwrap();
    let invoked: std::collections::HashMap<u64, &Invoke> = events
        .iter()
        .filter_map(|event| if let Event::Invoke(invoke) = event { Some((invoke.op, invoke)) } else { None })
        .collect();
    let repeated: Vec<_> = invoked.values().filter_map(|invoke| Some((invoke, invoke.repeat_of?))).collect();
    assert!(!repeated.is_empty());
    for (again, first) in repeated {
        assert_eq!(again.session, invoked[&first].session, "operation {}", again.op);
    }
}

#[tokio::test]
async fn a_hanging_service_gets_no_pause_and_every_request_counts() {
    let fake = Arc::new(Fake::default());
    let bench = bench(serve(Arc::clone(&fake), None).await, short());
    let warmed = warm_up(&bench.plan, &bench.recorder).await.unwrap();
    fake.hang.store(true, Ordering::SeqCst);
    let driven = drive(bench.plan.clone(), warmed, bench.recorder.clone()).await;
    bench.writer.finish().unwrap();

    let events = read(&bench.path).unwrap();
    let done = completions(&events);
    assert!(done.len() >= 100);
    assert!(done.iter().all(|done| done.got == Got::Deadline), "{done:?}");
    let planned: HashMap<u64, u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Invoke(invoke) => Some((invoke.op, invoke.planned_us)),
            _ => None,
        })
        .collect();
    for done in &done {
        let took = done.at_us - planned[&done.op];
        assert!((300_000..1_000_000).contains(&took), "operation {} ended after {took} µs", done.op);
    }
    assert!(!driven.unknown.is_empty());
}

#[tokio::test]
async fn nobody_listening_is_refused_and_certainly_without_effect() {
    let fake = Arc::new(Fake::default());
    let mut bench = bench(serve(fake, None).await, short());
    let warmed = warm_up(&bench.plan, &bench.recorder).await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.plan.doors = vec![("proxy".into(), free.local_addr().unwrap())];
    drop(free);
    let driven = drive(bench.plan.clone(), warmed, bench.recorder.clone()).await;
    bench.writer.finish().unwrap();
    let events = read(&bench.path).unwrap();
    assert!(completions(&events).iter().all(|done| done.got == Got::Refused && done.sent_us.is_none()));
    assert!(driven.unknown.is_empty());
    assert!(!events.iter().any(|event| matches!(event, Event::Info(_))));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_user_an_error() {
    let fake = Arc::new(Fake::default());
    let address = serve(Arc::clone(&fake), Some(Duration::from_millis(40))).await;
    let client = Client::new(address, 4);
    for _ in 0..8 {
        let exchange =
            client.send(&Request::get("/livez".into()), Instant::now() + Duration::from_secs(2)).await;
        assert_eq!((exchange.got, exchange.status), (Got::Answer, Some(200)));
        // Real time must pass here: the close comes from a real socket.
        sleep(Duration::from_millis(15)).await;
    }
}

#[tokio::test]
async fn without_a_free_connection_a_request_is_never_sent() {
    let fake = Arc::new(Fake::default());
    let address = serve(Arc::clone(&fake), None).await;
    fake.hang.store(true, Ordering::SeqCst);
    let client = Client::new(address, 1);
    let deadline = Instant::now() + Duration::from_millis(200);
    let request = Request::get("/api/todos".into());
    let (one, two) = tokio::join!(client.send(&request, deadline), client.send(&request, deadline));
    let mut ends = [one.got, two.got];
    ends.sort_by_key(|got| *got == Got::NeverSent);
    assert_eq!(ends, [Got::Deadline, Got::NeverSent]);
    assert_eq!(fake.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn probes_come_at_their_rate_and_say_what_was_answered() {
    let fake = Arc::new(Fake::default());
    let bench = bench(serve(fake, None).await, short());
    let (stop, stopped) = watch::channel(false);
    let probing = tokio::spawn(probe_health(bench.plan.servers.clone(), bench.recorder.clone(), stopped));
    sleep(Duration::from_millis(520)).await;
    stop.send(true).unwrap();
    probing.await.unwrap();
    bench.writer.finish().unwrap();
    let live: Vec<_> = read(&bench.path)
        .unwrap()
        .into_iter()
        .filter_map(|event| match event {
            Event::Probe(probe) if probe.path == "/livez" => Some(probe),
            _ => None,
        })
        .collect();
    assert!((9..=12).contains(&live.len()), "{} probes", live.len());
    assert!(live.iter().all(|probe| probe.status == Some(200) && probe.process == "server-1"));
    assert!(live.windows(2).all(|pair| pair[1].planned_us - pair[0].planned_us == 50_000));
}
