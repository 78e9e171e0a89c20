//! A broker that trusts nobody: what its users may not do under `deploy/nats/server.conf`, TLS, and the example that consumes
//! events. Where `nats-server` is not installed these tests are skipped.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, jetstream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ridethrough_tests::{
    daemon,
    http::Client as HttpClient,
    launch::{Blueprint, Running, program},
    logs::Secrets,
    nats::{CONSUMER, Nats, STREAM, User},
    pooler::PgBouncer,
    stack::Server,
    until,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{
    events::{Told, events_are_wanted, lab_with_broker, metric, outbox_is_empty, publishing},
    steps::{id, title},
};

const LIMIT: Duration = Duration::from_secs(40);
/// As long as it is waited for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(700);

/// Whether anybody answers a question of JetStream's interface.
async fn is_answered(client: &Client, subject: &str) -> bool {
    let asked = timeout(SILENCE, client.request(subject.to_owned(), Bytes::new())).await;
    matches!(asked, Ok(Ok(_)))
}

/// Whether `reader` hears what `writer` says.
async fn is_heard(reader: &Client, writer: &Client, pattern: &str, subject: &str) -> bool {
    let mut heard = reader.subscribe(pattern.to_owned()).await.expect("a subscription is sent");
    reader.flush().await.expect("the broker is there");
    writer.publish(subject.to_owned(), "canary".into()).await.expect("a message is sent");
    writer.flush().await.expect("the broker is there");
    matches!(timeout(SILENCE, heard.next()).await, Ok(Some(_)))
}

async fn messages(operator: &Client) -> u64 {
    let context = jetstream::new(operator.clone());
    let mut stream = context.get_stream(STREAM).await.expect("the operator sees the stream");
    stream.info().await.expect("the operator sees the stream").state.messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publisher_and_consumer_can_do_what_they_are_for_and_nothing_else() {
    let Some((lab, nats)) = lab_with_broker().await else { return };
    let publisher = nats.client(User::Publisher).await;
    let broadcaster = nats.client(User::Broadcaster).await;
    let operator = nats.client(User::Operator).await;

    // What each is for.
    let context = jetstream::new(publisher.clone());
    let sent = context.publish("todos.created", "{}".into()).await.expect("it is sent");
    assert_eq!(sent.await.expect("the publisher publishes").stream, STREAM);
    let own = format!("$JS.API.CONSUMER.INFO.{STREAM}.{CONSUMER}");
    assert!(is_answered(&broadcaster, &own).await);
    assert!(is_answered(&operator, &format!("$JS.API.STREAM.INFO.{STREAM}")).await);

    // And nothing else: nobody but the operator sees, makes, changes, empties or removes what is there.
    for (who, client) in [("publisher", &publisher), ("broadcaster", &broadcaster)] {
        for question in [
            "$JS.API.INFO".to_owned(),
            "$JS.API.STREAM.NAMES".to_owned(),
            "$JS.API.STREAM.CREATE.MINE".to_owned(),
            format!("$JS.API.STREAM.INFO.{STREAM}"),
            format!("$JS.API.STREAM.UPDATE.{STREAM}"),
            format!("$JS.API.STREAM.PURGE.{STREAM}"),
            format!("$JS.API.STREAM.DELETE.{STREAM}"),
            format!("$JS.API.STREAM.MSG.GET.{STREAM}"),
            format!("$JS.API.STREAM.MSG.DELETE.{STREAM}"),
            format!("$JS.API.CONSUMER.CREATE.{STREAM}"),
            format!("$JS.API.CONSUMER.DELETE.{STREAM}.{CONSUMER}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.another"),
        ] {
            assert!(!is_answered(client, &question).await, "{who} is answered {question}");
        }
        for pattern in ["todos.>", ">", "_INBOX.>", "$JS.>"] {
            assert!(!is_heard(client, &publisher, pattern, "todos.changed").await, "{who} hears {pattern}");
        }
    }
    assert!(!is_answered(&publisher, &own).await, "the publisher asks for events");
    let before = messages(&operator).await;
    for (client, subject) in
        [(&broadcaster, "todos.created"), (&publisher, "todos.invented"), (&publisher, "orders.created")]
    {
        client.publish(subject, "canary".into()).await.expect("a message is sent");
        client.flush().await.expect("the broker is there");
    }
    sleep(SILENCE).await;
    assert_eq!(
        messages(&operator).await,
        before,
        "somebody put into the stream what is not his to put there"
    );
    for wrong in ["publisher:sesame", "guest:guest", ":"] {
        let (user, password) = wrong.split_once(':').expect("a pair");
        let options =
            async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        assert!(options.connect(nats.url()).await.is_err(), "{wrong} comes in");
    }
    assert!(async_nats::connect(nats.url()).await.is_err(), "somebody without a name comes in");
    drop(nats);
    lab.finish().await;
}

/// Events go out under TLS to a broker whose authority is trusted, and to no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_published_to_a_broker_that_is_trusted_and_to_no_other() {
    let Some((lab, mut nats)) = lab_with_broker().await else { return };
    let home = daemon::home(lab.run_folder(), "certificates");
    let of = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (home.join(format!("{name}.pem")), home.join(format!("{name}.key")));
        daemon::write_private(&certificate, &made.cert.pem());
        daemon::write_private(&key, &made.signing_key.serialize_pem());
        (certificate, key)
    };
    let ((ours, key), (foreign, _)) = (of("ours"), of("foreign"));
    nats.kill().await;
    nats.encrypt(&ours, &key);
    nats.start().await;
    let by_tls = |authority: &std::path::Path| {
        let mut server = publishing(&nats);
        server.env.extend([
            ("RIDETHROUGH_NATS__URL", format!("tls://localhost:{}", nats.port())),
            ("RIDETHROUGH_NATS__CA_FILE", authority.display().to_string()),
        ]);
        server
    };
    let server = lab.server_as("server-1", by_tls(&foreign)).await;
    server.ready().await;
    events_are_wanted(&lab).await;
    let _ = server.main().create("k1", &title("k1")).await.expect(201).acknowledged();
    let refused = async || {
        let failures = "ridethrough_events_publish_failures_total";
        (metric(&server, failures).await > 0.0).then_some(())
    };
    until("the foreign broker is refused", LIMIT, refused).await;
    assert_eq!(metric(&server, "ridethrough_events_published_total").await, 0.0);
    server.terminate();
    let _ = server.ended(LIMIT).await;
    let trusting = lab.server_as("server-2", by_tls(&ours)).await;
    trusting.ready().await;
    outbox_is_empty(&lab).await;
    assert_eq!(metric(&trusting, "ridethrough_events_published_total").await, 1.0);
    drop(nats);
    lab.finish().await;
}

/// Two connections for everybody, each transaction on another one: the lock of who publishes ends with the transaction, and no
/// statement has a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_published_from_behind_a_pooler() {
    const TODOS: usize = 20;
    let Some((lab, nats)) = lab_with_broker().await else { return };
    let Some(pooler) = PgBouncer::before(&lab.cluster().url(), lab.run_folder(), 2).await else {
        eprintln!("skipped: pgbouncer is not installed");
        drop(nats);
        return lab.finish().await;
    };
    // Straight to the database, as migrations must.
    let straight = lab.server("server-0").await;
    let mut servers = Vec::new();
    for name in ["server-1", "server-2"] {
        let mut how = Server { url: Some(pooler.url().to_owned()), ..publishing(&nats) };
        how.env.push(("RIDETHROUGH_DATABASE__POOL__POOLER", "pgbouncer".to_owned()));
        how.env.push(("RIDETHROUGH_DATABASE__MIGRATE", "never".to_owned()));
        let server = lab.server_as(name, how).await;
        server.ready().await;
        servers.push(server);
    }
    events_are_wanted(&lab).await;
    for number in 0..TODOS {
        let key = format!("k{number}");
        let _ = servers[number % 2].main().create(&key, &title(&key)).await.expect(201).acknowledged();
    }
    outbox_is_empty(&lab).await;
    let mut published = 0.0;
    for server in &servers {
        published += metric(server, "ridethrough_events_published_total").await;
    }
    assert_eq!(published, TODOS as f64);
    assert_eq!(metric(&straight, "ridethrough_events_published_total").await, 0.0);
    drop((nats, pooler));
    lab.finish().await;
}

/// Somebody who wants to be told: takes what comes by the key, fails where he is told to.
#[derive(Clone, Default)]
struct Receiver {
    took: Arc<Mutex<Vec<Told>>>,
    fails: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Receiver {
    /// Listens until the test ends.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let receiver = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = receiver.clone();
                let answer = service_fn(move |request| receiver.clone().answer(request));
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(serving);
            }
        });
        format!("http://{address}/hook")
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let key = request.headers().get("Idempotency-Key").cloned();
        let body = request.into_body().collect().await?.to_bytes();
        self.asked.fetch_add(1, Ordering::SeqCst);
        let fails = self.fails.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let status = match fails {
            Ok(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Err(_) => {
                let event = Told::of(&body);
                assert_eq!(key.expect("a key").to_str().ok(), Some(event.id.as_str()));
                self.took.lock().expect("nobody panicked").push(event);
                StatusCode::NO_CONTENT
            }
        };
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = status;
        Ok(answer)
    }

    /// By id, in the order in which they came first.
    fn took(&self) -> Vec<Told> {
        let mut seen = std::collections::BTreeSet::new();
        let took = self.took.lock().expect("nobody panicked").clone();
        took.into_iter().filter(|event| seen.insert(event.id.clone())).collect()
    }
}

/// The example, as a process.
async fn broadcaster(nats: &Nats, home: &std::path::Path, webhook: String) -> (Running, HttpClient) {
    let blueprint = Blueprint {
        name: "broadcaster".to_owned(),
        program: program("examples/broadcaster"),
        args: vec!["127.0.0.1:0".into()],
        env: vec![
            ("NATS_URL".to_owned(), nats.url()),
            ("NATS_CREDENTIALS_FILE".to_owned(), nats.credentials(User::Broadcaster)),
            ("WEBHOOK_URL".to_owned(), webhook),
        ],
    };
    let running = Running::start(&blueprint, home);
    let address = until("the broadcaster listens", LIMIT, async || {
        let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter_map(|entry| entry.get("admin")?.as_str()?.parse().ok()).next()
    })
    .await;
    (running, HttpClient::new(address, Secrets::default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broadcaster_posts_every_event_in_order_over_failures_of_the_receiver_and_the_broker() {
    const TODOS: usize = 5;
    const FAILURES: usize = 4;
    let Some((lab, mut nats)) = lab_with_broker().await else { return };
    let receiver = Receiver::default();
    receiver.fails.store(FAILURES, Ordering::SeqCst);
    let webhook = receiver.start().await;
    let (running, admin) = broadcaster(&nats, &lab.folder().join("broadcaster"), webhook).await;
    let server = lab.server_as("server-1", publishing(&nats)).await;
    server.ready().await;
    events_are_wanted(&lab).await;
    let mut expected: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for number in 0..TODOS {
        let key = format!("k{number}");
        let todo = id(&server.main().create(&key, &title(&key)).await.expect(201).acknowledged());
        for change in ["a", "b"] {
            let key = format!("{key}{change}");
            let _ = server.main().replace(&key, &todo, &title(&key)).await.expect(200);
        }
        expected.insert(todo, vec![1, 2, 3]);
        if number == 2 {
            nats.kill().await;
            sleep(Duration::from_secs(1)).await;
            nats.start().await;
        }
    }
    let all = async || (receiver.took().len() == TODOS * 3).then_some(());
    until("every event is posted", LIMIT, all).await;
    let mut posted: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for event in receiver.took() {
        posted.entry(event.todo).or_default().push(event.version);
    }
    assert_eq!(posted, expected);
    let counted = async || {
        let text = admin.get("/metrics").await.expect(200).text();
        let value = |sample: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(sample));
            line.and_then(|value| value.trim().parse::<usize>().ok()).expect(sample)
        };
        let processed = value("broadcaster_messages_processed_total{outcome=\"posted\"}");
        let errors = value("broadcaster_webhook_errors_total{reason=\"status\"}");
        assert!(errors <= FAILURES, "{errors} of {FAILURES}: retries are part of one try");
        (processed >= TODOS * 3).then_some(())
    };
    until("it is counted", LIMIT, counted).await;
    assert!(receiver.asked.load(Ordering::SeqCst) >= TODOS * 3 + FAILURES);
    drop((running, nats));
    lab.finish().await;
}
