//! The prober: is the database there? Asked in the background on a connection of its own, so that no user's request has
//! to be the one that finds out, neither that it is gone nor that it is back.
//!
//! It tells the breaker and the `database` channel; it serves nobody.

use std::{sync::PoisonError, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::Client;

use super::Db;
use crate::{
    drain::Draining,
    error::{Error, ErrorClass, Phase, Stage},
    health::DatabasePart,
};

/// Ends the open interval quickly once the database answered: the second look that confirms it.
const CONFIRM_AFTER: Duration = Duration::from_millis(50);
/// The alarm about refused credentials is repeated this often, not on every probe.
const REFUSAL_REPEAT: Duration = Duration::from_secs(300);

/// Watches one database until the drain. Made by [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without the prober an outage ends only by users' requests"]
pub struct Prober {
    db: Db,
    session: Option<Session>,
    misses: u32,
    refusal_logged: Option<Instant>,
}

#[derive(Debug)]
struct Session {
    client: Client,
    driver: JoinHandle<()>,
    since: Instant,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Prober {
    pub(super) fn new(db: Db) -> Self {
        Self { db, session: None, misses: 0, refusal_logged: None }
    }

    /// Probes until the drain begins.
    ///
    /// # Cancel safety
    /// Dropping it closes its connection.
    pub async fn run(mut self, mut draining: Draining) {
        loop {
            let pause = self.step().await;
            tokio::select! {
                () = sleep(pause) => {}
                () = draining.requested() => return,
            }
        }
    }

    /// One probe and its consequences; answers the pause until the next.
    async fn step(&mut self) -> Duration {
        let was = *self.db.0.database.borrow();
        let now_is = match self.probe().await {
            Ok(part) => {
                self.misses = 0;
                self.db.0.breaker.probe_succeeded(Instant::now());
                part
            }
            Err(error) => self.missed(&error, was),
        };
        if was != now_is {
            self.turned(was, now_is);
        }
        match now_is {
            // Each probe is a step of the breaker's ramp, which a quiet service would not climb by itself.
            DatabasePart::Up | DatabasePart::ReadOnly
                if was == now_is && self.misses == 0 && self.db.0.breaker.ramp(Instant::now()).is_none() =>
            {
                self.db.0.config.probe.every
            }
            DatabasePart::Up | DatabasePart::ReadOnly => CONFIRM_AFTER,
            _ => self.pause_while_away(),
        }
    }

    /// A silent server may only be busy, so silence counts the second time; a refusal speaks for itself.
    fn missed(&mut self, error: &Error, was: DatabasePart) -> DatabasePart {
        let up = matches!(was, DatabasePart::Up | DatabasePart::ReadOnly);
        // A living server that has no room for one more session says nothing against those that exist.
        if error.class() == ErrorClass::Overload {
            return if up { was } else { DatabasePart::Away };
        }
        self.misses += 1;
        self.session = None;
        let silent = matches!(error, Error::Timeout { .. });
        if silent && self.misses < 2 && up {
            return was;
        }
        let now = Instant::now();
        self.db.0.breaker.probe_failed(now, now + self.pause_while_away());
        if up {
            let (stage, code) = (error.stage().as_str(), error.code().unwrap_or("none"));
            tracing::warn!(stage, code, silent, "the database does not answer");
        }
        if is_refusal(error) {
            self.alarm(error, now);
            return DatabasePart::Refused;
        }
        DatabasePart::Away
    }

    fn turned(&self, was: DatabasePart, now_is: DatabasePart) {
        let up = matches!(now_is, DatabasePart::Up | DatabasePart::ReadOnly);
        if up {
            tracing::info!(from = ?was, to = ?now_is, "the database answers");
        } else {
            // Connections that led to it are gone or not to be trusted.
            self.db.0.pool.evict_idle();
            tracing::warn!(from = ?was, to = ?now_is, "the database is away");
        }
        self.db.0.database.send_replace(now_is);
    }

    fn alarm(&mut self, error: &Error, now: Instant) {
        if self.refusal_logged.is_none_or(|at| now.saturating_duration_since(at) >= REFUSAL_REPEAT) {
            self.refusal_logged = Some(now);
            let code = error.code().unwrap_or_default();
            tracing::error!(
                code,
                "the database refuses our credentials or database name; a person must look"
            );
        }
    }

    fn pause_while_away(&self) -> Duration {
        let config = &self.db.0.config.probe;
        let doublings = self.misses.saturating_sub(1).min(10);
        let longest = config.away_first.saturating_mul(1 << doublings).min(config.away_max);
        let jitter = self.db.0.random.lock().unwrap_or_else(PoisonError::into_inner).f64();
        longest.mul_f64(0.5 + jitter / 2.0)
    }

    async fn probe(&mut self) -> Result<DatabasePart, Error> {
        let limit = self.db.0.config.probe.timeout;
        let session = match self.session.take() {
            Some(session) if session.since.elapsed() < self.db.0.config.probe.reconnect => session,
            // Old sessions can go on working on a server that takes no new ones.
            Some(old) => match self.dial(limit).await {
                Ok(session) => session,
                // Full is not away: the old one may tell how it is.
                Err(error) if error.class() == ErrorClass::Overload => old,
                Err(error) => return Err(error),
            },
            None => self.dial(limit).await?,
        };
        let part = match ask(&session.client, limit).await {
            Ok(part) => part,
            // The session ended, which says little about the server: a new one does.
            Err(Error::Database { .. }) => {
                let session = self.dial(limit).await?;
                let part = ask(&session.client, limit).await?;
                self.session = Some(session);
                return Ok(part);
            }
            Err(error) => return Err(error),
        };
        self.session = Some(session);
        Ok(part)
    }

    async fn dial(&self, limit: Duration) -> Result<Session, Error> {
        let (client, driver) = self.db.0.pool.dialler().dial(limit).await?;
        Ok(Session { client, driver, since: Instant::now() })
    }
}

async fn ask(client: &Client, limit: Duration) -> Result<DatabasePart, Error> {
    const QUESTION: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";

    match timeout(limit, client.query_one(QUESTION, &[])).await {
        Ok(Ok(row)) => Ok(match row.try_get(0) {
            Ok(false) => DatabasePart::Up,
            Ok(true) | Err(_) => DatabasePart::ReadOnly,
        }),
        Ok(Err(source)) => Err(super::classify::error(source, Stage::Query, Phase::Sent).0),
        Err(_) => Err(Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit }),
    }
}

/// Invalid authorization, or no such database: waiting does not help.
fn is_refusal(error: &Error) -> bool {
    error.code().is_some_and(|code| code.starts_with("28") || code == "3D000")
}
