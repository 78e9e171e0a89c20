//! The laboratory itself: it holds what holds, finds each planted bug, and leaves nothing behind, even where it is killed.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use ridethrough_chaos::{
    sabotage::BUGS,
    scenario::Scenario,
    schedule::{Planned, Schedule},
};
use ridethrough_tests::{
    launch::{Blueprint, Exit, Output, Running, program, run},
    seed,
    stack::{processes_in, run_folders_of},
    until,
};

/// A run of the demo's length, with all around it.
const RUN_LIMIT: Duration = Duration::from_secs(120);

fn laboratory(name: &str, args: &[&str]) -> Blueprint {
    let args: Vec<OsString> = args.iter().map(Into::into).collect();
    Blueprint { name: name.to_owned(), program: program("ridethrough-chaos"), args, env: Vec::new() }
}

/// A run to its end, in `home`; afterwards nothing of it may be left.
async fn run_in(home: &Path, name: &str, args: &[&str]) -> Output {
    let output = run(&laboratory(name, args), &home.join(name), RUN_LIMIT).await;
    assert_eq!(run_folders_of(output.pid), Vec::<PathBuf>::new(), "a run folder is left behind");
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_holds_and_writes_its_report() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let seed = seed().to_string();
    let output = run_in(
        home.path(),
        "run",
        &["run", "db-kill", "--duration", "9", "--seed", &seed, "--out", "reports"],
    )
    .await;
    assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("0 were lost and 0 doubled"), "{}", output.stdout);
    let out = home.path().join("run").join("reports").join("db-kill");
    for file in ["history.jsonl", "verdict.json", "report.html", "junit.xml", "summary.md"] {
        let length = std::fs::metadata(out.join(file)).map_or(0, |file| file.len());
        assert!(length > 100, "{file} has {length} bytes");
    }
    // The verdict comes from the history alone.
    let history = out.join("history.jsonl").display().to_string();
    let again = run_in(home.path(), "check", &["check", &history]).await;
    assert_eq!(again.exit, Exit::Code(0), "{}\n{}", again.stdout, again.stderr);
    // What the servers said of themselves reached the picture.
    let page = std::fs::read_to_string(out.join("report.html")).expect("the report is text");
    for lane in ["server-1 breaker", "server-2 breaker", "in journals", "connections", "connects per s"] {
        assert!(page.contains(&format!("{lane}</text>")), "no lane for {lane}");
    }
    let folder = out.display().to_string();
    let same = run_in(home.path(), "diff", &["diff", &folder, &folder]).await;
    assert_eq!(same.exit, Exit::Code(0), "{}\n{}", same.stdout, same.stderr);
    // Nothing kept of the run may tell the way into a database.
    assert!(!page.contains("postgres://"), "the report tells the URL of the database");
}

/// A short run of a scenario that must hold.
async fn holds(scenario: &str) {
    let home = tempfile::tempdir().expect("a folder can be made");
    let seed = seed().to_string();
    // Light enough for a machine that does other things as well.
    let args = ["run", scenario, "--duration", "8", "--rate", "60", "--seed", &seed, "--out", "reports"];
    let output = run_in(home.path(), scenario, &args).await;
    assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_get_through_a_database_that_hangs() {
    holds("db-hang").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_get_through_an_administrator_who_ends_every_session() {
    holds("sessions-terminated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_get_through_a_rollout_while_the_database_is_away() {
    holds("rolling-restart-in-outage").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_get_through_a_password_that_was_rotated() {
    holds("password-rotated").await;
}

/// A harness that broke nothing would find that all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_without_its_effect_proves_nothing_and_its_schedule_with_it_does() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let args = ["run", "db-kill", "--duration", "6", "--rate", "60", "--seed", "7", "--out", "reports"];
    let env = vec![("RIDETHROUGH_CHAOS_TOOTHLESS".to_owned(), "1".to_owned())];
    let toothless = Blueprint { env, ..laboratory("toothless", &args) };
    let output = run(&toothless, &home.path().join("toothless"), RUN_LIMIT).await;
    assert_eq!(output.exit, Exit::Code(2), "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("X1"), "{}", output.stdout);
    // The schedule in its folder is all that another run needs.
    let folder = home.path().join("toothless").join("reports").join("db-kill").display().to_string();
    let output = run_in(home.path(), "replay", &["replay", &folder, "--out", "again"]).await;
    assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
    let read = |folder: &Path| Schedule::read(folder).expect("a schedule is there");
    assert_eq!(read(Path::new(&folder)), read(&home.path().join("replay").join("again")));
}

/// The laboratory plants these bugs into a server and says that it found each.
async fn finds(bugs: &[&str]) {
    let home = tempfile::tempdir().expect("a folder can be made");
    let seed = seed().to_string();
    let args = [&["self-test", "--seed", &seed, "--out", "reports"], bugs].concat();
    let output = run_in(home.path(), "self-test", &args).await;
    assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
    for bug in bugs.iter().filter(|bug| !bug.starts_with("--")) {
        let caught = output.stdout.lines().any(|line| line.starts_with("caught") && line.contains(bug));
        assert!(caught, "{}", output.stdout);
    }
    assert!(output.stdout.contains("X4 held"), "{}", output.stdout);
}

/// The others are for `make soak`: each takes a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_keys_or_dies_with_its_database_is_found_out() {
    // Their control is a run that other tests make.
    finds(&["no-idempotency", "liveness-asks-database", "--no-control"]).await;
}

/// Described as a target, because its users must write to one thing more than once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_replays_in_the_wrong_order_is_found_out() {
    finds(&["order-swapped", "--no-control"]).await;
}

/// A bug that nobody looks for would be there for nothing.
#[test]
fn every_bug_that_can_be_planted_is_looked_for() {
    let lines = include_str!("../../core/src/sabotage.rs").lines();
    let planted = lines.filter_map(|line| line.trim().strip_prefix("(\"")?.split_once("\", Bug::"));
    let planted: BTreeSet<&str> = planted.map(|(name, _)| name).collect();
    assert_eq!(planted, BUGS.iter().map(|bug| bug.name).collect());
}

/// With its control: a disk that forgets what was not synced is harmless where everything is synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_acknowledges_without_syncing_is_found_out() {
    finds(&["skip-fsync"]).await;
}

/// What breaks promises on purpose must not be there where somebody could set a variable by mistake.
#[test]
fn the_server_that_is_shipped_knows_no_bugs() {
    let text = |name: &str| {
        let bytes = std::fs::read(program(name)).expect("the program can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (sabotaged, shipped) = (text("ridethrough-server-sabotage"), text("ridethrough-server"));
    let names = BUGS.iter().map(|bug| bug.name).chain(["RIDETHROUGH_SABOTAGE", "RIDETHROUGH_FAILPOINT"]);
    for name in names {
        assert!(sabotaged.contains(name) && !shipped.contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_at_once_do_not_disturb_each_other() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let run = async |name: &'static str| {
        let seed = seed().to_string();
        let args = ["run", "db-kill", "--duration", "9", "--rate", "40", "--seed", &seed, "--out", "reports"];
        run_in(home.path(), name, &args).await
    };
    for output in <[Output; 2]>::from(tokio::join!(run("one"), run("two"))) {
        assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_laboratory_leaves_no_process_and_no_folder() {
    /// Guardian, postmaster and its children, two servers, the proxy.
    const PROCESSES_MIN: usize = 8;

    let home = tempfile::tempdir().expect("a folder can be made");
    let running =
        Running::start(&laboratory("killed", &["run", "no-fault", "--out", "reports"]), home.path());
    let folder = until("the stack is up", Duration::from_secs(30), async || {
        let folder = run_folders_of(running.pid()).pop()?;
        (processes_in(&folder).len() >= PROCESSES_MIN).then_some(folder)
    })
    .await;
    // By SIGKILL: it can do nothing about it.
    drop(running);
    until("everything is gone", Duration::from_secs(5), async || {
        (!folder.exists() && processes_in(&folder).is_empty()).then_some(())
    })
    .await;
}

/// Stopped processes, programs that compute, a restart in the background: whatever a fault has made must go with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_laboratory_that_is_killed_at_any_moment_of_its_faults_leaves_nothing() {
    const TIMES: u64 = 10;
    const LATEST_MS: u64 = 4_000;

    let home = tempfile::tempdir().expect("a folder can be made");
    let mut random = fastrand::Rng::with_seed(seed());
    let mut schedule =
        Scenario::find("no-fault").and_then(|scenario| scenario.schedule(1, None, None)).expect("a schedule");
    schedule.load.warm_todos = 1;
    let planned = |fault: &str| Planned {
        fault: fault.parse().expect("a fault"),
        server: 0,
        from: "0 ms".parse().expect("a moment"),
        until: "9000 ms".parse().expect("a moment"),
    };
    for faults in
        [["cpu-starved", "server-pause", "db-hang"], ["rolling-restart", "lock-storm", "db-flapping"]]
    {
        schedule.faults = faults.map(planned).to_vec();
        schedule.write(home.path()).expect("a schedule can be written");
        let file = home.path().join("schedule.toml").display().to_string();
        for _ in 0..TIMES / 2 {
            let args = ["run", "--schedule", &file, "--out", "reports"];
            let running = Running::start(&laboratory("killed", &args), home.path());
            let pid = running.pid();
            tokio::time::sleep(Duration::from_millis(random.u64(100..LATEST_MS))).await;
            let folders = run_folders_of(pid);
            // By SIGKILL: it can do nothing about it.
            drop(running);
            until("everything is gone", Duration::from_secs(5), async || {
                let gone = |folder: &PathBuf| !folder.exists() && processes_in(folder).is_empty();
                (folders.iter().all(gone) && run_folders_of(pid).is_empty()).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_question_is_an_error_of_the_harness_and_no_verdict() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let output = run_in(home.path(), "unknown", &["run", "db-melt"]).await;
    assert_eq!(output.exit, Exit::Code(3), "{output:?}");
    assert!(output.stderr.contains("db-melt") && output.stderr.contains("db-kill"), "{output:?}");
    let output = run_in(home.path(), "missing", &["check", "no-such-file.jsonl"]).await;
    assert_eq!(output.exit, Exit::Code(3), "{output:?}");
    let output = run_in(home.path(), "list", &["list"]).await;
    assert_eq!(output.exit, Exit::Code(0), "{output:?}");
    assert!(output.stdout.contains("server-kill-in-outage"), "{output:?}");
}
