//! One PostgreSQL server of a cluster: its command line, its start and end, its process tree.
//! Whoever wants to break it goes through `cluster.rs`; this file only knows how.

use std::ffi::OsString;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::cluster::Place;
use crate::error::Error;
use crate::folder::RunFolder;
use crate::postgres::Binaries;
use crate::process::{Account, Handle, Launch, Process, Table};

/// What does not change between two starts of a node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) binaries: Binaries,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) account: Option<Account>,
    /// Variables of the caller, after the built-in ones.
    pub(super) env: Vec<(String, String)>,
    /// Settings of the caller; they stand last, so that they win.
    pub(super) settings: Vec<(String, String)>,
}

impl Node {
    /// Spawns the postmaster as a direct child: only so is it reaped at once when it dies. An unreaped one makes
    /// its pid file look alive and blocks the next start for seconds.
    pub(super) fn spawn(&self, run: &RunFolder) -> Result<Process, Error> {
        let program = self.binaries.program("postgres");
        let (program, args, account) = match self.place.entry.split_first() {
            None => (program, self.arguments(), self.account),
            Some((first, rest)) => {
                let rest = rest.iter().cloned().chain([program.into()]).chain(self.arguments());
                (first.into(), rest.collect(), None)
            }
        };
        let mut env = vec![("LC_ALL".to_owned(), "C".to_owned())];
        env.extend(self.env.iter().cloned());
        let process = Process::start(&Launch {
            name: "PostgreSQL".to_owned(),
            program,
            args,
            env,
            folder: self.data.clone(),
            stdin: None,
            stdout: self.log.clone(),
            log: self.log.clone(),
            account,
        })?;
        run.guard(process.handle())?;
        Ok(process)
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", self.place.address.to_string()),
            ("port", self.port.to_string()),
            // No socket file: nothing to collide, no limit of 108 bytes for its path.
            ("unix_socket_directories", String::new()),
            // A run is a proof about durability only with these three on.
            ("fsync", "on".to_owned()),
            ("synchronous_commit", "on".to_owned()),
            ("full_page_writes", "on".to_owned()),
            ("shared_buffers", "16MB".to_owned()),
            // In the data directory, so that a killed server leaves nothing in /dev/shm.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
            ("password_encryption", "scram-sha-256".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("log_line_prefix", "%m [%p] ".to_owned()),
            ("max_connections", "80".to_owned()),
        ];
        if self.binaries.major() >= 14 {
            // The default syncs a thousand files one by one before a crashed server serves again: 2.5 s, not 0.4 s.
            settings.push(("recovery_init_sync_method", "syncfs".to_owned()));
        }
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.data.clone().into()];
        for (name, value) in settings {
            arguments.push("-c".into());
            arguments.push(format!("{name}={value}").into());
        }
        arguments
    }

    /// Every process of this node that can still run: the postmaster and its descendants, and orphans of an earlier
    /// postmaster, which are known by working in the data directory.
    pub(super) fn tree(&self, postmaster: Option<&Process>) -> Vec<Handle> {
        let table = Table::read();
        let root = postmaster.map(Process::pid);
        let mut entries = table.descendants(root);
        entries.extend(table.working_below(std::slice::from_ref(&self.data)));
        entries.sort_by_key(|entry| entry.pid);
        entries.dedup_by_key(|entry| entry.pid);
        let mut entries: Vec<_> =
            entries.into_iter().filter(|entry| entry.is_alive() && entry.name == "postgres").collect();
        // The postmaster first: stopped or killed before the others, it cannot make new ones meanwhile.
        entries.sort_by_key(|entry| Some(entry.pid) != root);
        entries.into_iter().filter_map(Handle::open).collect()
    }
}

/// Sends a signal to all; says how many got it.
pub(super) fn signal_all(handles: &[Handle], signal: Signal) -> usize {
    handles.iter().filter(|handle| handle.signal(signal)).count()
}
