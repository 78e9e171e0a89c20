//! The last looks of a run: the rows that are really in the database, the lives of all processes, their logs.
//! It judges none of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{APP, Cluster};
use crate::error::Error;
use crate::history::{Event, FinalRow, FinalRows, LossReport, ProcessExit, ProcessStart, Recorder, Role};
use crate::stack::{Service, Stack};
use crate::workload;

/// A healthy database answers this in milliseconds, also with a million rows in seconds.
const ROWS_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Waits until no session of the service has anything under way: a statement may outlive whoever sent it.
pub(super) async fn quiet(cluster: &Cluster) -> Result<(), Error> {
    /// Above the longest statement of the service.
    const LIMIT: Duration = Duration::from_secs(10);
    /// So many looks in a row: between two statements of a transaction-less service there is nothing to see.
    const LOOKS: u32 = 4;
    const EVERY: Duration = Duration::from_millis(50);
    let what = "see the sessions of the service at rest";
    let watch = async {
        let client = cluster.connect(CONNECT_LIMIT).await?;
        let query = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state <> 'idle'";
        let mut looks = 0;
        while looks < LOOKS {
            let row = client.query_one(query, &[&APP]).await.map_err(Error::postgres(what))?;
            let busy: i64 = row.try_get(0).map_err(Error::postgres(what))?;
            looks = if busy == 0 { looks + 1 } else { 0 };
            tokio::time::sleep(EVERY).await;
        }
        Ok(())
    };
    // A session that never rests is no reason to read nothing; W1 and W2 are judged by what is there.
    tokio::time::timeout(LIMIT, watch).await.unwrap_or(Ok(()))
}

/// The todos of our own server.
pub(super) const OWN_TODOS: &str = "SELECT id::text, title, version, done FROM public.todos ORDER BY id";

/// Reads every todo straight from PostgreSQL by this query, in one snapshot.
pub(super) async fn final_rows(cluster: &Cluster, query: &str, recorder: &Recorder) -> Result<(), Error> {
    let what = "read the final rows";
    let read = async {
        let mut client = cluster.connect(CONNECT_LIMIT).await?;
        let snapshot = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true);
        let transaction = snapshot.start().await.map_err(Error::postgres(what))?;
        let rows = transaction.query(query, &[]).await.map_err(Error::postgres(what))?;
        rows.iter().map(to_row).collect::<Result<Vec<_>, _>>().map_err(Error::postgres(what))
    };
    let late = |_| Error::Late { what: what.to_owned(), limit: ROWS_LIMIT };
    let rows = tokio::time::timeout(ROWS_LIMIT, read).await.map_err(late)??;
    let count = rows.len() as u64;
    let told = recorder.clone();
    // More of them than the queue of the history holds.
    let writing = tokio::task::spawn_blocking(move || {
        rows.into_iter().for_each(|row| told.record_in_time(Event::FinalRow(row)));
    });
    writing.await.map_err(|error| Error::state(what, error.to_string()))?;
    recorder.record(Event::FinalRows(FinalRows { at_us: recorder.now_us(), rows: count }));
    Ok(())
}

fn to_row(row: &tokio_postgres::Row) -> Result<FinalRow, tokio_postgres::Error> {
    Ok(FinalRow {
        id: row.try_get(0)?,
        title: row.try_get(1)?,
        version: row.try_get(2)?,
        done: row.try_get(3)?,
    })
}

/// Asks each server which writes it calls lost by a failover. Who does not answer leaves no line.
pub(super) async fn losses(stack: &Stack, recorder: &Recorder) {
    for server in stack.targets() {
        if let Some(keys) = workload::lost_by(&server).await {
            let (process, at_us) = (server.name.clone(), recorder.now_us());
            recorder.record(Event::LossReport(LossReport { process, at_us, keys }));
        }
    }
}

/// Records every start and end of the servers and the proxy. To be called before they are stopped for good: that
/// end is no part of the run.
pub(super) fn lives(stack: &Stack, recorder: &Recorder) {
    let servers = stack.servers().iter().map(|server| (server, Role::Server));
    for (service, role) in servers.chain(stack.proxy().map(|proxy| (proxy, Role::Proxy))) {
        lives_of(service, role, recorder);
    }
}

fn lives_of(service: &Service, role: Role, recorder: &Recorder) {
    for life in service.lives() {
        let process = service.name().to_owned();
        if let Some(up) = life.up {
            let (process, at_us) = (process.clone(), recorder.us_of(up));
            recorder.record(Event::ProcessStart(ProcessStart { process, role, at_us, pid: life.pid }));
        }
        if let (Some(down), Some(exit)) = (life.down, life.exit) {
            let (at_us, how) = (recorder.us_of(down), exit.to_string());
            recorder.record(Event::ProcessExit(ProcessExit {
                process,
                role,
                at_us,
                planned: life.planned,
                how,
            }));
        }
    }
}

/// Copies all logs beside the report, because the run folder goes. Best effort: a run is not wrong for want of them.
pub(super) fn save_logs(folder: &Path, out: &Path) {
    let logs = out.join("logs");
    // Those of an earlier run into the same folder would mislead.
    let _ = fs::remove_dir_all(&logs);
    if fs::create_dir_all(&logs).is_err() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log" || extension == "out") {
            let _ = fs::copy(&path, logs.join(entry.file_name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logs_are_kept_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        fs::create_dir(out.path().join("logs")).unwrap();
        fs::write(out.path().join("logs/old.log"), "old").unwrap();
        for name in ["server-1.log", "proxy.out", "belongings"] {
            fs::write(folder.path().join(name), "text").unwrap();
        }
        save_logs(folder.path(), out.path());
        let mut names: Vec<_> =
            fs::read_dir(out.path().join("logs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["proxy.out", "server-1.log"]);
    }
}
