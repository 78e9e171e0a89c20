//! COMMIT goes wrong: its answer is lost, it never arrives, or the transaction was aborted before. Whatever the server
//! answers then must be true.

use ridethrough_chaos::pgwire::Proxy;
use ridethrough_tests::{
    app::App,
    http::Answer,
    stack::{Lab, Server},
    wire,
};

use crate::steps::{id, stored_todo, title};

/// COMMIT arrives; its answer is lost with the connection.
const ANSWER_LOST: &str = "from client Query(COMMIT) server any before: close";
/// The connection is lost before COMMIT arrives.
const COMMIT_LOST: &str = "client Query(COMMIT) before: close";
/// The transaction was aborted before, which its owner does not know.
const ABORTED: &str = "client Query(COMMIT) before: abort";

/// A server behind a wire, with one todo in the database.
async fn behind_a_wire(lab: &Lab, env: &[(&'static str, String)]) -> (Proxy, App) {
    let wire = wire::to(lab.cluster().port()).await;
    let url = Some(lab.url_through(wire.address()));
    let server = Server { url, env: env.to_vec(), ..Server::default() };
    let server = lab.server_as("server-1", server).await;
    server.ready().await;
    stored_todo(&server, "before").await;
    // A connection that ends in the middle may be taken for the beginning of an outage.
    lab.expect_outage();
    (wire, server)
}

/// Creates a todo under a planned mishap; it must be acknowledged, and be stored once when all is settled.
async fn create_under(mishap: &str, env: &[(&'static str, String)]) -> Answer {
    let lab = Lab::start().await;
    let (wire, server) = behind_a_wire(&lab, env).await;
    let mishap = wire.plant(mishap.parse().expect("a rule"));
    let text = title("under a mishap");
    let written = server.main().create("mishap", &text).await.acknowledged();
    assert!(matches!(written.status, 201 | 202), "{written:?}");
    assert_eq!(mishap.count(), 1, "the mishap did not happen");
    if written.status == 201 {
        assert_eq!(lab.stored(&id(&written)).await, Some((text.clone(), 1)), "a success that is none");
    }
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(std::slice::from_ref(&text)).await, []);
    assert_eq!(server.main().write_status("mishap").await, "applied");
    let again = server.main().create("mishap", &text).await.acknowledged();
    assert_eq!(id(&written), id(&again));
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 2);
    lab.finish().await;
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_commit_is_looked_up_and_ends_in_one_row() {
    let written = create_under(ANSWER_LOST, &[]).await;
    // The database is there and can be asked what became of it, so nobody has to wait for replay to find out.
    assert_eq!(written.status, 201, "{written:?}");
}

/// With notices, COMMIT is the last statement of several in one message, and mishaps at it passed this way to write by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_commit_that_tells_other_replicas_ends_in_one_row() {
    let notices = [("RIDETHROUGH_DATABASE__NOTICES", "true".to_owned())];
    let written = create_under(ANSWER_LOST, &notices).await;
    assert_eq!(written.status, 201, "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_before_commit_arrived_ends_in_one_row() {
    let _ = create_under(COMMIT_LOST, &[]).await;
}

/// PostgreSQL answers the COMMIT of an aborted transaction with ROLLBACK and no error, which the driver takes for
/// success: the write would be lost with a 201.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_rolls_back_is_never_a_success() {
    let lab = Lab::start().await;
    let (wire, server) = behind_a_wire(&lab, &[]).await;
    let mishap = wire.plant(ABORTED.parse().expect("a rule"));
    let text = title("rolled back");
    lab.expect_in_logs(&["the database refused a statement"]);
    let written = server.main().create("mishap", &text).await;
    assert_eq!(mishap.count(), 1, "the mishap did not happen");
    match written.status {
        201 | 202 => server.journal_is_empty().await,
        status => {
            let _ = written.problem(status);
            assert_eq!(written.header("ridethrough-outcome"), "rejected");
            assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1, "rejected and stored");
            assert_eq!(server.main().write_status("mishap").await, "404");
            let _ = server.main().create("mishap", &text).await.expect(201).acknowledged();
        }
    }
    assert_eq!(lab.not_stored_once(&[text]).await, []);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_write_whose_commit_answer_is_lost_is_applied_once() {
    let lab = Lab::start().await;
    let (wire, server) = behind_a_wire(&lab, &[]).await;
    let away = wire.shut();
    server.mode_becomes("degraded").await;
    let titles = crate::steps::journal(&server, "write", 10).await;
    let mishap = wire.plant(ANSWER_LOST.parse().expect("a rule"));
    drop(away);
    server.journal_is_empty().await;
    assert_eq!(mishap.count(), 1, "the mishap did not happen");
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}
