//! Disks that are full, fail or dawdle, and a clock that jumps, by the preload shim in a stock PostgreSQL.

use std::time::Duration;

use ridethrough_chaos::cluster::Options;
use ridethrough_chaos::shim::{self, Rule, Shim, Victim};
use ridethrough_chaos::{Cluster, Error, RunFolder};
use tokio::time::{Instant, timeout};

use crate::{LIMIT, folder, say, session, start};

/// A PostgreSQL that obeys the shim, with a table; `None` where this machine has not what it takes.
async fn victim(settings: &[(&str, &str)]) -> Option<(RunFolder, Cluster, Victim)> {
    let folder = folder();
    let shim = match Shim::build(&folder) {
        Ok(shim) => shim,
        Err(error @ Error::NoMeans { .. }) => {
            say(&format!("skipped: failed to {error}"));
            return None;
        }
        Err(error) => panic!("failed to {error}"),
    };
    let victim = shim.victim("postgresql").unwrap_or_else(|error| panic!("failed to {error}"));
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let env = victim.env().map(|(name, value)| (name.to_owned(), value)).to_vec();
    let cluster = start(&folder, Options { env, settings, ..Options::default() }).await;
    assert_eq!(victim.loaded(), 1, "PostgreSQL is reached by the shim");
    let client = session(&cluster.url()).await;
    client
        .batch_execute("CREATE TABLE held (number bigint, filler text)")
        .await
        .expect("a table can be made");
    Some((folder, cluster, victim))
}

/// How long one committed insert takes, or what it fails with: the SQLSTATE, or "none" for a session that just ends.
async fn insert(url: &str, number: i64) -> Result<Duration, String> {
    let client = session(url).await;
    let began = Instant::now();
    let statement = "INSERT INTO held VALUES ($1, repeat('x', 1000))";
    match timeout(LIMIT, client.execute(statement, &[&number])).await.expect("it ends") {
        Ok(_) => Ok(began.elapsed()),
        Err(error) => Err(error.code().map_or("none".to_owned(), |code| code.code().to_owned())),
    }
}

fn log(cluster: &Cluster) -> String {
    std::fs::read_to_string(cluster.log()).unwrap_or_default()
}

#[test]
fn the_probe_sees_a_write_fail() {
    match shim::probe(&folder()) {
        Ok(seen) => assert!(seen.contains("ENOSPC"), "{seen}"),
        Err(error) => say(&format!("skipped: failed to {error}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_table_disk_writes_fail_with_53100_and_reads_go_on() {
    let Some((_folder, cluster, victim)) = victim(&[]).await else { return };
    let url = cluster.url();
    let full = victim.apply(&Rule::full(&cluster.data().join("base"))).expect("it can be put on");
    let client = session(&url).await;
    let statement = "INSERT INTO held SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n";
    let error = timeout(LIMIT, client.execute(statement, &[])).await.expect("it ends").expect_err("no room");
    assert_eq!(error.code().map(|code| code.code()), Some("53100"), "{error}");
    client.query_one("SELECT count(*) FROM held", &[]).await.expect("the same session reads");
    assert!(full.witness().is_some_and(|said| said.contains("ENOSPC")));
    drop(full);
    client.execute(statement, &[]).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_full_wal_disk_postgresql_panics_and_comes_back_with_all_it_acknowledged() {
    let Some((_folder, cluster, victim)) = victim(&[]).await else { return };
    let url = cluster.url();
    let full = victim.apply(&Rule::full(&cluster.data().join("pg_wal"))).expect("it can be put on");
    let mut acknowledged = 0;
    for number in 1..=10 {
        insert(&url, number).await.expect("there is room in the file of WAL in use");
        acknowledged += 1;
    }
    // Files of WAL have 1 MB here, and a few are made in advance.
    let client = session(&url).await;
    let much = "INSERT INTO held SELECT n, repeat('x', 1000) FROM generate_series(11, 20000) n";
    timeout(LIMIT, client.execute(much, &[])).await.expect("it ends").expect_err("no room");
    assert!(full.hits() > 0);
    assert!(log(&cluster).contains("PANIC"), "{}", log(&cluster));
    drop(full);
    let took = cluster.revive().await.unwrap_or_else(|error| panic!("failed to {error}"));
    say(&format!("{acknowledged} acknowledged, serving {} ms after there was room", took.as_millis()));
    let client = session(&url).await;
    let count: i64 = client.query_one("SELECT count(*) FROM held", &[]).await.expect("it reads").get(0);
    assert_eq!(count, acknowledged, "what was acknowledged, and nothing of what was not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_the_wal_is_a_panic_with_unknown_outcome() {
    let Some((_folder, cluster, victim)) = victim(&[]).await else { return };
    let url = cluster.url();
    let once = Rule::sync_fails(&cluster.data().join("pg_wal")).at_most(1);
    let fault = victim.apply(&once).expect("it can be put on");
    let error = insert(&url, 1).await.expect_err("it cannot be acknowledged");
    say(&format!("the client got {error}"));
    assert_eq!(fault.hits(), 1);
    assert!(log(&cluster).contains("PANIC"), "{}", log(&cluster));
    drop(fault);
    cluster.revive().await.unwrap_or_else(|error| panic!("failed to {error}"));
    insert(&url, 2).await.expect("it takes writes again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_sync_makes_commits_slow_and_nothing_else() {
    const DELAY: Duration = Duration::from_millis(500);
    let Some((_folder, cluster, victim)) = victim(&[]).await else { return };
    let url = cluster.url();
    let slow =
        victim.apply(&Rule::slow_sync(&cluster.data().join("pg_wal"), DELAY)).expect("it can be put on");
    let took = insert(&url, 1).await.expect("it is only slow");
    assert!(took >= DELAY && slow.hits() > 0, "{took:?}");
    drop(slow);
    let took = insert(&url, 2).await.expect("it goes on");
    assert!(took < DELAY, "healed: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_and_interrupted_writes_are_made_good_by_postgresql() {
    let Some((_folder, cluster, victim)) = victim(&[]).await else { return };
    let url = cluster.url();
    let wal = cluster.data().join("pg_wal");
    for rule in [Rule::short_writes(&wal).at_most(20), Rule::interrupted(&wal).at_most(20)] {
        let fault = victim.apply(&rule).expect("it can be put on");
        insert(&url, 1).await.expect("it writes the rest");
        assert!(fault.witness().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_clock_of_one_program_jumps_and_comes_back() {
    let Some((_folder, cluster, victim)) = victim(&[]).await else { return };
    let client = session(&cluster.url()).await;
    let ask = "SELECT extract(epoch FROM clock_timestamp())::bigint";
    let off = async || {
        let its: i64 = client.query_one(ask, &[]).await.expect("it answers").get(0);
        let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        its - i64::try_from(ours).unwrap()
    };
    let jump = victim.apply(&Rule::clock_jump(-3_600_000)).expect("it can be put on");
    assert!((-3_610..=-3_590).contains(&off().await));
    assert!(jump.hits() > 0);
    drop(jump);
    assert!((-10..=10).contains(&off().await));
}

/// One run of a stock program whose disk forgets.
fn dd(env: &[(String, String)], args: &[&str]) {
    let mut program = std::process::Command::new("dd");
    let done = program.args(args).args(["bs=4", "status=none"]).envs(env.iter().cloned()).status();
    assert!(done.expect("dd can be started").success(), "{args:?}");
}

#[test]
fn what_a_program_did_not_sync_is_gone_at_its_next_start() {
    let folder = folder();
    let (held, other) = (folder.path().join("held"), folder.path().join("other"));
    std::fs::create_dir(&held).and_then(|()| std::fs::create_dir(&other)).expect("folders can be made");
    let env = match Shim::forgetful(&folder, "dd", &held) {
        Ok(env) => env,
        Err(error @ Error::NoMeans { .. }) => return say(&format!("skipped: failed to {error}")),
        Err(error) => panic!("failed to {error}"),
    };
    for (name, text) in [("synced", "good"), ("lost", "evil")] {
        std::fs::write(folder.path().join(name), text).expect("a file can be written");
    }
    let (synced, lost) = (folder.path().join("synced"), folder.path().join("lost"));
    let (synced, lost) = (format!("if={}", synced.display()), format!("if={}", lost.display()));
    let (inside, outside) = (held.join("file"), other.join("file"));
    let (to_inside, to_outside) = (format!("of={}", inside.display()), format!("of={}", outside.display()));
    dd(&env, &[&synced, &to_inside, "conv=notrunc,fsync"]);
    dd(&env, &[&lost, &to_outside, "conv=notrunc"]);
    // Over what is there, and beyond its end.
    dd(&env, &[&lost, &to_inside, "conv=notrunc"]);
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("a file can be read");
    assert_eq!(read(&inside), "evil", "until the next start it is there, as in the page cache");
    dd(&env, &[&lost, &to_inside, "conv=notrunc", "seek=1"]);
    assert_eq!(read(&inside), "goodevil", "the one before is undone");
    dd(&env, &["if=/dev/null", &to_outside, "conv=notrunc"]);
    assert_eq!((read(&inside).as_str(), read(&outside).as_str()), ("good", "evil"));
}
