//! What a long outage takes of the machine's memory, from the first accepted write until the backlog is gone: in proportion
//! to what waits, and beside that within a bound of its own. The ten minutes of it are the chaos suite's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ridethrough::{DbConfig, Deadline, db::Written};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    replay::command,
    say,
    service::{Service, as_service, database},
};

/// Writes in the outage, and writers.
const WRITES: u128 = 100_000;
const WRITERS: u128 = 64;
/// Of each waiting entry, as the journal's page says.
const ENTRY_BYTES: u64 = 200;
/// Beside that: promises, batches on their way, a quarter of the cache, and what the allocator keeps.
const SLACK_BYTES: u64 = 64 * 1024 * 1024;

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse::<u64>().ok()).expect("in KiB") * 1024
}

/// The largest of it, until the flag is set.
fn watched(ended: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let most = AtomicU64::new(0);
        while !ended.load(Ordering::Relaxed) {
            most.fetch_max(resident(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
        most.into_inner()
    })
}

/// In ten minutes with 350,000 accepted writes a server grew by 203 MiB, where 130 were allowed: replay put each of them
/// into the cache, which took twice what it weighed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_takes_memory_for_what_waits_and_no_more() {
    let (_folder, cluster) = database(&[]).await;
    let client = as_service(&cluster.url()).await;
    client.batch_execute(ridethrough_server::write_side::SCHEMA).await.expect("the tables can be made");
    cluster.kill().await.expect("a running database can be killed");
    let config = DbConfig { url: cluster.url(), ..DbConfig::default() };
    let commands = ridethrough_server::write_side::todo_commands(Uuid::from_u128(7));
    let service = Arc::new(Service::unseen(config, commands));
    let before = resident();
    let writers = (0..WRITERS).map(|writer| {
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            for number in (writer..WRITES).step_by(WRITERS as usize) {
                let key = format!("{:032x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let title = json!({ "title": format!("the title of todo {number}") });
                let command = command(&key, "todo.create", Uuid::from_u128(number), title);
                let deadline = Deadline::after(Instant::now(), Duration::from_secs(30));
                let written = service.db.write(command, deadline).await;
                assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer does not panic");
    }
    let waiting = resident() - before;
    let ended = Arc::new(AtomicBool::new(false));
    let watched = watched(Arc::clone(&ended));
    cluster.start_again().await.expect("it starts again");
    service.has_settled().await;
    ended.store(true, Ordering::Relaxed);
    let most = watched.join().expect("it does not panic") - before;
    let (left, cache) = (resident() - before, service.db.cache().size());
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    say(&format!(
        "{WRITES} writes: {:.1} MiB while they wait, {:.1} at the most, {:.1} when they are gone; cache {cache:?}",
        mib(waiting),
        mib(most),
        mib(left)
    ));
    let allowed = WRITES as u64 * ENTRY_BYTES + SLACK_BYTES;
    assert!(most < allowed, "{} MiB taken, {} allowed", mib(most), mib(allowed));
}
