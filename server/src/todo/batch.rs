//! Many todos made at once: one command, one statement, all of them or none.
//!
//! Later writes of any of them must come after the batch, also out of a journal. So the id of each says which batch it is
//! of: all but its last two bytes are the batch's, and those are its place in it.

use ridethrough::{
    cache::{CacheFill, Tags},
    db::{Applied, ApplyError, Command, Promise, Refusal, Settled, Statements, Typed, TypedCommand},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Change, Changes, TODOS, Title, Todo,
    commands::{NOT_FOUND, Todos},
    intent::digest,
    waiting::Items,
};
use crate::identity::Principal;

/// Todos of one batch.
pub(crate) const BATCH_ITEMS_MAX: usize = 1_000;

const ID_DOMAIN: &[u8] = b"ridethrough batch id 1\0";
/// What the ids of a batch have and others do not, but for one of 16 million: such a one is a batch of its own.
const MARK: [u8; 3] = *b"lot";

/// The creation of many; see [`super::Create`] for what holds of its form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateMany {
    /// The id of the batch, which is that of its first todo.
    batch: Uuid,
    #[serde(default, skip_serializing_if = "Principal::is_everybody")]
    owner: Principal,
    titles: Vec<Title>,
}

/// The batch in which the todo was made; nothing where it was made alone.
pub(crate) fn batch_of(id: Uuid) -> Option<Uuid> {
    let mut bytes = id.into_bytes();
    let [.., a, b, c, high, low] = &mut bytes;
    if [*a, *b, *c] != MARK {
        return None;
    }
    (*high, *low) = (0, 0);
    Some(Uuid::from_bytes(bytes))
}

/// By which a change of the batch finds what shows one of its todos.
pub(super) fn tag(owner: Principal, batch: Uuid) -> String {
    owner.own(format_args!("batch/{batch}"))
}

impl CreateMany {
    pub(super) fn new(owner: Principal, key: &str, titles: Vec<Title>) -> Self {
        let mut bytes = digest(ID_DOMAIN, key);
        let [.., a, b, c, high, low] = &mut bytes;
        [*a, *b, *c] = MARK;
        (*high, *low) = (0, 0);
        Self { batch: Uuid::new_v8(bytes), owner, titles }
    }

    /// The ids, in the order of the titles.
    fn ids(&self) -> impl Iterator<Item = Uuid> {
        let first = self.batch.as_u128();
        (0..self.titles.len()).map(move |place| Uuid::from_u128(first + place as u128))
    }

    pub(super) fn changes(&self, accepted_at: OffsetDateTime) -> Changes {
        let todos = self
            .ids()
            .zip(&self.titles)
            .map(|(id, title)| Change { id, becomes: Some(Todo::new(id, title.clone(), accepted_at)) });
        Changes::batch(todos.collect())
    }

    fn tags(&self) -> Tags {
        Tags::of([tag(self.owner, self.batch), self.owner.own(TODOS)])
    }
}

impl TypedCommand for CreateMany {
    type Service = Todos;
    const NAME: &'static str = "todo.create-many";

    fn ordering_key(&self) -> String {
        Todo::ordering_key(self.owner, self.batch)
    }

    async fn apply<'c>(
        todos: &'c Todos,
        statements: &'c Statements<'c>,
        typed: &'c Typed<'c, Self>,
    ) -> Result<Applied, ApplyError> {
        let create = &typed.value;
        let ids: Vec<Uuid> = create.ids().collect();
        let titles: Vec<&str> = create.titles.iter().map(Title::as_str).collect();
        let accepted_at = OffsetDateTime::from(typed.command.accepted_at);
        let insert = format!(
            "INSERT INTO todos (id, title, version, created_at, updated_at, written_by, owner) \
             SELECT new.id, new.title, 1, $3, $3, $4, $5 \
             FROM unnest($1::uuid[], $2::text[]) AS new (id, title) ORDER BY new.id \
             ON CONFLICT (id) DO NOTHING RETURNING {}",
            Todo::COLUMNS
        );
        let owner = create.owner.id();
        let rows = statements.rows(&insert, &[&ids, &titles, &accepted_at, &todos.replica, &owner]).await?;
        if rows.len() == ids.len() {
            return Ok(Applied::Done(Items::encode(stored(&rows)?)));
        }
        // The ids come from the key, so this is the same write, whose key was forgotten meanwhile: what is left of it is its
        // answer.
        let sql =
            format!("SELECT {} FROM todos WHERE id = ANY ($1) AND owner = $2 ORDER BY id", Todo::COLUMNS);
        let rows = statements.rows(&sql, &[&ids, &owner]).await?;
        if rows.is_empty() {
            return Err(Refusal::new(NOT_FOUND).into());
        }
        Ok(Applied::Done(Items::encode(stored(&rows)?)))
    }

    fn tags(&self) -> Tags {
        self.tags()
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        self.changes(command.accepted_at.into()).promise()
    }

    fn settled(&self, todos: &Todos, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        todos.note_settled(command, settled, self.ids());
        let items = match settled {
            Settled::Applied(document) | Settled::Superseded(document) => Items::decode(document),
            Settled::Refused(_) => Vec::new(),
        };
        for todo in items {
            let tags = || Todo::tags(self.owner, todo.id);
            cache.put_tagged(&Todo::cache_key(self.owner, todo.id), todo.encode(), tags);
        }
    }
}

/// In the order of their ids, which is that of the request.
fn stored(rows: &[Row]) -> Result<Vec<Todo>, tokio_postgres::Error> {
    let mut todos = rows.iter().map(Todo::from_row).collect::<Result<Vec<_>, _>>()?;
    todos.sort_unstable_by_key(|todo| todo.id);
    Ok(todos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::todo::intent::id_of_key;

    fn of(key: &str, count: usize) -> CreateMany {
        let titles = (0..count).map(|number| Title::new(format!("t{number}")).unwrap()).collect();
        CreateMany::new(Principal::named("ada"), key, titles)
    }

    /// A change of one of its todos was replayed before the batch, found nothing, and was rejected.
    #[test]
    fn whatever_changes_a_todo_of_a_batch_is_ordered_with_the_batch() {
        let create = of("k", BATCH_ITEMS_MAX);
        let ids: Vec<Uuid> = create.ids().collect();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), BATCH_ITEMS_MAX);
        for id in &ids {
            assert_eq!(batch_of(*id), Some(create.batch));
            assert_eq!(Todo::ordering_key(create.owner, *id), create.ordering_key());
            assert_eq!(id.get_version_num(), 8);
        }
        assert!(ids.is_sorted());
        assert_ne!(of("l", 1).ordering_key(), create.ordering_key());
        // Stored todos and journals depend on it.
        assert_eq!(create.batch.to_string(), "61cb2d2e-109d-8b8e-9366-706c6f740000");
    }

    #[test]
    fn a_todo_that_was_made_alone_is_of_no_batch() {
        for number in 0..1_000 {
            assert_eq!(batch_of(id_of_key(&number.to_string())), None, "{number}");
        }
        assert_eq!(batch_of(Uuid::from_u128(7)), None);
    }

    /// A reader of one todo finds its own changes and those of its batch, and a reader of another batch neither.
    #[test]
    fn the_tags_of_a_todo_name_its_batch() {
        let create = of("k", 2);
        let ids: Vec<Uuid> = create.ids().collect();
        let shared =
            |one: &Tags, other: &Tags| one.names().filter(|name| other.names().any(|n| n == *name)).count();
        let tags = |id| Todo::tags(create.owner, id);
        assert_eq!(shared(&tags(ids[0]), &create.tags()), 1);
        assert_eq!(shared(&tags(ids[0]), &Todo::tags_of_change(create.owner, ids[0])), 1);
        assert_eq!(shared(&tags(ids[0]), &Todo::tags_of_change(create.owner, ids[1])), 0);
        assert_eq!(shared(&tags(ids[0]), &of("l", 1).tags()), 0);
        let bobs = Todo::tags_of_change(Principal::named("bob"), ids[0]);
        assert_eq!(shared(&tags(ids[0]), &bobs), 0);
    }
}
