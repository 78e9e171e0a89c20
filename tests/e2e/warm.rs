//! A server is restarted while its database is away: what it knew and what it accepted before is what it shows.

use std::time::Duration;

use ridethrough_tests::{launch::Exit, stack::Lab};

use crate::steps::{id, member, outage, stored_todo, title};

const STOP_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restarted_in_an_outage_shows_what_it_knew_and_what_it_accepted() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let client = server.main();
    let kept = stored_todo(&server, "kept").await;
    let kept_path = format!("/api/todos/{kept}");
    let _ = client.get("/api/todos").await.expect(200);
    outage(&lab, &[&server]).await;
    let accepted = id(&client.create("accepted", &title("accepted")).await.expect(202).acknowledged());
    let accepted_path = format!("/api/todos/{accepted}");
    let before = client.get("/api/todos").await.expect(200);
    let titles = |answer: &ridethrough_tests::http::Answer| {
        let items = member(&answer.json(), "items");
        let items = items.as_array().expect("a list").iter().map(|item| member(item, "title"));
        items.collect::<Vec<_>>()
    };
    assert_eq!(titles(&before), [title("accepted"), title("kept")]);

    server.terminate();
    assert_eq!(server.ended(STOP_LIMIT).await, Exit::Code(0));
    server.restart().await;
    let after = client.get("/api/todos").await.expect(200);
    assert_eq!((titles(&after), after.freshness()), (titles(&before), "database-away"));
    let alone = client.get(&kept_path).await.expect(200);
    assert_eq!((member(&alone.json(), "title"), alone.freshness()), (title("kept").into(), "database-away"));
    let waiting = client.get(&accepted_path).await.expect(200);
    assert_eq!(
        (member(&waiting.json(), "title"), waiting.freshness()),
        (title("accepted").into(), "pending")
    );

    // What cannot be trusted is not shown, and stops nothing.
    server.terminate();
    assert_eq!(server.ended(STOP_LIMIT).await, Exit::Code(0));
    let snapshot = server.home().join("data/cache-snapshot");
    let mut bytes = std::fs::read(&snapshot).expect("a snapshot was written at the drain");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).expect("it can be changed");
    lab.expect_in_logs(&["the cache snapshot is not trusted"]);
    server.restart().await;
    assert!(server.home().join("data/cache-snapshot.damaged").exists() && !snapshot.exists());
    assert_eq!(client.get(&kept_path).await.status, 503);
    let waiting = client.get(&accepted_path).await.expect(200);
    assert_eq!(waiting.freshness(), "pending");

    lab.database_returns().await;
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.stored(&accepted).await, Some((title("accepted"), 1)));
    let fresh = client.get(&accepted_path).await.expect(200);
    assert_eq!(fresh.freshness(), "fresh");
    lab.finish().await;
}
