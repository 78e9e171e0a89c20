//! The rows of the health page that can be brought about from outside, one after another on a real database: what all five
//! probes answer on both listeners, and what they say is served. Of the page's other rows 13 is in `journal_disk`, 16 and 17
//! in `roles`, 18 in `drain`; 1, 7 and 19 come from inside of a process or are over too soon.

use std::{path::Path, time::Duration};

use ridethrough_tests::{
    app::App,
    http::Client,
    launch::Exit,
    stack::{Lab, Server},
    until,
};
use serde_json::{Value, json};

use crate::steps::{journal, stored_todo, title};

const LIMIT: Duration = Duration::from_secs(30);
/// As many writes fit into a journal of these servers.
const ROOM: usize = 20;

/// Waits until the server says `status mode reads writes`, and then holds every probe against that.
async fn is(server: &App, row: &str, ready: bool, expected: &str) {
    let what = format!("{} comes to row {row}: {expected}", server.name());
    until(&what, LIMIT, async || (said(&server.main()).await == expected).then_some(())).await;
    let serves = |word: &str| expected.split(' ').skip(2).any(|served| served == word);
    let (reads, writes) = (serves("fresh") || serves("stale"), serves("committed") || serves("journaled"));
    for client in [server.main(), server.admin()] {
        for (path, good) in [
            ("/livez", true),
            ("/readyz", ready),
            ("/readyz/reads", ready && reads),
            ("/readyz/writes", ready && writes),
            ("/startupz", true),
        ] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, if good { 200 } else { 503 }, "row {row}, {path}: {}", answer.text());
            assert_eq!(answer.header("content-type"), "application/health+json");
            assert_eq!(answer.header("cache-control"), "no-store");
            assert_eq!(answer.header("retry-after").is_empty(), good, "row {row}, {path}");
            assert_eq!(answer.json()["ready"], ready, "row {row}, {path}");
            assert!(answer.body.len() < 2_048, "{}", answer.text());
        }
    }
    let full = server.admin().get("/readyz").await.json();
    for (member, value) in [("live", json!(true)), ("started", json!(true))] {
        assert_eq!(full[member], value, "row {row}: {full}");
    }
    assert!(full["since"].is_u64() && full["releaseId"].is_string(), "{full}");
    assert_eq!(full["retryAfterSeconds"].is_null(), expected.starts_with("pass"), "{full}");
    let checks = full["checks"].as_object().expect("the admin port tells checks");
    assert!(checks.values().all(Value::is_string) && checks.contains_key("database"), "{full}");
}

async fn said(client: &Client) -> String {
    let health = client.get("/readyz?verbose").await.json();
    assert_eq!(
        health.as_object().map(serde_json::Map::len),
        Some(4),
        "more than the main listener tells: {health}"
    );
    let serves =
        ["reads", "writes"].map(|what| health["serves"][what].as_str().unwrap_or_default().to_owned());
    let word = |name: &str| health[name].as_str().unwrap_or_default().to_owned();
    format!("{} {} {} {}", word("status"), word("mode"), serves[0], serves[1])
}

async fn server(lab: &Lab, name: &str) -> App {
    let env = vec![
        ("RIDETHROUGH_JOURNAL__ENTRIES_MAX", ROOM.to_string()),
        ("RIDETHROUGH_JOURNAL__RESERVE_PERCENT", "0".to_owned()),
    ];
    lab.server_as(name, Server { env, ..Server::default() }).await
}

/// The database takes only reads, or writes again.
async fn read_only(lab: &Lab, on: bool) {
    let change =
        if on { "SET default_transaction_read_only = on" } else { "RESET default_transaction_read_only" };
    let sql = lab.sql().await;
    for statement in [
        "SET default_transaction_read_only = off",
        &format!("ALTER SYSTEM {change}"),
        "SELECT pg_reload_conf()",
    ] {
        let _ = sql.simple_query(statement).await.expect("a superuser may change settings");
    }
}

/// Keeps replay from what it must hold before it applies anything, for as long as the connection lives.
async fn replay_waits(lab: &Lab) -> tokio_postgres::Client {
    let sql = lab.sql().await;
    let lock = "BEGIN READ WRITE; LOCK TABLE ridethrough_journals IN ACCESS EXCLUSIVE MODE";
    sql.batch_execute(lock).await.expect("the table can be locked");
    sql
}

async fn restarted(server: &App) {
    server.terminate();
    assert_eq!(server.ended(Duration::from_secs(20)).await, Exit::Code(0));
    server.restart().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_that_can_be_brought_about_is_as_the_page_says() {
    let lab = Lab::start().await;
    // Its schema is made while it is there; who starts in an outage sees none.
    let idle = server(&lab, "idle").await;
    is(&idle, "2", true, "pass normal fresh committed").await;
    lab.database_dies().await;
    let used = server(&lab, "used").await;
    is(&used, "3", false, "fail warming none journaled").await;
    is(&idle, "10", true, "warn write-only none journaled").await;
    let mut titles = journal(&idle, "idle", ROOM).await;
    is(&idle, "11", true, "warn empty none none").await;
    idle.kill().await;

    lab.database_returns().await;
    is(&used, "2", true, "pass normal fresh committed").await;
    let todo = format!("/api/todos/{}", stored_todo(&used, "known").await);
    let _ = used.main().get(&todo).await.expect(200);
    is(&used, "5", true, "pass normal fresh committed").await;
    read_only(&lab, true).await;
    lab.expect_in_logs(&["takes no writes", "read-only"]);
    is(&used, "14", true, "warn degraded fresh journaled").await;
    titles.extend(journal(&used, "used", 1).await);
    let waits = replay_waits(&lab).await;
    read_only(&lab, false).await;
    is(&used, "6", true, "pass recovering fresh journaled").await;

    lab.database_dies().await;
    drop(waits);
    is(&used, "8", true, "warn degraded stale journaled").await;
    restarted(&used).await;
    is(&used, "4", true, "warn degraded stale journaled").await;
    titles.extend(journal(&used, "more", ROOM - 1).await);
    is(&used, "9", true, "warn read-only stale none").await;
    std::fs::write(
        Path::new(&lab.cluster().data()).join("postgresql.auto.conf"),
        "default_transaction_read_only = on\n",
    )
    .expect("the folder of the cluster can be written to");
    lab.database_returns().await;
    is(&used, "14", true, "warn read-only fresh none").await;
    let waits = replay_waits(&lab).await;
    read_only(&lab, false).await;
    is(&used, "12", true, "warn no-journal fresh committed").await;
    // Nobody waits for those in the journal but who writes about the same.
    let _ = used.main().create("beside", &title("beside")).await.expect(201).acknowledged();
    titles.push(title("beside"));
    drop(waits);
    is(&used, "5", true, "pass normal fresh committed").await;
    idle.restart().await;
    is(&idle, "5", true, "pass normal fresh committed").await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_refused_is_as_a_database_that_is_away() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let todo = format!("/api/todos/{}", stored_todo(&server, "known").await);
    let _ = server.main().get(&todo).await.expect(200);
    lab.expect_outage();
    lab.expect_in_logs(&["a person must look"]);
    let url = lab.cluster().url();
    let user = url.split("://").nth(1).and_then(|rest| rest.split(':').next()).expect("the URL names a user");
    let sql = lab.sql().await;
    let rotate = format!(
        "ALTER ROLE \"{user}\" PASSWORD 'another'; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"
    );
    sql.batch_execute(&rotate).await.expect("a superuser may do that");
    is(&server, "15", true, "warn degraded stale journaled").await;
    let checks = server.admin().get("/readyz").await.json();
    assert_eq!(checks["checks"]["database"], "refused", "{checks}");
    lab.finish().await;
}
