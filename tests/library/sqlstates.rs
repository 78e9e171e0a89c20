//! The rows of the SQLSTATE table that a real PostgreSQL can be made to say: class and phase that the caller sees, whether
//! the connection is kept, and whether the breaker takes it for contact with a living server.

use std::{sync::Arc, time::Duration};

use ridethrough::{
    DbConfig, Error,
    db::{Applied, ApplyError, BoxFuture, Command, Commands, Statements, WriteError},
    error::{ErrorClass, Phase, Severity},
    health::DatabasePart,
};
use ridethrough_chaos::Cluster;
use ridethrough_tests::until;
use tokio::time::{Instant, sleep};

use crate::service::{Ask, Put, Service, as_service, database, standby_of};

const LIMIT: Duration = Duration::from_secs(10);

/// What is expected of one error.
struct Expected {
    code: &'static str,
    class: ErrorClass,
    phase: Phase,
    /// Whether the same connection serves the next call.
    kept: bool,
    /// Whether the breaker goes on trusting the server.
    contact: bool,
}

const PERMANENT: Expected =
    Expected { code: "", class: ErrorClass::Permanent, phase: Phase::Sent, kept: true, contact: true };

/// One attempt, one connection, and a breaker that opens at the first failure: so each can be seen by itself.
fn config(url: &str) -> DbConfig {
    let mut config = DbConfig { url: url.to_owned(), ..DbConfig::default() };
    config.read.attempts = 1;
    config.read.attempt = Duration::from_secs(3);
    config.read.deadline = Duration::from_secs(4);
    config.write.attempts = 1;
    config.write.attempt = Duration::from_secs(3);
    config.pool.lock = Duration::from_millis(150);
    config.pool.statement = Duration::from_millis(700);
    config.bulkhead.permits = 1;
    config.breaker.consecutive_failures = 1;
    config.probe.every = Duration::from_millis(500);
    config
}

async fn pid(service: &Service) -> i32 {
    let pid = service.text("SELECT pg_backend_pid()::text", LIMIT).await;
    pid.expect("the database answers").parse().expect("a number")
}

/// Asks, and compares all that is expected.
async fn provoke(cluster: &Cluster, service: &Service, name: &str, ask: Ask, expected: &Expected) {
    let before = pid(service).await;
    let error = service.ask(ask, LIMIT).await.expect_err(name);
    judge(service, name, &error, expected);
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let there = async || {
        let found = admin.query("SELECT 1 FROM pg_stat_activity WHERE pid = $1", &[&before]).await;
        !found.expect("it answers").is_empty()
    };
    if expected.kept {
        assert_eq!(pid(service).await, before, "{name}: another connection serves now");
    } else {
        until(&format!("{name}: the connection is gone"), LIMIT, async || (!there().await).then_some(()))
            .await;
    }
    trusted_again(service).await;
}

fn judge(service: &Service, name: &str, error: &Error, expected: &Expected) {
    if !expected.code.is_empty() {
        assert_eq!(error.code(), Some(expected.code), "{name}: {error}");
    }
    assert_eq!(error.class(), expected.class, "{name}: {error}");
    assert_eq!(error.phase(), expected.phase, "{name}: {error}");
    let trusted = service.db.parts(Instant::now()).0 == DatabasePart::Up;
    assert_eq!(trusted, expected.contact, "{name}: what the breaker makes of it");
}

/// The prober, or the next trial, closes the breaker before the next row.
async fn trusted_again(service: &Service) {
    let answers = async || service.text("SELECT 'x'", LIMIT).await.ok().map(|_| ());
    until("calls pass again", LIMIT, answers).await;
    let trusted = async || (service.db.parts(Instant::now()).0 == DatabasePart::Up).then_some(());
    until("the breaker is closed", LIMIT, trusted).await;
}

fn several(sql: &str) -> Ask {
    Ask::Several(sql.to_owned())
}

fn one(sql: &str) -> Ask {
    Ask::One(sql.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_a_statement_are_contact_with_a_living_server() {
    let (_folder, cluster) = database(&[]).await;
    let service = Service::start(config(&cluster.url())).await;
    let rows = [
        ("22012", several("SELECT 1/0")),
        ("42P01", one("SELECT x FROM nowhere")),
        ("42601", one("SELEC")),
        ("42501", several("CREATE ROLE another")),
        ("23505", several("INSERT INTO effects (id, key) VALUES (1, 'a'), (1, 'b')")),
        ("23502", several("INSERT INTO effects (key) VALUES (NULL)")),
        ("22P02", several("SELECT 'x'::int")),
        ("0A000", several("SELECT key FROM effects GROUP BY key FOR UPDATE")),
        ("P0001", several("DO $$ BEGIN RAISE 'no'; END $$")),
        ("25001", several("SELECT 1; CREATE DATABASE other")),
    ];
    for (code, ask) in rows {
        provoke(&cluster, &service, code, ask, &Expected { code, ..PERMANENT }).await;
    }
    let overload = Expected { code: "57014", class: ErrorClass::Overload, ..PERMANENT };
    provoke(&cluster, &service, "statement timeout", several("SELECT pg_sleep(3)"), &overload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_statement_that_no_longer_fits_heals_and_keeps_its_connection() {
    let (_folder, cluster) = database(&[]).await;
    let service = Service::start(config(&cluster.url())).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let heal = |code| Expected { code, class: ErrorClass::Heal, ..PERMANENT };
    // Prepared under a name, and the name is gone.
    assert!(service.ask(one("SELECT 'prepared'"), LIMIT).await.is_ok());
    assert!(service.ask(several("DEALLOCATE ALL"), LIMIT).await.is_ok());
    let error = service.ask(one("SELECT 'prepared'"), LIMIT).await.expect_err("the name is gone");
    judge(&service, "26000", &error, &heal("26000"));
    assert_eq!(service.text("SELECT 'prepared'", LIMIT).await.expect("it is prepared anew"), "prepared");

    admin.batch_execute("INSERT INTO effects (key, value) VALUES ('k', 'v')").await.expect("it inserts");
    let all = "SELECT value, effects.* FROM effects";
    assert_eq!(service.text(all, LIMIT).await.expect("it answers"), "v");
    let before = pid(&service).await;
    admin.batch_execute("ALTER TABLE effects ADD COLUMN more text").await.expect("it can be altered");
    let error = service.ask(one(all), LIMIT).await.expect_err("the plan is outdated");
    judge(&service, "cached plan", &error, &heal("0A000"));
    assert_eq!(service.text(all, LIMIT).await.expect("it is prepared anew"), "v");
    assert_eq!(pid(&service).await, before, "healed on the same connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_races_are_contention_and_keep_the_connection() {
    let (_folder, cluster) = database(&[("deadlock_timeout", "50ms")]).await;
    let mut config = config(&cluster.url());
    config.pool.statement = Duration::from_secs(3);
    let service = Service::start(config.clone()).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let rows = "INSERT INTO effects (key) VALUES ('a'), ('b')";
    admin.batch_execute(rows).await.expect("it inserts");
    let contention = |code| Expected { code, class: ErrorClass::Contention, ..PERMANENT };

    admin.batch_execute("BEGIN; LOCK TABLE effects").await.expect("it locks");
    provoke(&cluster, &service, "lock", several("UPDATE effects SET value = 'x'"), &contention("55P03"))
        .await;
    admin.batch_execute("ROLLBACK").await.expect("it unlocks");

    // The one that closes the circle is the one that PostgreSQL ends.
    admin.batch_execute("BEGIN; UPDATE effects SET value = 'x' WHERE key = 'a'").await.expect("it updates");
    let first = tokio::spawn(async move {
        sleep(Duration::from_millis(200)).await;
        let second = admin.batch_execute("UPDATE effects SET value = 'x' WHERE key = 'b'; ROLLBACK").await;
        second.map(|()| admin)
    });
    let circle = "UPDATE effects SET value = 'y' WHERE key = 'b'; SELECT pg_sleep(0.5); \
                  UPDATE effects SET value = 'y' WHERE key = 'a'";
    provoke(&cluster, &service, "deadlock", several(circle), &contention("40P01")).await;
    let admin = first.await.expect("no panic").expect("the other one goes on");

    admin
        .batch_execute("ALTER DATABASE app SET default_transaction_isolation = 'repeatable read'")
        .await
        .expect("a setting can be changed");
    let service = Service::start(config).await;
    let other = tokio::spawn(async move {
        sleep(Duration::from_millis(250)).await;
        admin.batch_execute("UPDATE effects SET value = 'z' WHERE key = 'a'").await
    });
    let late =
        "SELECT count(*) FROM effects; SELECT pg_sleep(0.6); UPDATE effects SET value = 'y' WHERE key = 'a'";
    provoke(&cluster, &service, "serialization", several(late), &contention("40001")).await;
    other.await.expect("no panic").expect("the other one goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_an_operator_ends_is_a_failure_of_unknown_effect() {
    let (_folder, cluster) = database(&[]).await;
    let service = Service::start(config(&cluster.url())).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let ending = tokio::spawn(async move {
        sleep(Duration::from_millis(250)).await;
        let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.69)' \
                   AND pid <> pg_backend_pid()";
        admin.batch_execute(all).await
    });
    let ended = Expected {
        code: "57P01",
        class: ErrorClass::Unknown,
        phase: Phase::Sent,
        kept: false,
        contact: false,
    };
    provoke(&cluster, &service, "terminated", several("SELECT pg_sleep(0.69)"), &ended).await;
    ending.await.expect("no panic").expect("it can be ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_at_the_door_are_provably_without_effect() {
    let (_folder, cluster) = database(&[]).await;
    let url = cluster.url();
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let at_door =
        |code, class, contact| Expected { code, class, phase: Phase::NotSent, kept: false, contact };

    // Known to be up, and then nobody is let in any more.
    let service = Service::start(config(&url)).await;
    admin.batch_execute("ALTER ROLE app CONNECTION LIMIT 0").await.expect("a limit can be set");
    let error = service.ask(one("SELECT 'x'"), LIMIT).await.expect_err("full");
    judge(&service, "full", &error, &at_door("53300", ErrorClass::Overload, true));
    admin.batch_execute("ALTER ROLE app CONNECTION LIMIT -1").await.expect("a limit can be set");

    let service = Service::start(config(&url)).await;
    admin.batch_execute("ALTER ROLE app PASSWORD 'another'").await.expect("a password can be set");
    let error = service.ask(one("SELECT 'x'"), LIMIT).await.expect_err("refused");
    judge(&service, "password", &error, &at_door("28P01", ErrorClass::Permanent, false));

    let (server, _) = url.rsplit_once('/').expect("a URL with a database");
    let other = format!("{}/nowhere", server.replace(&password(&url), "another"));
    let service = Service::unseen(config(&other), Arc::new(Put));
    let error = service.ask(one("SELECT 'x'"), LIMIT).await.expect_err("no such database");
    judge(&service, "database", &error, &at_door("3D000", ErrorClass::Permanent, false));
}

fn password(url: &str) -> String {
    let parsed: tokio_postgres::Config = url.parse().expect("a URL of PostgreSQL");
    String::from_utf8_lossy(parsed.get_password().unwrap_or_default()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_shutting_down_is_transient_and_a_failure() {
    let (_folder, cluster) = database(&[]).await;
    let service = Service::start(config(&cluster.url())).await;
    // A session that stays keeps the server in its "smart" shutdown, in which it lets nobody else in.
    let _stays = cluster.connect(LIMIT).await.expect("the database answers");
    let pid = cluster.pid().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    let signalled = rustix::process::kill_process(pid.expect("it runs"), rustix::process::Signal::TERM);
    signalled.expect("it can be told to stop");
    sleep(Duration::from_millis(200)).await;
    let error = service.ask(one("SELECT 'x'"), LIMIT).await.expect_err("it lets nobody in");
    let expected = Expected {
        code: "57P03",
        class: ErrorClass::Transient,
        phase: Phase::NotSent,
        kept: false,
        contact: false,
    };
    judge(&service, "shutting down", &error, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_a_standby_is_a_matter_of_failover() {
    let (_folder, cluster) = database(&[]).await;
    let standby = standby_of(&cluster).await;
    let service = Service::unseen(config(&standby.url()), Arc::new(Put));
    let seen = async || (*service.db.database().borrow() == DatabasePart::Standby).then_some(());
    until("the standby is seen", LIMIT, seen).await;
    let error = service.ask(several("INSERT INTO effects (key) VALUES ('x')"), LIMIT).await;
    let error = error.expect_err("a standby takes no writes");
    assert_eq!((error.code(), error.class()), (Some("25006"), ErrorClass::Failover), "{error}");
    assert!(service.text("SELECT 'x'", LIMIT).await.is_ok(), "reads go on");
}

/// Waits on its own side, in the middle of the transaction, for longer than the server lets it.
struct Dawdling;

impl Commands for Dawdling {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            sleep(Duration::from_millis(600)).await;
            statements.row("SELECT 'too late'", &[]).await?;
            unreachable!("the server has ended the transaction")
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_idle_for_too_long_is_rolled_back_and_known_to_be() {
    let (_folder, cluster) = database(&[]).await;
    let mut config = config(&cluster.url());
    config.pool.idle_in_transaction = Duration::from_millis(200);
    let service = Service::start_with(config, Arc::new(Dawdling)).await;
    service.journal.close();
    let failed = service.put("dawdling", LIMIT).await;
    let Err(WriteError::Rejected(error)) = failed else { panic!("{failed:?}") };
    assert_eq!((error.class(), error.phase()), (ErrorClass::Transient, Phase::InTransaction), "{error}");
    // The driver knows only that the connection ended; what the server said before that is kept.
    let cause = error.cause().map(|cause| (cause.code.as_str(), cause.severity));
    assert_eq!(cause, Some(("25P03", Severity::Fatal)), "{error}");
}

/// Ends its own session from outside while it is idle in the transaction, then goes on.
struct Ended(String);

impl Commands for Ended {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let row = statements.row("SELECT pg_backend_pid()", &[]).await?;
            let pid: i32 = row.expect("a server has a pid").get(0);
            let other = as_service(&self.0).await;
            other.query("SELECT pg_terminate_backend($1, 5000)", &[&pid]).await?;
            sleep(Duration::from_millis(100)).await;
            statements.row("SELECT 'too late'", &[]).await?;
            unreachable!("the session was ended")
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ended_while_idle_tells_who_ended_it() {
    let (_folder, cluster) = database(&[]).await;
    let service = Service::start_with(config(&cluster.url()), Arc::new(Ended(cluster.url()))).await;
    service.journal.close();
    let failed = service.put("ended", LIMIT).await;
    let Err(WriteError::Rejected(error)) = failed else { panic!("{failed:?}") };
    assert_eq!((error.class(), error.phase()), (ErrorClass::Transient, Phase::InTransaction), "{error}");
    let cause = error.cause().map(|cause| (cause.code.as_str(), cause.severity));
    assert_eq!(cause, Some(("57P01", Severity::Fatal)), "{error}");
}
