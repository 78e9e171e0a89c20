//! What the journaled changes of this replica make of the answers that readers get. The library remembers the changes and
//! says which of them concern an answer; here they are laid over it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use ridethrough::{
    Db,
    cache::Freshness,
    db::{Base, Overlay, PendingWrite, PendingWrites, Promise},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Cursor, Page, PageQuery, Todo, TodoQuery, encode, queries::PageAnswer};
use crate::identity::Principal;

/// A change that waits to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: Uuid,
    /// How the todo will be; nothing where it will be gone.
    pub(crate) becomes: Option<Todo>,
}

impl Change {
    /// The change that the owner's todo is about to see last.
    pub(crate) fn last_of(db: &Db, owner: Principal, id: Uuid) -> Option<Self> {
        let pending = db.pending(&Todo::tags(owner, id));
        pending.iter().rev().find_map(|write| write.promise::<Changes>()?.of(id)).cloned()
    }

    /// Whether what is known is at least as new as this change, which was settled meanwhile.
    fn is_in(&self, write: &PendingWrite, known: Option<&Todo>) -> bool {
        let versions = known.zip(self.becomes.as_ref());
        write.is_settled() && versions.is_some_and(|(known, becomes)| known.version >= becomes.version)
    }
}

/// What one command makes true: the promise that readers are shown while it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    changes: Vec<Change>,
    is_batch: bool,
}

impl Changes {
    /// Of one todo.
    pub(crate) fn one(id: Uuid, becomes: Option<Todo>) -> Self {
        Self { changes: vec![Change { id, becomes }], is_batch: false }
    }

    /// Of many, in the order of their ids.
    pub(super) fn batch(changes: Vec<Change>) -> Self {
        Self { changes, is_batch: true }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Change> {
        self.changes.iter()
    }

    fn of(&self, id: Uuid) -> Option<&Change> {
        let at = self.changes.binary_search_by_key(&id, |change| change.id).ok()?;
        self.changes.get(at)
    }

    /// Of a todo that this replica has never seen it can only tell a part: better nothing than that.
    fn is_whole(&self) -> bool {
        self.iter().all(|change| change.becomes.as_ref().is_none_or(|todo| todo.version > 0))
    }

    /// What readers see while the write waits.
    pub(super) fn promise(self) -> Option<Promise> {
        self.is_whole().then(|| Arc::new(self) as Promise)
    }

    /// What the author is shown meanwhile.
    pub(crate) fn document(&self) -> Option<Bytes> {
        if !self.is_whole() {
            return None;
        }
        let mut todos = self.iter().filter_map(|change| change.becomes.clone());
        if self.is_batch { Some(Items::encode(todos.collect())) } else { Some(todos.next()?.encode()) }
    }

    /// What the author was shown of the write that waits under `key`.
    pub(crate) fn document_under(db: &Db, key: &str) -> Option<Bytes> {
        db.pending_under(key)?.promise::<Self>()?.document()
    }
}

/// The document of a batch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Items {
    items: Vec<Todo>,
}

impl Items {
    pub(super) fn encode(items: Vec<Todo>) -> Bytes {
        encode(&Self { items })
    }

    pub(super) fn decode(document: &[u8]) -> Vec<Todo> {
        serde_json::from_slice::<Self>(document).map(|batch| batch.items).unwrap_or_default()
    }
}

/// The document of one todo as its last change will make it.
pub(super) fn over_one(query: &TodoQuery, base: Base<'_, Bytes>, pending: &PendingWrites) -> Overlay<Bytes> {
    let last =
        pending.iter().rev().find_map(|write| Some((write, write.promise::<Changes>()?.of(query.id)?)));
    let Some((write, change)) = last else { return Overlay::Unchanged };
    let known = match base {
        Base::Known(document, _) => document.and_then(|document| Todo::decode(document)),
        Base::Unknown => None,
    };
    if change.is_in(write, known.as_ref()) {
        return Overlay::Unchanged;
    }
    Overlay::Becomes(change.becomes.as_ref().map(Todo::encode))
}

/// A page as the pending changes will make it.
pub(super) fn over_page(
    query: &PageQuery,
    base: Base<'_, PageAnswer>,
    pending: &PendingWrites,
) -> Overlay<PageAnswer> {
    let Base::Known(Some(answer), freshness) = base else { return Overlay::Unchanged };
    let Ok(mut page) = serde_json::from_slice::<Page>(&answer.document) else { return Overlay::Unchanged };
    let is_last_page = page.next.is_none();
    let changes = pending.iter().flat_map(|write| {
        let is_settled = write.is_settled();
        let changes = write.promise::<Changes>().map_or(&[][..], |promised| promised.changes.as_slice());
        changes.iter().map(move |change| (is_settled, change))
    });
    if !lay_over(query, changes, &mut page.items, is_last_page) {
        return Overlay::Unchanged;
    }
    let page = match freshness {
        Freshness::Fresh => Page::of(page.items, usize::from(query.limit), !is_last_page),
        // Only the pages that were asked for before can follow, so the cursor stays, and what waits comes on top of the
        // limit: cut off here, it would be on no page at all.
        Freshness::Stale { .. } => page,
    };
    Overlay::Becomes(Some(PageAnswer::of(encode(&page))))
}

/// Lays changes, each with whether it is settled and in the order in which they were accepted, over the items of a page,
/// newest first. Of todos that were not on the page it shows the newest, one more than a page holds: an outage of some
/// minutes leaves thousands of them. Each of those is looked at once, and none is kept that is not shown. Answers whether
/// anything changed.
fn lay_over<'c>(
    query: &PageQuery,
    changes: impl DoubleEndedIterator<Item = (bool, &'c Change)>,
    items: &mut Vec<Todo>,
    is_last_page: bool,
) -> bool {
    let oldest = items.last().map(Todo::cursor);
    let on_page = |todo: &Todo| {
        let too_old = !is_last_page && oldest.is_some_and(|oldest| todo.cursor() < oldest);
        query.admits(todo) && !too_old
    };
    let mut here: HashMap<Uuid, Option<(bool, &Change)>> = items.iter().map(|item| (item.id, None)).collect();
    // What is about to be seen last of a todo is seen first here; before its creation there is nothing of it.
    let mut elsewhere: HashSet<Uuid> = HashSet::new();
    let mut new: BTreeMap<Cursor, &Todo> = BTreeMap::new();
    for (is_settled, change) in changes.rev() {
        if let Some(last) = here.get_mut(&change.id) {
            last.get_or_insert((is_settled, change));
            continue;
        }
        let is_creation = change.becomes.as_ref().is_some_and(|becomes| becomes.version == 1);
        let is_last = if is_creation { !elsewhere.contains(&change.id) } else { elsewhere.insert(change.id) };
        let Some(todo) = change.becomes.as_ref().filter(|todo| is_last && on_page(todo)) else { continue };
        new.insert(todo.cursor(), todo);
        // The one more tells that a page follows.
        if new.len() > usize::from(query.limit) + 1 {
            new.pop_first();
        }
    }
    let mut changed = !new.is_empty();
    let kept = std::mem::take(items).into_iter().filter_map(|item| {
        let Some((is_settled, change)) = here.get(&item.id).copied().flatten() else { return Some(item) };
        let becomes = change.becomes.as_ref();
        if is_settled && becomes.is_some_and(|becomes| item.version >= becomes.version) {
            return Some(item);
        }
        changed = true;
        becomes.filter(|todo| on_page(todo)).cloned()
    });
    *items = kept.collect();
    items.extend(new.into_values().cloned());
    items.sort_by_key(|todo| std::cmp::Reverse(todo.cursor()));
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::todo::tests::todo;

    fn ids(items: &[Todo]) -> Vec<u128> {
        items.iter().map(|item| item.id.as_u128()).collect()
    }

    fn change(number: u128, becomes: Option<Todo>) -> Change {
        Change { id: Uuid::from_u128(number), becomes }
    }

    /// The same with all of them at hand: slow, and easy to see through.
    fn in_the_plainest_way<'c>(
        query: &PageQuery,
        changes: impl IntoIterator<Item = (bool, &'c Change)>,
        items: &mut Vec<Todo>,
        is_last_page: bool,
    ) -> bool {
        let mut latest: HashMap<Uuid, (bool, &Change)> =
            changes.into_iter().map(|(is_settled, change)| (change.id, (is_settled, change))).collect();
        let oldest = items.last().map(Todo::cursor);
        let were_here: HashSet<Uuid> = items.iter().map(|item| item.id).collect();
        let mut changed = false;
        items.retain(|item| {
            let Some((is_settled, change)) = latest.get(&item.id) else { return true };
            let knows_as_much =
                *is_settled && change.becomes.as_ref().is_some_and(|becomes| item.version >= becomes.version);
            if knows_as_much {
                latest.remove(&item.id);
            } else {
                changed = true;
            }
            knows_as_much
        });
        let on_page = |todo: &Todo| {
            let too_old = !is_last_page && oldest.is_some_and(|oldest| todo.cursor() < oldest);
            query.admits(todo) && !too_old
        };
        let becoming = latest.values().filter_map(|(_, change)| change.becomes.as_ref());
        let (changed_here, mut new): (Vec<&Todo>, Vec<&Todo>) =
            becoming.filter(|todo| on_page(todo)).partition(|todo| were_here.contains(&todo.id));
        new.sort_unstable_by_key(|todo| std::cmp::Reverse(todo.cursor()));
        // The one more tells that a page follows.
        new.truncate(usize::from(query.limit) + 1);
        changed |= !(changed_here.is_empty() && new.is_empty());
        items.extend(changed_here.into_iter().chain(new).cloned());
        items.sort_by_key(|todo| std::cmp::Reverse(todo.cursor()));
        changed
    }

    #[test]
    fn whatever_waits_is_laid_over_as_if_all_of_it_were_looked_at_together() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for run in 0..3_000 {
            let mut versions: HashMap<u128, i64> = (1..10).map(|number| (number, random.i64(1..4))).collect();
            let limit = random.u8(1..6);
            let done = [None, Some(true), Some(false)][random.usize(..3)];
            let after = random.bool().then(|| todo(random.u128(5..30), 1).cursor());
            let query = PageQuery { limit, done, after, ..PageQuery::default() };
            let all = versions.iter().map(|(number, version)| todo(*number, *version));
            let mut items: Vec<Todo> = all.filter(|todo| query.admits(todo)).collect();
            items.sort_by_key(|todo| std::cmp::Reverse(todo.cursor()));
            let is_last_page = items.len() <= usize::from(limit);
            items.truncate(limit.into());
            let changes: Vec<(bool, Change)> = (0..random.u128(..25))
                .map(|step| {
                    let number = if random.bool() { 10 + step } else { random.u128(1..10 + step) };
                    let version = versions.entry(number).and_modify(|version| *version += 1).or_insert(1);
                    let becomes = Todo { done: random.bool(), ..todo(number, *version) };
                    let is_gone = *version > 1 && random.u8(..5) == 0;
                    (random.bool(), change(number, (!is_gone).then_some(becomes)))
                })
                .collect();
            let changes = || changes.iter().map(|(is_settled, change)| (*is_settled, change));
            let mut expected = items.clone();
            let changed = in_the_plainest_way(&query, changes(), &mut expected, is_last_page);
            assert_eq!(
                lay_over(&query, changes(), &mut items, is_last_page),
                changed,
                "{run} of seed {seed}"
            );
            assert_eq!(items, expected, "run {run} of seed {seed}");
        }
    }

    #[test]
    fn new_items_come_first_and_deleted_ones_go() {
        let changes = [change(9, Some(todo(9, 1))), change(2, None)];
        let mut items = vec![todo(3, 1), todo(2, 1), todo(1, 1)];
        assert!(lay_over(&PageQuery::default(), changes.iter().map(|c| (false, c)), &mut items, true));
        assert_eq!(ids(&items), [9, 3, 1]);
    }

    #[test]
    fn a_changed_item_keeps_its_place_and_is_judged_anew_by_the_filter() {
        let changes = [change(2, Some(Todo { done: true, ..todo(2, 2) }))];
        let over = |query: &PageQuery, items: &mut Vec<Todo>| {
            lay_over(query, changes.iter().map(|c| (false, c)), items, true)
        };
        let mut items = vec![todo(3, 1), todo(2, 1), todo(1, 1)];
        over(&PageQuery::default(), &mut items);
        assert_eq!(ids(&items), [3, 2, 1]);
        assert!(items[1].done);
        over(&PageQuery { done: Some(false), ..PageQuery::default() }, &mut items);
        assert_eq!(ids(&items), [3, 1]);
    }

    /// After twenty seconds of an outage at 500 creations per second, a page of ten came with 10,000 items more.
    #[test]
    fn of_many_new_items_the_newest_are_shown_and_changed_ones_keep_their_place() {
        let mut changes: Vec<Change> =
            (10..1_000).map(|number| change(number, Some(todo(number, 1)))).collect();
        changes.push(change(2, Some(todo(2, 2))));
        let mut items = vec![todo(3, 1), todo(2, 1)];
        let query = PageQuery { limit: 3, ..PageQuery::default() };
        assert!(lay_over(&query, changes.iter().map(|c| (false, c)), &mut items, false));
        assert_eq!(ids(&items), [999, 998, 997, 996, 3, 2]);
        assert_eq!(items[5].version, 2);
    }

    #[test]
    fn of_two_changes_of_one_todo_the_later_is_shown() {
        let changes = [change(2, Some(todo(2, 2))), change(2, Some(todo(2, 3)))];
        let mut items = vec![todo(2, 1)];
        lay_over(&PageQuery::default(), changes.iter().map(|c| (false, c)), &mut items, true);
        assert_eq!(items.iter().map(|item| item.version).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn items_of_another_page_do_not_appear_on_this_one() {
        let changes = [change(1, Some(todo(1, 2))), change(9, Some(todo(9, 1)))];
        let mut items = vec![todo(5, 1), todo(4, 1)];
        let second_page = PageQuery { after: Some(todo(6, 1).cursor()), ..PageQuery::default() };
        assert!(!lay_over(&second_page, changes.iter().map(|c| (false, c)), &mut items, false));
        assert_eq!(ids(&items), [5, 4]);
    }

    /// A list that was asked for while the last journaled write was applied showed the todo as this replica had left it, though
    /// another replica had changed it since.
    #[test]
    fn a_change_that_was_settled_gives_way_to_an_item_that_is_as_new() {
        let changes = [change(2, Some(todo(2, 2))), change(1, Some(todo(1, 2)))];
        let mut items = vec![todo(2, 3), todo(1, 1)];
        assert!(lay_over(&PageQuery::default(), changes.iter().map(|c| (true, c)), &mut items, true));
        assert_eq!(items.iter().map(|item| item.version).collect::<Vec<_>>(), [3, 2]);
    }
}
