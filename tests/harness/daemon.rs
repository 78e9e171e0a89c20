//! Programs that stand beside PostgreSQL in a test (a standby, a pooler, a cluster manager): run as PostgreSQL's account,
//! known to the guardian of the run, ended with the test. What each of them is told is in a file of its own.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use ridethrough_chaos::RunFolder;
use rustix::process::{Pid, Signal};
use tokio::net::TcpStream;

use crate::{
    launch::{self, Blueprint, Exit, Running},
    until,
};

/// Lines of a log in the report of a failed start.
const TAIL_LINES: usize = 30;

/// Account that such a program runs as, by number; `None` is that of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A running program beside PostgreSQL. Killed when it goes.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    home: PathBuf,
    running: Running,
}

impl Daemon {
    /// Starts `program` in a folder of its own below the run folder.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use = "the process is killed when this goes"]
    pub fn start(
        folder: &RunFolder,
        name: &str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let home = home(folder, name);
        let blueprint = blueprint(name, program, args, env);
        let running = Running::start_as(&blueprint, &home, account());
        folder.guard_child(running.pid()).unwrap_or_else(|error| panic!("failed to {error}"));
        Self { name: name.to_owned(), home, running }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Sends it a signal; nothing where it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        // Not reaped before this value goes, so the pid is still its own.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, signal));
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it does not end within `limit`.
    ///
    /// # Cancel safety
    /// A drop leaves it as it is.
    pub async fn ended(&mut self, limit: Duration) -> Exit {
        let what = format!("{} ends", self.name);
        until(&what, limit, async || self.running.exit()).await
    }

    /// Waits until it listens on `address`.
    ///
    /// # Panics
    /// Where it ends, or does not listen within `limit`; with the last lines of its log.
    ///
    /// # Cancel safety
    /// A drop leaves it starting.
    pub async fn listens(&mut self, address: SocketAddr, limit: Duration) {
        let end = tokio::time::Instant::now() + limit;
        while TcpStream::connect(address).await.is_err() {
            let exit = self.running.exit();
            let late = tokio::time::Instant::now() >= end;
            assert!(exit.is_none() && !late, "{}: {exit:?}\n{}", self.name, self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        launch::read(&self.home.join("log"))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }
}

/// The folder of a program, made where it is not there.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn home(folder: &RunFolder, name: &str) -> PathBuf {
    let home = folder.path().join(name);
    fs::create_dir_all(&home).expect("the folder of a process can be made");
    own(&home);
    home
}

/// Writes a file that only PostgreSQL's account can read.
///
/// # Panics
/// Where it cannot be written.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    own(path);
}

fn own(path: &Path) {
    if let Some(Account { uid, gid }) = account() {
        chown(path, Some(uid), Some(gid)).expect("a file can be handed over");
    }
}

/// Where `program` is: in the path, or where systems keep what only administrators start.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(usual);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The account of PostgreSQL: that of the test, but for root, as whom none of these programs runs.
///
/// # Panics
/// Where the test runs as root and there is no account for PostgreSQL.
#[must_use]
pub fn account() -> Option<Account> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("accounts can be read");
    let found = ["postgres", "nobody"].into_iter().find_map(|name| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Account { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    });
    Some(found.expect("root has an account for PostgreSQL"))
}

fn blueprint(name: &str, program: &Path, args: &[&str], env: &[(&str, &str)]) -> Blueprint {
    Blueprint {
        name: name.to_owned(),
        program: program.to_owned(),
        args: args.iter().map(OsString::from).collect(),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}
