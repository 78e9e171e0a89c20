//! Writes that are accepted on disk while PostgreSQL is away and applied once when it is back.
//!
//!     DATABASE_URL=postgres://… cargo run -p ridethrough --example write_with_journal
//!
//! It makes the tables `ridethrough_writes` and `example_orders` in that database.

use std::{
    env,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ridethrough::{
    Db, DbConfig, Deadline,
    cache::CacheConfig,
    db::{Applied, ApplyError, BoxFuture, Command, Commands, SCHEMA_SQL, Statements},
    drain::Drain,
    health::SchemaPart,
    journal::{Journal, JournalConfig},
};
use tokio::time::{Instant, sleep};

const ORDERS: &str = "CREATE TABLE IF NOT EXISTS example_orders (body bytea NOT NULL)";

struct Orders;

impl Commands for Orders {
    fn apply<'c>(
        &'c self,
        sql: &'c Statements<'c>,
        order: &'c Command,
        _: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            sql.run("INSERT INTO example_orders (body) VALUES ($1)", &[&&order.payload[..]]).await?;
            Ok(Applied::Done(order.payload.clone()))
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(url) = env::var("DATABASE_URL") else {
        eprintln!("set DATABASE_URL to a PostgreSQL, then stop and start it");
        return Ok(());
    };
    // A service keeps its journal in a folder that outlives the process.
    let folder = tempfile::tempdir()?;
    let (journal, writer, _) = Journal::open(JournalConfig::new(folder.path()))?;
    std::thread::spawn(move || writer.run());
    let config = DbConfig { url, ..DbConfig::default() };
    let (db, background) = Db::new(config, CacheConfig::default(), journal, Arc::new(Orders))?;
    let tables = db.connect(Duration::from_secs(3)).await?;
    tables.batch_execute(&format!("{SCHEMA_SQL}; {ORDERS}")).await?;
    db.set_schema(SchemaPart::Ok);
    let (_drain, draining) = Drain::new();
    for (_, part) in background.parts(&draining) {
        tokio::spawn(part);
    }
    let run = fastrand::u64(..);
    for number in 0..40_u8 {
        let order = Command {
            key: format!("order-{run}-{number}"),
            name: "order".to_owned(),
            version: 1,
            ordering_key: String::new(),
            payload: vec![number].into(),
            fingerprint: [number; 32],
            accepted_at: SystemTime::now(),
        };
        match db.write(order, Deadline::after(Instant::now(), Duration::from_secs(2))).await {
            Ok(written) => eprintln!("{number}: {written:?}"),
            Err(error) => eprintln!("{number}: {error}"),
        }
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
