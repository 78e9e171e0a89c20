//! The network between the server and PostgreSQL loses every packet without a word, or forgets the sessions there are.
//! In namespaces of their own, which these tests enter by starting this program again; where the machine has none,
//! they are skipped.

use std::{path::PathBuf, process::Stdio, time::Duration};

use ridethrough_chaos::{
    RunFolder, cluster,
    namespace::{self, Way, Wire},
};
use ridethrough_tests::{app::App, launch, stack::Lab, until};
use tokio::time::{Instant, timeout};

use crate::steps::{Watch, id, journal, title};

/// A run inside, with all its processes.
const INSIDE_LIMIT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
/// No answer takes longer: a request's deadline, and room for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Runs a test inside; skips it with the reason where that cannot be done.
fn inside(name: &str, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    if namespace::entered() {
        return runtime.block_on(test);
    }
    let again = async {
        let chaos: PathBuf = launch::program("ridethrough-chaos");
        if let Err(error) = namespace::probe(Some(&chaos)).await {
            eprintln!("skipped: failed to {error}");
            return;
        }
        let own = std::env::current_exe().expect("this program has a path");
        let command = namespace::command(&own).unwrap_or_else(|error| panic!("failed to {error}"));
        let mut command = tokio::process::Command::from(command);
        command.args(["--exact", name, "--nocapture"]).stdin(Stdio::null()).kill_on_drop(true);
        let ended = timeout(INSIDE_LIMIT, command.output()).await.expect("it ends");
        let ended = ended.expect("this program can be started again");
        let said = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "failed inside ({}): {said}",
            ended.status
        );
    };
    runtime.block_on(again);
}

/// A server that reaches its database over a wire, with one todo read; the path to that.
async fn over_a_wire() -> (Lab, Wire, App, String) {
    let folder = RunFolder::create(None).expect("a run folder can be made");
    let wire = Wire::lay(&folder).unwrap_or_else(|error| panic!("failed to {error}"));
    let place = wire.place().unwrap_or_else(|error| panic!("failed to {error}"));
    let lab = Lab::start_in(folder, cluster::Options { place, ..cluster::Options::default() }).await;
    let server = lab.server("server-1").await;
    let path = format!("/api/todos/{}", id(&server.main().create("kept", &title("kept")).await.expect(201)));
    let _ = server.main().get(&path).await.expect(200);
    (lab, wire, server, path)
}

#[test]
fn while_packets_are_lost_reads_are_stale_writes_are_journaled_and_nobody_waits_without_end() {
    let name =
        "blackhole::while_packets_are_lost_reads_are_stale_writes_are_journaled_and_nobody_waits_without_end";
    inside(name, async {
        let (lab, wire, server, path) = over_a_wire().await;
        lab.expect_outage();
        let watch = Watch::over(&server, &["/livez", "/readyz"]);
        let lost = wire.cut(Way::Both).expect("the wire can be cut");
        let began = Instant::now();
        let first = timeout(ANSWER_LIMIT, server.main().get(&path)).await.expect("in time").expect(200);
        assert_ne!(first.freshness(), "fresh", "nothing comes from the database");
        let noticed = async || (server.mode().await == "degraded").then_some(());
        until("the server notices", LIMIT, noticed).await;
        eprintln!("degraded {} ms after the cut", began.elapsed().as_millis());
        let titles = journal(&server, "lost", 10).await;
        assert!(lost.witness().is_some());
        watch.was_always_well().await;
        drop(lost);
        until("the server is back", LIMIT, async || (server.mode().await == "normal").then_some(())).await;
        server.journal_is_empty().await;
        assert_eq!(lab.not_stored_once(&titles).await, []);
        lab.finish().await;
    });
}

#[test]
fn sessions_that_a_nat_forgot_are_replaced_and_writes_go_on() {
    inside("blackhole::sessions_that_a_nat_forgot_are_replaced_and_writes_go_on", async {
        let (lab, wire, server, _) = over_a_wire().await;
        lab.expect_outage();
        let lost = wire.forget_sessions().expect("it can be done");
        let mut acknowledged = Vec::new();
        // A server that waits for its dead sessions never commits again; new ones would work at once.
        let commits = async || {
            let name = format!("after-{}", acknowledged.len());
            let answer =
                timeout(ANSWER_LIMIT, server.main().create(&name, &title(&name))).await.expect("in time");
            let committed = answer.status == 201;
            if matches!(answer.status, 201 | 202) {
                acknowledged.push(title(&name));
            }
            committed.then_some(())
        };
        let began = Instant::now();
        until("writes are committed again", LIMIT, commits).await;
        eprintln!("committed again {} ms after", began.elapsed().as_millis());
        assert!(lost.witness().is_some());
        server.journal_is_empty().await;
        assert_eq!(lab.not_stored_once(&acknowledged).await, []);
        drop(lost);
        lab.finish().await;
    });
}
