//! The kernel's process table: who exists, who descends from whom, who works in which folder.
//! Reads only; signals and waits are in `process.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// One process, as `/proc/PID/stat` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// The program's short name, at most 15 characters.
    pub(crate) name: String,
    state: char,
    /// Clock ticks since boot; with the pid it names a process for good.
    pub(crate) started: u64,
    /// Processor time used by it and by the children it reaped, in clock ticks.
    pub(crate) ticks: u64,
}

impl Entry {
    /// It has ended and waits to be reaped.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// It has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !self.is_zombie()
    }

    /// It was stopped by a signal.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }
}

/// One look at all processes. It ages at once: take a [`super::Handle`] before signalling.
#[derive(Debug)]
pub(crate) struct Table(BTreeMap<u32, Entry>);

impl Table {
    /// Reads the table; empty where there is no `/proc`.
    pub(crate) fn read() -> Self {
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(read).map(|entry| (entry.pid, entry)).collect())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }

    /// The process with this pid and this start time.
    pub(crate) fn find(&self, pid: u32, started: u64) -> Option<&Entry> {
        self.0.get(&pid).filter(|entry| entry.started == started)
    }

    /// All descendants of the given processes, without these themselves.
    pub(crate) fn descendants(&self, roots: impl IntoIterator<Item = u32>) -> Vec<&Entry> {
        let mut known: BTreeSet<u32> = roots.into_iter().collect();
        let mut found = Vec::new();
        // A child can have a lower pid than its parent, so one pass is not enough; each pass finds one generation.
        loop {
            let new: Vec<&Entry> = self
                .entries()
                .filter(|entry| known.contains(&entry.parent) && !known.contains(&entry.pid))
                .collect();
            if new.is_empty() {
                return found;
            }
            known.extend(new.iter().map(|entry| entry.pid));
            found.extend(new);
        }
    }

    /// Processes whose working folder is one of `folders` or lies below one. Zombies have none.
    pub(crate) fn working_below(&self, folders: &[PathBuf]) -> Vec<&Entry> {
        let below = |entry: &&Entry| {
            let folder = std::fs::read_link(format!("/proc/{}/cwd", entry.pid));
            folder.is_ok_and(|folder| folders.iter().any(|above| folder.starts_with(above)))
        };
        self.entries().filter(below).collect()
    }
}

/// One process's entry, or `None` when it does not exist.
pub(super) fn read(pid: u32) -> Option<Entry> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE PARENT …`; the name may hold blanks and parentheses, so it ends at the last one.
fn parse(stat: &str) -> Option<Entry> {
    /// Counted from the state, which is field 3 of the line; the times are fields 14 to 17, the start time is 22.
    const TIMES: usize = 14 - 3;
    const STARTED: usize = 22 - 3;
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Entry {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        started: fields.get(STARTED)?.parse().ok()?,
        ticks: fields.get(TIMES..TIMES + 4)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: u32, parent: u32) -> Entry {
        Entry { pid, parent, name: "postgres".to_owned(), state: 'S', started: u64::from(pid), ticks: 0 }
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_is_read_whole() {
        let line = "77 (a (b) c) T 5 77 77 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 123456 1 2 3";
        let entry = parse(line).unwrap();
        assert_eq!(
            (entry.pid, entry.parent, entry.name.as_str(), entry.started),
            (77, 5, "a (b) c", 123_456)
        );
        assert!(entry.is_stopped() && entry.is_alive() && entry.ticks == 10);
    }

    #[test]
    fn a_torn_line_is_nobody() {
        assert_eq!(parse("77 (a) T 5"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn descendants_are_found_over_generations_and_against_pid_order() {
        let all = [entry(10, 1), entry(9, 10), entry(8, 9), entry(20, 1), entry(21, 20)];
        let table = Table(all.into_iter().map(|entry| (entry.pid, entry)).collect());
        let pids: BTreeSet<u32> = table.descendants([10]).iter().map(|entry| entry.pid).collect();
        assert_eq!(pids, BTreeSet::from([8, 9]));
    }

    #[test]
    fn this_process_is_in_the_table_with_its_start_time() {
        let table = Table::read();
        let own = read(std::process::id()).unwrap();
        assert!(table.find(own.pid, own.started).is_some());
        assert!(table.find(own.pid, own.started + 1).is_none());
    }
}
