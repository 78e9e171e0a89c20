//! The newest writes that were settled: their keys, so that a repetition is known as one while the database cannot be asked,
//! and of todos that had to wait, when that was over.
//!
//! It is memory only and bounded.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use uuid::Uuid;

/// Some minutes of a busy replica's writes; who repeats a request, or looks for his item, does it soon or not at all.
const REMEMBERED_MAX: usize = 10_000;

/// How it ended for a todo that had to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) at: OffsetDateTime,
    /// Whether the change was applied, and not overtaken by another one.
    pub(crate) was_applied: bool,
}

/// What was settled lately.
#[derive(Debug, Default)]
pub(crate) struct SettledKeys(Mutex<Settled>);

#[derive(Debug, Default)]
struct Settled {
    keys: Newest<String, ()>,
    todos: Newest<Uuid, Ended>,
}

impl SettledKeys {
    pub(crate) fn insert(&self, key: &str) {
        self.lock().keys.insert(key.to_owned(), ());
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.lock().keys.known.contains_key(key)
    }

    /// Remembers that a todo waits no longer.
    pub(crate) fn ended(&self, id: Uuid, ended: Ended) {
        self.lock().todos.insert(id, ended);
    }

    /// When and how the last waiting change of a todo ended.
    pub(crate) fn end_of(&self, id: Uuid) -> Option<Ended> {
        self.lock().todos.known.get(&id).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Settled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A map that drops the oldest when it is full.
#[derive(Debug)]
struct Newest<K, V> {
    known: HashMap<K, V>,
    /// The same keys, oldest first.
    order: VecDeque<K>,
}

impl<K, V> Default for Newest<K, V> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Newest<K, V> {
    fn insert(&mut self, key: K, value: V) {
        if self.known.insert(key.clone(), value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let settled = SettledKeys::default();
        let ended = |second| Ended {
            at: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second),
            was_applied: true,
        };
        for number in 0..=REMEMBERED_MAX {
            let id = Uuid::from_u128(number as u128);
            for second in 0..2 {
                settled.insert(&number.to_string());
                settled.ended(id, ended(second));
            }
        }
        assert!(!settled.contains("0") && settled.contains("1"));
        assert!(settled.contains(&REMEMBERED_MAX.to_string()));
        assert_eq!(settled.end_of(Uuid::from_u128(0)), None);
        assert_eq!(settled.end_of(Uuid::from_u128(1)), Some(ended(1)), "the last word counts");
        let settled = settled.0.lock().unwrap();
        assert_eq!((settled.keys.known.len(), settled.keys.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!((settled.todos.known.len(), settled.todos.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
    }
}
