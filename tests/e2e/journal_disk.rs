//! The disk of the server's journal fails, fills up or dawdles while the database is away, and the wall clock jumps:
//! nothing is acknowledged that is not safe, and what was acknowledged is applied once. By a preload shim in the
//! server's own process; where there is no C compiler these tests are skipped.

use std::time::Duration;

use ridethrough_chaos::Error;
use ridethrough_chaos::shim::{Rule, Shim, Victim};
use ridethrough_tests::{
    app::App,
    stack::{Lab, Server},
    until,
};
use tokio::time::Instant;

use crate::steps::{id, journal, outage, stored_todo, title};

const LIMIT: Duration = Duration::from_secs(20);

/// A server that obeys the shim; `None` where this machine has not what it takes.
async fn victim(lab: &Lab) -> Option<(App, Victim)> {
    let shim = match Shim::build(lab.run_folder()) {
        Ok(shim) => shim,
        Err(error @ Error::NoMeans { .. }) => {
            eprintln!("skipped: failed to {error}");
            return None;
        }
        Err(error) => panic!("failed to {error}"),
    };
    let victim = shim.victim("server").unwrap_or_else(|error| panic!("failed to {error}"));
    let server = lab.server_as("server-1", Server { env: victim.env().to_vec(), ..Server::default() }).await;
    server.ready().await;
    assert_eq!(victim.loaded(), 1, "the server is reached by the shim");
    Some((server, victim))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_whose_sync_failed_acknowledges_nothing_more_and_loses_nothing() {
    let lab = Lab::start().await;
    let Some((server, victim)) = victim(&lab).await else { return lab.finish().await };
    let known = format!("/api/todos/{}", stored_todo(&server, "known").await);
    let _ = server.main().get(&known).await.expect(200);
    outage(&lab, &[&server]).await;
    let titles = journal(&server, "before", 5).await;
    lab.expect_in_logs(&["could not sync the journal"]);
    let once = Rule::sync_fails(&server.home().join("data")).at_most(1);
    let fault = victim.apply(&once).expect("it can be put on");
    let unknown = server.main().create("torn", &title("torn")).await;
    assert!(unknown.status >= 500, "nothing was synced: {unknown:?}");
    assert_eq!(fault.hits(), 1);
    drop(fault);
    // The disk is well again, but nobody knows what became of the pages.
    let refused = server.main().create("after", &title("after")).await;
    assert!(refused.status >= 500, "a journal that failed is not trusted again: {refused:?}");
    // Row 13 of the health page: what it can still do is to show what it knows.
    server.mode_becomes("read-only").await;
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/readyz/reads", 200), ("/readyz/writes", 503)]
    {
        let _ = server.main().get(path).await.expect(status);
    }

    server.kill().await;
    server.restart().await;
    lab.database_returns().await;
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    assert_eq!(lab.number("SELECT count(*) FROM todos WHERE title = $1", &[&title("after")]).await, 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_on_a_full_disk_refuses_and_accepts_again_when_there_is_room() {
    let lab = Lab::start().await;
    let Some((server, victim)) = victim(&lab).await else { return lab.finish().await };
    outage(&lab, &[&server]).await;
    let mut titles = journal(&server, "before", 5).await;
    lab.expect_in_logs(&["the disk of the journal is full"]);
    let fault = victim.apply(&Rule::full_to_the_brim(&server.home().join("data"))).expect("it can be put on");
    let refused = server.main().create("refused", &title("refused")).await;
    let _ = refused.problem(503);
    assert!(fault.witness().is_some());
    let _ = server.main().get("/livez").await.expect(200);
    drop(fault);
    let accepted =
        async || (server.main().create("after", &title("after")).await.status == 202).then_some(());
    until("there is room again", LIMIT, accepted).await;
    titles.push(title("after"));

    lab.database_returns().await;
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    assert_eq!(lab.number("SELECT count(*) FROM todos WHERE title = $1", &[&title("refused")]).await, 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_syncs_short_writes_and_interruptions_only_delay_what_is_journaled() {
    const DELAY: Duration = Duration::from_millis(300);

    let lab = Lab::start().await;
    let Some((server, victim)) = victim(&lab).await else { return lab.finish().await };
    let data = server.home().join("data");
    outage(&lab, &[&server]).await;
    let slow = victim.apply(&Rule::slow_sync(&data, DELAY)).expect("it can be put on");
    let began = Instant::now();
    let mut titles = journal(&server, "slow", 1).await;
    assert!(began.elapsed() >= DELAY && slow.hits() > 0, "acknowledged before its sync");
    drop(slow);
    for (name, rule) in [("short", Rule::short_writes(&data)), ("torn", Rule::interrupted(&data).at_most(5))]
    {
        let fault = victim.apply(&rule).expect("it can be put on");
        titles.extend(journal(&server, name, 10).await);
        assert!(fault.witness().is_some(), "{name}");
    }

    lab.database_returns().await;
    server.ready().await;
    server.journal_is_empty().await;
    assert_eq!(lab.not_stored_once(&titles).await, []);
    lab.finish().await;
}

/// Ages, deadlines and the time to keep an answer go by the clock that does not jump.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_of_the_wall_clock_ages_no_answer_and_drops_no_write() {
    for hours in [1, -1] {
        let lab = Lab::start().await;
        let Some((server, victim)) = victim(&lab).await else { return lab.finish().await };
        let todo = id(&server.main().create("kept", &title("kept")).await.expect(201).acknowledged());
        let path = format!("/api/todos/{todo}");
        let _ = server.main().get(&path).await.expect(200);
        outage(&lab, &[&server]).await;
        let mut titles = journal(&server, "before", 3).await;
        let jump = victim.apply(&Rule::clock_jump(hours * 3_600_000)).expect("it can be put on");
        let stale = server.main().get(&path).await.expect(200);
        let age = stale.header("ridethrough-freshness").to_owned();
        let seconds: u64 = age
            .strip_prefix("stale; age=")
            .and_then(|rest| rest.split(';').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no age in {age}"));
        assert!(seconds < 60, "{hours} h: {age}");
        titles.extend(journal(&server, "after", 3).await);
        lab.database_returns().await;
        server.ready().await;
        server.journal_is_empty().await;
        assert!(jump.witness().is_some(), "the server looks at the wall clock now and then");
        assert_eq!(lab.not_stored_once(&titles).await, [], "{hours} h");
        drop(jump);
        lab.finish().await;
    }
}
