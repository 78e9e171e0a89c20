//! The outbox: what is asked of the database about events that were not yet published. It knows no broker. All statements of
//! a round are one transaction and have no names, so it works behind a pooler too.

use std::time::Duration;

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_postgres::{
    Client, Row, Transaction,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::events::{Code, code};

/// As in `migrations/0004_outbox.sql`: whoever holds it publishes, or gives events up.
const LOCK: i64 = 5_938_387_970_321_446_004;
/// The transaction stays open while its events are published, and no longer. The locks that it takes are nobody else's.
const LIMITS: &str = "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '1s'; \
                      SET LOCAL idle_in_transaction_session_timeout = '15s'";
/// Given up in one step, and steps in one round.
const LINES_AT_ONCE: i64 = 10_000;
const STEPS_MAX: usize = 20;

/// One line of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) place: i64,
    /// By which the broker and everybody behind it know it again.
    pub(super) id: Uuid,
    pub(super) todo: Uuid,
    /// `created`, `changed` or `removed`.
    pub(super) kind: String,
    pub(super) owner: Uuid,
    pub(super) version: i64,
    pub(super) at: OffsetDateTime,
}

impl Event {
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            place: row.try_get(0)?,
            id: row.try_get(1)?,
            todo: row.try_get(2)?,
            kind: row.try_get(3)?,
            owner: row.try_get(4)?,
            version: row.try_get(5)?,
            at: row.try_get(6)?,
        })
    }

    /// What is published: what happened to which todo, and nothing that its owner wrote.
    pub(super) fn payload(&self) -> Vec<u8> {
        let document = json!({
            "id": self.id,
            "place": self.place,
            "kind": self.kind,
            "todo": self.todo,
            "owner": self.owner,
            "version": self.version,
            "at": self.at.format(&Rfc3339).unwrap_or_default(),
        });
        document.to_string().into_bytes()
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Waiting {
    /// About: numbers that were never used count too.
    pub(super) events: i64,
    /// Age of the oldest, in seconds.
    pub(super) oldest_seconds: f64,
}

/// Says that events are wanted, so that the database writes them down from now on.
pub(super) async fn want(client: &Client, keep_for: Duration, keep_max: i64) -> Result<(), Code> {
    let sql = "SELECT todo_outbox_want(make_interval(secs => $1), $2)";
    let values: [(&(dyn ToSql + Sync), Type); 2] =
        [(&keep_for.as_secs_f64(), Type::FLOAT8), (&keep_max, Type::INT8)];
    client.query_typed(sql, &values).await.map(drop).map_err(code)
}

/// The one who publishes, for one transaction. Dropped, it has changed nothing.
pub(super) struct Leader<'c>(Transaction<'c>);

impl<'c> Leader<'c> {
    /// Nothing where another replica is the one.
    ///
    /// # Cancel safety
    /// A drop rolls back.
    pub(super) async fn become_it(client: &'c mut Client) -> Result<Option<Self>, Code> {
        let transaction = client.transaction().await.map_err(code)?;
        transaction.batch_execute(LIMITS).await.map_err(code)?;
        let leader = Self(transaction);
        let rows = leader.ask("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
        Ok(first::<bool>(&rows)?.then_some(leader))
    }

    /// Gives up the oldest events that are too many. Answers how many.
    pub(super) async fn give_up(&self) -> Result<u64, Code> {
        let mut all = 0;
        for _ in 0..STEPS_MAX {
            let rows = self.ask("SELECT todo_outbox_trim($1)", &[(&LINES_AT_ONCE, Type::INT8)]).await?;
            let gone: i64 = first(&rows)?;
            all += u64::try_from(gone).unwrap_or_default();
            if gone < LINES_AT_ONCE {
                break;
            }
        }
        Ok(all)
    }

    /// How much waits now.
    pub(super) async fn waiting(&self) -> Result<Waiting, Code> {
        let sql = "SELECT coalesce(max(place) - min(place) + 1, 0), \
                   coalesce(extract(epoch FROM clock_timestamp() - (SELECT at FROM todo_outbox ORDER BY place LIMIT 1)), 0)::float8 \
                   FROM todo_outbox";
        let rows = self.ask(sql, &[]).await?;
        let row = rows.first().ok_or(None)?;
        let oldest: f64 = row.try_get(1).map_err(code)?;
        Ok(Waiting { events: row.try_get(0).map_err(code)?, oldest_seconds: oldest.max(0.0) })
    }

    /// The oldest events, in their order.
    pub(super) async fn batch(&self, limit: usize) -> Result<Vec<Event>, Code> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = "SELECT place, id, todo, kind, owner, version, at FROM todo_outbox ORDER BY place LIMIT $1";
        let rows = self.ask(sql, &[(&limit, Type::INT8)]).await?;
        rows.iter().map(Event::from_row).collect::<Result<_, _>>().map_err(code)
    }

    /// Takes these out for good, and ends.
    pub(super) async fn end(self, published: &[i64]) -> Result<(), Code> {
        if !published.is_empty() {
            let sql = "DELETE FROM todo_outbox WHERE place = ANY ($1)";
            self.ask(sql, &[(&published, Type::INT8_ARRAY)]).await?;
        }
        self.0.commit().await.map_err(code)
    }

    async fn ask(&self, sql: &str, values: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Code> {
        self.0.query_typed(sql, values).await.map_err(code)
    }
}

fn first<T: for<'r> tokio_postgres::types::FromSql<'r>>(rows: &[Row]) -> Result<T, Code> {
    rows.first().ok_or(None)?.try_get(0).map_err(code)
}

/// The events of a batch in waves: each todo has one in a wave at the most, so that none can overtake an earlier one of its
/// todo that was lost on the way.
pub(super) fn waves(events: &[Event]) -> Vec<Vec<&Event>> {
    let mut waves: Vec<Vec<&Event>> = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for event in events {
        let turn: &mut usize = seen.entry(event.todo).or_default();
        match waves.get_mut(*turn) {
            Some(wave) => wave.push(event),
            None => waves.push(vec![event]),
        }
        *turn += 1;
    }
    waves
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn event(place: i64, todo: u128) -> Event {
        Event {
            place,
            id: Uuid::from_u128(u128::try_from(place).unwrap() + 0xe0),
            todo: Uuid::from_u128(todo),
            kind: "changed".to_owned(),
            owner: Uuid::nil(),
            version: place,
            at: datetime!(2026-11-20 12:00 UTC),
        }
    }

    #[test]
    fn no_wave_has_two_events_of_one_todo_and_a_later_wave_has_the_later_event() {
        let events = [event(1, 7), event(2, 8), event(3, 7), event(4, 9), event(5, 7), event(6, 8)];
        let places: Vec<Vec<i64>> =
            waves(&events).iter().map(|wave| wave.iter().map(|event| event.place).collect()).collect();
        assert_eq!(places, [vec![1, 2, 4], vec![3, 6], vec![5]]);
        assert!(waves(&[]).is_empty());
    }

    /// Others read it: members may be added, and none may change.
    #[test]
    fn the_document_has_the_promised_shape() {
        let document: serde_json::Value = serde_json::from_slice(&event(3, 7).payload()).unwrap();
        let expected = json!({
            "id": "00000000-0000-0000-0000-0000000000e3",
            "place": 3,
            "kind": "changed",
            "todo": "00000000-0000-0000-0000-000000000007",
            "owner": "00000000-0000-0000-0000-000000000000",
            "version": 3,
            "at": "2026-11-20T12:00:00Z",
        });
        assert_eq!(document, expected);
    }
}
