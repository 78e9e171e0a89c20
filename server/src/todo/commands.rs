//! The write side: how each command changes the table, and which replayed ones come too late.
//!
//! It runs inside the transaction that the library opens, commits and repeats; it does neither itself.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use ridethrough::{
    cache::{CacheFill, Tags},
    db::{Applied, ApplyError, Command, Commands, Promise, Refusal, Settled, Statements},
    sabotage::{self, Bug},
};
use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::todo::{Change, Payload, Seen, SettledKeys, Title, Todo, encode};

/// There is no such todo.
pub(crate) const NOT_FOUND: &str = "not-found";
/// The todo has another version than the one that was asked for.
pub(crate) const VERSION_MISMATCH: &str = "version-mismatch";
/// The payload comes from a newer version of this program.
const UNKNOWN_COMMAND: &str = "unknown-command";

/// The commands of this replica.
#[derive(Debug)]
pub(crate) struct TodoCommands {
    /// Who writes: kept with each todo, so that replay knows the replica's own writes again.
    replica: Uuid,
    settled: Arc<SettledKeys>,
}

/// What replay finds in the table.
#[derive(Debug, Clone, Copy)]
struct Standing {
    version: i64,
    updated_at: OffsetDateTime,
    written_by: Option<Uuid>,
}

/// A replacement, taken apart from the payload.
struct Replacement<'a> {
    id: Uuid,
    title: &'a Title,
    done: bool,
    if_match: Option<i64>,
    seen: Option<Seen>,
}

impl TodoCommands {
    pub(crate) fn new(replica: Uuid, settled: Arc<SettledKeys>) -> Self {
        Self { replica, settled }
    }

    async fn create(
        &self,
        statements: &Statements<'_>,
        (id, title): (Uuid, &Title),
        command: &Command,
    ) -> Result<Applied, ApplyError> {
        let accepted_at = OffsetDateTime::from(command.accepted_at);
        let insert = format!(
            "INSERT INTO todos (id, title, version, created_at, updated_at, written_by) \
             VALUES ($1, $2, 1, $3, $3, $4) ON CONFLICT (id) DO NOTHING RETURNING {}",
            Todo::COLUMNS
        );
        let title = title.as_str();
        let row = statements.row(&insert, &[&id, &title, &accepted_at, &self.replica]).await?;
        let row = match row {
            Some(row) => row,
            // The id comes from the key, so this is the same write, whose key was forgotten meanwhile. The planted bug
            // makes a second todo of it.
            None if sabotage::planted(Bug::NoIdempotency) => {
                let second = Uuid::new_v4();
                let row = statements.row(&insert, &[&second, &title, &accepted_at, &self.replica]).await?;
                row.ok_or_else(|| Refusal::new(NOT_FOUND))?
            }
            None => current(statements, id).await?.ok_or_else(|| Refusal::new(NOT_FOUND))?,
        };
        done(&row)
    }

    /// A write that goes straight to the database: its author sees the outcome, so only `If-Match` can hold it up.
    async fn replace(
        &self,
        statements: &Statements<'_>,
        change: &Replacement<'_>,
        if_match: Option<i64>,
    ) -> Result<Applied, ApplyError> {
        let sql = format!(
            "UPDATE todos SET title = $2, done = $3, version = version + 1, \
             updated_at = GREATEST(clock_timestamp(), updated_at), written_by = $4 \
             WHERE id = $1 AND ($5::bigint IS NULL OR version = $5) RETURNING {}",
            Todo::COLUMNS
        );
        let title = change.title.as_str();
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&change.id, &title, &change.done, &self.replica, &if_match];
        match statements.row(&sql, &values).await? {
            Some(row) => done(&row),
            None => Err(refusal(statements, change.id).await?),
        }
    }

    /// A write that was journaled: others may have changed the todo since, and a late write must not undo that.
    async fn replay_replace(
        &self,
        statements: &Statements<'_>,
        change: &Replacement<'_>,
        command: &Command,
    ) -> Result<Applied, ApplyError> {
        let sql = "SELECT version, updated_at, written_by FROM todos WHERE id = $1 FOR UPDATE";
        let Some(row) = statements.row(sql, &[&change.id]).await? else {
            return Err(Refusal::new(NOT_FOUND).into());
        };
        let standing = Standing {
            version: row.try_get("version")?,
            updated_at: row.try_get("updated_at")?,
            written_by: row.try_get("written_by")?,
        };
        if comes_too_late(standing, change, OffsetDateTime::from(command.accepted_at), self.replica) {
            let row = current(statements, change.id).await?.ok_or_else(|| Refusal::new(NOT_FOUND))?;
            return Ok(Applied::Superseded(Todo::from_row(&row)?.encode()));
        }
        self.replace(statements, change, None).await
    }

    async fn remove(
        &self,
        statements: &Statements<'_>,
        (id, if_match): (Uuid, Option<i64>),
        replayed: bool,
    ) -> Result<Applied, ApplyError> {
        let sql = "DELETE FROM todos WHERE id = $1 AND ($2::bigint IS NULL OR version = $2)";
        let removed = Applied::Done(encode(&json!({ "id": id })));
        if statements.run(sql, &[&id, &if_match]).await? > 0 {
            return Ok(removed);
        }
        match (current(statements, id).await?, replayed) {
            // It is gone, which is what was wanted.
            (None, true) => Ok(removed),
            (None, false) => Err(Refusal::new(NOT_FOUND).into()),
            // Its author made the version a condition, and somebody else was quicker.
            (Some(row), true) => Ok(Applied::Superseded(Todo::from_row(&row)?.encode())),
            (Some(_), false) => Err(Refusal::new(VERSION_MISMATCH).into()),
        }
    }

    async fn apply_payload(
        &self,
        statements: &Statements<'_>,
        command: &Command,
        replayed: bool,
    ) -> Result<Applied, ApplyError> {
        let Ok(payload) = serde_json::from_slice::<Payload>(&command.payload) else {
            return Err(Refusal::new(UNKNOWN_COMMAND).into());
        };
        match &payload {
            Payload::Create { id, title } => self.create(statements, (*id, title), command).await,
            Payload::Remove { id, if_match } => self.remove(statements, (*id, *if_match), replayed).await,
            Payload::Replace { id, title, done, if_match, seen } => {
                let (id, done, if_match, seen) = (*id, *done, *if_match, *seen);
                let change = Replacement { id, title, done, if_match, seen };
                match replayed {
                    true => self.replay_replace(statements, &change, command).await,
                    false => self.replace(statements, &change, if_match).await,
                }
            }
        }
    }
}

/// Whether a replayed replacement would undo a change that was committed after it was accepted.
///
/// Writes of one replica are replayed in the order in which they were accepted, so where the row was last written by
/// this replica, nobody else came between. `If-Match` is a condition of the author's own and is kept in any case. A
/// version number that was only to become true may belong to somebody else's change by now, so it proves nothing
/// unless the row is this replica's.
fn comes_too_late(
    row: Standing,
    change: &Replacement<'_>,
    accepted_at: OffsetDateTime,
    replica: Uuid,
) -> bool {
    let own = row.written_by == Some(replica);
    let seen_pending = change.seen.is_some_and(|seen| seen.pending);
    match (change.if_match, change.seen) {
        (Some(version), _) => row.version != version || (seen_pending && !own),
        _ if own => false,
        (None, Some(seen)) => seen.pending || row.version != seen.version,
        (None, None) => row.updated_at > accepted_at,
    }
}

async fn current(statements: &Statements<'_>, id: Uuid) -> Result<Option<Row>, tokio_postgres::Error> {
    let sql = format!("SELECT {} FROM todos WHERE id = $1", Todo::COLUMNS);
    statements.row(&sql, &[&id]).await
}

/// Why a change touched no row.
async fn refusal(statements: &Statements<'_>, id: Uuid) -> Result<ApplyError, ApplyError> {
    let found = current(statements, id).await?.is_some();
    Ok(Refusal::new(if found { VERSION_MISMATCH } else { NOT_FOUND }).into())
}

fn done(row: &Row) -> Result<Applied, ApplyError> {
    Ok(Applied::Done(Todo::from_row(row)?.encode()))
}

impl Commands for TodoCommands {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> Pin<Box<dyn Future<Output = Result<Applied, ApplyError>> + Send + 'c>> {
        Box::pin(self.apply_payload(statements, command, replayed))
    }

    fn tags(&self, command: &Command) -> Tags {
        let payload = serde_json::from_slice::<Payload>(&command.payload);
        payload.map_or_else(|_| Tags::none(), |payload| Todo::tags_of_change(payload.id()))
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        let payload = serde_json::from_slice::<Payload>(&command.payload).ok()?;
        let becomes = payload.promised(command.accepted_at);
        // Of a todo that this replica has never seen it can only tell a part: better nothing than that.
        let is_whole = becomes.as_ref().is_none_or(|todo| todo.version > 0);
        is_whole.then(|| Arc::new(Change { id: payload.id(), becomes }) as Promise)
    }

    fn settled(&self, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        let Ok(payload) = serde_json::from_slice::<Payload>(&command.payload) else { return };
        let id = payload.id();
        self.settled.insert(&command.key);
        let known: Option<&Bytes> = match (settled, &payload) {
            (Settled::Applied(_), Payload::Remove { .. }) | (Settled::Refused(_), _) => None,
            (Settled::Applied(document) | Settled::Superseded(document), _) => Some(document),
        };
        match known.filter(|document| Todo::decode(document).is_some()) {
            Some(document) => cache.put(&Todo::cache_key(id), document.clone()),
            None => cache.remove(&Todo::cache_key(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const ACCEPTED: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);
    const OURS: Uuid = Uuid::from_u128(1);
    const THEIRS: Uuid = Uuid::from_u128(2);

    fn row(version: i64, written_by: Uuid) -> Standing {
        let updated_at = ACCEPTED + time::Duration::seconds(5);
        Standing { version, updated_at, written_by: Some(written_by) }
    }

    fn too_late(row: Standing, if_match: Option<i64>, seen: Option<(i64, bool)>) -> bool {
        let title = Title::new("t".to_owned()).unwrap();
        let seen = seen.map(|(version, pending)| Seen { version, pending, created_at: ACCEPTED });
        let change = Replacement { id: Uuid::nil(), title: &title, done: true, if_match, seen };
        comes_too_late(row, &change, ACCEPTED, OURS)
    }

    #[test]
    fn a_change_of_another_replica_since_then_stands() {
        assert!(!too_late(row(3, THEIRS), None, Some((3, false))));
        assert!(too_late(row(4, THEIRS), None, Some((3, false))));
    }

    #[test]
    fn own_writes_follow_each_other_whatever_was_seen() {
        for seen in [None, Some((1, false)), Some((2, true)), Some((7, true))] {
            assert!(!too_late(row(5, OURS), None, seen), "{seen:?}");
        }
    }

    #[test]
    fn without_anything_seen_the_time_of_acceptance_decides() {
        assert!(too_late(row(3, THEIRS), None, None));
        let before = Standing { updated_at: ACCEPTED - time::Duration::seconds(1), ..row(3, THEIRS) };
        assert!(!too_late(before, None, None));
    }

    /// The first of two journaled writes was superseded by another replica's change, which had then the very version
    /// that the second one had been promised: the second must not undo that change.
    #[test]
    fn a_promised_version_that_somebody_else_reached_proves_nothing() {
        assert!(too_late(row(2, THEIRS), None, Some((2, true))));
        assert!(too_late(row(2, THEIRS), Some(2), Some((2, true))));
        assert!(!too_late(row(2, OURS), Some(2), Some((2, true))));
    }

    #[test]
    fn the_authors_own_condition_is_kept_also_among_own_writes() {
        assert!(too_late(row(3, OURS), Some(2), Some((2, false))));
        assert!(!too_late(row(3, OURS), Some(3), Some((2, false))));
        assert!(!too_late(row(3, THEIRS), Some(3), None));
    }
}
