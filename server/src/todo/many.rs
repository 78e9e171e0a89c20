//! The commands of a backlog, many at once: one statement over arrays for each step. What each of them comes to is what
//! `commands` makes of it alone.
//!
//! No two of them are about the same todo.

use std::collections::HashMap;

use ridethrough::db::{Applied, Refusal, Statements, Typed};
use time::OffsetDateTime;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::commands::{NOT_FOUND, Standing, Todos, comes_too_late, removed};
use crate::todo::{Create, Remove, Replace, Todo};

type Ended = Vec<Result<Applied, Refusal>>;

/// See [`Create`].
pub(super) async fn create(
    todos: &Todos,
    statements: &Statements<'_>,
    all: &[Typed<'_, Create>],
) -> Result<Ended, Error> {
    let ids: Vec<Uuid> = all.iter().map(|typed| typed.value.id).collect();
    let titles: Vec<&str> = all.iter().map(|typed| typed.value.title.as_str()).collect();
    let accepted: Vec<OffsetDateTime> =
        all.iter().map(|typed| OffsetDateTime::from(typed.command.accepted_at)).collect();
    let insert = format!(
        "INSERT INTO todos (id, title, version, created_at, updated_at, written_by) \
         SELECT new.id, new.title, 1, new.at, new.at, $4 \
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS new (id, title, at) ORDER BY new.id \
         ON CONFLICT (id) DO NOTHING RETURNING {}",
        Todo::COLUMNS
    );
    let rows = statements.rows(&insert, &[&ids, &titles, &accepted, &todos.replica]).await?;
    let mut known = by_id(&rows)?;
    if known.len() < all.len() {
        let missing: Vec<Uuid> = ids.iter().filter(|id| !known.contains_key(*id)).copied().collect();
        known.extend(by_id(&current(statements, &missing).await?)?);
    }
    Ok(ids.iter().map(|id| done(known.get(id))).collect())
}

/// See [`Replace`]. Each row is locked before it is judged.
pub(super) async fn replace(
    todos: &Todos,
    statements: &Statements<'_>,
    all: &[Typed<'_, Replace>],
) -> Result<Ended, Error> {
    let ids: Vec<Uuid> = all.iter().map(|typed| typed.value.id).collect();
    let locked = format!(
        "SELECT {}, written_by FROM todos WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE",
        Todo::COLUMNS
    );
    let rows = statements.rows(&locked, &[&ids]).await?;
    let mut standing = HashMap::with_capacity(rows.len());
    for row in &rows {
        standing.insert(row.try_get::<_, Uuid>("id")?, (Standing::from_row(row)?, row));
    }
    let is_late = |typed: &Typed<'_, Replace>, standing| {
        let accepted_at = OffsetDateTime::from(typed.command.accepted_at);
        comes_too_late(standing, &typed.value, accepted_at, todos.replica)
    };
    let (mut on_time, mut titles, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for typed in all {
        let found = standing.get(&typed.value.id);
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
         WHERE id = new.new_id RETURNING {}",
        Todo::COLUMNS.replace("title, done", "todos.title, todos.done")
    );
    let changed = if on_time.is_empty() {
        HashMap::new()
    } else {
        by_id(&statements.rows(&update, &[&on_time, &titles, &states, &todos.replica]).await?)?
    };
    ids.iter()
        .map(|id| match (changed.get(id), standing.get(id)) {
            (Some(todo), _) => Ok(Ok(Applied::Done(todo.encode()))),
            (None, Some((_, row))) => Ok(Ok(Applied::Superseded(Todo::from_row(row)?.encode()))),
            (None, None) => Ok(Err(Refusal::new(NOT_FOUND))),
        })
        .collect()
}

/// See [`Remove`].
pub(super) async fn remove(statements: &Statements<'_>, all: &[Typed<'_, Remove>]) -> Result<Ended, Error> {
    let ids: Vec<Uuid> = all.iter().map(|typed| typed.value.id).collect();
    let conditions: Vec<Option<i64>> = all.iter().map(|typed| typed.value.if_match).collect();
    let delete = "DELETE FROM todos USING unnest($1::uuid[], $2::bigint[]) AS old (old_id, if_match) \
                  WHERE id = old.old_id AND (old.if_match IS NULL OR version = old.if_match) RETURNING id";
    let gone = statements.rows(delete, &[&ids, &conditions]).await?;
    let gone =
        gone.iter().map(|row| row.try_get(0)).collect::<Result<std::collections::HashSet<Uuid>, _>>()?;
    let left: Vec<Uuid> = ids.iter().filter(|id| !gone.contains(*id)).copied().collect();
    let kept = if left.is_empty() { HashMap::new() } else { by_id(&current(statements, &left).await?)? };
    let ended = ids
        .iter()
        .map(|id| Ok(kept.get(id).map_or_else(|| removed(*id), |todo| Applied::Superseded(todo.encode()))));
    Ok(ended.collect())
}

async fn current(statements: &Statements<'_>, ids: &[Uuid]) -> Result<Vec<Row>, Error> {
    let sql = format!("SELECT {} FROM todos WHERE id = ANY ($1::uuid[])", Todo::COLUMNS);
    statements.rows(&sql, &[&ids]).await
}

fn by_id(rows: &[Row]) -> Result<HashMap<Uuid, Todo>, Error> {
    rows.iter().map(|row| Todo::from_row(row).map(|todo| (todo.id, todo))).collect()
}

fn done(todo: Option<&Todo>) -> Result<Applied, Refusal> {
    todo.map(|todo| Applied::Done(todo.encode())).ok_or_else(|| Refusal::new(NOT_FOUND))
}
