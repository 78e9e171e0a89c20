//! Cancel requests: they reach the session they name and no other, and can be lost, late, or come twice.

use tokio_postgres::CancelToken;

use super::super::*;

/// Asks for something long; answers its error, and how long it took.
async fn long(client: &Client) -> (Option<String>, Duration) {
    let began = Instant::now();
    let ended = within(client.batch_execute("SELECT pg_sleep(1.5)")).await;
    (ended.err().and_then(|error| code(&error).map(str::to_owned)), began.elapsed())
}

async fn cancel(token: CancelToken) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _ = within(token.cancel_query(NoTls)).await;
}

/// PostgreSQL signals a session and its process group, which is the session again: on a busy machine the second signal
/// can meet the next statement.
async fn settle(client: &Client) {
    let _ = within(client.batch_execute("SELECT pg_sleep(0.2)")).await;
}

const CANCELLED: Option<&str> = Some("57014");

#[tokio::test]
async fn a_cancel_request_reaches_the_session_it_names_and_no_other() {
    let bench = Bench::start().await;
    let (one, two) = (bench.client().await, bench.client().await);
    let (first, second, ()) = tokio::join!(long(&one), long(&two), cancel(two.cancel_token()));
    assert_eq!((first.0, second.0.as_deref()), (None, CANCELLED));
    let counts = bench.proxy.counts();
    assert_eq!((counts.cancels, counts.cancels_of_sessions, counts.sessions), (1, 1, 2));
    // The session goes on.
    within(one.batch_execute("SELECT 1")).await.unwrap();
    within(two.batch_execute("SELECT 1")).await.unwrap();
    // One for a session that is over is passed on, and names nobody.
    let token = one.cancel_token();
    drop(one);
    within(async {
        while bench.proxy.counts().sessions_open > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (answered, ()) = tokio::join!(long(&two), cancel(token));
    assert_eq!(answered.0, None);
    assert_eq!((bench.proxy.counts().cancels, bench.proxy.counts().cancels_of_sessions), (2, 1));
}

#[tokio::test]
async fn a_cancel_request_can_be_lost_late_and_come_twice() {
    let bench = Bench::start().await;
    let client = bench.client().await;
    let lost = bench.plant("client CancelRequest: swallow");
    let (answered, ()) = tokio::join!(long(&client), cancel(client.cancel_token()));
    assert_eq!((answered.0, lost.count()), (None, 1));
    // It comes when another statement of the session runs: that is the one it hits.
    let late = bench.plant("client CancelRequest: hold 900ms");
    let token = client.cancel_token();
    let short = within(client.batch_execute("SELECT pg_sleep(0.3)"));
    let (short, ()) = tokio::join!(short, cancel(token));
    assert!(short.is_ok());
    let (answered, took) = long(&client).await;
    assert_eq!((answered.as_deref(), late.count()), (CANCELLED, 1));
    assert!(took < Duration::from_millis(1_400), "{took:?}");
    assert_eq!(late.bites()[0].session, Some(1), "it names the session");
    settle(&client).await;
    let twice = bench.plant("client CancelRequest: repeat");
    let (answered, ()) = tokio::join!(long(&client), cancel(client.cancel_token()));
    assert_eq!((answered.0.as_deref(), twice.count()), (CANCELLED, 1));
    settle(&client).await;
    within(client.batch_execute("SELECT 1")).await.unwrap();
}
