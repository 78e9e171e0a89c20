//! The newest keys whose writes were settled, so that a repetition is known as one while the database cannot be asked.
//!
//! It is memory only and bounded, and knows nothing of how a write ended.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Some minutes of a busy replica's writes; who repeats a request does it soon or not at all.
const KEYS_MAX: usize = 10_000;

/// A set of keys that drops the oldest when it is full.
#[derive(Debug, Default)]
pub(crate) struct SettledKeys(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    known: HashSet<String>,
    /// The same keys, oldest first.
    order: VecDeque<String>,
}

impl SettledKeys {
    pub(crate) fn insert(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known.contains(key)
    }
}

impl Keys {
    fn insert(&mut self, key: &str) {
        if !self.known.insert(key.to_owned()) {
            return;
        }
        self.order.push_back(key.to_owned());
        if self.order.len() > KEYS_MAX
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
    fn the_oldest_key_makes_room() {
        let keys = SettledKeys::default();
        for number in 0..=KEYS_MAX {
            keys.insert(&number.to_string());
            keys.insert(&number.to_string());
        }
        assert!(!keys.contains("0") && keys.contains("1") && keys.contains(&KEYS_MAX.to_string()));
        let keys = keys.0.lock().unwrap();
        assert_eq!((keys.known.len(), keys.order.len()), (KEYS_MAX, KEYS_MAX));
    }
}
