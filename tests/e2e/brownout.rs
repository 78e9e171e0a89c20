//! The database is there and makes trouble: it refuses writes, ends sessions, holds locks, or is asked by two new servers
//! at once.

use std::time::Duration;

use http::{HeaderValue, Method};
use ridethrough_tests::{
    http::{create, request},
    stack::{Lab, Server},
    until, within,
};

use crate::steps::{Watch, id, member, stored_todo, title};

const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

async fn execute(lab: &Lab, statements: &[&str]) {
    let client = lab.sql().await;
    for statement in statements {
        let done = within(statement, STATEMENT_LIMIT, client.batch_execute(statement)).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_a_read_only_database_refuses_are_applied_when_it_takes_them_again() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let client = server.main();
    let todo = stored_todo(&server, "before").await;
    let watch = Watch::over(&server, &["/livez", "/readyz"]);
    let read_only = "ALTER SYSTEM SET default_transaction_read_only = on";
    execute(&lab, &[read_only, "SELECT pg_reload_conf()"]).await;
    let mut titles = Vec::new();
    let mut number = 0;
    // Until the server has noticed it may still find a session that was begun before.
    until("writes are journaled", Duration::from_secs(20), async || {
        number += 1;
        let name = format!("refused-{number}");
        let written = client.create(&name, &title(&name)).await.acknowledged();
        titles.push(title(&name));
        (written.status == 202).then_some(())
    })
    .await;
    let read = client.get(&format!("/api/todos/{todo}")).await.expect(200);
    assert_eq!(read.freshness(), "fresh", "a database that refuses writes can be read");
    execute(&lab, &["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"]).await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    watch.was_always_well().await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_ended_under_load_cost_no_answer() {
    const ROUNDS: usize = 12;

    let lab = Lab::start().await;
    lab.expect_outage();
    let server = lab.server("server-1").await;
    let todo = stored_todo(&server, "read-me").await;
    let path = format!("/api/todos/{todo}");
    let mut titles = Vec::new();
    for round in 0..ROUNDS {
        let mut sent = tokio::task::JoinSet::new();
        for number in 0..10 {
            let (client, name, path) = (server.main(), format!("write-{round}-{number}"), path.clone());
            titles.push(title(&name));
            sent.spawn(async move {
                let _ = client.create(&name, &title(&name)).await.acknowledged();
                client.get(&path).await.expect(200)
            });
        }
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        execute(&lab, &[end]).await;
        for answer in sent.join_all().await {
            assert_ne!(answer.freshness(), "");
        }
    }
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_slows_nobody_down_for_long() {
    let lab = Lab::start().await;
    lab.expect_outage();
    let server = lab.server("server-1").await;
    let client = server.main();
    let todo = stored_todo(&server, "before").await;
    let path = format!("/api/todos/{todo}");
    let watch = Watch::over(&server, &["/livez", "/readyz"]);
    let holder = lab.sql().await;
    let locked = holder.batch_execute("BEGIN; LOCK TABLE todos IN ACCESS EXCLUSIVE MODE");
    within("lock the table", STATEMENT_LIMIT, locked).await.expect("the table can be locked");
    let names: Vec<String> = (0..5).map(|number| format!("locked-{number}")).collect();
    for name in &names {
        let read = within("a read", Duration::from_secs(4), client.get(&path)).await.expect(200);
        assert_ne!(read.freshness(), "fresh");
        let write = within("a write", Duration::from_secs(6), client.create(name, &title(name))).await;
        // Others hold the lock for a moment: the caller is told so, or the write is kept.
        if write.status == 503 {
            assert!(member(&write.problem(503), "retry_after").is_u64(), "{}", write.text());
            assert_eq!(write.header("ridethrough-outcome"), "rejected", "{write:?}");
        } else {
            let _ = write.expect(202).acknowledged();
        }
    }
    within("unlock", STATEMENT_LIMIT, holder.batch_execute("ROLLBACK")).await.expect("a rollback");
    server.journal_is_empty().await;
    for name in &names {
        let _ = client.create(name, &title(name)).await.acknowledged();
    }
    server.journal_is_empty().await;
    let titles: Vec<String> = names.iter().map(title).collect();
    assert_eq!(lab.not_stored_once(&titles).await, []);
    until("reads are fresh again", Duration::from_secs(10), async || {
        (client.get(&path).await.expect(200).freshness() == "fresh").then_some(())
    })
    .await;
    watch.was_always_well().await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_find_an_empty_database_at_once_both_become_ready() {
    let lab = Lab::start().await;
    let (one, two) = tokio::join!(
        lab.server_as("server-1", Server::default()),
        lab.server_as("server-2", Server::default())
    );
    tokio::join!(one.ready(), two.ready());
    let todo = stored_todo(&one, "seen-by-both").await;
    let read = two.main().get(&format!("/api/todos/{todo}")).await.expect(200);
    assert_eq!((read.freshness(), member(&read.json(), "title")), ("fresh", title("seen-by-both").into()));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_little_time_gets_an_honest_answer_in_it() {
    let lab = Lab::start().await;
    lab.expect_outage();
    let server = lab.server("server-1").await;
    let client = server.main();
    let todo = stored_todo(&server, "before").await;
    let path = format!("/api/todos/{todo}");
    let holder = lab.sql().await;
    let locked = holder.batch_execute("BEGIN; LOCK TABLE todos IN ACCESS EXCLUSIVE MODE");
    within("lock the table", STATEMENT_LIMIT, locked).await.expect("the table can be locked");
    let hurried = |mut request: http::Request<_>, milliseconds| {
        let value = HeaderValue::from_static(milliseconds);
        request.headers_mut().insert("x-envoy-expected-rq-timeout-ms", value);
        client.send(request)
    };
    let read = hurried(request(Method::GET, &path, None, None), "150");
    let read = within("a hurried read", Duration::from_millis(700), read).await.expect(200);
    assert_ne!(read.freshness(), "fresh");
    let write = hurried(create("hurried", &title("hurried")), "300");
    let write = within("a hurried write", Duration::from_millis(1_500), write).await;
    let outcome = write.header("ridethrough-outcome").to_owned();
    assert!(["journaled", "unknown", "rejected"].contains(&outcome.as_str()), "{write:?}");
    within("unlock", STATEMENT_LIMIT, holder.batch_execute("ROLLBACK")).await.expect("a rollback");
    server.journal_is_empty().await;
    if outcome != "rejected" {
        // The same request under the same key finds out, and makes it true at the latest.
        server.mode_becomes("normal").await;
        let again = client.create("hurried", &title("hurried")).await.acknowledged();
        assert_eq!(lab.stored(&id(&again)).await, Some((title("hurried"), 1)));
    }
    let stored = lab.number("SELECT count(*) FROM todos", &[]).await;
    assert_eq!(stored, if outcome == "rejected" { 1 } else { 2 });
    lab.finish().await;
}
