//! What the servers hold while a run goes on: memory as the kernel counts it, the journal's files, and how many entries
//! wait in it. It judges none of it; `checker/bounds.rs` does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::history::{Event, Recorder, Usage};
use crate::stack::Service;
use crate::workload::{Target, journal_entries_of};

/// A backlog that goes within seconds must be seen to go.
const EVERY: Duration = Duration::from_millis(250);
/// Of what the kernel calls a block in the size of a file.
const BLOCK_BYTES: u64 = 512;

/// Looks until it is dropped. A server that is down, or a kernel that does not tell, leaves no line.
///
/// # Cancel safety
/// Dropping it loses the look under way.
pub(super) async fn watch(servers: Vec<Service>, targets: Vec<Target>, recorder: Recorder) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        for (server, target) in servers.iter().zip(&targets) {
            let Some(memory_bytes) = server.pid().and_then(memory) else { continue };
            let [fds, tasks] = ["fd", "task"].map(|kind| server.pid().and_then(|pid| entries(pid, kind)));
            let journal_bytes = folder_bytes(&server.home().join("data").join("journal"));
            let (process, at_us) = (target.name.clone(), recorder.now_us());
            let journal_entries = journal_entries_of(target).await;
            recorder.record(Event::Usage(Usage {
                process,
                at_us,
                memory_bytes,
                journal_entries,
                journal_bytes,
                fds,
                tasks,
            }));
        }
    }
}

/// Resident memory of a process in bytes.
fn memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// How many descriptors (`fd`) or threads (`task`) a process has.
fn entries(pid: u32, kind: &str) -> Option<u64> {
    fs::read_dir(format!("/proc/{pid}/{kind}")).ok().map(|entries| entries.count() as u64)
}

/// What the files of a folder take: their length, or the room reserved for them where that is more.
fn folder_bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file);
    sizes.map(|file| file.len().max(file.blocks() * BLOCK_BYTES)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_nobody_has_none() {
        assert!(memory(std::process::id()).unwrap() > 100_000);
        assert_eq!(memory(u32::MAX), None);
        assert!(entries(std::process::id(), "fd").unwrap() >= 3);
        assert!(entries(std::process::id(), "task").unwrap() >= 1);
        assert_eq!(entries(u32::MAX, "fd"), None);
    }

    #[test]
    fn a_folder_takes_at_least_what_its_files_are_long() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), [1; 10_000]).unwrap();
        fs::write(folder.path().join("two"), [1; 500]).unwrap();
        assert!((10_500..100_000).contains(&folder_bytes(folder.path())));
        assert_eq!(folder_bytes(&folder.path().join("missing")), 0);
    }
}
