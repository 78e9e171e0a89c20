//! What PostgreSQL itself does, where the library relies on it and the manual does not say: each experiment here is a
//! fact that a decision of the library stands on. None of them uses the library.

use std::time::Duration;

use ridethrough_tests::{until, wire, within};
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, NoTls, error::SqlState};

use crate::service::{as_service, database, effects_of, standby_of};

const LIMIT: Duration = Duration::from_secs(20);

/// Starts COMMIT of one effect on a connection of its own; answers when it waits for the standby that there is not.
async fn commit_that_waits(url: &str, admin: &Client, key: &str) -> (i32, Waiting) {
    let (client, notices) = with_notices(url).await;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("it answers").get(0);
    client
        .batch_execute(&format!("BEGIN; INSERT INTO effects (key) VALUES ('{key}')"))
        .await
        .expect("it inserts");
    let waiting = tokio::spawn(async move {
        let answered = client.batch_execute("COMMIT").await;
        drop(client);
        (answered, notices.await.expect("no panic"))
    });
    let waits = async || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
        admin.query_opt(sql, &[&pid]).await.expect("it answers").map(|_| ())
    };
    until("COMMIT waits for a standby", LIMIT, waits).await;
    (pid, waiting)
}

/// The answer to COMMIT, and the notices before it as severity and code.
type Waiting = JoinHandle<(Result<(), tokio_postgres::Error>, Vec<String>)>;

/// A connection, and what the server says beside its answers.
async fn with_notices(url: &str) -> (Client, JoinHandle<Vec<String>>) {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, mut connection) = connected.expect("the database answers");
    let notices = tokio::spawn(async move {
        let mut said = Vec::new();
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                said.push(format!("{} {}", notice.severity(), notice.code().code()));
            }
        }
        said
    });
    (client, notices)
}

/// With synchronous replication the transaction is committed at home before the wait for the standby begins. A session
/// that is ended during the wait says 57P01 as a warning, and then nothing more: no error, no answer to COMMIT. The rows
/// are there. So neither this code nor a bare end of the connection after COMMIT means "rolled back".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ended_while_commit_waits_for_a_standby_warns_of_57p01_and_has_committed() {
    let (_folder, cluster) = database(&[]).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    nobody_confirms(&admin).await;
    let (pid, waiting) = commit_that_waits(&cluster.url(), &admin, "ended").await;
    assert_eq!(effects_of(&admin, "ended").await, 0, "nobody sees it while it waits");
    admin.query("SELECT pg_terminate_backend($1)", &[&pid]).await.expect("it can be ended");
    let (answered, notices) = within("the answer", LIMIT, waiting).await.expect("no panic");
    let error = answered.expect_err("the session was ended");
    assert!(error.is_closed(), "{error}");
    assert_eq!(notices, ["WARNING 57P01"]);
    until("the row is there", LIMIT, async || (effects_of(&admin, "ended").await == 1).then_some(())).await;
}

/// A cancel during the same wait is no error: the client is told COMMIT, with a warning, though no standby has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_while_commit_waits_for_a_standby_becomes_a_warning_and_a_success() {
    let (_folder, cluster) = database(&[]).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    nobody_confirms(&admin).await;
    let (pid, waiting) = commit_that_waits(&cluster.url(), &admin, "cancelled").await;
    admin.query("SELECT pg_cancel_backend($1)", &[&pid]).await.expect("it can be cancelled");
    let (answered, notices) = within("the answer", LIMIT, waiting).await.expect("no panic");
    assert!(answered.is_ok(), "{answered:?}");
    assert_eq!(notices, ["WARNING 01000"]);
    assert_eq!(effects_of(&admin, "cancelled").await, 1);
    let log = std::fs::read_to_string(cluster.log()).expect("the log can be read");
    assert!(log.contains("canceling wait for synchronous replication due to user request"), "{log}");
}

async fn nobody_confirms(admin: &Client) {
    admin
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; ")
        .await
        .expect("a setting can be changed");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("settings can be read again");
    let set = async || {
        let row = admin.query_one("SELECT current_setting('synchronous_standby_names')", &[]).await;
        (row.expect("it answers").get::<_, String>(0) == "nobody").then_some(())
    };
    until("the setting holds", LIMIT, set).await;
    // COMMIT waits only when the checkpointer has read it, too, and that reads settings before it writes a checkpoint.
    admin.batch_execute("CHECKPOINT").await.expect("it can be asked");
}

/// COMMIT alone answers ROLLBACK in an aborted transaction, which a driver that does not read the tag takes for success.
/// With a statement before it in the same message it fails with 25P02, and the transaction is still to be ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_before_commit_fails_where_the_transaction_was_aborted() {
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    let abort = "BEGIN; INSERT INTO effects (key) VALUES ('aborted'); SELECT 1/0";
    assert!(client.batch_execute(abort).await.is_err());
    let error = client.batch_execute("SELECT 1; COMMIT").await.expect_err("the transaction is aborted");
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION), "{error}");
    let still = client.batch_execute("SELECT 1").await.expect_err("the session is still in it");
    assert_eq!(still.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION), "{still}");
    client.batch_execute("ROLLBACK").await.expect("it can be ended");
    assert!(client.batch_execute(abort).await.is_err());
    // The trap itself: no error, and nothing is stored.
    client.batch_execute("COMMIT").await.expect("PostgreSQL calls it no error");
    assert_eq!(effects_of(&client, "aborted").await, 0);
}

/// In a living transaction the same message commits, and a warning-free COMMIT is the last of its answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_before_commit_changes_nothing_where_all_is_well() {
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute("BEGIN; INSERT INTO effects (key) VALUES ('well')").await.expect("it inserts");
    client.batch_execute("SELECT 1; COMMIT").await.expect("it commits");
    assert_eq!(effects_of(&client, "well").await, 1);
    // A transaction that went on would still have its number.
    let inside = client.query_one("SELECT pg_current_xact_id_if_assigned() IS NULL", &[]).await;
    assert!(inside.expect("it answers").get::<_, bool>(0));
}

/// After a failover to a standby that lagged, the number of a lost transaction is given to another one: what the new
/// primary says of it is about that other one. So a transaction's number proves nothing across a change of timeline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_number_of_a_lost_transaction_belongs_to_another() {
    let (_folder, cluster) = database(&[]).await;
    let standby = standby_of(&cluster).await;
    let old = as_service(&cluster.url()).await;
    let position = timeline_and_identity(&old).await;
    let replay = standby.connect(LIMIT).await.expect("the standby answers");
    // From here on the standby gets nothing: its source is taken away, as by a broken network.
    replay.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.expect("a setting can be changed");
    replay.batch_execute("SELECT pg_reload_conf()").await.expect("settings can be read again");
    let receiver_gone = async || {
        let row = replay.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await;
        (row.expect("it answers").get::<_, i64>(0) == 0).then_some(())
    };
    until("the standby is cut off", LIMIT, receiver_gone).await;
    old.batch_execute("BEGIN; INSERT INTO effects (key) VALUES ('lost')").await.expect("it inserts");
    let lost: String = number(&old).await;
    old.batch_execute("COMMIT").await.expect("it commits, at home only");
    assert_eq!(status(&old, &lost).await.as_deref(), Some("committed"));
    cluster.kill().await.expect("a running database can be killed");
    standby.promote().await.expect("it is promoted");

    let new = as_service(&standby.url()).await;
    assert_eq!(effects_of(&new, "lost").await, 0, "the standby never had it");
    let unused = new.query_one("SELECT pg_xact_status($1::text::xid8)", &[&lost]).await;
    // Numbers are given out with gaps at most a few at a time, so this ends soon.
    let reused = async || {
        new.batch_execute("BEGIN; INSERT INTO effects (key) VALUES ('another')").await.expect("it inserts");
        let number = number(&new).await;
        let end = if number == lost { "ROLLBACK" } else { "COMMIT" };
        new.batch_execute(end).await.expect("it ends");
        (number == lost).then_some(())
    };
    if unused.is_ok() {
        // The standby's counter was ahead already: aborted by nobody, committed by nobody.
        let said = status(&new, &lost).await;
        assert_ne!(said.as_deref(), Some("committed"), "the number proves nothing here");
    } else {
        until("the number is given out again", LIMIT, reused).await;
        // Told "aborted" of a transaction that a client was told is committed: the number is another's now.
        assert_eq!(status(&new, &lost).await.as_deref(), Some("aborted"));
    }
    let after = timeline_and_identity(&new).await;
    assert_eq!(position.0, after.0, "the identity of the system does not change in a failover");
    assert!(after.1 > position.1, "the timeline does: {} to {}", position.1, after.1);
}

async fn number(client: &Client) -> String {
    let row = client.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).await;
    row.expect("it answers").get(0)
}

async fn status(client: &Client, number: &str) -> Option<String> {
    let row = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[&number]).await;
    row.expect("it answers").get(0)
}

/// System identifier and timeline, of what was last written to the log.
async fn timeline_and_identity(client: &Client) -> (i64, i32) {
    let sql = "SELECT system_identifier, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int \
               FROM pg_control_system()";
    let row = client.query_one(sql, &[]).await.expect("it answers");
    (row.get(0), row.get(1))
}

/// A client that falls silent between the messages of one statement is not "idle in transaction" to PostgreSQL, and no
/// statement is running: neither limit ends it, and it keeps its locks for as long as TCP believes in it. The session
/// should therefore have keepalives of its own at the server. Ending it from outside works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_silent_within_a_statement_outlives_every_limit_and_can_be_ended_from_outside() {
    let (_folder, cluster) = database(&[]).await;
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    let wire = wire::to(cluster.port()).await;
    let silent = as_service(&wire.through(&cluster.url()).expect("the URL leads to the cluster")).await;
    let limits = "SET idle_in_transaction_session_timeout = '200ms'; SET statement_timeout = '200ms'";
    silent.batch_execute(limits).await.expect("limits can be set");
    // The same limits do end whoever they are made for.
    let idle = as_service(&cluster.url()).await;
    idle.batch_execute(&format!("{limits}; BEGIN")).await.expect("it begins");
    until("the idle one is ended", LIMIT, async || idle.is_closed().then_some(())).await;
    let busy = as_service(&cluster.url()).await;
    busy.batch_execute(limits).await.expect("limits can be set");
    assert!(busy.batch_execute("SELECT pg_sleep(5)").await.is_err(), "a long statement is ended");
    let pid: i32 = silent.query_one("SELECT pg_backend_pid()", &[]).await.expect("it answers").get(0);
    let insert = silent.prepare("INSERT INTO effects (key) VALUES ('silent')").await.expect("it prepares");
    // BEGIN, Bind, Execute arrive; Sync does not.
    let _cut = wire.plant("from client Query(BEGIN) client any #3 after: blackhole".parse().expect("a rule"));
    let lost = tokio::spawn(async move {
        silent.batch_execute("BEGIN").await.expect("it begins");
        silent.execute(&insert, &[]).await
    });
    let state = async || {
        let sql = "SELECT state FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientRead'";
        admin.query_opt(sql, &[&pid]).await.expect("it answers").map(|row| row.get::<_, String>(0))
    };
    until("it waits within the statement", LIMIT, async || (state().await? == "active").then_some(())).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(state().await.as_deref(), Some("active"), "ended by a limit after all");
    admin.query("SELECT pg_terminate_backend($1)", &[&pid]).await.expect("it can be ended");
    until("it is gone", LIMIT, async || state().await.is_none().then_some(())).await;
    lost.abort();
}
