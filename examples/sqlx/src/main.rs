//! sqlx behind a guard: reads and writes go on through a restart of PostgreSQL, callers wait no longer than their deadline,
//! and at the end the rows are counted against what the callers were told. See the README beside it.

use std::{env, time::Duration};

use ridethrough::{
    Deadline, db,
    error::{ErrorClass, Phase},
    guard::{Guard, GuardConfig, GuardError},
    judgement::{Judgement, Repeatable},
};
use sqlx::{
    ConnectOptions, Connection, PgPool,
    postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions, PgSeverity},
};
use tokio::time::{Instant, sleep, timeout};

const CALL: Duration = Duration::from_millis(800);

/// sqlx says what went wrong; only the caller knows whether the statement had been sent.
#[derive(Debug)]
struct Failure(Phase, sqlx::Error);

fn judge<T>(result: &Result<T, Failure>) -> Judgement {
    let Err(Failure(phase, error)) = result else { return Judgement::SUCCESS };
    match error {
        sqlx::Error::Database(spoken) => {
            let severity = spoken.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
            let fatal = matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic));
            db::judge(&spoken.code().unwrap_or_default(), fatal, *phase)
        }
        // The pool tries again and again inside `acquire`, so this is its way to say that nobody answers.
        sqlx::Error::PoolTimedOut => Judgement::of(ErrorClass::Transient),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
            db::judge("08006", false, *phase)
        }
        _ => Judgement::of(ErrorClass::Permanent),
    }
}

async fn count(pool: &PgPool) -> Result<i64, Failure> {
    let mut connection = pool.acquire().await.map_err(|error| Failure(Phase::NotSent, error))?;
    let count = sqlx::query_scalar("SELECT count(*) FROM ride").fetch_one(&mut *connection).await;
    count.map_err(|error| Failure(Phase::Sent, error))
}

/// The key makes a second application harmless, so an unknown end may be tried again.
async fn insert(pool: &PgPool, key: i64) -> Result<(), Failure> {
    let mut connection = pool.acquire().await.map_err(|error| Failure(Phase::NotSent, error))?;
    let statement = sqlx::query("INSERT INTO ride (key) VALUES ($1) ON CONFLICT DO NOTHING").bind(key);
    let done = statement.execute(&mut *connection).await;
    done.map(|_| ()).map_err(|error| Failure(Phase::Sent, error))
}

/// Asks on a connection of its own, so that no caller has to find out that the database is back.
async fn probe(guard: Guard, options: PgConnectOptions) {
    const EVERY: Duration = Duration::from_millis(200);
    loop {
        let asked = timeout(EVERY * 5, async { options.connect().await?.ping().await }).await;
        let now = Instant::now();
        match asked {
            Ok(Ok(())) => guard.breaker().probe_succeeded(now),
            Ok(Err(_)) | Err(_) => guard.breaker().probe_failed(now, now + EVERY),
        }
        sleep(EVERY).await;
    }
}

#[derive(Default)]
struct Tally {
    done: usize,
    refused: usize,
    failed: usize,
    slowest: Duration,
}

impl Tally {
    fn add<T>(&mut self, result: &Result<T, GuardError<Failure>>, took: Duration) {
        self.slowest = self.slowest.max(took);
        match result {
            Ok(_) => self.done += 1,
            Err(error) if error.is_rejection() => self.refused += 1,
            Err(_) => self.failed += 1,
        }
    }

    fn print(&self, what: &str) {
        let Self { done, refused, failed, slowest } = self;
        println!(
            "{what}: {done} done, {refused} refused, {failed} failed, slowest {} ms",
            slowest.as_millis()
        );
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url =
        env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL to a PostgreSQL that may be restarted")?;
    let seconds = env::args().nth(1).map_or(Ok(20), |seconds| seconds.parse())?;
    let options: PgConnectOptions = url.parse()?;
    let pool =
        PgPoolOptions::new().max_connections(8).acquire_timeout(CALL).connect_with(options.clone()).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS ride (key bigint PRIMARY KEY)").execute(&pool).await?;
    sqlx::query("TRUNCATE ride").execute(&pool).await?;

    let guard = Guard::new("database", GuardConfig { attempt: CALL / 2, ..GuardConfig::default() });
    let prober = tokio::spawn(probe(guard.clone(), options));
    let (mut reads, mut writes, mut told) = (Tally::default(), Tally::default(), Vec::new());
    let mut state = guard.breaker().state(Instant::now());
    let end = Instant::now() + Duration::from_secs(seconds);
    for key in 0.. {
        let started = Instant::now();
        if started >= end {
            break;
        }
        let read = guard.call(Deadline::after(started, CALL), |_| count(&pool), &Repeatable(judge)).await;
        reads.add(&read, started.elapsed());
        let started = Instant::now();
        let write =
            guard.call(Deadline::after(started, CALL), |_| insert(&pool, key), &Repeatable(judge)).await;
        writes.add(&write, started.elapsed());
        if write.is_ok() {
            told.push(key);
        }
        let now = guard.breaker().state(Instant::now());
        if now != state {
            state = now;
            println!("breaker {} after {} reads", state.as_str(), reads.done + reads.refused + reads.failed);
        }
        sleep(Duration::from_millis(20)).await;
    }
    prober.abort();
    reads.print("reads");
    writes.print("writes");
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM ride WHERE key = ANY($1)")
        .bind(&told)
        .fetch_one(&pool)
        .await?;
    println!("{} writes were confirmed, {kept} of them are in the table", told.len());
    if usize::try_from(kept)? == told.len() { Ok(()) } else { Err("a confirmed write is missing".into()) }
}
