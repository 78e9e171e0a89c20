//! The care for the table of events: months made ahead, and old ones dropped, by one replica at a time and off the path of
//! requests. What is done stands in functions of the database, so that the service's role needs no right to make or drop
//! tables; here is when.

use std::time::Duration;

use ridethrough::{
    Db, Error,
    drain::Draining,
    health::{DatabasePart, SchemaPart},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{
    Client,
    types::{FromSqlOwned, ToSql, Type},
};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For one round: short steps, each with a limit of its own.
const ROUND_MAX: Duration = Duration::from_secs(120);
/// After a round that failed, and until there is a database.
const AGAIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Beside the month that it is.
const MONTHS_AHEAD: i32 = 2;
/// Dropped in one round; more are left to the next.
const MONTHS_AT_ONCE: usize = 12;
/// Removed from the net in one step, and steps in one round.
const LINES_AT_ONCE: i64 = 1_000;
const STEPS_MAX: usize = 100;
/// Less is refused by the database, too.
const RETENTION_MIN: Duration = Duration::from_secs(28 * 86_400);
const EVERY_MIN: Duration = Duration::from_secs(1);
const UNDEFINED_FUNCTION: &str = "42883";

const OLDEST: &str = "ridethrough_events_oldest_seconds";
const MONTHS: &str = "ridethrough_event_months_total";
const FORGOTTEN: &str = "ridethrough_events_forgotten_total";
pub(crate) const GIVEN_UP: &str = "ridethrough_events_given_up_total";

/// How events are kept.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EventsSection {
    /// How long; a whole month is dropped once all of it is older. Default 400 days, 28 at the least.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) retention: Duration,
    /// How often it is looked after. Default 1 h, 1 s at the least.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) every: Duration,
}

impl Default for EventsSection {
    fn default() -> Self {
        Self { retention: Duration::from_secs(400 * 86_400), every: Duration::from_secs(3_600) }
    }
}

impl EventsSection {
    /// # Errors
    /// One sentence that names the key.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let most = Duration::from_secs(100 * 366 * 86_400);
        if !(RETENTION_MIN..=most).contains(&self.retention) {
            return Err("events.retention must be between 28d and 36600d".to_owned());
        }
        if !(EVERY_MIN..=Duration::from_secs(7 * 86_400)).contains(&self.every) {
            return Err("events.every must be between 1s and 7d".to_owned());
        }
        Ok(())
    }
}

/// Looks after the events until the drain.
///
/// # Cancel safety
/// A round that was dropped leaves whole steps behind.
pub(crate) async fn keep(db: Db, config: EventsSection, mut draining: Draining) {
    let rounds = async {
        // Nothing is urgent, and a start has other things to do.
        sleep(config.every.min(AGAIN)).await;
        loop {
            if !is_there(&db) {
                sleep(LOOK_EVERY).await;
                continue;
            }
            let wait = match timeout(ROUND_MAX, round(&db, config.retention)).await {
                Ok(Ok(())) => config.every,
                Ok(Err(code)) => {
                    tracing::info!(code, "events could not be looked after; it is tried again");
                    config.every.min(AGAIN)
                }
                Err(_) => config.every.min(AGAIN),
            };
            sleep(wait).await;
        }
    };
    tokio::select! {
        () = draining.requested() => {}
        () = rounds => {}
    }
}

/// Whether the database can be asked, with the tables that this program needs.
pub(crate) fn is_there(db: &Db) -> bool {
    let (database, _, _, schema) = db.parts(Instant::now());
    database == DatabasePart::Up && matches!(schema, SchemaPart::Ok | SchemaPart::Pending)
}

/// A failed statement's SQLSTATE; nothing where the connection failed.
pub(crate) type Code = Option<String>;

/// Everything that is due.
async fn round(db: &Db, retention: Duration) -> Result<(), Code> {
    let connected = db.connect(CONNECT_MAX).await;
    let client = connected.map_err(|error: Error| error.code().map(str::to_owned))?;
    for month in 0..=MONTHS_AHEAD {
        let sql = "SELECT todo_events_make_month(now() + make_interval(months => $1))";
        if step(&client, sql, &[(&month, Type::INT4)]).await? {
            metrics::counter!(MONTHS, "change" => "made").increment(1);
            tracing::info!(month, "a partition for events was made");
        }
    }
    let before = OffsetDateTime::now_utc() - retention;
    for _ in 0..MONTHS_AT_ONCE {
        let sql = "SELECT todo_events_drop_month($1)";
        if !step::<bool>(&client, sql, &[(&before, Type::TIMESTAMPTZ)]).await? {
            break;
        }
        metrics::counter!(MONTHS, "change" => "dropped").increment(1);
        tracing::info!("a partition of old events was dropped");
    }
    for _ in 0..STEPS_MAX {
        let sql = "SELECT todo_events_forget($1, $2)";
        let gone =
            step::<i64>(&client, sql, &[(&before, Type::TIMESTAMPTZ), (&LINES_AT_ONCE, Type::INT8)]).await?;
        metrics::counter!(FORGOTTEN).increment(u64::try_from(gone).unwrap_or_default());
        if gone < LINES_AT_ONCE {
            break;
        }
    }
    give_up(&client).await?;
    let oldest: Option<OffsetDateTime> = step(&client, "SELECT todo_events_oldest()", &[]).await?;
    let age = oldest.map_or(0.0, |oldest| (OffsetDateTime::now_utc() - oldest).as_seconds_f64().max(0.0));
    metrics::gauge!(OLDEST).set(age);
    Ok(())
}

/// Empties the outbox where nobody publishes any more, and keeps it within its bound where nobody does at the moment.
async fn give_up(client: &Client) -> Result<(), Code> {
    for _ in 0..STEPS_MAX {
        let gone =
            match step::<i64>(client, "SELECT todo_outbox_trim($1)", &[(&LINES_AT_ONCE, Type::INT8)]).await {
                // That step of the schema is still to come.
                Err(Some(code)) if code == UNDEFINED_FUNCTION => 0,
                gone => gone?,
            };
        metrics::counter!(GIVEN_UP).increment(u64::try_from(gone).unwrap_or_default());
        if gone < LINES_AT_ONCE {
            break;
        }
    }
    Ok(())
}

/// What one step answers, which is a statement and a transaction of its own. Where another replica is at it, that is that
/// there was nothing to do. Behind a pooler a statement with a name would meet those of others, so it has none.
async fn step<T: FromSqlOwned>(
    client: &Client,
    sql: &str,
    values: &[(&(dyn ToSql + Sync), Type)],
) -> Result<T, Code> {
    let rows = client.query_typed(sql, values).await.map_err(code)?;
    rows.first().ok_or(None)?.try_get(0).map_err(code)
}

pub(crate) fn code(error: tokio_postgres::Error) -> Code {
    error.code().map(|code| code.code().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_for_some_time_at_least_and_looked_after_at_times() {
        assert_eq!(EventsSection::default().validate(), Ok(()));
        let with = |days: u64, seconds: u64| EventsSection {
            retention: Duration::from_secs(days * 86_400),
            every: Duration::from_secs(seconds),
        };
        assert!(with(27, 1).validate().unwrap_err().contains("events.retention"));
        assert!(with(40_000, 1).validate().unwrap_err().contains("events.retention"));
        assert!(with(28, 0).validate().unwrap_err().contains("events.every"));
    }
}
