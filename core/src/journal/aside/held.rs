//! What is held of one ordering key, and from where on. It knows sequences only.

use std::collections::BTreeSet;

/// The held entries of one ordering key, the released ones included: those come before all that are not.
#[derive(Debug, Default)]
pub(super) struct HeldKey {
    all: BTreeSet<u64>,
    /// The first one that is not released.
    from: Option<u64>,
    released: u64,
}

impl HeldKey {
    /// Takes an entry in, which holds back everything behind it.
    pub(super) fn hold(&mut self, sequence: u64) {
        if self.from.is_none_or(|from| sequence < from) {
            let until = self.from.unwrap_or(u64::MAX);
            self.released -= self.all.range(sequence..until).count() as u64;
            self.from = Some(sequence);
        }
        self.all.insert(sequence);
    }

    /// Takes an entry in that holds nothing back, and is released unless it follows one that is held.
    pub(super) fn take_in(&mut self, sequence: u64) {
        self.all.insert(sequence);
        self.released += u64::from(self.from.is_none_or(|from| sequence < from));
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        let is_released = self.from.is_none_or(|from| sequence < from);
        if self.all.remove(&sequence) && is_released {
            self.released -= 1;
        }
        if self.from == Some(sequence) {
            self.from = self.all.range(sequence..).next().copied();
        }
    }

    /// Releases all of them; how many were not before.
    pub(super) fn release(&mut self) -> u64 {
        let all = self.all.len() as u64;
        let before = std::mem::replace(&mut self.released, all);
        self.from = None;
        all - before
    }

    /// The released ones, in order.
    pub(super) fn released(&self) -> impl Iterator<Item = u64> {
        self.all.range(..self.from.unwrap_or(u64::MAX)).copied()
    }

    pub(super) fn head(&self) -> Option<u64> {
        self.released().next()
    }

    pub(super) fn released_entries(&self) -> u64 {
        self.released
    }

    pub(super) fn is_held(&self) -> bool {
        self.from.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
