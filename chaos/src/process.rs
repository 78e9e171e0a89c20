//! Child processes: spawn, signal without a race for the pid, wait with a limit, reap orphans.
//! It knows nothing of PostgreSQL's or the server's meaning; reading the process table is in `process/table.rs`.

mod table;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use tokio::time::Instant;

use crate::error::Error;

pub(crate) use table::{Entry, Table};

/// How often a wait looks again; short against every limit used here, long against the cost of a look.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// How long a drop waits for a killed child before it leaves it to the system.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// Children that somebody waits for. Orphans are reaped by pid, and this set keeps the two apart.
static OWNED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn owned() -> MutexGuard<'static, BTreeSet<u32>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, where the process ended by itself.
    pub code: Option<i32>,
    /// The signal, where one ended it.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(out, "exit code {code}"),
            (None, Some(signal)) => write!(out, "signal {signal}"),
            (None, None) => write!(out, "unknown end"),
        }
    }
}

/// The user and group a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A process to start. Input is null or a file, the two outputs are files: a child that inherits the harness's own
/// would keep a test runner waiting after the test has ended.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Added to the cleaned environment of the harness.
    pub(crate) env: Vec<(String, String)>,
    /// The working folder; inside the run folder, so that clean-up finds the process by it.
    pub(crate) folder: PathBuf,
    /// A file to read; `None` is null.
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) stdout: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) account: Option<Account>,
}

/// A process that can be signalled without hitting another one that got its pid later.
#[derive(Debug)]
pub(crate) struct Handle {
    pid: u32,
    started: u64,
    // Missing only on kernels without pidfds; there the start time is compared before each signal.
    pidfd: Option<OwnedFd>,
}

impl Handle {
    /// Takes hold of a process of the table; `None` when it is gone or its pid belongs to another one now.
    pub(crate) fn open(entry: &Entry) -> Option<Self> {
        let pidfd = rustix::process::pidfd_open(raw(entry.pid)?, PidfdFlags::empty()).ok();
        // Looked at after opening: only then is it certain that the descriptor is of this very process.
        let again = table::read(entry.pid)?;
        (again.started == entry.started).then_some(Self { pid: entry.pid, started: entry.started, pidfd })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The start time of the kernel's process table, in clock ticks since boot.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// Sends a signal; false when the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        match &self.pidfd {
            Some(fd) => rustix::process::pidfd_send_signal(fd, signal).is_ok(),
            None => {
                self.entry().is_some()
                    && raw(self.pid).is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
            }
        }
    }

    /// The process's line in the table, while it exists (a zombie still does).
    pub(crate) fn entry(&self) -> Option<Entry> {
        table::read(self.pid).filter(|entry| entry.started == self.started)
    }
}

/// Takes hold of a process by its pid alone; only for one that cannot have ended and been reaped.
pub(crate) fn handle(pid: u32) -> Option<Handle> {
    Handle::open(&table::read(pid)?)
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A child of the harness: killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Process {
    handle: Handle,
    child: Child,
    exit: Option<Exit>,
}

impl Process {
    /// Starts a child in a process group of its own, so that Ctrl-C in a terminal reaches only the harness.
    ///
    /// # Errors
    /// [`Error::Io`] when a log cannot be opened or the program cannot be executed.
    pub(crate) fn start(launch: &Launch) -> Result<Self, Error> {
        let stdin = match &launch.stdin {
            Some(path) => {
                Stdio::from(File::open(path).map_err(Error::io(format!("open {}", path.display())))?)
            }
            None => Stdio::null(),
        };
        let stdout = append(&launch.stdout)?;
        let log = append(&launch.log)?;
        let mut command = Command::new(&launch.program);
        clean_environment(&mut command);
        command
            .args(&launch.args)
            .envs(launch.env.iter().map(|(key, value)| (key, value)))
            .current_dir(&launch.folder)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(log)
            .process_group(0);
        if let Some(account) = launch.account {
            command.uid(account.uid).gid(account.gid);
        }
        // Held over the spawn: an orphan sweep in another thread must not reap a child that dies at once.
        let mut owned = owned();
        let child = command.spawn().map_err(Error::io(format!(
            "start {} ({})",
            launch.name,
            launch.program.display()
        )))?;
        let pid = child.id();
        owned.insert(pid);
        drop(owned);
        // The entry exists until the child is reaped, and only this value reaps it.
        let handle = table::read(pid).and_then(|entry| Handle::open(&entry));
        let handle = handle.unwrap_or(Handle { pid, started: 0, pidfd: None });
        Ok(Self { handle, child, exit: None })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn pid(&self) -> u32 {
        self.handle.pid
    }

    /// Looks whether the child has ended, and reaps it if so. Never waits.
    pub(crate) fn poll_exit(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = match self.child.try_wait() {
                Ok(status) => status.map(Exit::from),
                // Somebody else reaped it: it is gone, and how it ended is not known.
                Err(_) => Some(Exit { code: None, signal: None }),
            };
            if self.exit.is_some() {
                owned().remove(&self.handle.pid);
            }
        }
        self.exit
    }

    /// Waits for the end by looking again. Blocks the thread; `None` when the limit passes first.
    pub(crate) fn wait_blocking(&mut self, limit: Duration) -> Option<Exit> {
        let end = Instant::now() + limit;
        loop {
            if let Some(exit) = self.poll_exit() {
                return Some(exit);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Sends a signal; false when the child has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> bool {
        self.poll_exit().is_none() && self.handle.signal(signal)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.poll_exit().is_some() {
            return;
        }
        // A stopped process dies of SIGKILL too, but its children may wait for it: wake it first.
        self.handle.signal(Signal::CONT);
        self.handle.signal(Signal::KILL);
        self.wait_blocking(DROP_WAIT);
        owned().remove(&self.handle.pid);
    }
}

/// Looks again and again until `look` gives a value or the limit passes.
///
/// # Cancel safety
/// Dropping it leaves nothing behind; `look` is called only between awaits.
pub(crate) async fn poll_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Makes this process the parent of its descendants' orphans, so that it can reap them. Process-wide, once.
pub(crate) fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without it orphans go to the system's init, which reaps them too: no reason to give up.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    });
}

/// Reaps processes called `name` that were orphaned to this process and have ended; says how many.
///
/// Only by name and by pid: a `wait` for any child would take the exit codes that others wait for.
pub(crate) fn reap_orphans(name: &str) -> usize {
    let owned = owned();
    let table = Table::read();
    let own = std::process::id();
    let zombies =
        table.entries().filter(|entry| entry.parent == own && entry.is_zombie() && entry.name == name);
    zombies
        .filter(|entry| !owned.contains(&entry.pid))
        .filter_map(|entry| raw(entry.pid))
        .filter(|pid| matches!(rustix::process::waitpid(Some(*pid), WaitOptions::NOHANG), Ok(Some(_))))
        .count()
}

/// Where a program is, by the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The last `lines` lines of a log for an error text: each on a new line, indented; empty for an empty log.
pub(crate) fn log_tail(path: &Path, lines: usize) -> String {
    /// Enough for a dozen long lines, and a bound for a log that ran away.
    const BYTES_MAX: u64 = 16 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let skip = all.len().saturating_sub(lines);
    all.iter().skip(skip).map(|line| format!("\n  {line}")).collect()
}

fn append(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(Error::io(format!("open the log {}", path.display())))
}

/// Takes away what would make a run depend on the caller's shell: libpq's variables and this project's own.
fn clean_environment(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("PG") || name.starts_with("RIDETHROUGH_") || name == "DATABASE_URL" {
            command.env_remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_tail_gives_the_last_lines_and_nothing_for_a_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(log_tail(&path, 3), "");
        std::fs::write(&path, "one\ntwo\n\nthree\nfour\n").unwrap();
        assert_eq!(log_tail(&path, 2), "\n  three\n  four");
    }

    #[test]
    fn an_exit_reads_as_code_or_signal() {
        assert_eq!(Exit { code: Some(2), signal: None }.to_string(), "exit code 2");
        assert_eq!(Exit { code: None, signal: Some(9) }.to_string(), "signal 9");
    }
}
