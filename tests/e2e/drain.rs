//! The server is asked to stop while it works, is asked twice, or finds its folder taken.

use std::time::Duration;

use ridethrough_tests::{
    app::App,
    http::create,
    launch::Exit,
    stack::{Lab, Server},
    until, within,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::steps::{id, title};

/// A server that goes on accepting for a while after it was asked to stop, as routers need it.
async fn unhurried(lab: &Lab) -> App {
    let env = vec![
        ("RIDETHROUGH_LIMITS__DRAIN_DELAY", "2s".to_owned()),
        // Long enough that what waits for a lock is still in flight when the signal comes.
        ("RIDETHROUGH_DATABASE__WRITE__ATTEMPT", "3s".to_owned()),
        ("RIDETHROUGH_DATABASE__READ__ATTEMPT", "1500ms".to_owned()),
    ];
    let server = lab.server_as("server-1", Server { env, ..Server::default() }).await;
    server.ready().await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_are_finished_and_the_exit_is_clean() {
    let lab = Lab::start().await;
    let server = unhurried(&lab).await;
    let todo = crate::steps::stored_todo(&server, "before").await;
    lab.expect_outage();
    // Held locks keep the requests in flight.
    let holder = lab.sql().await;
    let locked = holder.batch_execute("BEGIN; LOCK TABLE todos IN ACCESS EXCLUSIVE MODE");
    within("lock the table", Duration::from_secs(10), locked).await.expect("the table can be locked");
    let write = tokio::spawn({
        let client = server.main();
        async move { client.send(create("in-flight", &title("in flight"))).await }
    });
    let read = tokio::spawn({
        let (client, path) = (server.main(), format!("/api/todos/{todo}"));
        async move { client.get(&path).await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until("both requests wait", Duration::from_secs(10), async || {
        (lab.number(waiting, &[]).await >= 2).then_some(())
    })
    .await;

    server.terminate();
    let not_ready = async || (server.main().get("/readyz").await.status == 503).then_some(());
    until("the server is not ready", Duration::from_secs(1), not_ready).await;
    for listener in [server.main(), server.admin()] {
        let _ = listener.get("/livez").await.expect(200);
    }
    within("unlock", Duration::from_secs(10), holder.batch_execute("ROLLBACK")).await.expect("a rollback");
    // New connections are served until every router has heard of it.
    let late = server.main().get(&format!("/api/todos/{todo}")).await.expect(200);
    assert_eq!(late.header("connection"), "close", "{late:?}");
    let read = read.await.expect("a request does not panic").expect(200);
    assert_ne!(read.freshness(), "");
    let written = write.await.expect("a request does not panic").acknowledged();
    assert_eq!(server.ended(Duration::from_secs(20)).await, Exit::Code(0));

    server.restart().await;
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.stored(&id(&written)).await, Some((title("in flight"), 1)));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_and_says_that_something_was_cut() {
    let lab = Lab::start().await;
    let server = unhurried(&lab).await;
    let mut unfinished = TcpStream::connect(server.main().address()).await.expect("the server listens");
    let head = "POST /api/todos HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    unfinished.write_all(head.as_bytes()).await.expect("a request can be begun");
    // An answer on a later connection: the server has seen the earlier one by now.
    let _ = server.main().get("/livez").await.expect(200);
    server.terminate();
    let not_ready = async || (server.admin().get("/readyz").await.status == 503).then_some(());
    until("the server is not ready", Duration::from_secs(1), not_ready).await;
    lab.expect_in_logs(&["a second signal", "were cut off"]);
    server.terminate();
    assert_eq!(server.ended(Duration::from_secs(4)).await, Exit::Code(2));
    lab.finish().await;
}

/// The parts that a second signal cuts off were once about to be logged as dead, each as an ERROR: whoever reads that looks
/// for a fault where there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_are_cut_off_have_not_died() {
    let lab = Lab::start().await;
    let server = unhurried(&lab).await;
    lab.expect_outage();
    let holder = lab.sql().await;
    let locked = holder.batch_execute("BEGIN; LOCK TABLE todos IN ACCESS EXCLUSIVE MODE");
    within("lock the table", Duration::from_secs(10), locked).await.expect("the table can be locked");
    let client = server.main();
    let cut = tokio::spawn(async move { client.try_send(create("cut", &title("cut"))).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let waits = async || (lab.number(waiting, &[]).await >= 1).then_some(());
    until("the write waits", Duration::from_secs(10), waits).await;
    lab.expect_in_logs(&["a second signal", "were cut off"]);
    server.terminate();
    let not_ready = async || (server.admin().get("/readyz").await.status == 503).then_some(());
    until("the server is not ready", Duration::from_secs(1), not_ready).await;
    server.terminate();
    assert_eq!(server.ended(Duration::from_secs(4)).await, Exit::Code(2));
    let _ = cut.await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_folder_is_refused() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let mut second = lab.server_blueprint("second", Server::default());
    let data = server.home().join("data").display().to_string();
    second.args = vec!["--data-dir".into(), (&data).into()];
    for option in ["--listen", "--admin-listen"] {
        second.args.extend([option.into(), "127.0.0.1:0".into()]);
    }
    let output = lab.run(&second).await;
    assert_eq!(output.exit, Exit::Code(1), "{output:?}");
    assert!(output.stderr.contains(&data), "it does not name the folder: {output:?}");
    assert!(!output.stdout.contains("listening"), "{output:?}");
    // The first one has not noticed.
    let _ = server.main().create("after", &title("after")).await.expect(201).acknowledged();
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_in_an_outage_keeps_its_journal() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    crate::steps::outage(&lab, &[&server]).await;
    let titles = crate::steps::journal(&server, "write", 30).await;
    server.terminate();
    assert_eq!(server.ended(Duration::from_secs(15)).await, Exit::Code(0));
    server.restart().await;
    assert_eq!(server.backlog().await, 30);
    lab.database_returns().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}
