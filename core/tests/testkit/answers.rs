//! What statements are answered with, by rules and by the server itself.

use super::kit::*;

#[tokio::test(start_paused = true)]
async fn a_rule_answers_simple_and_prepared_queries() {
    let server = todos();
    let client = server.client().await.unwrap();
    assert_eq!(one(&client, "select  TITLE from todos").await.unwrap(), "milk");
    let rows = client.query("SELECT title, done FROM todos WHERE id = $1", &[&1_i64]).await.unwrap();
    let read: Vec<(&str, bool)> = rows.iter().map(|row| (row.get("title"), row.get("done"))).collect();
    assert_eq!(read, [("milk", false), ("bread", true)]);
    assert_eq!(client.execute("INSERT INTO todos (id) VALUES ($1)", &[&5_i64]).await.unwrap(), 1);
    assert_eq!(server.committed("insert into todos"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_computed_reply_sees_the_parameters() {
    let double = Reply::computed(["twice"], |call| vec![(call.integer(1).unwrap_or(0) * 2,)]);
    let server = FakePostgres::builder().on("SELECT double", double.taking([Type::INT8])).start();
    let client = server.client().await.unwrap();
    let row = client.query_one("SELECT double($1)", &[&21_i64]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 42);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_answers_is_an_error_that_says_so() {
    let server = todos();
    let client = server.client().await.unwrap();
    let error = client.query("SELECT secret FROM vault", &[]).await.unwrap_err();
    assert_eq!(code(&error), Some("42883"));
    assert_eq!(server.unanswered(), ["SELECT secret FROM vault"]);
    assert_eq!(one(&client, "SELECT 1").await.unwrap(), "1", "the session lives on");
}

#[tokio::test(start_paused = true)]
async fn what_the_library_asks_is_answered_by_the_server() {
    let server = FakePostgres::builder().system_identifier(42).start();
    let client = server.client().await.unwrap();
    let question = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
    let is_standby = async || client.query_one(question, &[]).await.unwrap().get::<_, bool>(0);
    assert!(!is_standby().await);
    server.make_standby();
    assert!(is_standby().await);
    server.promote();
    assert!(!is_standby().await);
    let identity = "SELECT (SELECT system_identifier FROM pg_control_system())::text AS system, \
                    (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline, \
                    pg_backend_pid() AS pid, current_setting('server_version_num')::int AS version";
    let row = client.query_one(identity, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>("system"), "42");
    assert_eq!((row.get::<_, i32>("timeline"), row.get::<_, i32>("version")), (2, 150_018));
    client
        .batch_execute("SET LOCAL lock_timeout = '5s'; SELECT set_config('a.b', 'c', false)")
        .await
        .unwrap();
    assert_eq!(one(&client, "SHOW a.b").await.unwrap(), "c");
}

#[tokio::test(start_paused = true)]
async fn a_portal_is_read_in_parts() {
    let server = todos();
    let mut client = server.client().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT title, done FROM todos", &[]).await.unwrap();
    for expected in [1, 1, 0] {
        assert_eq!(transaction.query_portal(&portal, 1).await.unwrap().len(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_pipelined_and_an_error_spoils_its_own_only() {
    let server = todos();
    let client = server.client().await.unwrap();
    let (good, bad, after) = tokio::join!(
        client.query("SELECT title FROM todos", &[]),
        client.query("SELECT nothing FROM nowhere", &[]),
        client.query("SELECT title FROM todos", &[]),
    );
    assert_eq!((good.unwrap().len(), after.unwrap().len()), (2, 2));
    assert!(bad.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_password_is_asked_for() {
    let server = FakePostgres::builder().password("right").start();
    assert!(server.client().await.is_ok());
    let mut config = tokio_postgres::Config::new();
    config.user("app").password("wrong");
    let refused = config.connect_raw(server.stream(), NoTls).await.err().unwrap();
    assert_eq!(code(&refused), Some("28P01"));
}
