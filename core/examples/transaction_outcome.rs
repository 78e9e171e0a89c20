//! Transfers between two accounts, each in a transaction of its own that says how it ended: committed, rolled back, or not
//! known. Stop and start PostgreSQL meanwhile: the sum never changes, and nothing is called a failure that happened.
//!
//!     DATABASE_URL=postgres://… cargo run -p ridethrough --example transaction_outcome
//!
//! It makes the table `example_accounts` in that database.

use std::{env, sync::Arc, time::Duration};

use ridethrough::{
    Db, DbConfig, Deadline,
    cache::CacheConfig,
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, Outcome, Refusal, Statements, TransactionOptions,
    },
    drain::Drain,
    error::Error,
    health::SchemaPart,
    journal::{Journal, JournalConfig},
};
use tokio::time::{Instant, sleep};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS example_accounts (id int PRIMARY KEY, cents bigint NOT NULL);
    TRUNCATE example_accounts; INSERT INTO example_accounts VALUES (1, 500), (2, 500)";

/// This program journals nothing: a transfer that cannot be decided now is refused.
struct NoCommands;

impl Commands for NoCommands {
    fn apply<'c>(
        &'c self,
        _: &'c Statements<'c>,
        _: &'c Command,
        _: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async { Err(Refusal::new("no-commands").into()) })
    }
}

/// Replayable: the work has no effect outside of its transaction, so it may run again from its beginning.
async fn transfer(db: &Db, from: i32, to: i32) -> Outcome<i64> {
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(2));
    let work = async move |sql: &Statements<'_>| {
        let take =
            "UPDATE example_accounts SET cents = cents - 10 WHERE id = $1 AND cents >= 10 RETURNING cents";
        let left = sql.row(take, &[&from]).await?.ok_or_else(|| Refusal::new("too-little"))?;
        sql.run("UPDATE example_accounts SET cents = cents + 10 WHERE id = $1", &[&to]).await?;
        Ok(left.get(0))
    };
    db.transaction(TransactionOptions::new("transfer").replayable(), deadline, work).await
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
    db.connect(Duration::from_secs(3)).await?.batch_execute(TABLE).await?;
    db.set_schema(SchemaPart::Ok);
    let (_drain, draining) = Drain::new();
    tokio::spawn(background.prober.run(draining.clone()));
    tokio::spawn(background.reaper.run(draining.clone()));
    tokio::spawn(background.listener.run(draining.clone()));
    tokio::spawn(background.keeper.run(draining));
    for number in 0..40 {
        let (from, to) = if number % 2 == 0 { (1, 2) } else { (2, 1) };
        match transfer(&db, from, to).await {
            Outcome::Committed(left) => eprintln!("{number}: done, {left} left"),
            Outcome::RolledBack(error) => eprintln!("{number}: nothing happened: {}", said(&error)),
            // A service with a key of its own in the transaction looks for that; this one only says so.
            Outcome::Unknown(unresolved) => eprintln!(
                "{number}: not known, transaction {:?} may have happened: {}",
                unresolved.xid, unresolved.error
            ),
        }
        sleep(Duration::from_millis(250)).await;
    }
    let client = db.connect(Duration::from_secs(3)).await?;
    let sum: i64 = client.query_one("SELECT sum(cents)::bigint FROM example_accounts", &[]).await?.get(0);
    eprintln!("the sum is {sum}");
    if sum == 1_000 { Ok(()) } else { Err("money was made or lost".into()) }
}

fn said(error: &Error) -> String {
    error.explain().map_or_else(|| error.to_string(), |refusal| refusal.to_string())
}
