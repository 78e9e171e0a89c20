//! The library behind a real PgBouncer in transaction mode, where two calls in a row may run on different connections of
//! the server, and other clients use them in between.

use std::{sync::Arc, time::Duration};

use ridethrough::{
    DbConfig, Deadline,
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, Outcome, Pooler, Statements, TransactionOptions,
        Written,
    },
    error::{ErrorClass, Phase},
};
use ridethrough_chaos::{Cluster, RunFolder};
use ridethrough_tests::{pooler::PgBouncer, until};

use tokio::{sync::oneshot, time::Instant};

use crate::service::{Ask, Service, as_service, database, effects_of};

const LIMIT: Duration = Duration::from_secs(10);
/// So few that every client meets the leavings of the others.
const SERVER_CONNECTIONS: usize = 2;

/// `None`, with the reason on standard error, where PgBouncer is not installed.
async fn behind_pgbouncer() -> Option<(RunFolder, Cluster, PgBouncer)> {
    let (folder, cluster) = database(&[]).await;
    match PgBouncer::before(&cluster.url(), &folder, SERVER_CONNECTIONS).await {
        Some(pooler) => Some((folder, cluster, pooler)),
        None => {
            crate::say("skipped: pgbouncer is not installed");
            None
        }
    }
}

fn config(url: &str) -> DbConfig {
    let mut config = DbConfig { url: url.to_owned(), ..DbConfig::default() };
    config.pool.pooler = Pooler::PgBouncer;
    config
}

/// Prepared statements with names collided here: two programs both call theirs `s0`, and a name made on one connection of
/// the server was asked for on the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_two_server_connections_without_meeting_each_others_statements() {
    const CLIENTS: usize = 3;
    const WRITERS: usize = 6;
    const WRITES: usize = 15;
    let Some((_folder, cluster, pooler)) = behind_pgbouncer().await else { return };
    let mut services = Vec::new();
    for _ in 0..CLIENTS {
        services.push(Arc::new(Service::start(config(pooler.url())).await));
    }
    let tasks: Vec<_> = (0..CLIENTS * WRITERS)
        .map(|task| {
            let service = Arc::clone(&services[task % CLIENTS]);
            tokio::spawn(async move {
                for number in 0..WRITES {
                    let key = format!("pooled-{task}-{number}");
                    let written = service.put(&key, LIMIT).await;
                    assert!(matches!(written, Ok(Written::Committed { .. })), "{key}: {written:?}");
                    let count = service.count(&key, LIMIT).await;
                    assert_eq!(count.expect("it answers"), "1", "{key}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no call fails");
    }
    let client = as_service(&cluster.url()).await;
    let row = client.query_one("SELECT count(*), count(DISTINCT key) FROM effects", &[]).await;
    let row = row.expect("it answers");
    let all = i64::try_from(CLIENTS * WRITERS * WRITES).expect("it is small");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (all, all));
    // Two at the most, from the pooler; and nothing of anybody's session stays on them.
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name = 'ridethrough'";
    let found: i64 = admin.query_one(sql, &[]).await.expect("it answers").get(0);
    assert!((1..=2).contains(&found), "{found} server connections");
    let leavings = services[0].text("SELECT count(*)::text FROM pg_prepared_statements", LIMIT).await;
    assert_eq!(leavings.expect("it answers"), "0", "a statement stayed behind");
    let timeout = services[0].text("SELECT current_setting('statement_timeout')", LIMIT).await;
    assert_eq!(timeout.expect("it answers"), "0", "a setting stayed behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_a_transaction_leaves_nothing_for_the_next_client() {
    let Some((_folder, _cluster, pooler)) = behind_pgbouncer().await else { return };
    let service = Service::start(config(pooler.url())).await;
    for _ in 0..2 * SERVER_CONNECTIONS {
        assert!(service.ask(Ask::Several("SELECT 1/0".to_owned()), LIMIT).await.is_err());
        let wrong = service.text("SELECT value FROM effects WHERE key = nowhere", LIMIT).await;
        assert!(wrong.is_err());
        assert_eq!(service.text("SELECT 'well'", LIMIT).await.expect("it answers"), "well");
    }
}

/// Answers the limits that hold within its transaction.
struct Limits;

impl Commands for Limits {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let sql = "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'), \
                       current_setting('idle_in_transaction_session_timeout'))";
            let row = statements.row(sql, &[]).await?;
            Ok(Applied::Done(row.map(|row| row.get::<_, String>(0)).unwrap_or_default().into()))
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_carries_its_limits_with_it() {
    let Some((_folder, _cluster, pooler)) = behind_pgbouncer().await else { return };
    let service = Service::start_with(config(pooler.url()), Arc::new(Limits)).await;
    let written = service.put("limits", LIMIT).await;
    let Ok(Written::Committed { answer, .. }) = written else { panic!("{written:?}") };
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let limits =
        answer.split(' ').map(|limit| limit.strip_suffix("ms").and_then(|ms| ms.parse::<u64>().ok()));
    let limits: Vec<u64> = limits.map(|limit| limit.expect("a limit in milliseconds")).collect();
    let [statement, lock, idle] = limits.try_into().expect("three of them");
    // From what is left of the attempt, which has a second.
    assert!(lock < statement && statement < 1_000 && 1_000 < idle && idle < 1_500, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_dies_and_returns_is_ridden_through() {
    let Some((_folder, cluster, mut pooler)) = behind_pgbouncer().await else { return };
    let service = Service::start(config(pooler.url())).await;
    assert!(matches!(service.put("before", LIMIT).await, Ok(Written::Committed { .. })));
    pooler.kill().await;
    let during = service.put("during", LIMIT).await;
    assert!(matches!(during, Ok(Written::Journaled { .. })), "{during:?}");
    pooler.start_again().await;
    service.has_settled().await;
    ridden_through(&service, &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_dies_behind_its_pooler_is_ridden_through() {
    let Some((_folder, cluster, pooler)) = behind_pgbouncer().await else { return };
    let service = Service::start(config(pooler.url())).await;
    assert!(matches!(service.put("before", LIMIT).await, Ok(Written::Committed { .. })));
    cluster.kill().await.expect("a running database can be killed");
    // The server's own processes end a moment after the one that started them.
    let refused = async || service.text("SELECT 'x'", LIMIT).await.err();
    let error = until("nobody answers", LIMIT, refused).await;
    let phase = error.phase();
    crate::say(&format!(
        "behind a pooler without its database: {error}, {phase:?}, cause {:?}",
        error.cause()
    ));
    let during = service.put("during", LIMIT).await;
    assert!(matches!(during, Ok(Written::Journaled { .. })), "{during:?}");
    cluster.start_again().await.expect("it starts again");
    service.has_settled().await;
    ridden_through(&service, &cluster).await;
}

/// A transaction of the caller's own that waits in its middle until `go`, and says when it is there.
async fn in_the_middle(
    service: &Service,
    key: &str,
    there: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
) -> Outcome<()> {
    let (there, go) = (std::sync::Mutex::new(Some(there)), tokio::sync::Mutex::new(Some(go)));
    let work = async |statements: &Statements<'_>| {
        statements.run("INSERT INTO effects (key) VALUES ($1)", &[&key]).await?;
        let there = there.lock().expect("no panic").take();
        there.expect("it runs once").send(()).expect("somebody waits");
        let go = go.lock().await.take();
        go.expect("it runs once").await.expect("somebody tells");
        statements.run("INSERT INTO effects (key) VALUES ($1)", &[&key]).await?;
        Ok::<_, ApplyError>(())
    };
    let mut options = TransactionOptions::new("effect");
    options.attempt = Some(LIMIT);
    service.db.transaction(options, Deadline::after(Instant::now(), LIMIT), work).await
}

/// Whatever is lost, pooler or server, in the middle of a transaction: it is rolled back, and known to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_loses_its_pooler_or_its_server_and_is_known_to_be_rolled_back() {
    let Some((_folder, cluster, mut pooler)) = behind_pgbouncer().await else { return };
    let mut config = config(pooler.url());
    config.pool.idle_in_transaction = LIMIT;
    let service = Service::start(config).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    for lost in ["nothing", "session", "pooler", "server"] {
        service.sees_database(LIMIT).await;
        let ((there, is_there), (go, may_go)) = (oneshot::channel(), oneshot::channel());
        let breaking = async {
            is_there.await.expect("it comes to its middle");
            match lost {
                "session" => {
                    let sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                               WHERE usename = 'app' AND state = 'idle in transaction'";
                    admin.query(sql, &[]).await.map(|_| ()).expect("it can be ended");
                }
                "pooler" => pooler.kill().await,
                "server" => drop(cluster.kill().await.expect("a running database can be killed")),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            go.send(()).expect("it waits");
        };
        let (outcome, ()) = tokio::join!(in_the_middle(&service, lost, there, may_go), breaking);
        match lost {
            "pooler" => pooler.start_again().await,
            "server" => drop(cluster.start_again().await.expect("it starts again")),
            _ => {}
        }
        let found = effects_of(&as_service(&cluster.url()).await, lost).await;
        if lost == "nothing" {
            assert!(matches!(outcome, Outcome::Committed(())), "{outcome:?}");
            assert_eq!(found, 2);
            continue;
        }
        let Outcome::RolledBack(error) = &outcome else { panic!("{lost}: {outcome:?}") };
        crate::say(&format!("{lost} lost behind or with the pooler: {error}"));
        assert_eq!(
            (error.phase(), error.class()),
            (Phase::InTransaction, ErrorClass::Transient),
            "{lost}: {error}"
        );
        assert_eq!(found, 0, "{lost}");
    }
}

async fn ridden_through(service: &Service, cluster: &Cluster) {
    let client = as_service(&cluster.url()).await;
    for key in ["before", "during"] {
        assert_eq!(effects_of(&client, key).await, 1, "{key}");
    }
    let written = async || {
        let key = format!("after-{}", fastrand::u64(..));
        matches!(service.put(&key, LIMIT).await, Ok(Written::Committed { .. })).then_some(())
    };
    until("writes are committed again", LIMIT, written).await;
}

/// Without the setting the same load fails, or the tests above would show nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_named_statements_do_collide() {
    let Some((_folder, _cluster, pooler)) = behind_pgbouncer().await else { return };
    let plain = as_service(pooler.url()).await;
    let other = as_service(pooler.url()).await;
    // Both sit in a transaction, so each holds one of the two; the statement is made on the first one's.
    let statement = plain.prepare("SELECT 'named'").await.expect("it prepares");
    other.batch_execute("BEGIN").await.expect("it begins");
    plain.batch_execute("BEGIN").await.expect("it begins");
    let elsewhere = other.query_one(&statement, &[]).await;
    let here = plain.query_one(&statement, &[]).await;
    assert!(elsewhere.is_ok() != here.is_ok(), "the name is on one connection of the server only");
}
