//! Reads of one row by its key: through [`Db::read`] with all that it does around the query, and through plain deadpool.
//!
//! One PostgreSQL, one runtime, equal pools; the tasks ask one after the other as fast as they are answered.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use hdrhistogram::Histogram;
use ridethrough::{
    Db, Deadline,
    bulkhead::BulkheadConfig,
    cache::{CacheConfig, CacheKey},
    db::{Applied, ApplyError, BoxFuture, Command, Commands, DbConfig, PoolConfig, Query, Statements},
    drain::Drain,
    health::SchemaPart,
    journal::{Journal, JournalConfig},
};
use tokio::{runtime::Runtime, time::Instant};
use tokio_postgres::{Error, NoTls};

use crate::{measure::median, peers};

const ROWS: i64 = 10_000;
const CONNECTIONS: usize = 32;
const ROUND: Duration = Duration::from_millis(1_200);
const DEADLINE: Duration = Duration::from_secs(2);
/// Held by each connection while all are opened, and how long that may take on a busy machine.
const HOLD_SQL: &str = "SELECT pg_sleep(0.2)";
const WARM_MAX: Duration = Duration::from_secs(60);
const SQL: &str = "SELECT title FROM bench_todos WHERE id = $1";

/// The database under both, and the way to it.
pub struct Ground {
    runtime: Runtime,
    /// Without lanes, and with them.
    own: Db,
    shared: Db,
    pool: Pool,
    _drain: Drain,
    _journal_folder: tempfile::TempDir,
    _cluster: ridethrough_chaos::Cluster,
}

/// How one round went.
#[derive(Debug, Default)]
struct Round {
    per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    /// Processor time of this process for one read, in microseconds.
    processor: Vec<f64>,
}

impl Ground {
    /// Starts PostgreSQL and fills a table. `guardian` is the `ridethrough-chaos` binary, which cleans up.
    pub fn new(guardian: &std::path::Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be built");
        // As a service has it: without a recorder every metric is looked up by name for each call.
        peers::recorder();
        let (drain, cluster, [own, shared], pool, folder) = runtime.block_on(async {
            let ground = set_up(guardian).await;
            for db in &ground.2 {
                warm(db).await;
            }
            ground
        });
        Self { runtime, own, shared, pool, _drain: drain, _journal_folder: folder, _cluster: cluster }
    }

    /// One table for each number of tasks.
    pub fn tables(&self, rounds: usize) -> Vec<String> {
        [1, 16, 64].map(|tasks| self.table(tasks, rounds)).into()
    }

    fn table(&self, tasks: usize, rounds: usize) -> String {
        // Nobody reads the recorder here, which would otherwise let go of what it was told.
        peers::recorder().run_upkeep();
        let mut all = [Round::default(), Round::default(), Round::default()];
        for round in 0..=rounds {
            for turn in 0..all.len() {
                let who = (turn + round) % all.len();
                let mut one = Round::default();
                match who {
                    0 => self.ours(&self.own, tasks, &mut one),
                    1 => self.ours(&self.shared, tasks, &mut one),
                    _ => self.theirs(tasks, &mut one),
                }
                // The first round only warms up.
                if round > 0 {
                    all[who].add(one);
                }
            }
        }
        let [own, shared, theirs] = all;
        format!(
            "reads of one row, {tasks} task{}, {CONNECTIONS} connections\n{}{}{}{}{}",
            if tasks == 1 { "" } else { "s" },
            own.line("Db::read, own connection"),
            shared.line("Db::read, shared"),
            theirs.line("deadpool-postgres, recycling fast"),
            own.ratio("own", &theirs),
            shared.ratio("shared", &theirs),
        )
    }

    fn ours(&self, db: &Db, tasks: usize, round: &mut Round) {
        let db = db.clone();
        round.measure(&self.runtime, tasks, move |id| {
            let db = db.clone();
            async move {
                let read = db.read(&TitleQuery(id), Deadline::after(Instant::now(), DEADLINE)).await;
                assert!(
                    read.is_ok_and(|read| read.into_parts().0.is_some()),
                    "a read of a living database is answered"
                );
            }
        });
    }

    fn theirs(&self, tasks: usize, round: &mut Round) {
        let pool = self.pool.clone();
        round.measure(&self.runtime, tasks, move |id| {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.expect("a connection can be had");
                let statement = client.prepare_cached(SQL).await.expect("the statement is right");
                let row = client.query_one(&statement, &[&id]).await.expect("the row is there");
                std::hint::black_box(Bytes::from(row.get::<_, String>(0)));
            }
        });
    }
}

impl Round {
    fn measure<F, R>(&mut self, runtime: &Runtime, tasks: usize, ask: F)
    where
        F: Fn(i64) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send,
    {
        let ask = Arc::new(ask);
        let (started, used) = (Instant::now(), processor_time());
        let all = runtime.block_on(async {
            let workers: Vec<_> = (0..tasks)
                .map(|task| {
                    let ask = ask.clone();
                    tokio::spawn(async move {
                        let mut random = fastrand::Rng::with_seed(task as u64);
                        let mut times = histogram();
                        while started.elapsed() < ROUND {
                            let asked = Instant::now();
                            ask(random.i64(0..ROWS)).await;
                            times.saturating_record(asked.elapsed().as_nanos() as u64);
                        }
                        times
                    })
                })
                .collect();
            let mut all = histogram();
            for worker in workers {
                all.add(worker.await.expect("a task does not panic")).expect("the same bounds");
            }
            all
        });
        let used = processor_time().saturating_sub(used);
        self.processor.push(used.as_secs_f64() * 1e6 / all.len() as f64);
        self.per_second.push(all.len() as f64 / started.elapsed().as_secs_f64());
        self.p50.push(all.value_at_quantile(0.5) as f64 / 1_000.0);
        self.p99.push(all.value_at_quantile(0.99) as f64 / 1_000.0);
    }

    fn add(&mut self, other: Self) {
        self.per_second.extend(other.per_second);
        self.p50.extend(other.p50);
        self.p99.extend(other.p99);
        self.processor.extend(other.processor);
    }

    fn ratio(&self, name: &str, theirs: &Self) -> String {
        let rates = self.per_second.iter().zip(&theirs.per_second);
        let ratios: Vec<f64> = rates.map(|(ours, theirs)| ours / theirs).collect();
        let tails: Vec<f64> = self.p99.iter().zip(&theirs.p99).map(|(ours, theirs)| ours / theirs).collect();
        let (least, most) = ratios.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        format!(
            "  {name} to deadpool: throughput {:.3} ({least:.2} to {most:.2}), p99 {:.2}\n",
            median(&ratios),
            median(&tails),
        )
    }

    fn line(&self, name: &str) -> String {
        let (rate, p50, p99) = (median(&self.per_second), median(&self.p50), median(&self.p99));
        let processor = median(&self.processor);
        format!(
            "  {name:<36} {rate:>8.0} /s   p50 {p50:>6.0} us   p99 {p99:>6.0} us   {processor:>5.2} us of CPU\n"
        )
    }
}

/// One title by its id.
#[derive(Clone)]
struct TitleQuery(i64);

impl Query for TitleQuery {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "title"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared(format_args!("title:{}", self.0))
    }

    fn is_short(&self) -> bool {
        true
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let row = statements.row(SQL, &[&self.0]).await?;
        row.map(|row| row.try_get::<_, String>(0).map(Bytes::from)).transpose()
    }
}

/// Keeps a connection busy for a while.
#[derive(Clone)]
struct Hold;

impl Query for Hold {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "hold"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("hold")
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        statements.row(HOLD_SQL, &[]).await?;
        Ok(None)
    }
}

/// Opens all connections: on a busy machine a dial takes longer than an attempt to read may, and what is measured here is
/// no dial.
async fn warm(db: &Db) {
    let started = Instant::now();
    let mut good_rounds = 0;
    while good_rounds < 2 {
        assert!(started.elapsed() < WARM_MAX, "the connections cannot be opened");
        let hold = |_| {
            let db = db.clone();
            tokio::spawn(async move { db.read(&Hold, Deadline::after(Instant::now(), DEADLINE)).await })
        };
        let holds: Vec<_> = (0..CONNECTIONS).map(hold).collect();
        let mut answered = 0;
        for hold in holds {
            let read = hold.await.expect("a task does not panic");
            answered += usize::from(read.is_ok_and(|read| read.into_fresh().is_ok()));
        }
        good_rounds = if answered == CONNECTIONS { good_rounds + 1 } else { 0 };
    }
}

/// Nothing is written here.
struct NoCommands;

impl Commands for NoCommands {
    fn apply<'c>(
        &'c self,
        _statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async { Ok(Applied::Done(Bytes::new())) })
    }
}

async fn set_up(
    guardian: &std::path::Path,
) -> (Drain, ridethrough_chaos::Cluster, [Db; 2], Pool, tempfile::TempDir) {
    let options = ridethrough_chaos::cluster::Options {
        guardian: Some(guardian.to_owned()),
        settings: vec![("max_connections".to_owned(), "150".to_owned())],
        ..ridethrough_chaos::cluster::Options::default()
    };
    let cluster = ridethrough_chaos::Cluster::start(&options).await.expect("PostgreSQL can be started");
    let (client, connection) =
        tokio_postgres::connect(&cluster.url(), NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    let fill = format!(
        "CREATE TABLE bench_todos (id bigint PRIMARY KEY, title text NOT NULL);
         INSERT INTO bench_todos SELECT id, 'the title of todo ' || id FROM generate_series(0, {ROWS} - 1) AS id;
         VACUUM ANALYZE bench_todos"
    );
    for statement in fill.split(';') {
        client.batch_execute(statement).await.expect("the table can be made");
    }
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (journal, writer, _) =
        Journal::open(JournalConfig::new(folder.path())).expect("a journal can be made");
    std::thread::spawn(move || writer.run());
    let (drain, draining) = Drain::new();
    let db = |lanes| {
        let config = DbConfig {
            url: cluster.url(),
            bulkhead: BulkheadConfig { permits: CONNECTIONS, ..BulkheadConfig::default() },
            pool: PoolConfig { lanes, ..PoolConfig::default() },
            ..DbConfig::default()
        };
        let (db, background) = Db::new(config, CacheConfig::default(), journal.clone(), Arc::new(NoCommands))
            .expect("the configuration is right");
        tokio::spawn(background.reaper.run(draining.clone()));
        tokio::spawn(background.prober.run(draining.clone()));
        db.set_schema(SchemaPart::Ok);
        db
    };
    let databases = [db(0), db(PoolConfig::default().lanes)];
    let manager = Manager::from_config(
        cluster.url().parse().expect("the URL is right"),
        NoTls,
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let pool = Pool::builder(manager).max_size(CONNECTIONS).build().expect("a pool can be built");
    (drain, cluster, databases, pool, folder)
}

/// What this process has used of the processors, to a hundredth of a second.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program is in brackets and may have spaces in it; user and system time are the 14th and 15th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Up to ten seconds, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(10_000_000_000, 3).expect("the bounds are right")
}
