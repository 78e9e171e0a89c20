//! A batch while it is put together, and what of it was released. It reads nothing.

use std::collections::HashSet;
use std::sync::Arc;

use crate::journal::aside::AsideIndex;
use crate::journal::index::{Place, Slot};

/// What a batch holds so far.
pub(super) struct Taken {
    pub(super) places: Vec<Place>,
    bytes: u64,
    entries_max: usize,
    bytes_max: u64,
}

impl Taken {
    pub(super) fn new(entries_max: usize, bytes_max: u64) -> Self {
        Self { places: Vec::new(), bytes: 0, entries_max: entries_max.max(1), bytes_max }
    }

    /// Takes one more entry; `false` where it does not fit.
    pub(super) fn take(&mut self, sequence: u64, length: u32, slot: impl FnOnce() -> Slot) -> bool {
        let bytes = self.bytes + u64::from(length);
        if self.places.len() >= self.entries_max || (bytes > self.bytes_max && !self.places.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.places.push(Place { sequence, slot: slot() });
        true
    }

    /// Takes the released entries, which were appended before all others of their ordering keys. Answers which of these
    /// were skipped, so that nothing of them is given whatever `skip` says later; `None` where no more fits.
    pub(super) fn take_released(
        &mut self,
        aside: &AsideIndex,
        skip: &dyn Fn(&str) -> bool,
    ) -> Option<HashSet<Arc<str>>> {
        let mut left_out = HashSet::new();
        let mut fits = true;
        for ordering_key in aside.released_keys() {
            if skip(ordering_key) {
                left_out.insert(Arc::clone(ordering_key));
            } else if !aside
                .released(ordering_key)
                .all(|(sequence, slot)| self.take(sequence, slot.length, || slot.clone()))
            {
                fits = false;
                break;
            }
        }
        self.places.sort_unstable_by_key(|place| place.sequence);
        fits.then_some(left_out)
    }
}
