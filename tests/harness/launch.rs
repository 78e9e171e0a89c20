//! Programs as child processes: where they are, how they are started, and how they are run to their end. What a server
//! or proxy can be asked is in `app.rs`.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{daemon::Account, until};

/// Folders above the test binary in which the programs may lie: `target/debug/deps/test` needs two.
const LEVELS_UP: usize = 4;
/// Looks for a free port before giving up.
const PORT_TRIES: usize = 200;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or(Self::Signal(status.signal().unwrap_or_default()), Self::Code)
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Names its folder and log.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without the listeners.
    pub args: Vec<OsString>,
    /// Additional environment.
    pub env: Vec<(String, String)>,
}

/// A program that is run to its end.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its pid while it ran.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

/// Runs a program to its end in `home`; kills it after `limit`.
///
/// # Panics
/// Where it does not end by itself.
///
/// # Cancel safety
/// Dropping it kills the program.
pub async fn run(blueprint: &Blueprint, home: &Path, limit: Duration) -> Output {
    std::fs::create_dir_all(home).expect("the folder of a process can be made");
    let mut running = Running(spawn(blueprint, home));
    let ended = async || running.0.try_wait().expect("a child can be looked at");
    let status = until(&format!("{} ends", blueprint.name), limit, ended).await;
    Output {
        pid: running.pid(),
        exit: status.into(),
        stdout: read(&home.join("out")),
        stderr: read(&home.join("log")),
    }
}

/// A child that is killed and reaped when it goes.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts a program in `home`.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use = "the process is killed when this goes"]
    pub fn start(blueprint: &Blueprint, home: &Path) -> Self {
        std::fs::create_dir_all(home).expect("the folder of a process can be made");
        Self(spawn(blueprint, home))
    }

    /// As [`Running::start`], as another account.
    ///
    /// # Panics
    /// As [`Running::start`].
    #[must_use = "the process is killed when this goes"]
    pub fn start_as(blueprint: &Blueprint, home: &Path, account: Option<Account>) -> Self {
        Self(spawn_as(blueprint, home, account))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, where it has.
    pub fn exit(&mut self) -> Option<Exit> {
        self.0.try_wait().ok().flatten().map(Exit::from)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a program of this workspace is: beside the test binary or in a folder above.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let current = std::env::current_exe().expect("the path of this program is known");
    let folders = current.ancestors().skip(1).take(LEVELS_UP);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        let build = match name {
            "ridethrough-server-sabotage" => {
                "`cargo build -p ridethrough-server --features sabotage,nats --bin ridethrough-server-sabotage`"
            }
            "examples/broadcaster" => "`cargo build -p ridethrough-server --features sabotage,nats --example broadcaster`",
            "examples/shifts" => "`cargo build -p ridethrough --features service --example shifts`",
            _ => "`make build`",
        };
        panic!("{name} is not built: run {build} first")
    })
}

/// The target folder of this build: what holds the folder of the programs.
pub(crate) fn target_folder() -> PathBuf {
    let programs = program("ridethrough-server");
    programs.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

pub(crate) fn spawn(blueprint: &Blueprint, home: &Path) -> Child {
    spawn_as(blueprint, home, None)
}

fn spawn_as(blueprint: &Blueprint, home: &Path, account: Option<Account>) -> Child {
    let mut command = Command::new(&blueprint.program);
    // Nothing of the caller's shell may decide a test.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("RIDETHROUGH_") && text != "RIDETHROUGH_PG_BIN";
        if ours || text.starts_with("PG") || text == "DATABASE_URL" {
            command.env_remove(&name);
        }
    }
    command
        .args(&blueprint.args)
        .envs(blueprint.env.iter().map(|(name, value)| (name, value)))
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(append(&home.join("out")))
        .stderr(append(&home.join("log")))
        .process_group(0);
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", blueprint.program.display()))
}

fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the folder of a process can be written to")
}

pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A free address of the loopback, below the ports that the system hands to outgoing connections: a process that was
/// killed gets it back.
pub(crate) fn free_address() -> SocketAddr {
    let port = (0..PORT_TRIES)
        .map(|_| fastrand::u16(10_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("one of many ports is free")))
}
