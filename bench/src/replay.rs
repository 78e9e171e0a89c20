//! How fast a backlog of todo commands is applied, keys included: from the journal on disk to COMMIT in PostgreSQL.
//!
//! The commands are the todo server's own. The database takes its default settings, so every COMMIT is on disk.

use std::{fmt::Write as _, path::Path, sync::Arc, time::SystemTime};

use ridethrough::{
    Db,
    bulkhead::BulkheadConfig,
    cache::CacheConfig,
    db::{DbConfig, SCHEMA_SQL, to_microseconds},
    drain::Drain,
    health::SchemaPart,
    journal::{Journal, JournalConfig, NewEntry},
};
use ridethrough_server::write_side;
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::measure::median;

/// Of one round; each is a backlog of its own.
const ENTRIES: u128 = 50_000;
const ROUNDS: usize = 5;
/// Appends on their way at a time.
const APPENDS: usize = 4_000;

/// Creations, then replacements of what was created, then removals; by one batch at a time and by several.
pub fn table(guardian: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(measure(guardian))
}

async fn measure(guardian: &Path) -> String {
    let options = ridethrough_chaos::cluster::Options {
        guardian: Some(guardian.to_owned()),
        ..ridethrough_chaos::cluster::Options::default()
    };
    let cluster = ridethrough_chaos::Cluster::start(&options).await.expect("PostgreSQL can be started");
    let (client, connection) =
        tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    let schema = format!("{}{SCHEMA_SQL}", write_side::SCHEMA);
    client.batch_execute(&schema).await.expect("the tables can be made");
    let mut text = format!("replay of {ENTRIES} todo commands, entries per second, keys included\n");
    // Four permits make one batch at a time, on one connection; 32 make up to six.
    for (title, permits) in [("one connection", 4), ("up to six connections", 32)] {
        let mut rates: [Vec<f64>; 3] = Default::default();
        for round in 0..ROUNDS {
            let folder = tempfile::tempdir().expect("a folder can be made");
            let replica = Replica::start(&cluster.url(), permits, folder.path());
            let first = ((permits as u128) << 64) | ((round as u128) << 32);
            for (kind, rates) in ["create", "replace", "remove"].into_iter().zip(&mut rates) {
                rates.push(replica.replay(kind, first).await);
            }
        }
        for (kind, rates) in ["create", "replace", "remove"].into_iter().zip(&rates) {
            let (least, most) = rates.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
            let name = format!("todo.{kind}, {title}");
            let _ = writeln!(text, "  {name:<44} {:>10.0} /s   ({least:.0} to {most:.0})", median(rates));
        }
    }
    text
}

struct Replica {
    db: Db,
    journal: Journal,
    _drain: Drain,
}

impl Replica {
    fn start(url: &str, permits: usize, folder: &Path) -> Self {
        let (journal, writer, _) = Journal::open(JournalConfig::new(folder)).expect("a journal can be made");
        std::thread::spawn(move || writer.run());
        let bulkhead = BulkheadConfig { permits, adaptive: false, ..BulkheadConfig::default() };
        let config = DbConfig { url: url.to_owned(), bulkhead, ..DbConfig::default() };
        let commands = write_side::todo_commands(Uuid::from_u128(7));
        let (db, background) = Db::new(config, CacheConfig::default(), journal.clone(), commands)
            .expect("the configuration is right");
        let (drain, draining) = Drain::new();
        tokio::spawn(background.prober.run(draining.clone()));
        tokio::spawn(background.reaper.run(draining.clone()));
        tokio::spawn(background.replay.run(draining));
        Self { db, journal, _drain: drain }
    }

    /// Fills the journal while the database may not be used, and then lets it.
    async fn replay(&self, kind: &'static str, first: u128) -> f64 {
        self.db.set_schema(SchemaPart::Unknown);
        let limit = Arc::new(tokio::sync::Semaphore::new(APPENDS));
        let appends: Vec<_> = (0..ENTRIES)
            .map(|number| {
                let (journal, limit) = (self.journal.clone(), limit.clone());
                tokio::spawn(async move {
                    let _room = limit.acquire().await.expect("nobody closes it");
                    journal.append(entry(kind, first + number)).await.expect("the journal takes it");
                })
            })
            .collect();
        for append in appends {
            append.await.expect("an append does not panic");
        }
        let started = Instant::now();
        self.db.set_schema(SchemaPart::Ok);
        while self.journal.backlog().entries > 0 {
            assert!(started.elapsed() < Duration::from_secs(120), "the backlog is not replayed");
            sleep(Duration::from_millis(1)).await;
        }
        ENTRIES as f64 / started.elapsed().as_secs_f64()
    }
}

fn entry(kind: &'static str, number: u128) -> NewEntry {
    let id = Uuid::from_u128(number);
    let payload = match kind {
        "create" => format!("{{\"id\":\"{id}\",\"title\":\"the title of todo {number}\"}}"),
        "replace" => format!("{{\"id\":\"{id}\",\"title\":\"another title\",\"done\":true}}"),
        _ => format!("{{\"id\":\"{id}\"}}"),
    };
    NewEntry {
        key: format!("{kind}-{number}"),
        kind: format!("todo.{kind}"),
        fingerprint: [0; 32],
        accepted_at: to_microseconds(SystemTime::now()),
        payload: payload.into(),
        version: 1,
        ordering_key: id.to_string(),
        retried: false,
    }
}
