//! The faults of the laboratory on a real PostgreSQL: each is put on, seen by a client, proven by its witness, and
//! taken off again. What our own service does about them is in the end-to-end tests.

#[path = "laboratory/disk.rs"]
mod disk;
#[path = "laboratory/failover.rs"]
mod failover;
#[path = "laboratory/network.rs"]
mod network;
#[path = "laboratory/room.rs"]
mod room;
#[path = "laboratory/setting.rs"]
mod setting;

use std::path::PathBuf;
use std::time::Duration;

use ridethrough_chaos::{Cluster, RunFolder, cluster::Options};
use tokio_postgres::{Client, NoTls};

/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(20);

/// The harness binary, which is the guardian too.
fn guardian() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ridethrough-chaos"))
}

fn folder() -> RunFolder {
    RunFolder::create(Some(&guardian())).unwrap_or_else(|error| panic!("failed to {error}"))
}

async fn start(folder: &RunFolder, options: Options) -> Cluster {
    let options = Options { guardian: Some(guardian()), ..options };
    Cluster::start_in(folder, &options).await.unwrap_or_else(|error| panic!("failed to {error}"))
}

/// A session as the service has it.
async fn session(url: &str) -> Client {
    let connected = tokio::time::timeout(LIMIT, tokio_postgres::connect(url, NoTls)).await;
    let (client, connection) = connected.expect("it answers").expect("it takes a connection");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// A figure for whoever reads the log of a run.
fn say(line: &str) {
    eprintln!("{line}");
}
