//! A throw-away PostgreSQL cluster that can be killed, hung, brought back and removed.
//! It breaks nothing by itself: `nemesis.rs` decides when, and `canary.rs` tells what was seen from outside.

mod access;
mod crash;
pub mod failover;
pub mod ledger;
mod node;
pub mod replication;
mod setting;
mod template;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use crate::cluster::crash::KILL_LIMIT;
use crate::cluster::node::Node;
use crate::error::Error;
use crate::folder::RunFolder;
use crate::ports;
use crate::postgres::{self, Binaries};
use crate::process::{self, Exit, Handle, Process, poll_until};

pub use crash::{Hang, Killed};
pub use failover::{Pair, SplitBrain, Window};
pub use ledger::Losses;
pub use replication::{Lsn, Promoted};
pub use setting::Changed;
pub(crate) use template::{ADMIN_DATABASE, APP, CANARY};

/// The steps of an orderly stop: fast, then immediate.
const STOP_FAST_LIMIT: Duration = Duration::from_secs(5);
const STOP_IMMEDIATE_LIMIT: Duration = Duration::from_secs(3);
/// One try to connect while a start is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Starts on another port after a collision.
const PORT_TRIES: u32 = 8;

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder with `postgres` and `initdb`; `None` looks in the usual places. Default `None`.
    pub pg_bin: Option<PathBuf>,
    /// Additional settings, as `-c NAME=VALUE`; they win over the built-in ones. Default none.
    pub settings: Vec<(String, String)>,
    /// Added to the environment of its processes. Default none.
    pub env: Vec<(String, String)>,
    /// Where its processes run. Default here.
    pub place: Place,
    /// An existing folder in which its data directory is made; `None` is the run folder. Default `None`.
    pub data_above: Option<PathBuf>,
    /// An existing folder in which its WAL is kept apart from its data; `None` keeps both together. Default `None`.
    pub wal_above: Option<PathBuf>,
    /// How long a start may take until the first connection is served. Default 30 s; it takes about 0.2 s.
    pub start_timeout: Duration,
    /// The `ridethrough-chaos` binary that serves as guardian; `None` finds it. Default `None`.
    pub guardian: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pg_bin: None,
            settings: Vec::new(),
            env: Vec::new(),
            place: Place::default(),
            data_above: None,
            wal_above: None,
            start_timeout: Duration::from_secs(30),
            guardian: None,
        }
    }
}

/// Where the processes of a cluster run.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address they listen on. Default 127.0.0.1.
    pub address: Ipv4Addr,
    /// A program with arguments that leads there and then becomes the program named after them. It has to end as an
    /// account that PostgreSQL accepts. Default none: they run here, as PostgreSQL's account.
    pub entry: Vec<OsString>,
}

impl Default for Place {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, entry: Vec::new() }
    }
}

/// A private PostgreSQL on a free loopback port: fsync on, its own data directory, removed when the last clone goes.
///
/// ```no_run
/// # async fn example() -> Result<(), ridethrough_chaos::Error> {
/// use ridethrough_chaos::{Cluster, cluster::Options};
/// let cluster = Cluster::start(&Options::default()).await?;
/// let url = cluster.url(); // for the service under test
/// cluster.kill().await?; // as a crash would
/// cluster.start_again().await?; // on the same port and data
/// # drop(url);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Order matters: the postmaster is ended and reaped before its folder is removed.
    state: Mutex<State>,
    node: Node,
    admin_password: String,
    app_password: String,
    start_timeout: Duration,
    folder: RunFolder,
}

#[derive(Debug, Default)]
struct State {
    postmaster: Option<Process>,
}

impl State {
    fn running(&mut self) -> Option<&mut Process> {
        let process = self.postmaster.as_mut()?;
        process.poll_exit().is_none().then_some(process)
    }
}

impl Cluster {
    /// Makes a cluster in a run folder of its own and waits until it serves connections.
    ///
    /// # Errors
    /// [`Error`] that names the step; where PostgreSQL itself failed, with the last lines of its log.
    ///
    /// # Cancel safety
    /// Dropping the future ends and removes what was started, possibly a moment later.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let guardian = options.guardian.clone();
        let folder = blocking("make a run folder", move || RunFolder::create(guardian.as_deref())).await?;
        Self::start_in(&folder, options).await
    }

    /// As [`Cluster::start`], in a run folder that other processes of the run share.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    ///
    /// # Cancel safety
    /// As [`Cluster::start`].
    pub async fn start_in(folder: &RunFolder, options: &Options) -> Result<Self, Error> {
        let pg_bin = options.pg_bin.clone();
        let run = folder.clone();
        let data = options.data_above.as_deref().unwrap_or(folder.path()).join("pg");
        let wal = options.wal_above.as_ref().map(|above| above.join("pg_wal"));
        let target = data.clone();
        let made = blocking("make a data directory", move || {
            let binaries = Binaries::find(pg_bin.as_deref())?;
            let account = postgres::account()?;
            let password = template::copy_to(&target, wal.as_deref(), &run, &binaries, account)?;
            Ok((binaries, account, password))
        });
        let (binaries, account, template_password) = made.await?;
        let cluster = Self(Arc::new(Inner {
            state: Mutex::default(),
            node: Node {
                binaries,
                data,
                log: folder.path().join("postgresql.log"),
                place: options.place.clone(),
                port: ports::free()?,
                account,
                env: options.env.clone(),
                settings: options.settings.clone(),
            },
            admin_password: template::new_password(),
            app_password: template::new_password(),
            start_timeout: options.start_timeout,
            folder: folder.clone(),
        }));
        let cluster = cluster.first_start().await?;
        cluster.set_passwords(&template_password).await?;
        Ok(cluster)
    }

    /// The URL for the service: an ordinary role that owns an empty database, with a password of this run.
    #[must_use]
    pub fn url(&self) -> String {
        let Inner { app_password, node, .. } = &*self.0;
        let (address, port) = (node.place.address, node.port);
        format!("postgres://{app}:{app_password}@{address}:{port}/{app}", app = template::APP)
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0.node.place.address
    }

    /// The port at its address; the same after each start.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.node.port
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.0.node.data
    }

    /// The file with PostgreSQL's own log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.0.node.log
    }

    /// The binaries it runs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.0.node.binaries
    }

    /// The postmaster's pid; `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.lock().running().map(|process| process.pid())
    }

    /// How many of its processes can still run: the postmaster, its children, and orphans of an earlier one.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.tree().len()
    }

    /// Opens a connection to the service's database as superuser, past service and proxy.
    ///
    /// # Errors
    /// [`Error::Postgres`] when it is refused, [`Error::Late`] when it takes longer than `limit`.
    ///
    /// # Cancel safety
    /// Dropping the future closes the half-open connection.
    pub async fn connect(&self, limit: Duration) -> Result<tokio_postgres::Client, Error> {
        connect(&self.admin(&self.0.admin_password, template::APP), limit).await
    }

    /// What the canary connects with.
    pub(crate) fn canary(&self) -> tokio_postgres::Config {
        let mut config = self.base();
        config.user(CANARY).dbname(ADMIN_DATABASE);
        config
    }

    /// Stops PostgreSQL in order (fast, then immediate, then by force) and says how it ended. The data stays until
    /// the last clone is dropped.
    ///
    /// # Errors
    /// [`Error::State`] when it is not running, [`Error::Late`] when nothing ends it.
    ///
    /// # Cancel safety
    /// A drop leaves it stopping.
    pub async fn stop(&self) -> Result<Exit, Error> {
        let steps = [
            (Signal::INT, STOP_FAST_LIMIT),
            (Signal::QUIT, STOP_IMMEDIATE_LIMIT),
            (Signal::KILL, KILL_LIMIT),
        ];
        // A hung cluster would not hear anything but SIGKILL.
        node::signal_all(&self.tree(), Signal::CONT);
        for (signal, limit) in steps {
            {
                let mut state = self.lock();
                let Some(process) = state.postmaster.as_mut() else {
                    return Err(Error::state("stop PostgreSQL", "it is not running"));
                };
                process.signal(signal);
            }
            if let Some(exit) = poll_until(limit, || self.poll_exit()).await {
                self.end_survivors().await;
                return Ok(exit);
            }
        }
        Err(Error::Late { what: "stop PostgreSQL".to_owned(), limit: KILL_LIMIT })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_exit(&self) -> Option<Exit> {
        let mut state = self.lock();
        state.postmaster.as_mut().and_then(Process::poll_exit)
    }

    fn tree(&self) -> Vec<Handle> {
        let state = self.lock();
        self.0.node.tree(state.postmaster.as_ref())
    }

    /// Spawns on other ports until none collides. Only a cluster that nobody else has a clone of can change its port.
    async fn first_start(mut self) -> Result<Self, Error> {
        let mut tries = 1;
        loop {
            self.spawn()?;
            match self.serve().await {
                Ok(()) => return Ok(self),
                Err(Error::Start { log, .. }) if tries < PORT_TRIES && log.contains("could not bind") => {
                    let port = ports::free()?;
                    let inner = Arc::get_mut(&mut self.0);
                    inner.expect("a cluster that is being started has no second owner").node.port = port;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.running().is_some() {
            return Err(Error::state("start PostgreSQL", "it is running already"));
        }
        state.postmaster = Some(self.0.node.spawn(&self.0.folder)?);
        Ok(())
    }

    /// Waits until a connection is served, or the process is gone.
    async fn serve(&self) -> Result<(), Error> {
        let end = Instant::now() + self.0.start_timeout;
        let config = self.canary();
        loop {
            let failed = |reason: String| Error::Start {
                name: "PostgreSQL".to_owned(),
                reason,
                log: process::log_tail(self.log(), 12),
            };
            if let Some(exit) = self.poll_exit() {
                return Err(failed(format!("it ended with {exit}")));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(format!(
                    "it serves no connection after {} s",
                    self.0.start_timeout.as_secs()
                )));
            }
            if connect(&config, left.min(CONNECT_LIMIT)).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Gives both roles a password of this run; the template's would be shared by all runs.
    async fn set_passwords(&self, template_password: &str) -> Result<(), Error> {
        let limit = self.0.start_timeout;
        let client = connect(&self.admin(template_password, ADMIN_DATABASE), limit).await?;
        let Inner { admin_password, app_password, .. } = &*self.0;
        let statements = format!(
            "ALTER ROLE {} PASSWORD '{app_password}'; ALTER ROLE {} PASSWORD '{admin_password}'",
            template::APP,
            template::ADMIN,
        );
        let set = tokio::time::timeout(limit, client.batch_execute(&statements)).await;
        let set =
            set.map_err(|_| Error::Late { what: "set the passwords of a new cluster".to_owned(), limit })?;
        set.map_err(Error::postgres("set the passwords of a new cluster"))
    }

    fn base(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.address().to_string()).port(self.0.node.port).application_name("ridethrough-chaos");
        config
    }

    fn admin(&self, password: &str, database: &str) -> tokio_postgres::Config {
        let mut config = self.base();
        config.user(template::ADMIN).password(password).dbname(database);
        config
    }
}

/// Connects within a limit that covers the handshake too: a stopped postmaster accepts and never answers.
pub(crate) async fn connect(
    config: &tokio_postgres::Config,
    limit: Duration,
) -> Result<tokio_postgres::Client, Error> {
    let what = "connect to PostgreSQL";
    let connecting = tokio::time::timeout(limit, config.connect(NoTls)).await;
    let (client, connection) = connecting
        .map_err(|_| Error::Late { what: what.to_owned(), limit })?
        .map_err(Error::postgres(what))?;
    // Ends with the client: it closes the connection when the client is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::state(what, error.to_string())),
    }
}
