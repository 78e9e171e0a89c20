//! The journaled changes of this replica that readers should see already, laid over the lists they read.
//!
//! It is memory only and bounded; what it forgets is merely shown later. The journal is what remembers.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::todo::{PageQuery, SettledKeys, Todo};

/// Laying this many changes over a list is still quick; an outage with more of them shows the rest when it is over.
const CHANGES_MAX: usize = 10_000;

/// The waiting changes of each todo, in the order in which they were accepted.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    changes: HashMap<Uuid, Vec<Change>>,
    count: usize,
    settled: SettledKeys,
}

/// A change that waits to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The key of the write that is to make it true.
    key: String,
    /// How the todo will be; nothing where it will be gone.
    pub(crate) becomes: Option<Todo>,
    /// When it was noted.
    pub(crate) since: Instant,
}

impl Waiting {
    /// Remembers at `now` what the write under `key` will make of the todo.
    pub(crate) fn note(&self, id: Uuid, key: &str, becomes: Option<Todo>, now: Instant) {
        let mut notes = self.notes();
        if notes.count < CHANGES_MAX {
            notes.count += 1;
            notes.changes.entry(id).or_default().push(Change { key: key.to_owned(), becomes, since: now });
        }
    }

    /// The write under `key` is settled. Answers whether another write to the same todo still waits, in which case the
    /// reader goes on seeing that one.
    pub(crate) fn settle(&self, id: Uuid, key: &str) -> bool {
        let mut notes = self.notes();
        let Notes { changes, count, settled } = &mut *notes;
        settled.insert(key);
        let Entry::Occupied(mut of_todo) = changes.entry(id) else { return false };
        let before = of_todo.get().len();
        of_todo.get_mut().retain(|change| change.key != key);
        *count -= before - of_todo.get().len();
        let others_wait = !of_todo.get().is_empty();
        if !others_wait {
            of_todo.remove();
        }
        others_wait
    }

    /// Whether the write under `key` was settled lately, so that a request with it is a repetition.
    pub(crate) fn was_settled(&self, key: &str) -> bool {
        self.notes().settled.contains(key)
    }

    /// The journal was empty at `now`: whatever was noted before is settled, also where its note came late.
    pub(crate) fn forget_noted_before(&self, now: Instant) {
        let mut notes = self.notes();
        notes.changes.retain(|_, of_todo| {
            of_todo.retain(|change| change.since >= now);
            !of_todo.is_empty()
        });
        notes.count = notes.changes.values().map(Vec::len).sum();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.notes().count == 0
    }

    /// The change that the todo is about to see last.
    pub(crate) fn find(&self, id: Uuid) -> Option<Change> {
        self.notes().changes.get(&id)?.last().cloned()
    }

    /// What the write under `key` was promised to make of the todo.
    pub(crate) fn promised(&self, id: Uuid, key: &str) -> Option<Todo> {
        let notes = self.notes();
        notes.changes.get(&id)?.iter().find(|change| change.key == key)?.becomes.clone()
    }

    /// Lays the waiting changes over the items of a page, newest first. Answers whether anything changed.
    pub(crate) fn lay_over(&self, query: &PageQuery, items: &mut Vec<Todo>, is_last_page: bool) -> bool {
        let notes = self.notes();
        let before = items.len();
        items.retain(|item| !notes.changes.contains_key(&item.id));
        let mut changed = items.len() != before;
        let oldest = items.last().map(Todo::cursor);
        let on_page = |todo: &Todo| {
            let too_old = !is_last_page && oldest.is_some_and(|oldest| todo.cursor() < oldest);
            query.admits(todo) && !too_old
        };
        let latest = notes.changes.values().filter_map(|changes| changes.last()?.becomes.as_ref());
        let shown: Vec<Todo> = latest.filter(|todo| on_page(todo)).cloned().collect();
        changed |= !shown.is_empty();
        items.extend(shown);
        items.sort_by_key(|todo| std::cmp::Reverse(todo.cursor()));
        changed
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::todo::tests::todo;

    fn ids(items: &[Todo]) -> Vec<u128> {
        items.iter().map(|item| item.id.as_u128()).collect()
    }

    #[test]
    fn new_items_come_first_and_deleted_ones_go() {
        let waiting = Waiting::default();
        waiting.note(Uuid::from_u128(9), "new", Some(todo(9, 1)), Instant::now());
        waiting.note(Uuid::from_u128(2), "gone", None, Instant::now());
        let mut items = vec![todo(3, 1), todo(2, 1), todo(1, 1)];
        assert!(waiting.lay_over(&PageQuery::default(), &mut items, true));
        assert_eq!(ids(&items), [9, 3, 1]);
    }

    #[test]
    fn a_changed_item_keeps_its_place_and_is_judged_anew_by_the_filter() {
        let waiting = Waiting::default();
        waiting.note(Uuid::from_u128(2), "k", Some(Todo { done: true, ..todo(2, 2) }), Instant::now());
        let mut items = vec![todo(3, 1), todo(2, 1), todo(1, 1)];
        waiting.lay_over(&PageQuery::default(), &mut items, true);
        assert_eq!(ids(&items), [3, 2, 1]);
        assert!(items[1].done);
        let open_only = PageQuery { done: Some(false), ..PageQuery::default() };
        waiting.lay_over(&open_only, &mut items, true);
        assert_eq!(ids(&items), [3, 1]);
    }

    #[test]
    fn items_of_another_page_do_not_appear_on_this_one() {
        let waiting = Waiting::default();
        waiting.note(Uuid::from_u128(1), "old", Some(todo(1, 2)), Instant::now());
        waiting.note(Uuid::from_u128(9), "new", Some(todo(9, 1)), Instant::now());
        let mut items = vec![todo(5, 1), todo(4, 1)];
        let second_page = PageQuery { after: Some(todo(6, 1).cursor()), ..PageQuery::default() };
        assert!(!waiting.lay_over(&second_page, &mut items, false));
        assert_eq!(ids(&items), [5, 4]);
    }

    /// The first of two waiting writes to one todo was applied while the second still waited, and readers saw the
    /// second one's value vanish for a moment.
    #[test]
    fn settling_an_earlier_write_leaves_the_later_one_in_sight() {
        let waiting = Waiting::default();
        let id = Uuid::from_u128(1);
        waiting.note(id, "first", Some(todo(1, 2)), Instant::now());
        waiting.note(id, "second", Some(todo(1, 3)), Instant::now());
        assert!(waiting.settle(id, "first"));
        assert_eq!(waiting.find(id).unwrap().becomes.unwrap().version, 3);
        assert!(!waiting.settle(id, "second"));
        assert!(waiting.find(id).is_none());
    }

    /// A repeated request got the promise that a later write to the same todo had been given.
    #[test]
    fn each_write_keeps_its_own_promise() {
        let (waiting, id, now) = (Waiting::default(), Uuid::from_u128(1), Instant::now());
        waiting.note(id, "first", Some(todo(1, 2)), now);
        waiting.note(id, "second", Some(todo(1, 3)), now);
        assert_eq!(waiting.promised(id, "first").unwrap().version, 2);
        assert_eq!(waiting.promised(id, "second").unwrap().version, 3);
        assert_eq!(waiting.promised(id, "third"), None);
    }

    /// Replay can be quicker than the note of what it replays; the note then stayed, and readers saw it for ever.
    #[test]
    fn a_note_that_came_too_late_is_forgotten_once_the_journal_is_empty() {
        let (waiting, id, now) = (Waiting::default(), Uuid::from_u128(1), Instant::now());
        waiting.settle(id, "k");
        waiting.note(id, "k", Some(todo(1, 1)), now);
        waiting.forget_noted_before(now);
        assert!(waiting.find(id).is_some());
        waiting.forget_noted_before(now + std::time::Duration::from_millis(1));
        assert!(waiting.find(id).is_none());
    }

    #[test]
    fn the_number_of_changes_is_bounded() {
        let waiting = Waiting::default();
        for number in 0..=CHANGES_MAX as u128 {
            waiting.note(Uuid::from_u128(number), "k", None, Instant::now());
        }
        assert_eq!(waiting.notes().count, CHANGES_MAX);
        waiting.settle(Uuid::from_u128(0), "k");
        assert_eq!(waiting.notes().count, CHANGES_MAX - 1);
        assert!(!waiting.is_empty());
    }
}
