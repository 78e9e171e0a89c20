//! The same request arrives more than once: repeated by its client, at once, at two servers, in an outage.

use ridethrough_tests::{http::create, seed, stack::Lab};
use serde_json::Value;

use crate::steps::{id, member, outage, title};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_write_gives_the_same_answer_and_one_row() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let client = server.main();
    let text = title("once");
    let first = client.create("key", &text).await.expect(201).acknowledged();
    let second = client.create("key", &text).await.expect(201).acknowledged();
    assert_eq!(first.json(), second.json());
    assert_eq!(first.header("idempotency-key"), "key");
    assert_eq!(client.write_status("key").await, "applied");
    assert_eq!(client.write_status("nobody-knows-this-one").await, "404");
    let other = client.create("key", &title("another")).await;
    let problem = other.problem(422);
    assert!(problem.to_string().contains("Idempotency-Key"), "{problem}");
    assert_eq!(other.header("ridethrough-outcome"), "rejected");
    assert_eq!(lab.not_stored_once(&[text]).await, []);
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_a_key_gets_one_that_can_be_asked_for() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let body = serde_json::json!({"title": title("keyless")});
    let request = ridethrough_tests::http::request(http::Method::POST, "/api/todos", None, Some(&body));
    let written = server.main().send(request).await.expect(201).acknowledged();
    assert_eq!(server.main().write_status(written.header("idempotency-key")).await, "applied");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_at_once_under_one_key_make_one_row() {
    let lab = Lab::start().await;
    let servers = [lab.server("server-1").await, lab.server("server-2").await];
    let text = title("crowd");
    let mut sent = tokio::task::JoinSet::new();
    for number in 0..50 {
        let client = servers[number % servers.len()].main();
        let request = create("crowd", &text);
        sent.spawn(async move { client.send(request).await });
    }
    let answers = sent.join_all().await;
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|answer| id(&answer.clone().acknowledged())).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    for server in &servers {
        server.journal_is_empty().await;
    }
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1);
    assert_eq!(lab.stored(ids.first().expect("one id")).await, Some((text, 1)));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_both_journal_one_key_make_one_row() {
    let lab = Lab::start().await;
    let (one, two) = (lab.server("server-1").await, lab.server("server-2").await);
    outage(&lab, &[&one, &two]).await;
    let text = title("both");
    let first = one.main().create("both", &text).await.expect(202).acknowledged();
    let again = one.main().create("both", &text).await.expect(202).acknowledged();
    let other = two.main().create("both", &text).await.expect(202).acknowledged();
    assert_eq!(id(&first), id(&again));
    assert_eq!(id(&first), id(&other));
    assert_eq!(one.backlog().await, 1);
    for server in [&one, &two] {
        assert_eq!(server.main().write_status("both").await, "pending");
        let _ = server.main().create("both", &title("another")).await.problem(422);
    }
    lab.database_returns().await;
    for server in [&one, &two] {
        server.journal_is_empty().await;
        assert_eq!(server.main().write_status("both").await, "applied");
    }
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1);
    assert_eq!(lab.stored(&id(&first)).await, Some((text, 1)));
    lab.finish().await;
}

/// In an outage two servers cannot know of each other's keys: both accept. Nothing that was accepted may vanish without
/// a trace, so the loser is kept, with its payload, under a key of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_for_two_requests_at_two_servers_applies_one_and_keeps_a_record_of_the_other() {
    let lab = Lab::start().await;
    let (one, two) = (lab.server("server-1").await, lab.server("server-2").await);
    outage(&lab, &[&one, &two]).await;
    let texts = [title("mine"), title("yours")];
    let _ = one.main().create("shared", &texts[0]).await.expect(202).acknowledged();
    let _ = two.main().create("shared", &texts[1]).await.expect(202).acknowledged();
    lab.expect_in_logs(&["two requests were accepted under one idempotency key"]);
    lab.database_returns().await;
    one.journal_is_empty().await;
    two.journal_is_empty().await;
    let stored = lab.rows("SELECT title FROM todos", &[]).await;
    assert_eq!(stored.len(), 1);
    assert!(texts.contains(&stored[0].get(0)), "{stored:?}");
    let rejected =
        "SELECT count(*) FROM ridethrough_writes WHERE outcome = 'rejected' AND payload IS NOT NULL";
    assert_eq!(lab.number(rejected, &[]).await, 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journaled_write_repeated_after_recovery_is_answered_as_applied() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    outage(&lab, &[&server]).await;
    let text = title("twice");
    let journaled = server.main().create("twice", &text).await.expect(202).acknowledged();
    assert_eq!(member(&journaled.json(), "version"), Value::from(1));
    lab.database_returns().await;
    server.journal_is_empty().await;
    server.mode_becomes("normal").await;
    let repeated = server.main().create("twice", &text).await.expect(201).acknowledged();
    assert_eq!(id(&journaled), id(&repeated));
    let status = server.main().get("/api/writes/twice").await.expect(200).json();
    assert_eq!(member(&status, "status"), "applied");
    assert_eq!(member(&member(&status, "outcome"), "id"), Value::from(id(&journaled)));
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_in_the_middle_and_come_back_make_one_row_each() {
    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let names: Vec<String> = (0..40).map(|number| format!("leaver-{number}")).collect();
    let mut leaving = tokio::task::JoinSet::new();
    for name in &names {
        let (client, name) = (server.main(), name.clone());
        let patience = std::time::Duration::from_micros(random.u64(0..20_000));
        leaving.spawn(async move {
            // Dropped in the middle, at a place that nobody chose: the connection closes.
            let _ = tokio::time::timeout(patience, client.create(&name, &title(&name))).await;
        });
    }
    leaving.join_all().await;
    for name in &names {
        let _ = server.main().create(name, &title(name)).await.acknowledged();
    }
    server.journal_is_empty().await;
    let titles: Vec<String> = names.iter().map(title).collect();
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}
