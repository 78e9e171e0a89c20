//! The commit-ambiguity explorer: runs one write once, lists the boundaries of all messages of its transaction, and runs
//! it again for each boundary and each way to lose the connection there. It shows what the client saw, whether the write
//! is durable, what was told, and whether that was true.
//!
//! - `boundary`: the places. `service`: a write through our server. `raw`: through a plain driver, as an ordinary client
//!   would. `table`: what came of it, and the verdict.
//!
//! Several lanes work at once, each with a server and a proxy of its own on one PostgreSQL, because most of the time is
//! waiting for what does not come.

mod boundary;
mod raw;
mod service;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::explore::boundary::Boundary;
use crate::explore::raw::Raw;
use crate::explore::service::Served;
use crate::folder::RunFolder;
use crate::pgwire::{Action, Bite, Options as ProxyOptions, Planted, Proxy, Recorded};
use crate::stack;

pub use boundary::Way;
pub use table::{Row, Table, Told, Truth};

/// Lanes beyond this only wait for each other's processors.
const LANES_MAX: usize = 8;
/// Runs at one boundary before it is given up as not reached.
const TRIES: usize = 3;
/// One run with all questions after it; far above what any takes.
const RUN_LIMIT: Duration = Duration::from_secs(30);
/// A rule for a session that is to be ended waits for its boundary as long as this.
const REACHED_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at what is waited for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// One statement past the proxy.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(5);

/// How to explore.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster, and the server where there is one.
    pub stack: stack::Options,
    /// A plain driver in the place of our server. Default `false`.
    pub is_raw: bool,
    /// The ways to lose a connection. Default all.
    pub ways: Vec<Way>,
    /// How many runs go on at once, 1 to 8. Default 4.
    pub lanes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { stack: stack::Options::default(), is_raw: false, ways: Way::ALL.to_vec(), lanes: 4 }
    }
}

/// Who writes, on the other side of a proxy.
enum Subject {
    Served(Box<Served>),
    Raw(Box<Raw>),
}

/// One writer with a proxy of its own.
struct Lane {
    subject: Subject,
    proxy: Proxy,
    cluster: Cluster,
    /// The work of the proxy, which ends with the lane.
    _work: JoinSet<()>,
}

/// Explores; `tell` hears how many of how many runs are done.
///
/// # Errors
/// [`Error`] where a part does not start, or the write does not succeed even where nothing is cut.
///
/// # Cancel safety
/// Dropping the future ends and removes what was started.
pub async fn explore(options: &Options, tell: impl Fn(usize, usize)) -> Result<Table, Error> {
    let began = Instant::now();
    let folder = RunFolder::create(options.stack.cluster.guardian.as_deref())?;
    let cluster = Cluster::start_in(&folder, &options.stack.cluster).await?;
    if options.is_raw {
        raw::prepare(&cluster).await?;
    }
    let mut lanes = Vec::new();
    for _ in 0..options.lanes.clamp(1, LANES_MAX) {
        lanes.push(Box::pin(Lane::start(&cluster, options)).await?);
    }
    let Some(first) = lanes.first() else {
        return Err(Error::state("explore", "there is no lane"));
    };
    let messages = first.messages().await?;
    let boundaries = boundary::all(&messages);
    let total = boundaries.len() * options.ways.len();
    let queue: VecDeque<(Boundary, Way)> =
        options.ways.iter().flat_map(|way| boundaries.iter().map(|one| (one.clone(), *way))).collect();
    let queue = Arc::new(Mutex::new(queue));
    let messages = Arc::new(messages);
    let mut running = JoinSet::new();
    let (told, mut heard) = tokio::sync::mpsc::channel(LANES_MAX);
    for lane in lanes {
        let (queue, messages, told) = (Arc::clone(&queue), Arc::clone(&messages), told.clone());
        running.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((boundary, way)) = next else { return };
                let row = lane.row(boundary, way, &messages).await;
                if told.send(row).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(told);
    let mut rows = Vec::new();
    while let Some(row) = heard.recv().await {
        rows.push(row);
        tell(rows.len(), total);
    }
    while running.join_next().await.is_some() {}
    let mode =
        if options.is_raw { ("raw", Vec::new()) } else { ("service", service::settings(&options.stack)) };
    Ok(Table::new(mode, &boundaries, total, rows, began.elapsed()))
}

impl Lane {
    async fn start(cluster: &Cluster, options: &Options) -> Result<Self, Error> {
        let (proxy, work) = Proxy::start(&ProxyOptions::before(cluster.port())).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(work);
        let url = proxy
            .through(&cluster.url())
            .ok_or_else(|| Error::state("lead a server through the proxy", "its URL is another"))?;
        let subject = if options.is_raw {
            Subject::Raw(Box::new(Raw::new(&url)?))
        } else {
            Subject::Served(Box::new(Box::pin(Served::start(cluster, &url, &options.stack)).await?))
        };
        Ok(Self { subject, proxy, cluster: cluster.clone(), _work: tasks })
    }

    /// The messages of the transaction of one write, none of which is cut.
    async fn messages(&self) -> Result<Vec<Recorded>, Error> {
        for _ in 0..TRIES {
            self.warm().await?;
            self.proxy.record();
            let told = self.write(&new_key()).await.told;
            let messages = boundary::transaction(&self.proxy.recorded());
            if told == Told::Committed && !messages.is_empty() {
                return Ok(messages);
            }
        }
        Err(Error::state("explore a write", "it was not committed though nothing was cut"))
    }

    /// One run, again where the cut met another transaction than the one it was for.
    async fn row(&self, boundary: Boundary, way: Way, messages: &[Recorded]) -> Row {
        let mut trouble = "the boundary was not reached".to_owned();
        for _ in 0..TRIES {
            match timeout(RUN_LIMIT, self.run(&boundary, way, messages)).await {
                Ok(Ok(Some(row))) => return row,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => trouble = format!("failed to {error}"),
                Err(_) => trouble = format!("not done within {} s", RUN_LIMIT.as_secs()),
            }
        }
        Row::open(boundary, way, trouble)
    }

    async fn run(&self, boundary: &Boundary, way: Way, messages: &[Recorded]) -> Result<Option<Row>, Error> {
        self.warm().await?;
        let key = new_key();
        let action = way.action();
        let is_kill = action == Action::Pause;
        self.proxy.record();
        let planted = self.proxy.plant(boundary.rule(action));
        let began = Instant::now();
        let reaching = async {
            if is_kill {
                // Taken back as soon as the session is gone: what was held then meets its end.
                return self.kill(planted).await.map(|bite| (bite, None));
            }
            Ok((None, Some(planted)))
        };
        let (wrote, reached) = tokio::join!(self.write(&key), reaching);
        let took = began.elapsed();
        let (killed, planted) = reached?;
        let bite = killed.or_else(|| planted.as_ref().and_then(|planted| planted.bites().first().copied()));
        let at_once = self.count(&key).await?;
        drop(planted);
        let recorded = self.proxy.recorded();
        let Some(bite) = bite.filter(|bite| boundary.is_where(bite, &recorded, messages)) else {
            return Ok(None);
        };
        self.settle(bite).await?;
        let settled = self.count(&key).await?;
        let after = match &self.subject {
            Subject::Served(served) => Some(served.after(&key, settled).await?),
            Subject::Raw(_) => None,
        };
        let finally = self.count(&key).await?;
        let truth = Truth { at_once, settled, finally };
        Ok(Some(Row::judged(boundary.clone(), way, wrote, truth, after, took)))
    }

    /// Ends the session at the server as soon as it has come to the boundary, and then lets it go on.
    async fn kill(&self, planted: Planted) -> Result<Option<Bite>, Error> {
        let Ok(Some(bite)) = timeout(REACHED_LIMIT, planted.bitten()).await else { return Ok(None) };
        let Some(process) = bite.process else { return Ok(None) };
        let client = self.cluster.connect(ASK_LIMIT).await?;
        let end = client.execute("SELECT pg_terminate_backend($1)", &[&process]).await;
        end.map_err(Error::postgres("end a session"))?;
        none(&client, "SELECT 1 FROM pg_stat_activity WHERE pid = $1", process).await?;
        Ok(Some(bite))
    }

    /// Waits until what was begun is over on all sides.
    async fn settle(&self, bite: Bite) -> Result<(), Error> {
        if let Some(process) = bite.process {
            let client = self.cluster.connect(ASK_LIMIT).await?;
            in_no_transaction(&client, process).await?;
        }
        match &self.subject {
            Subject::Served(served) => served.settle().await,
            Subject::Raw(_) => Ok(()),
        }
    }

    /// An ordinary write, so that connections and prepared statements are there.
    async fn warm(&self) -> Result<(), Error> {
        match &self.subject {
            Subject::Served(served) => served.warm().await,
            Subject::Raw(raw) => raw.warm().await,
        }
    }

    async fn write(&self, key: &str) -> Wrote {
        match &self.subject {
            Subject::Served(served) => served.write(key).await,
            Subject::Raw(raw) => raw.write(key).await,
        }
    }

    /// How often the write is in the database, asked past everything.
    async fn count(&self, key: &str) -> Result<i64, Error> {
        let client = self.cluster.connect(ASK_LIMIT).await?;
        let sql = match &self.subject {
            Subject::Served(_) => "SELECT count(*) FROM todos WHERE title = $1",
            Subject::Raw(_) => "SELECT count(*) FROM explored WHERE key = $1",
        };
        let row = client.query_one(sql, &[&key]).await.map_err(Error::postgres("count a write"))?;
        row.try_get(0).map_err(Error::postgres("count a write"))
    }
}

/// What became of a write, as its client saw it.
#[derive(Debug, Clone)]
pub(super) struct Wrote {
    pub(super) told: Told,
    /// In words: status and outcome, or the driver's error.
    pub(super) saw: String,
}

fn new_key() -> String {
    format!("explored-{}", uuid::Uuid::new_v4().simple())
}

async fn in_no_transaction(client: &tokio_postgres::Client, process: i32) -> Result<(), Error> {
    none(client, "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND xact_start IS NOT NULL", process).await
}

async fn none(client: &tokio_postgres::Client, sql: &str, process: i32) -> Result<(), Error> {
    let end = Instant::now() + ASK_LIMIT;
    loop {
        let found =
            client.query_opt(sql, &[&process]).await.map_err(Error::postgres("look for a session"))?;
        if found.is_none() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::Late { what: "see a session end".to_owned(), limit: ASK_LIMIT });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
