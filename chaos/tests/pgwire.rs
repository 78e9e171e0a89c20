//! The proxy that knows PostgreSQL's protocol, before a real PostgreSQL and with a driver that nobody here wrote: it
//! changes nothing where no rule is on, and does what a rule says where one is.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, and the line says which step it was"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ridethrough_chaos::Cluster;
use ridethrough_chaos::cluster;
use ridethrough_chaos::pgwire::{Kind, Options, Planted, Proxy, Sender};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls};

mod pgwire {
    pub(super) mod cancel;
    pub(super) mod tls;
    pub(super) mod transparent;
}

/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_secs(20);
/// Long enough to show that nothing comes.
const SILENT: Duration = Duration::from_millis(300);

/// One for all tests of a process that break nothing of it: to make and remove one takes longer than most of them do. The
/// guardian sees to its end.
static SHARED: OnceCell<Cluster> = OnceCell::const_new();
/// Each test has a schema of its own in it.
static BENCHES: AtomicU32 = AtomicU32::new(1);

/// A PostgreSQL and a proxy before it.
struct Bench {
    cluster: Cluster,
    proxy: Proxy,
    schema: String,
}

impl Bench {
    /// Before a PostgreSQL that others use too.
    async fn start() -> Self {
        Self::before(SHARED.get_or_init(Self::cluster).await.clone()).await
    }

    /// Before a PostgreSQL of its own, which it may break.
    async fn alone() -> Self {
        Self::before(Self::cluster().await).await
    }

    async fn cluster() -> Cluster {
        let cluster = Cluster::start(&cluster::Options::default()).await;
        cluster.unwrap_or_else(|error| panic!("failed to {error}"))
    }

    async fn before(cluster: Cluster) -> Self {
        let (proxy, work) = Proxy::start(&Options::before(cluster.port())).await.unwrap();
        tokio::spawn(work);
        let schema = format!("bench_{}", BENCHES.fetch_add(1, Ordering::Relaxed));
        let bench = Self { cluster, proxy, schema };
        let tables = format!("CREATE SCHEMA {}; CREATE TABLE t (key text PRIMARY KEY)", bench.schema);
        bench.direct().await.batch_execute(&tables).await.unwrap();
        bench
    }

    fn plant(&self, rule: &str) -> Planted {
        self.proxy.plant(rule.parse().unwrap_or_else(|error| panic!("{rule}: {error}")))
    }

    /// Past the proxy.
    async fn direct(&self) -> Client {
        connect(&self.direct_url()).await.unwrap()
    }

    fn direct_url(&self) -> String {
        format!("{}?options=-csearch_path%3D{}", self.cluster.url(), self.schema)
    }

    fn url(&self) -> String {
        self.proxy.through(&self.direct_url()).unwrap()
    }

    async fn client(&self) -> Client {
        self.try_client().await.unwrap()
    }

    async fn try_client(&self) -> Result<Client, Error> {
        connect(&self.url()).await
    }

    async fn has(&self, key: &str) -> bool {
        self.direct().await.query_opt("SELECT 1 FROM t WHERE key = $1", &[&key]).await.unwrap().is_some()
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    let config: Config = url.parse().unwrap();
    let (client, connection) = timeout(LIMIT, config.connect(NoTls)).await.expect("no answer")?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("no answer in time")
}

/// A transaction of one row.
async fn insert(client: &Client, key: &str) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    client.execute("INSERT INTO t (key) VALUES ($1)", &[&key]).await?;
    client.batch_execute("COMMIT").await
}

fn code(error: &Error) -> Option<&str> {
    error.code().map(SqlState::code)
}

#[tokio::test]
async fn a_commit_whose_answer_is_cut_off_is_durable_and_its_client_hears_nothing() {
    let bench = Bench::start().await;
    for (number, action) in ["close", "reset"].into_iter().enumerate() {
        let key = format!("cut {number}");
        let (one, two) = (bench.client().await, bench.client().await);
        let cut = bench.plant(&format!("server CommandComplete(COMMIT) #2: {action}"));
        insert(&one, &format!("{key} before")).await.unwrap();
        let error = within(insert(&two, &key)).await.unwrap_err();
        assert_eq!(code(&error), None, "{error:?}");
        assert!(bench.has(&key).await, "{action}: the server had committed");
        let bites = cut.bites();
        assert_eq!((cut.count(), bites.len()), (1, 1));
        assert_eq!(bites[0].message, Kind::named(Sender::Server, "CommandComplete").unwrap());
        assert!(bites[0].process.is_some(), "the server told who serves the session");
        insert(&one, &format!("{key} after")).await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_that_does_not_arrive_is_rolled_back() {
    let bench = Bench::start().await;
    let cut = bench.plant("client Query(COMMIT) before: reset");
    let error = within(insert(&bench.client().await, "lost")).await.unwrap_err();
    assert_eq!((code(&error), cut.count()), (None, 1));
    assert!(!bench.has("lost").await);
    // One byte less than the whole message is no message.
    let cut = bench.plant("client Query(COMMIT) byte 11: close");
    within(insert(&bench.client().await, "cut short")).await.unwrap_err();
    assert_eq!(cut.count(), 1);
    assert!(!bench.has("cut short").await);
    // Once it has arrived whole, it is done, whatever becomes of the connection.
    let cut = bench.plant("client Query(COMMIT) after: reset");
    within(insert(&bench.client().await, "arrived")).await.unwrap_err();
    assert_eq!(cut.count(), 1);
    let there = async {
        while !bench.has("arrived").await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(there).await;
}

#[tokio::test]
async fn a_message_can_be_cut_at_any_of_its_bytes() {
    let bench = Bench::start().await;
    for byte in 1..6 {
        let key = format!("byte {byte}");
        let client = bench.client().await;
        let cut = bench.plant(&format!("server ReadyForQuery(COMMIT) byte {byte}: close"));
        let error = within(insert(&client, &key)).await.unwrap_err();
        assert_eq!((code(&error), cut.count()), (None, 1), "{byte}");
        assert!(bench.has(&key).await);
    }
}

#[tokio::test]
async fn swallowed_answers_leave_the_client_waiting_while_the_server_goes_on() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let swallowed = bench.plant("server CommandComplete(COMMIT): swallow");
    assert!(timeout(SILENT, insert(&client, "swallowed")).await.is_err(), "an answer came");
    assert!(bench.has("swallowed").await);
    assert_eq!(swallowed.count(), 1);
    assert!(!client.is_closed());
}

#[tokio::test]
async fn a_black_hole_carries_nothing_and_ends_with_its_rule() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let hole = bench.plant("client Query(COMMIT): blackhole");
    assert!(timeout(SILENT, insert(&client, "hole")).await.is_err(), "an answer came");
    assert!(!client.is_closed() && !bench.has("hole").await);
    assert_eq!(hole.count(), 1);
    drop(hole);
    within(async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Over all connections, traffic arrives late.
    let client = bench.client().await;
    let hole = bench.proxy.black_hole();
    let late = tokio::spawn(async move { insert(&client, "late").await });
    tokio::time::sleep(SILENT).await;
    assert!(!late.is_finished() && !bench.has("late").await);
    drop(hole);
    within(late).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shut_road_opens_when_it_is_taken_back() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let shut = bench.plant("server CommandComplete(COMMIT): shut");
    within(insert(&client, "shut")).await.unwrap_err();
    assert!(bench.try_client().await.is_err(), "somebody gets through");
    drop(shut);
    bench.client().await;
    let shut = bench.proxy.shut();
    assert!(bench.try_client().await.is_err(), "somebody gets through");
    drop(shut);
    bench.client().await;
}

#[tokio::test]
async fn what_is_held_comes_late_and_what_is_paused_comes_when_told() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let _held = bench.plant("server CommandComplete(COMMIT): hold 200ms");
    let began = Instant::now();
    within(insert(&client, "held")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200));
    let paused = bench.plant("client Query(COMMIT): pause");
    let waiting = tokio::spawn(async move { insert(&client, "paused").await });
    let bite = within(paused.bitten()).await.unwrap();
    assert!(bite.process.is_some() && !bench.has("paused").await);
    drop(paused);
    within(waiting).await.unwrap().unwrap();
    assert!(bench.has("paused").await);
}

/// The error is one that the server itself ran into as far as the transaction goes: client and server agree on it.
#[tokio::test]
async fn an_error_in_the_place_of_a_question_fails_the_transaction_on_both_sides() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    for (number, place) in ["Parse", "Bind", "Execute", "Sync", "Query"].into_iter().enumerate() {
        let key = format!("{place} {number}");
        // A statement that was not prepared before, so that each of these messages comes.
        let sql = format!("INSERT INTO t (key) VALUES ($1) -- {place}");
        // The first Sync ends the preparation, where the driver has its answer already.
        let which = if place == "Sync" { " #2" } else { "" };
        let text = if number < 4 { &sql } else { "select 'x'" };
        let rule = format!("client {place}(\"{text}\"){which}: say ERROR 40001 \"told so\"");
        let told = bench.plant(&rule);
        client.batch_execute("BEGIN").await.unwrap();
        let error = if place == "Query" {
            within(client.batch_execute("select 'x'")).await.unwrap_err()
        } else {
            within(client.execute(&sql, &[&key])).await.unwrap_err()
        };
        let server = error.as_db_error().unwrap_or_else(|| panic!("{place}: {error:?}"));
        assert_eq!(
            (server.code().code(), server.message(), server.severity()),
            ("40001", "told so", "ERROR")
        );
        assert_eq!(told.count(), 1, "{place}");
        let still = within(client.batch_execute("SELECT 1")).await.unwrap_err();
        assert_eq!(code(&still), Some("25P02"), "{place}: the server has not failed");
        client.batch_execute("ROLLBACK").await.unwrap();
        assert!(!bench.has(&key).await);
    }
    within(insert(&client, "after")).await.unwrap();
}

#[tokio::test]
async fn an_error_in_the_place_of_an_answer_is_told_though_the_server_went_on() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let told = bench.plant("server CommandComplete(COMMIT): say ERROR 40001 \"told so\"");
    let error = within(insert(&client, "committed all the same")).await.unwrap_err();
    assert_eq!((code(&error), told.count()), (Some("40001"), 1));
    assert!(bench.has("committed all the same").await);
    let told = bench.plant("server DataRow: say ERROR 57014 \"told so\"");
    let error = within(client.query("SELECT 1 UNION ALL SELECT 2", &[])).await.unwrap_err();
    assert_eq!((code(&error), told.count()), (Some("57014"), 1));
    within(insert(&client, "goes on")).await.unwrap();
}

#[tokio::test]
async fn a_fatal_error_ends_the_session_and_one_at_the_start_begins_none() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let told = bench.plant("client Execute: say FATAL 57P01 \"terminating connection\"");
    let error = within(client.query("SELECT 1", &[])).await.unwrap_err();
    assert_eq!((code(&error), told.count()), (Some("57P01"), 1));
    within(async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let starting =
        bench.plant("client Startup every: say FATAL 57P03 \"the database system is starting up\"");
    for count in 1..=2 {
        let error = bench.try_client().await.map(|_| ()).unwrap_err();
        let server = error.as_db_error().unwrap();
        assert_eq!((server.code().code(), server.severity()), ("57P03", "FATAL"));
        assert_eq!(starting.count(), count);
    }
    drop(starting);
    let refused = bench.plant("server Authentication #2: say FATAL 28P01 \"password authentication failed\"");
    let error = bench.try_client().await.map(|_| ()).unwrap_err();
    assert_eq!((code(&error), refused.count()), (Some("28P01"), 1));
}

/// An immediate stop of the server looks like this: a warning with a code, and the end.
#[tokio::test]
async fn a_notice_and_the_end_of_the_connection_can_be_combined() {
    let bench = Bench::start().await;
    let config: Config = bench.url().parse().unwrap();
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let heard = tokio::spawn(async move {
        let mut codes = Vec::new();
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                codes.push(notice.code().code().to_owned());
            }
        }
        codes
    });
    let _warning = bench.plant("server CommandComplete(COMMIT): say WARNING 57P01 \"terminating\"");
    let _end = bench.plant("server CommandComplete(COMMIT): close");
    let error = within(insert(&client, "immediate")).await.unwrap_err();
    assert_eq!(code(&error), None);
    assert_eq!(within(heard).await.unwrap(), ["57P01"]);
}

#[tokio::test]
async fn garbage_and_a_repeated_answer_are_errors_of_the_driver_and_not_of_the_proxy() {
    let bench = Bench::start().await;
    for rule in ["server CommandComplete(COMMIT): garbage 16", "server CommandComplete(COMMIT): repeat"] {
        let client = bench.client().await;
        let on = bench.plant(rule);
        let _ = within(insert(&client, rule)).await;
        assert_eq!(on.count(), 1, "{rule}");
        assert!(bench.has(rule).await);
    }
    // Bytes of a client that are no message end its connection at once, and are counted.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(bench.proxy.address()).await.unwrap();
    stream.write_all(b"\xff\xff\xff\xff\xff\xff\xff\xff").await.unwrap();
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert_eq!((rest.len(), bench.proxy.counts().malformed), (0, 1));
    bench.client().await;
}

/// In an aborted transaction COMMIT is answered by ROLLBACK and no error.
#[tokio::test]
async fn a_transaction_can_be_aborted_behind_the_back_of_its_client() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let aborted = bench.plant("client Query(COMMIT): abort");
    within(insert(&client, "aborted")).await.expect("the driver takes it for success");
    assert_eq!(aborted.count(), 1);
    assert!(!bench.has("aborted").await);
    within(insert(&client, "afterwards")).await.unwrap();
}
