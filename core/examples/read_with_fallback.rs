//! A read that is answered from memory, labelled, while PostgreSQL is away.
//!
//!     DATABASE_URL=postgres://… cargo run -p ridethrough --example read_with_fallback

use std::{env, sync::Arc, time::Duration};

use ridethrough::{
    Db, DbConfig, Deadline,
    cache::{CacheConfig, CacheKey, Json},
    db::{Applied, ApplyError, BoxFuture, Command, Commands, Query, Refusal, Statements},
    drain::Drain,
    health::SchemaPart,
    journal::{Journal, JournalConfig},
};
use tokio::time::{Instant, sleep};

#[derive(Clone)]
struct ServerTime;

impl Query for ServerTime {
    type Answer = Json<String>;

    fn name(&self) -> &'static str {
        "server-time"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("server-time")
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Self::Answer>, tokio_postgres::Error> {
        let row = statements.row("SELECT now()::text", &[]).await?;
        Ok(row.map(|row| Json(row.get(0))))
    }
}

/// This program only reads.
struct NoCommands;

impl Commands for NoCommands {
    fn apply<'c>(
        &'c self,
        _: &'c Statements<'c>,
        _: &'c Command,
        _: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async { Err(Refusal::new("reads-only").into()) })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(url) = env::var("DATABASE_URL") else {
        eprintln!("set DATABASE_URL to a PostgreSQL, then stop and start it");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (journal, writer, _) = Journal::open(JournalConfig::new(folder.path()))?;
    std::thread::spawn(move || writer.run());
    let config = DbConfig { url, ..DbConfig::default() };
    let (db, background) = Db::new(config, CacheConfig::default(), journal, Arc::new(NoCommands))?;
    db.set_schema(SchemaPart::Ok);
    let (_drain, draining) = Drain::new();
    for (_, part) in background.parts(&draining) {
        tokio::spawn(part);
    }
    for _ in 0..40 {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(1));
        match db.read(&ServerTime, deadline).await {
            Ok(read) => {
                let (time, freshness, _) = read.into_parts();
                eprintln!("{freshness}: {:?}", time.map(|Json(time)| time));
            }
            Err(error) => eprintln!("{error}; again in {:?}", error.retry_after()),
        }
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
