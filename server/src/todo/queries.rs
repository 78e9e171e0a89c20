//! The two questions about todos: one by its id, and a page of the list. They only read.

use bytes::Bytes;
use ridethrough::{
    cache::{CacheFill, CacheKey, Cacheable, Tags},
    db::{Base, Overlay, PendingWrites, Query, Statements},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_postgres::{Error, types::ToSql};
use uuid::Uuid;

use crate::{
    identity::Principal,
    todo::{Cursor, TODOS, Todo, encode, waiting},
};

/// One todo by its id; the answer is its document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TodoQuery {
    /// Who asks: he is shown his own alone.
    pub(crate) owner: Principal,
    pub(crate) id: Uuid,
}

impl Query for TodoQuery {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "todo"
    }

    fn cache_key(&self) -> CacheKey {
        Todo::cache_key(self.owner, self.id)
    }

    fn tags(&self) -> Tags {
        Todo::tags(self.owner, self.id)
    }

    fn is_short(&self) -> bool {
        true
    }

    fn version(&self, answer: &Bytes) -> Option<u64> {
        Todo::version_of(answer)
    }

    fn overlay(&self, base: Base<'_, Bytes>, pending: &PendingWrites) -> Overlay<Bytes> {
        waiting::over_one(self, base, pending)
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let sql = select("WHERE id = $1 AND owner = $2");
        let row = statements.row(&sql, &[&self.id, &self.owner.id()]).await?;
        row.map(|row| Todo::from_row(&row).map(|todo| todo.encode())).transpose()
    }
}

fn select(rest: &str) -> String {
    format!("SELECT {} FROM todos {rest}", Todo::COLUMNS)
}

/// A page of the list, newest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PageQuery {
    /// Who asks: he is shown his own alone, whatever cursor he comes with.
    pub(crate) owner: Principal,
    /// Items at the most.
    pub(crate) limit: u8,
    /// Only what comes after this place.
    pub(crate) after: Option<Cursor>,
    /// Only done ones, or only open ones.
    pub(crate) done: Option<bool>,
    /// Only what was created at this time or later.
    pub(crate) from: Option<OffsetDateTime>,
    /// Only what was created before this time.
    pub(crate) to: Option<OffsetDateTime>,
}

/// The document of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) items: Vec<Todo>,
    /// The cursor of the next page; nothing on the last one.
    pub(crate) next: Option<String>,
}

impl Page {
    /// At most `limit` of the items, with the cursor that goes on after them. `more` says that others follow.
    pub(crate) fn of(mut items: Vec<Todo>, limit: usize, more: bool) -> Self {
        let more = more || items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next = last.map(|last| last.cursor().to_string());
        Self { items, next }
    }
}

/// The document of a page, with the items it was made of while it is new.
#[derive(Debug, Clone)]
pub(crate) struct PageAnswer {
    pub(crate) document: Bytes,
    items: Vec<Todo>,
}

impl Cacheable for PageAnswer {
    fn encode(&self) -> Bytes {
        self.document.clone()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        Some(Self::of(bytes.clone()))
    }
}

impl PageAnswer {
    /// A page of which only the document is left.
    pub(crate) fn of(document: Bytes) -> Self {
        Self { document, items: Vec::new() }
    }
}

impl PageQuery {
    /// Whether the todo belongs to this page or one that follows it.
    pub(crate) fn admits(&self, todo: &Todo) -> bool {
        self.after.is_none_or(|after| todo.cursor() < after)
            && self.done.is_none_or(|done| todo.done == done)
            && self.from.is_none_or(|from| todo.created_at >= from)
            && self.to.is_none_or(|to| todo.created_at < to)
    }

    /// One of each kind, for the tests of their plans.
    pub(crate) fn statements() -> Vec<(&'static str, String)> {
        let at = OffsetDateTime::UNIX_EPOCH;
        let after = Some(Cursor { created_at: at, id: Uuid::nil() });
        let base = Self::default();
        let kinds = [
            ("first", base),
            ("after", Self { after, ..base }),
            ("done", Self { done: Some(true), ..base }),
            ("range", Self { from: Some(at), to: Some(at), ..base }),
            ("all", Self { after, done: Some(true), from: Some(at), to: Some(at), ..base }),
        ];
        kinds.map(|(kind, query)| (kind, query.statement(&Uuid::nil()).0)).to_vec()
    }

    /// The statement holds only the conditions that were asked for: one plan suits them all badly.
    fn statement<'v>(&'v self, owner: &'v Uuid) -> (String, Vec<&'v (dyn ToSql + Sync)>) {
        let mut conditions = vec!["owner = $1".to_owned()];
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![owner];
        if let Some(after) = &self.after {
            values.extend([&after.created_at as &(dyn ToSql + Sync), &after.id]);
            conditions.push("(created_at, id) < ($2, $3)".to_owned());
        }
        if let Some(done) = &self.done {
            values.push(done);
            conditions.push(format!("done = ${}", values.len()));
        }
        if let Some(from) = &self.from {
            values.push(from);
            conditions.push(format!("created_at >= ${}", values.len()));
        }
        if let Some(to) = &self.to {
            values.push(to);
            conditions.push(format!("created_at < ${}", values.len()));
        }
        // One more than asked for tells whether there is a next page.
        let rest = format!(
            "WHERE {} ORDER BY created_at DESC, id DESC LIMIT ${}::bigint",
            conditions.join(" AND "),
            values.len() + 1
        );
        (select(&rest), values)
    }
}

impl Query for PageQuery {
    type Answer = PageAnswer;

    fn name(&self) -> &'static str {
        "todos"
    }

    fn cache_key(&self) -> CacheKey {
        // A dash is no number: a bound that is not there must not read like the epoch.
        let time = |time: Option<OffsetDateTime>| {
            time.map_or_else(|| "-".to_owned(), |time| time.unix_timestamp_nanos().to_string())
        };
        let after = self.after.map(|after| after.to_string()).unwrap_or_default();
        self.owner.cache_key(format_args!(
            "todos/{}/{after}/{:?}/{}/{}",
            self.limit,
            self.done,
            time(self.from),
            time(self.to)
        ))
    }

    fn is_short(&self) -> bool {
        true
    }

    fn tags(&self) -> Tags {
        Tags::of([self.owner.own(TODOS)])
    }

    fn overlay(&self, base: Base<'_, PageAnswer>, pending: &PendingWrites) -> Overlay<PageAnswer> {
        waiting::over_page(self, base, pending)
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<PageAnswer>, Error> {
        let limit = i64::from(self.limit) + 1;
        let owner = self.owner.id();
        let (sql, mut values) = self.statement(&owner);
        values.push(&limit);
        let rows = statements.rows(&sql, &values).await?;
        let items = rows.iter().map(Todo::from_row).collect::<Result<Vec<_>, _>>()?;
        let page = Page::of(items, usize::from(self.limit), false);
        Ok(Some(PageAnswer { document: encode(&page), items: page.items }))
    }

    /// Each item of a list can be read by itself in an outage.
    fn fill(&self, answer: &PageAnswer, cache: &CacheFill<'_>) {
        for todo in &answer.items {
            let key = Todo::cache_key(self.owner, todo.id);
            cache.put_tagged(&key, todo.encode(), || Todo::tags(self.owner, todo.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use time::macros::datetime;

    use super::*;
    use crate::todo::tests::todo;

    #[test]
    fn only_conditions_that_were_asked_for_are_in_the_statement() {
        let all_of_it = PageQuery::default();
        let owner = Uuid::nil();
        let (plain, values) = all_of_it.statement(&owner);
        assert!(
            plain.contains("WHERE owner = $1 ORDER BY") && plain.ends_with("LIMIT $2::bigint"),
            "{plain}"
        );
        assert_eq!(values.len(), 1);
        let query = PageQuery {
            owner: Principal::EVERYBODY,
            limit: 10,
            after: Some(todo(1, 1).cursor()),
            done: Some(true),
            from: None,
            to: Some(datetime!(2026-11-20 0:00 UTC)),
        };
        let (all, values) = query.statement(&owner);
        assert!(all.contains("(created_at, id) < ($2, $3) AND done = $4 AND created_at < $5"), "{all}");
        assert!(all.ends_with("LIMIT $6::bigint") && values.len() == 5, "{all}");
    }

    /// A bound that was absent was written as 0, which is the epoch: a list asked for up to 1970 was empty, and was kept as
    /// the saved copy of the plain list.
    #[test]
    fn different_questions_have_different_cache_keys() {
        let base = PageQuery { limit: 50, ..PageQuery::default() };
        let at = Some(datetime!(2026-11-20 0:00 UTC));
        let epoch = Some(OffsetDateTime::UNIX_EPOCH);
        let all = [
            base,
            PageQuery { owner: Principal::named("ada"), ..base },
            PageQuery { owner: Principal::named("bob"), ..base },
            PageQuery { limit: 5, ..base },
            PageQuery { done: Some(false), ..base },
            PageQuery { done: Some(true), ..base },
            PageQuery { from: at, ..base },
            PageQuery { to: at, ..base },
            PageQuery { from: epoch, ..base },
            PageQuery { to: epoch, ..base },
            PageQuery { from: epoch, to: epoch, ..base },
            PageQuery { after: Some(todo(1, 1).cursor()), ..base },
        ];
        let keys: HashSet<CacheKey> = all.iter().map(Query::cache_key).collect();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn a_page_goes_on_after_its_last_item_only_where_more_follows() {
        let items = vec![todo(3, 1), todo(2, 1), todo(1, 1)];
        let page = Page::of(items.clone(), 2, false);
        assert_eq!(page.items.len(), 2);
        assert_eq!(page.next.unwrap().parse(), Ok(todo(2, 1).cursor()));
        assert_eq!(Page::of(items.clone(), 3, false).next, None);
        assert_eq!(Page::of(items, 3, true).next.unwrap().parse(), Ok(todo(1, 1).cursor()));
        assert_eq!(Page::of(Vec::new(), 3, false).next, None);
    }

    #[test]
    fn from_is_inclusive_and_to_is_not() {
        let item = todo(1, 1);
        let at = Some(item.created_at);
        assert!(PageQuery { from: at, ..PageQuery::default() }.admits(&item));
        assert!(!PageQuery { to: at, ..PageQuery::default() }.admits(&item));
        assert!(!PageQuery { after: Some(item.cursor()), ..PageQuery::default() }.admits(&item));
    }
}
