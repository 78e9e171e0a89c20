//! The laboratory of one test: a private PostgreSQL and the processes on it, in a folder of its own. It starts and ends
//! them, and looks at the end that nothing is left and that nobody said what must not be said.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ridethrough_chaos::{Cluster, RunFolder, cluster};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    app::App,
    launch::{self, Blueprint, Exit, Output},
    logs::{self, Secrets},
    until,
};

/// One connection to the database, past the service.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// One statement of a test.
const STATEMENT_LIMIT: Duration = Duration::from_secs(15);
/// A drain without a delay, with everything in flight.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// The backends of a killed database, none of which computes for long.
const GONE_LIMIT: Duration = Duration::from_secs(20);
/// A program that only says what is wrong.
const RUN_LIMIT: Duration = Duration::from_secs(20);
/// Lines of each log in the report of a failed test.
const TAIL_LINES: usize = 40;

/// What a server warns of when its database goes away, or is away when it starts: that it says after a second, which is
/// earlier or later than the database's return by chance.
const OUTAGE_WARNINGS: [&str; 4] =
    ["the database is away", "the database does not answer", "breaker opened", "starting degraded"];

/// A private PostgreSQL, and whatever a test starts on it. To be ended by [`Lab::finish`].
#[derive(Debug)]
#[must_use = "a lab that is not finished has checked nothing"]
pub struct Lab {
    apps: Mutex<Vec<App>>,
    expected: Mutex<Vec<String>>,
    secrets: Mutex<Secrets>,
    // Order matters: the database ends before its folder goes.
    cluster: Cluster,
    folder: RunFolder,
    finished: bool,
}

/// How a server differs from an ordinary one.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// Another way to the database; nothing is the straight one.
    pub url: Option<String>,
    /// Additional environment; wins over the lab's own.
    pub env: Vec<(&'static str, String)>,
    /// Another program than `ridethrough-server`.
    pub program: Option<PathBuf>,
    /// Additional arguments.
    pub args: Vec<OsString>,
}

impl Lab {
    /// Starts PostgreSQL in a new folder.
    ///
    /// # Panics
    /// Where it cannot be started.
    ///
    /// # Cancel safety
    /// Dropping it ends and removes what was started.
    pub async fn start() -> Self {
        // Looked for first: a missing program should not cost the start of a database.
        for program in ["ridethrough-server", "ridethrough-proxy", "ridethrough-chaos"] {
            let _ = launch::program(program);
        }
        let folder = RunFolder::create(None).expect("a run folder can be made");
        Self::start_in(folder, cluster::Options::default()).await
    }

    /// As [`Lab::start`] in a folder that is there, with another kind of PostgreSQL.
    ///
    /// # Panics
    /// As [`Lab::start`].
    ///
    /// # Cancel safety
    /// As [`Lab::start`].
    pub async fn start_in(folder: RunFolder, options: cluster::Options) -> Self {
        let cluster = Cluster::start_in(&folder, &options).await;
        let cluster = cluster.unwrap_or_else(|error| panic!("failed to {error}"));
        Self {
            apps: Mutex::default(),
            expected: Mutex::default(),
            secrets: Mutex::new(Secrets::of_url(&cluster.url())),
            cluster,
            folder,
            finished: false,
        }
    }

    /// The database.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The run that everything of this test belongs to.
    #[must_use]
    pub fn run_folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Where everything of this test lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of the database through another address.
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        self.lock_secrets().add_address(address);
        let direct = SocketAddr::from((Ipv4Addr::LOCALHOST, self.cluster.port())).to_string();
        self.cluster.url().replace(&direct, &address.to_string())
    }

    /// Kills the database as a crash would.
    ///
    /// # Panics
    /// Where it does not die, or a backend outlives it.
    ///
    /// # Cancel safety
    /// Once polled the kill has happened.
    pub async fn database_dies(&self) {
        self.expect_outage();
        self.cluster.kill().await.unwrap_or_else(|error| panic!("failed to {error}"));
        // Its backends notice a moment later, on a busy machine after many. Until then one may still answer, rightly
        // called fresh.
        let gone = async || (self.cluster.processes() == 0).then_some(());
        until("PostgreSQL's processes are gone", GONE_LIMIT, gone).await;
    }

    /// Starts the database again on the same data.
    ///
    /// # Panics
    /// Where it does not come up.
    ///
    /// # Cancel safety
    /// A drop leaves it starting.
    pub async fn database_returns(&self) {
        self.cluster.start_again().await.unwrap_or_else(|error| panic!("failed to {error}"));
    }

    /// The warnings of a server that loses its database belong to this test.
    ///
    /// # Panics
    /// Never, but for a lock that another panic poisoned.
    pub fn expect_outage(&self) {
        self.expect_in_logs(&OUTAGE_WARNINGS);
    }

    /// WARN and ERROR lines that hold one of `pieces` belong to this test.
    ///
    /// # Panics
    /// Never, but for a lock that another panic poisoned.
    pub fn expect_in_logs(&self, pieces: &[&str]) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.extend(pieces.iter().map(|piece| (*piece).to_owned()));
    }

    /// `text`, which `what` calls in a failure, must stand in no log, error or metric of what is started from now on.
    ///
    /// # Panics
    /// Where it is empty.
    pub fn forbid(&self, what: &'static str, text: &str) {
        self.lock_secrets().add(what, text);
    }

    /// Says that `text`, which is told at `place`, gives nothing away.
    ///
    /// # Panics
    /// Where it does.
    pub fn looks_clean(&self, place: &str, text: &str) {
        assert_eq!(self.lock_secrets().leaked_by(text), None, "{place}: {text}");
    }

    /// An ordinary server, ready.
    ///
    /// # Panics
    /// Where it does not become ready.
    ///
    /// # Cancel safety
    /// A drop leaves it starting; it ends with the lab.
    pub async fn server(&self, name: &str) -> App {
        let server = self.server_as(name, Server::default()).await;
        server.ready().await;
        server
    }

    /// A server of another kind, listening but not waited for.
    ///
    /// # Panics
    /// Where it does not listen.
    ///
    /// # Cancel safety
    /// As [`Lab::server`].
    pub async fn server_as(&self, name: &str, how: Server) -> App {
        self.start_app(self.server_blueprint(name, how)).await
    }

    /// What a server is started with.
    #[must_use]
    pub fn server_blueprint(&self, name: &str, how: Server) -> Blueprint {
        let url = how.url.unwrap_or_else(|| self.cluster.url());
        let program = how.program.unwrap_or_else(|| launch::program("ridethrough-server"));
        let mut env = vec![("DATABASE_URL".to_owned(), url), no_drain_delay()];
        env.extend(how.env.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let mut args = ["--data-dir", "data", "--log-format", "json"].map(OsString::from).to_vec();
        args.extend(how.args);
        Blueprint { name: name.to_owned(), program, args, env }
    }

    /// A proxy in front of these addresses.
    ///
    /// # Panics
    /// Where it does not listen.
    ///
    /// # Cancel safety
    /// As [`Lab::server`].
    pub async fn proxy(&self, backends: &[SocketAddr]) -> App {
        let mut args = ["--log-format", "json"].map(OsString::from).to_vec();
        for backend in backends {
            args.extend([OsString::from("--backend"), format!("http://{backend}").into()]);
        }
        let program = launch::program("ridethrough-proxy");
        self.start_app(Blueprint { name: "proxy".to_owned(), program, args, env: vec![no_drain_delay()] })
            .await
    }

    /// Runs a program to its end, in a folder of the lab.
    ///
    /// # Panics
    /// Where it does not end within 20 s.
    ///
    /// # Cancel safety
    /// Dropping it kills the program.
    pub async fn run(&self, blueprint: &Blueprint) -> Output {
        let output = launch::run(blueprint, &self.folder().join(&blueprint.name), RUN_LIMIT).await;
        for text in [&output.stdout, &output.stderr] {
            let leak = self.lock_secrets().leaked_by(text);
            assert_eq!(leak, None, "{}: {text}", blueprint.name);
        }
        output
    }

    /// Rows out of the database, past the service.
    ///
    /// # Panics
    /// Where the database does not answer.
    ///
    /// # Cancel safety
    /// A drop may leave the statement running for a moment.
    pub async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let client = self.sql().await;
        let rows = crate::within(sql, STATEMENT_LIMIT, client.query(sql, parameters)).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// One number out of the database.
    ///
    /// # Panics
    /// Where the database does not answer with one.
    ///
    /// # Cancel safety
    /// As [`Lab::rows`].
    pub async fn number(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> i64 {
        let rows = self.rows(sql, parameters).await;
        rows.first().expect("a row").get(0)
    }

    /// The stored todo as `(title, version)`; nothing where there is none.
    ///
    /// # Panics
    /// Where the database does not answer.
    ///
    /// # Cancel safety
    /// As [`Lab::rows`].
    pub async fn stored(&self, id: &str) -> Option<(String, i64)> {
        let rows = self.rows("SELECT title, version FROM todos WHERE id::text = $1", &[&id]).await;
        rows.first().map(|row| (row.get(0), row.get(1)))
    }

    /// How often each of these titles is stored, other than once; empty where all is well.
    ///
    /// # Panics
    /// Where the database does not answer.
    ///
    /// # Cancel safety
    /// As [`Lab::rows`].
    pub async fn not_stored_once(&self, titles: &[String]) -> Vec<(String, usize)> {
        let rows = self.rows("SELECT title FROM todos", &[]).await;
        let stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let count = |title: &String| stored.iter().filter(|one| *one == title).count();
        titles.iter().map(|title| (title.clone(), count(title))).filter(|(_, count)| *count != 1).collect()
    }

    /// A connection as superuser, past the service.
    ///
    /// # Panics
    /// Where it cannot be made.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn sql(&self) -> tokio_postgres::Client {
        self.cluster.connect(CONNECT_LIMIT).await.unwrap_or_else(|error| panic!("failed to {error}"))
    }

    /// Ends everything in order, and checks that each process drains cleanly, that the logs hold what they may, and
    /// that nothing is left.
    ///
    /// # Panics
    /// Where one of these is not so.
    ///
    /// # Cancel safety
    /// A drop ends the rest by force.
    pub async fn finish(mut self) {
        let apps = std::mem::take(&mut *self.apps.lock().unwrap_or_else(PoisonError::into_inner));
        for app in &apps {
            if app.pid().is_some() {
                let metrics = app.admin().get("/metrics").await.expect(200).text();
                assert!(metrics.contains("ridethrough_"), "{} has no metrics: {metrics}", app.name());
                assert_eq!(self.lock_secrets().leaked_by(&metrics), None, "{metrics}");
                app.terminate();
                let exit = app.ended(STOP_LIMIT).await;
                assert_eq!(exit, Exit::Code(0), "{} did not drain cleanly:\n{}", app.name(), tail(app));
            }
        }
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let secrets = self.lock_secrets().clone();
        let complaints: Vec<String> = apps
            .iter()
            .flat_map(|app| logs::complaints(app.name(), &app.log(), &expected, &secrets))
            .collect();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        self.finished = true;
        let folder = self.folder().to_owned();
        drop(apps);
        drop(self);
        assert!(!folder.exists(), "{} is left behind", folder.display());
        assert_eq!(processes_in(&folder), Vec::<u32>::new(), "processes are left behind");
    }

    /// Starts a server or a proxy, and waits until it listens.
    ///
    /// # Panics
    /// Where it does not.
    ///
    /// # Cancel safety
    /// As [`Lab::server`].
    pub async fn start_app(&self, blueprint: Blueprint) -> App {
        let home = self.folder().join(&blueprint.name);
        let secrets = self.lock_secrets().clone();
        let app = App::start(blueprint, &home, secrets).await;
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).push(app.clone());
        app
    }

    fn lock_secrets(&self) -> std::sync::MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        use std::io::Write as _;

        if std::thread::panicking() {
            for app in self.apps.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let _ = writeln!(std::io::stderr().lock(), "--- log of {}:\n{}", app.name(), tail(app));
            }
        } else {
            assert!(self.finished, "a test ends with `lab.finish()`, which checks logs and clean-up");
        }
    }
}

/// Processes that work in `folder`, also after it was removed, or were started with its name.
///
/// # Panics
/// Where the process table cannot be read.
#[must_use]
pub fn processes_in(folder: &Path) -> Vec<u32> {
    let table = std::fs::read_dir("/proc").expect("the process table can be read");
    let pids = table.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let name = folder.display().to_string();
    pids.filter(|pid| {
        let works_there =
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|home| home.starts_with(folder));
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        works_there || String::from_utf8_lossy(&command).contains(&name)
    })
    .collect()
}

/// The run folders of the process with this pid, wherever runs of this machine lie.
#[must_use]
pub fn run_folders_of(pid: u32) -> Vec<PathBuf> {
    let list = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named =
        |entry: &std::fs::DirEntry, start: &str| entry.file_name().to_string_lossy().starts_with(start);
    let places: BTreeSet<PathBuf> = [std::env::temp_dir(), PathBuf::from("/tmp")].into();
    let bases = places.into_iter().flat_map(list).filter(|entry| named(entry, "ridethrough-"));
    let runs = bases.flat_map(|base| list(base.path()));
    runs.filter(|entry| named(entry, &format!("run-{pid}-"))).map(|entry| entry.path()).collect()
}

fn no_drain_delay() -> (String, String) {
    ("RIDETHROUGH_LIMITS__DRAIN_DELAY".to_owned(), "0s".to_owned())
}

fn tail(app: &App) -> String {
    let text = std::fs::read(app.log()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(TAIL_LINES);
    lines.into_iter().skip(skip).collect::<Vec<_>>().join("\n")
}
