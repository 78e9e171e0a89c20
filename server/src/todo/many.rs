//! The commands of a backlog, many at once: one statement over arrays for each step. What each of them comes to is what
//! `commands` makes of it alone.
//!
//! No two of them are about the same todo of the same owner.

use std::collections::{HashMap, HashSet};

use ridethrough::db::{Applied, Refusal, Statements, Typed};
use time::OffsetDateTime;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::commands::{NOT_FOUND, Standing, Todos, comes_too_late, removed};
use crate::{
    identity::Principal,
    todo::{Create, Remove, Replace, Todo},
};

type Ended = Vec<Result<Applied, Refusal>>;
/// Which todo of whom: a command finds none but its author's.
type Whose = (Uuid, Uuid);

fn whose(owner: Principal, id: Uuid) -> Whose {
    (owner.id(), id)
}

/// See [`Create`].
pub(super) async fn create(
    todos: &Todos,
    statements: &Statements<'_>,
    all: &[Typed<'_, Create>],
) -> Result<Ended, Error> {
    let ids: Vec<Uuid> = all.iter().map(|typed| typed.value.id).collect();
    let owners: Vec<Uuid> = all.iter().map(|typed| typed.value.owner.id()).collect();
    let titles: Vec<&str> = all.iter().map(|typed| typed.value.title.as_str()).collect();
    let accepted: Vec<OffsetDateTime> =
        all.iter().map(|typed| OffsetDateTime::from(typed.command.accepted_at)).collect();
    let insert = format!(
        "INSERT INTO todos (id, title, version, created_at, updated_at, written_by, owner) \
         SELECT new.id, new.title, 1, new.at, new.at, $4, new.owner \
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $5::uuid[]) AS new (id, title, at, owner) \
         ORDER BY new.id ON CONFLICT (id) DO NOTHING RETURNING {}, owner",
        Todo::COLUMNS
    );
    let rows = statements.rows(&insert, &[&ids, &titles, &accepted, &todos.replica, &owners]).await?;
    let mut known = owned(&rows)?;
    if known.len() < all.len() {
        let is_missing =
            |typed: &&Typed<'_, Create>| !known.contains_key(&whose(typed.value.owner, typed.value.id));
        let missing: Vec<Uuid> = all.iter().filter(is_missing).map(|typed| typed.value.id).collect();
        known.extend(owned(&current(statements, &missing).await?)?);
    }
    Ok(all.iter().map(|typed| done(known.get(&whose(typed.value.owner, typed.value.id)))).collect())
}

/// See [`Replace`]. Each row is locked before it is judged.
pub(super) async fn replace(
    todos: &Todos,
    statements: &Statements<'_>,
    all: &[Typed<'_, Replace>],
) -> Result<Ended, Error> {
    let ids: Vec<Uuid> = all.iter().map(|typed| typed.value.id).collect();
    let owners: Vec<Uuid> = all.iter().map(|typed| typed.value.owner.id()).collect();
    let locked = format!(
        "SELECT {}, owner, written_by FROM todos \
         JOIN unnest($1::uuid[], $2::uuid[]) AS one (one_id, one_owner) ON id = one_id AND owner = one_owner \
         ORDER BY id FOR UPDATE OF todos",
        Todo::COLUMNS
    );
    let rows = statements.rows(&locked, &[&ids, &owners]).await?;
    let mut standing = HashMap::with_capacity(rows.len());
    for row in &rows {
        standing.insert((row.try_get("owner")?, row.try_get("id")?), (Standing::from_row(row)?, row));
    }
    let is_late = |typed: &Typed<'_, Replace>, standing| {
        let accepted_at = OffsetDateTime::from(typed.command.accepted_at);
        comes_too_late(standing, &typed.value, accepted_at, todos.replica)
    };
    let (mut on_time, mut titles, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for typed in all {
        let found = standing.get(&whose(typed.value.owner, typed.value.id));
        if found.is_some_and(|(standing, _)| !is_late(typed, *standing)) {
            on_time.push(typed.value.id);
            titles.push(typed.value.title.as_str());
            states.push(typed.value.done);
        }
    }
    let update = format!(
        "UPDATE todos SET title = new.title, done = new.done, version = todos.version + 1, \
         updated_at = GREATEST(clock_timestamp(), todos.updated_at), written_by = $4 \
         FROM unnest($1::uuid[], $2::text[], $3::bool[]) AS new (new_id, title, done) \
         WHERE id = new.new_id RETURNING {}, owner",
        Todo::COLUMNS.replace("title, done", "todos.title, todos.done")
    );
    let changed = if on_time.is_empty() {
        HashMap::new()
    } else {
        owned(&statements.rows(&update, &[&on_time, &titles, &states, &todos.replica]).await?)?
    };
    all.iter()
        .map(|typed| whose(typed.value.owner, typed.value.id))
        .map(|todo| match (changed.get(&todo), standing.get(&todo)) {
            (Some(todo), _) => Ok(Ok(Applied::Done(todo.encode()))),
            (None, Some((_, row))) => Ok(Ok(Applied::Superseded(Todo::from_row(row)?.encode()))),
            (None, None) => Ok(Err(Refusal::new(NOT_FOUND))),
        })
        .collect()
}

/// See [`Remove`].
pub(super) async fn remove(statements: &Statements<'_>, all: &[Typed<'_, Remove>]) -> Result<Ended, Error> {
    let ids: Vec<Uuid> = all.iter().map(|typed| typed.value.id).collect();
    let owners: Vec<Uuid> = all.iter().map(|typed| typed.value.owner.id()).collect();
    let conditions: Vec<Option<i64>> = all.iter().map(|typed| typed.value.if_match).collect();
    let delete = "DELETE FROM todos \
                  USING unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS old (old_id, if_match, old_owner) \
                  WHERE id = old.old_id AND owner = old.old_owner \
                  AND (old.if_match IS NULL OR version = old.if_match) RETURNING owner, id";
    let rows = statements.rows(delete, &[&ids, &conditions, &owners]).await?;
    let gone: HashSet<Whose> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Error>>()?;
    let is_left = |typed: &&Typed<'_, Remove>| !gone.contains(&whose(typed.value.owner, typed.value.id));
    let left: Vec<Uuid> = all.iter().filter(is_left).map(|typed| typed.value.id).collect();
    let kept = if left.is_empty() { HashMap::new() } else { owned(&current(statements, &left).await?)? };
    let ended = all.iter().map(|typed| {
        let kept = kept.get(&whose(typed.value.owner, typed.value.id));
        Ok(kept.map_or_else(|| removed(typed.value.id), |todo| Applied::Superseded(todo.encode())))
    });
    Ok(ended.collect())
}

async fn current(statements: &Statements<'_>, ids: &[Uuid]) -> Result<Vec<Row>, Error> {
    let sql = format!("SELECT {}, owner FROM todos WHERE id = ANY ($1::uuid[])", Todo::COLUMNS);
    statements.rows(&sql, &[&ids]).await
}

fn owned(rows: &[Row]) -> Result<HashMap<Whose, Todo>, Error> {
    let read = |row: &Row| Todo::from_row(row).and_then(|todo| Ok(((row.try_get("owner")?, todo.id), todo)));
    rows.iter().map(read).collect()
}

fn done(todo: Option<&Todo>) -> Result<Applied, Refusal> {
    todo.map(|todo| Applied::Done(todo.encode())).ok_or_else(|| Refusal::new(NOT_FOUND))
}
