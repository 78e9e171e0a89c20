//! Faults that were found by reading and mended: each test opens with the story of its bug, and does again what showed it.
//! Those about the order of writes are in `order`.

mod order;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Method, Request};
use ridethrough_tests::{
    app::App,
    http::{Answer, create, request},
    stack::{Lab, Server},
    until, within,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_postgres::{NoTls, error::SqlState};

use crate::steps::{member, outage, stored_todo, title};

const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// More than any PostgreSQL of the tests has room for.
const SESSIONS_MAX: usize = 200;

/// Statements of the test itself, past the service.
async fn execute(client: &tokio_postgres::Client, statements: &str) {
    let done = within(statements, STATEMENT_LIMIT, client.batch_execute(statements)).await;
    done.unwrap_or_else(|error| panic!("{statements}: {error}"));
}

async fn breaker(server: &App) -> Value {
    let state = server.admin().get("/debug/state").await.expect(200).json();
    member(&member(&state, "breaker"), "state")
}

/// A host that accepts connections and never says a word, as one does whose process is stopped.
struct SilentHost {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl SilentHost {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while held.len() < SESSIONS_MAX {
                held.extend(listener.accept().await);
                count.fetch_add(1, Ordering::SeqCst);
            }
            std::future::pending::<()>().await;
        });
        Self { address, accepted, task }
    }
}

impl Drop for SilentHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The driver tries the hosts of a URL in order on every connect, and its limit covers only the TCP connect: with a first
/// host that accepts and then says nothing, every connect ended there. The second host was well, and was never asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_first_host_does_not_hide_the_second() {
    let lab = Lab::start().await;
    let silent = SilentHost::start().await;
    let hosts = format!("{},{}:{}", silent.address, Ipv4Addr::LOCALHOST, lab.cluster().port());
    let url = lab.url_through(silent.address).replace(&silent.address.to_string(), &hosts);
    let server = lab.server_as("server-1", Server { url: Some(url), ..Server::default() }).await;
    server.ready().await;
    assert!(
        silent.accepted.load(Ordering::SeqCst) > 0,
        "the first host was not asked: the test proves nothing"
    );
    let path = format!("/api/todos/{}", stored_todo(&server, "behind").await);
    for _ in 0..20 {
        assert_eq!(server.main().get(&path).await.expect(200).freshness(), "fresh");
    }
    // New sessions go to the host that answered last; by way of the silent one no read would find the time for it.
    lab.expect_outage();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ridethrough'";
    execute(&lab.sql().await, end).await;
    until("reads are fresh again", Duration::from_secs(10), async || {
        (server.main().get(&path).await.expect(200).freshness() == "fresh").then_some(())
    })
    .await;
    server.journal_is_empty().await;
    lab.finish().await;
}

/// Sessions of the service's own role, until there is no room for another one.
async fn fill_up(lab: &Lab, held: &mut Vec<tokio_postgres::Client>) {
    let url = lab.cluster().url();
    while held.len() < SESSIONS_MAX {
        let connecting = tokio_postgres::connect(&url, NoTls);
        match within("connect", STATEMENT_LIMIT, connecting).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                held.push(client);
            }
            Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => return,
            Err(error) => panic!("a session of the test: {error}"),
        }
    }
    panic!("room for {SESSIONS_MAX} sessions and more");
}

/// Dials of the server that failed, whoever needed them.
async fn dials_failed(server: &App) -> f64 {
    let metrics = server.admin().get("/metrics").await.expect(200).text();
    let failed = metrics
        .lines()
        .filter(|line| line.starts_with("ridethrough_connect_attempts_total") && line.contains("\"failed\""));
    failed.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A database that is full is to be told from one that is slow. On a busy machine it is both: a probe or a COMMIT that took
/// more than a second, or an idle session that took half of one to answer its check, opened the circuit or cost the server
/// a place that it could not have back, and a write was rightly journaled.
fn patience() -> Vec<(&'static str, String)> {
    let settings = [
        ("RIDETHROUGH_DATABASE__PROBE__TIMEOUT", "20s"),
        ("RIDETHROUGH_DATABASE__POOL__CONNECT", "20s"),
        ("RIDETHROUGH_DATABASE__POOL__CHECK_AFTER", "1h"),
        ("RIDETHROUGH_DATABASE__READ__DEADLINE", "30s"),
        ("RIDETHROUGH_DATABASE__READ__ATTEMPT", "20s"),
        ("RIDETHROUGH_DATABASE__WRITE__DEADLINE", "30s"),
        ("RIDETHROUGH_DATABASE__WRITE__ATTEMPT", "20s"),
    ];
    settings.map(|(name, value)| (name, value.to_owned())).to_vec()
}

/// The prober replaces its session every 5 s. One "too many connections" in answer to that counted as a database that is
/// away: the breaker opened, and a healthy server with all its connections answered stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_full_goes_on_serving_those_it_has() {
    const RECONNECTS: u32 = 2;
    const RECONNECT_EVERY: Duration = Duration::from_secs(5);

    let lab = Lab::start().await;
    let server = lab.server_as("server-1", Server { env: patience(), ..Server::default() }).await;
    server.ready().await;
    let client = server.main();
    let todo = stored_todo(&server, "before").await;
    let path = format!("/api/todos/{todo}");
    let mut held = Vec::new();
    fill_up(&lab, &mut held).await;
    let (since, failed_before, mut number) = (Instant::now(), dials_failed(&server).await, 0);
    until("the prober finds no room for a new session", Duration::from_secs(40), async || {
        // A session that was replaced while the others came may have left its place.
        fill_up(&lab, &mut held).await;
        number += 1;
        let read = client.get(&path).await.expect(200);
        assert_eq!(read.freshness(), "fresh", "after {:?} without room", since.elapsed());
        let key = format!("put-{number}");
        let _ = client.replace(&key, &todo, &title(&key)).await.expect(200).acknowledged();
        assert_eq!(breaker(&server).await, "closed");
        let long_enough = since.elapsed() > RECONNECT_EVERY * RECONNECTS + Duration::from_secs(1);
        let refused = dials_failed(&server).await - failed_before;
        (long_enough && refused >= f64::from(RECONNECTS)).then_some(())
    })
    .await;
    assert_eq!(server.mode().await, "normal");
    drop(held);
    lab.finish().await;
}

/// COMMIT followed the database's default. With `synchronous_commit = off` there, PostgreSQL answers before the change is
/// on disk: a write was called committed, or let go of by the journal, that a crash a moment later took away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_write_outlives_a_crash_also_where_the_database_commits_asynchronously() {
    const ROUNDS: usize = 20;

    let lab = Lab::start().await;
    let admin = lab.sql().await;
    execute(
        &admin,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$;
         ALTER ROLE app SET synchronous_commit = off",
    )
    .await;
    let (one_of_the_role, connection) =
        tokio_postgres::connect(&lab.cluster().url(), NoTls).await.expect("the role can connect");
    tokio::spawn(connection);
    let row = one_of_the_role.query_one("SELECT current_setting('synchronous_commit')", &[]).await;
    assert_eq!(row.expect("a setting").get::<_, String>(0), "off", "the test proves nothing");
    let server = lab.server("server-1").await;
    // Tells of each change of a todo under which setting it is committed.
    execute(
        &admin,
        "CREATE SCHEMA witness; CREATE TABLE witness.seen (setting text NOT NULL);
         CREATE FUNCTION witness.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
         $$ BEGIN INSERT INTO witness.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE TRIGGER witness AFTER INSERT OR UPDATE ON todos FOR EACH ROW EXECUTE FUNCTION witness.note()",
    )
    .await;
    let mut titles = Vec::new();
    for round in 0..ROUNDS {
        let committed = format!("committed-{round}");
        let written = server.main().create(&committed, &title(&committed)).await;
        lab.database_dies().await;
        let _ = written.expect(201).acknowledged();
        let journaled = format!("journaled-{round}");
        let written = server.main().create(&journaled, &title(&journaled)).await.acknowledged();
        // A session may outlive the postmaster for a moment and still commit.
        assert!(matches!(written.status, 201 | 202), "{written:?}");
        titles.extend([title(&committed), title(&journaled)]);
        lab.database_returns().await;
        // Let go of by the journal, and so in the hands of the database alone, which is killed next.
        server.journal_is_empty().await;
        outage(&lab, &[&server]).await;
        lab.database_returns().await;
        assert_eq!(lab.not_stored_once(&titles).await, [], "round {round}");
        server.mode_becomes("normal").await;
    }
    let settings = lab.rows("SELECT DISTINCT setting FROM witness.seen", &[]).await;
    let settings: Vec<String> = settings.iter().map(|row| row.get(0)).collect();
    assert_eq!(settings, ["on"]);
    lab.finish().await;
}

/// A request whose caller has gone after so many milliseconds.
fn hurried<B>(mut request: Request<B>, milliseconds: &'static str) -> Request<B> {
    let value = HeaderValue::from_static(milliseconds);
    request.headers_mut().insert("x-envoy-expected-rq-timeout-ms", value);
    request
}

/// So many reads and writes at once of callers in a hurry; what they were answered.
async fn burst(server: &App, path: &str, count: usize, milliseconds: &'static str) -> Vec<Answer> {
    let mut sent = JoinSet::new();
    for number in 0..count {
        let client = server.main();
        let asked = match number % 5 {
            0 => create(&format!("hurried-{milliseconds}-{number}"), &title(number)),
            _ => request(Method::GET, path, None, None),
        };
        sent.spawn(async move { client.send(hurried(asked, milliseconds)).await });
    }
    sent.join_all().await
}

/// An attempt that ran out of its caller's time counted as a dead server: a few callers with next to none opened the
/// breaker for everybody. And 0, which Envoy writes for "no limit", was taken for no time at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_in_a_hurry_open_the_breaker_for_nobody() {
    const CALLERS: usize = 50;

    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let path = format!("/api/todos/{}", stored_todo(&server, "before").await);
    for answer in burst(&server, &path, CALLERS, "1").await {
        assert!(matches!(answer.status, 200..=202 | 503), "{answer:?}");
    }
    assert_eq!(breaker(&server).await, "closed");
    assert_eq!(server.main().get(&path).await.expect(200).freshness(), "fresh");

    // Now each of them runs out for certain, in the middle of its attempt.
    let holder = lab.sql().await;
    execute(&holder, "BEGIN; LOCK TABLE todos IN ACCESS EXCLUSIVE MODE").await;
    for answer in burst(&server, &path, CALLERS, "60").await {
        if answer.status == 200 {
            assert_ne!(answer.freshness(), "fresh");
        }
    }
    assert_eq!(breaker(&server).await, "closed");
    execute(&holder, "ROLLBACK").await;
    assert_eq!(server.main().get(&path).await.expect(200).freshness(), "fresh");
    server.journal_is_empty().await;

    let read = server.main().send(hurried(request(Method::GET, &path, None, None), "0")).await.expect(200);
    assert_eq!(read.freshness(), "fresh", "0 means no limit");
    let write = create("unhurried", &title("unhurried"));
    let _ = server.main().send(hurried(write, "0")).await.expect(201).acknowledged();
    lab.finish().await;
}

/// A write to a row that others had locked went to the journal when its attempts were used up, and since nothing may
/// overtake what waits there, every write of the replica followed it: one locked row, and nothing was committed any more.
/// Then it was refused instead, though it could have been accepted. Now it waits, and only what is about the same row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_locked_row_holds_up_the_writes_to_this_row_alone() {
    /// The deadline of a write, and what it takes to say so.
    const DEADLINE: Duration = Duration::from_millis(4_500);

    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let (locked, free) = (stored_todo(&server, "locked").await, stored_todo(&server, "free").await);
    let holder = lab.sql().await;
    execute(&holder, &format!("BEGIN; SELECT FROM todos WHERE id = '{locked}' FOR UPDATE")).await;
    let (client, target) = (server.main(), locked.clone());
    let mut held_up = tokio::spawn(async move {
        within("the answer", DEADLINE, client.replace("held-up", &target, &title("held-up"))).await
    });
    let mut number = 0;
    while !held_up.is_finished() || number == 0 {
        number += 1;
        others_commit(&server, &free, number).await;
    }
    let _ = (&mut held_up).await.expect("the request does not panic").expect(202).acknowledged();
    assert_eq!((server.backlog().await, breaker(&server).await), (1, "closed".into()));
    assert_eq!(server.main().write_status("held-up").await, "pending");
    for number in number + 1..number + 10 {
        others_commit(&server, &free, number).await;
    }
    let behind = server.main().replace("behind", &locked, &title("behind")).await;
    let _ = behind.expect(202).acknowledged();

    execute(&holder, "ROLLBACK").await;
    server.journal_is_empty().await;
    assert_eq!(lab.stored(&locked).await, Some((title("behind"), 3)), "both, in their order");
    let again = server.main().replace("held-up", &locked, &title("held-up")).await;
    assert_eq!(member(&again.expect(200).acknowledged().json(), "version"), 2, "applied once");
    lab.finish().await;
}

/// Another row and a new one.
async fn others_commit(server: &App, free: &str, number: usize) {
    let (put, post) = (format!("put-{number}"), format!("post-{number}"));
    let _ = server.main().replace(&put, free, &title(&put)).await.expect(200).acknowledged();
    let _ = server.main().create(&post, &title(&post)).await.expect(201).acknowledged();
}
