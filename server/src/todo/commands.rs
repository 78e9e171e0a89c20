//! The write side: how each command changes the table, one at a time, and which replayed ones come too late. Many at once
//! are in `many`.
//!
//! It runs inside the transaction that the library opens, commits and repeats; it does neither itself.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ridethrough::{
    cache::{CacheFill, Tags},
    db::{
        Applied, ApplyError, Command, Promise, Refusal, Registry, Settled, Statements, Typed, TypedCommand,
    },
    sabotage::{self, Bug},
};
use serde_json::json;
use time::OffsetDateTime;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{CreateMany, intent};
use crate::{
    identity::Principal,
    todo::{Create, Ended, Payload, Remove, Replace, SettledKeys, Todo, encode, many},
};

/// There is no such todo.
pub(crate) const NOT_FOUND: &str = "not-found";
/// The todo has another version than the one that was asked for.
pub(crate) const VERSION_MISMATCH: &str = "version-mismatch";

/// A write that was accepted so long before its end has waited: none takes the straight way so slowly.
const WAITED_MIN: Duration = Duration::from_secs(1);

/// What all commands of this replica share.
#[derive(Debug)]
pub(crate) struct Todos {
    /// Who writes: kept with each todo, so that replay knows the replica's own writes again.
    pub(super) replica: Uuid,
    settled: Arc<SettledKeys>,
}

/// The commands of this replica.
pub(crate) fn todo_commands(replica: Uuid, settled: Arc<SettledKeys>) -> Registry<Todos> {
    Registry::new(Todos { replica, settled })
        .with::<Create>()
        .with::<CreateMany>()
        .with::<Replace>()
        .with::<Remove>()
}

/// What replay finds in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) version: i64,
    pub(super) updated_at: OffsetDateTime,
    pub(super) written_by: Option<Uuid>,
}

impl Standing {
    pub(super) fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            version: row.try_get("version")?,
            updated_at: row.try_get("updated_at")?,
            written_by: row.try_get("written_by")?,
        })
    }
}

impl TypedCommand for Create {
    type Service = Todos;
    const NAME: &'static str = "todo.create";
    const VERSION: u16 = intent::VERSION;
    const APPLIES_MANY: bool = true;

    fn ordering_key(&self) -> String {
        Todo::ordering_key(self.owner, self.id)
    }

    async fn apply<'c>(
        todos: &'c Todos,
        statements: &'c Statements<'c>,
        typed: &'c Typed<'c, Self>,
    ) -> Result<Applied, ApplyError> {
        let Self { id, owner, title } = &typed.value;
        let accepted_at = OffsetDateTime::from(typed.command.accepted_at);
        let insert = format!(
            "INSERT INTO todos (id, title, version, created_at, updated_at, written_by, owner) \
             VALUES ($1, $2, 1, $3, $3, $4, $5) ON CONFLICT (id) DO NOTHING RETURNING {}",
            Todo::COLUMNS
        );
        let (title, owner_id) = (title.as_str(), owner.id());
        let row = statements.row(&insert, &[id, &title, &accepted_at, &todos.replica, &owner_id]).await?;
        let row = match row {
            Some(row) => row,
            // The id comes from the key, so this is the same write, whose key was forgotten meanwhile. The planted bug
            // makes a second todo of it.
            None if sabotage::planted(Bug::NoIdempotency) => {
                let second = Uuid::new_v4();
                let row = statements
                    .row(&insert, &[&second, &title, &accepted_at, &todos.replica, &owner_id])
                    .await?;
                row.ok_or_else(|| Refusal::new(NOT_FOUND))?
            }
            None => current(statements, *owner, *id).await?.ok_or_else(|| Refusal::new(NOT_FOUND))?,
        };
        done(&row)
    }

    async fn apply_many<'c>(
        todos: &'c Todos,
        statements: &'c Statements<'c>,
        all: &'c [Typed<'c, Self>],
    ) -> Result<Vec<Result<Applied, Refusal>>, ApplyError> {
        Ok(many::create(todos, statements, all).await?)
    }

    fn tags(&self) -> Tags {
        Todo::tags_of_change(self.owner, self.id)
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        Payload::Create(self.clone()).changes(command.accepted_at).promise()
    }

    fn settled(&self, todos: &Todos, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        todos.settled(self.owner, self.id, false, command, settled, cache);
    }
}

impl TypedCommand for Replace {
    type Service = Todos;
    const NAME: &'static str = "todo.replace";
    const VERSION: u16 = intent::VERSION;
    const APPLIES_MANY: bool = true;

    fn ordering_key(&self) -> String {
        Todo::ordering_key(self.owner, self.id)
    }

    async fn apply<'c>(
        todos: &'c Todos,
        statements: &'c Statements<'c>,
        typed: &'c Typed<'c, Self>,
    ) -> Result<Applied, ApplyError> {
        let change = &typed.value;
        match typed.replayed {
            true => replay_replace(todos, statements, change, typed.command).await,
            false => replace(todos, statements, change, change.if_match).await,
        }
    }

    async fn apply_many<'c>(
        todos: &'c Todos,
        statements: &'c Statements<'c>,
        all: &'c [Typed<'c, Self>],
    ) -> Result<Vec<Result<Applied, Refusal>>, ApplyError> {
        Ok(many::replace(todos, statements, all).await?)
    }

    fn tags(&self) -> Tags {
        Todo::tags_of_change(self.owner, self.id)
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        Payload::Replace(self.clone()).changes(command.accepted_at).promise()
    }

    fn settled(&self, todos: &Todos, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        todos.settled(self.owner, self.id, false, command, settled, cache);
    }
}

impl TypedCommand for Remove {
    type Service = Todos;
    const NAME: &'static str = "todo.remove";
    const VERSION: u16 = intent::VERSION;
    const APPLIES_MANY: bool = true;

    fn ordering_key(&self) -> String {
        Todo::ordering_key(self.owner, self.id)
    }

    async fn apply<'c>(
        _todos: &'c Todos,
        statements: &'c Statements<'c>,
        typed: &'c Typed<'c, Self>,
    ) -> Result<Applied, ApplyError> {
        let Self { id, owner, if_match } = &typed.value;
        let sql = "DELETE FROM todos WHERE id = $1 AND owner = $3 AND ($2::bigint IS NULL OR version = $2)";
        if statements.run(sql, &[id, if_match, &owner.id()]).await? > 0 {
            return Ok(removed(*id));
        }
        match (current(statements, *owner, *id).await?, typed.replayed) {
            // It is gone, which is what was wanted.
            (None, true) => Ok(removed(*id)),
            (None, false) => Err(Refusal::new(NOT_FOUND).into()),
            // Its author made the version a condition, and somebody else was quicker.
            (Some(row), true) => Ok(Applied::Superseded(Todo::from_row(&row)?.encode())),
            (Some(_), false) => Err(Refusal::new(VERSION_MISMATCH).into()),
        }
    }

    async fn apply_many<'c>(
        _todos: &'c Todos,
        statements: &'c Statements<'c>,
        all: &'c [Typed<'c, Self>],
    ) -> Result<Vec<Result<Applied, Refusal>>, ApplyError> {
        Ok(many::remove(statements, all).await?)
    }

    fn tags(&self) -> Tags {
        Todo::tags_of_change(self.owner, self.id)
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        Payload::Remove(self.clone()).changes(command.accepted_at).promise()
    }

    fn settled(&self, todos: &Todos, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        todos.settled(self.owner, self.id, true, command, settled, cache);
    }
}

impl Todos {
    /// Remembers that it is over with this key, and with the waiting of these todos.
    pub(super) fn note_settled(
        &self,
        command: &Command,
        settled: &Settled,
        ids: impl IntoIterator<Item = Uuid>,
    ) {
        self.settled.insert(&command.key);
        let waited = command.accepted_at.elapsed().unwrap_or_default() >= WAITED_MIN;
        if waited && !matches!(settled, Settled::Refused(_)) {
            let was_applied = matches!(settled, Settled::Applied(_));
            let at = OffsetDateTime::now_utc();
            ids.into_iter().for_each(|id| self.settled.ended(id, Ended { at, was_applied }));
        }
    }

    fn settled(
        &self,
        owner: Principal,
        id: Uuid,
        removes: bool,
        command: &Command,
        settled: &Settled,
        cache: &CacheFill<'_>,
    ) {
        self.note_settled(command, settled, [id]);
        let known: Option<&Bytes> = match settled {
            Settled::Applied(_) if removes => None,
            Settled::Refused(_) => None,
            Settled::Applied(document) | Settled::Superseded(document) => Some(document),
        };
        match known.filter(|document| Todo::decode(document).is_some()) {
            // Its author asks for it once more, perhaps in an outage: "no such todo" is the answer then.
            None if removes && matches!(settled, Settled::Applied(_)) => {
                cache.put_nothing(&Todo::cache_key(owner, id), || Todo::tags(owner, id));
            }
            Some(document) => cache.put(&Todo::cache_key(owner, id), document.clone()),
            None => cache.remove(&Todo::cache_key(owner, id)),
        }
    }
}

/// A write that goes straight to the database: its author sees the outcome, so only `If-Match` can hold it up.
async fn replace(
    todos: &Todos,
    statements: &Statements<'_>,
    change: &Replace,
    if_match: Option<i64>,
) -> Result<Applied, ApplyError> {
    let sql = format!(
        "UPDATE todos SET title = $2, done = $3, version = version + 1, \
         updated_at = GREATEST(clock_timestamp(), updated_at), written_by = $4 \
         WHERE id = $1 AND owner = $6 AND ($5::bigint IS NULL OR version = $5) RETURNING {}",
        Todo::COLUMNS
    );
    let (title, owner) = (change.title.as_str(), change.owner.id());
    let values: [&(dyn ToSql + Sync); 6] =
        [&change.id, &title, &change.done, &todos.replica, &if_match, &owner];
    match statements.row(&sql, &values).await? {
        Some(row) => done(&row),
        None => Err(refusal(statements, change.owner, change.id).await?),
    }
}

/// A write that was journaled: others may have changed the todo since, and a late write must not undo that.
async fn replay_replace(
    todos: &Todos,
    statements: &Statements<'_>,
    change: &Replace,
    command: &Command,
) -> Result<Applied, ApplyError> {
    let sql = "SELECT version, updated_at, written_by FROM todos WHERE id = $1 AND owner = $2 FOR UPDATE";
    let Some(row) = statements.row(sql, &[&change.id, &change.owner.id()]).await? else {
        return Err(Refusal::new(NOT_FOUND).into());
    };
    let standing = Standing::from_row(&row)?;
    if comes_too_late(standing, change, OffsetDateTime::from(command.accepted_at), todos.replica) {
        let row =
            current(statements, change.owner, change.id).await?.ok_or_else(|| Refusal::new(NOT_FOUND))?;
        return Ok(Applied::Superseded(Todo::from_row(&row)?.encode()));
    }
    replace(todos, statements, change, None).await
}

/// What a removal answers.
pub(super) fn removed(id: Uuid) -> Applied {
    Applied::Done(encode(&json!({ "id": id })))
}

/// Whether a replayed replacement would undo a change that was committed after it was accepted.
///
/// Writes of one replica are replayed in the order in which they were accepted, so where the row was last written by
/// this replica, nobody else came between. `If-Match` is a condition of the author's own and is kept in any case. A
/// version number that was only to become true may belong to somebody else's change by now, so it proves nothing
/// unless the row is this replica's.
pub(super) fn comes_too_late(
    row: Standing,
    change: &Replace,
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

async fn current(
    statements: &Statements<'_>,
    owner: Principal,
    id: Uuid,
) -> Result<Option<Row>, tokio_postgres::Error> {
    let sql = format!("SELECT {} FROM todos WHERE id = $1 AND owner = $2", Todo::COLUMNS);
    statements.row(&sql, &[&id, &owner.id()]).await
}

/// Why a change touched no row.
async fn refusal(statements: &Statements<'_>, owner: Principal, id: Uuid) -> Result<ApplyError, ApplyError> {
    let found = current(statements, owner, id).await?.is_some();
    Ok(Refusal::new(if found { VERSION_MISMATCH } else { NOT_FOUND }).into())
}

fn done(row: &Row) -> Result<Applied, ApplyError> {
    Ok(Applied::Done(Todo::from_row(row)?.encode()))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::todo::{Seen, Title};

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
        let change =
            Replace { id: Uuid::nil(), owner: Principal::EVERYBODY, title, done: true, if_match, seen };
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
