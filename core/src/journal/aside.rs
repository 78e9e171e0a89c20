//! Entries that were set aside: dead letters that wait for an operator, and held ones that wait for a newer program. It
//! does no I/O.

pub(crate) mod file;
mod handle;
pub(crate) mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::journal::index::Slot;
use crate::journal::record::time;
use crate::journal::{Entry, Pending};

/// Why an entry is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aside {
    /// It can never be applied: a dead letter, kept until an operator retries, exports or discards it.
    Rejected {
        /// A code for the reason, at most 255 bytes.
        reason: String,
    },
    /// This program does not know its command or version. It and all that follow in its ordering key wait, in order, until
    /// [`release`](crate::journal::Journal::release).
    Held {
        /// A code for the reason, at most 255 bytes.
        reason: String,
    },
}

/// An entry that was set aside, with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsideEntry {
    /// The entry, under the sequence it was appended with.
    pub entry: Entry,
    /// Why it is aside.
    pub why: Aside,
    /// Since when.
    pub since: SystemTime,
}

/// How much is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AsideCounts {
    /// Dead letters.
    pub rejected: u64,
    /// Entries that wait for a program that knows them.
    pub held: u64,
    /// Bytes of both on disk.
    pub bytes: u64,
}

/// One entry that is set aside.
#[derive(Debug, Clone)]
pub(crate) struct AsideSlot {
    pub(crate) slot: Slot,
    pub(crate) why: Aside,
    pub(crate) since: SystemTime,
}

/// All entries that are set aside, by sequence.
#[derive(Debug, Default)]
pub(crate) struct AsideIndex {
    slots: BTreeMap<u64, AsideSlot>,
    /// Held entries that were released, and so are pending again.
    released: BTreeSet<u64>,
    /// How many entries of an ordering key are held, and how many of those are not released.
    held: HashMap<Arc<str>, (u64, u64)>,
    held_by_key: HashMap<Arc<str>, u64>,
    counts: AsideCounts,
    /// What is aside no more, but still in the file as if it were.
    gone: Vec<u64>,
}

impl AsideIndex {
    pub(crate) fn insert(&mut self, sequence: u64, aside: AsideSlot) {
        // Set aside once more, for another reason: the newest record in the file is the one that counts.
        self.take(sequence);
        self.counts.bytes += u64::from(aside.slot.length);
        match &aside.why {
            Aside::Rejected { .. } => self.counts.rejected += 1,
            Aside::Held { .. } => {
                self.counts.held += 1;
                let (all, unreleased) =
                    self.held.entry(Arc::clone(&aside.slot.ordering_key)).or_insert((0, 0));
                (*all, *unreleased) = (*all + 1, *unreleased + 1);
                self.held_by_key.insert(Arc::clone(&aside.slot.key), sequence);
            }
        }
        self.slots.insert(sequence, aside);
    }

    /// Takes an entry out for good, whatever its state.
    pub(crate) fn settle(&mut self, sequence: u64) -> bool {
        let was_here = self.take(sequence).is_some();
        if was_here {
            self.gone.push(sequence);
        }
        was_here
    }

    /// Takes an entry out that the file says is gone.
    pub(crate) fn forget(&mut self, sequence: u64) {
        self.take(sequence);
    }

    /// What the file must be told is gone.
    pub(crate) fn take_gone(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.gone)
    }

    /// The file could not be told.
    pub(crate) fn gone_again(&mut self, gone: Vec<u64>) {
        self.gone.extend(gone);
    }

    /// The entry lies somewhere else now.
    pub(crate) fn relocate(&mut self, sequence: u64, to: impl FnOnce(&Slot) -> Slot) {
        if let Some(aside) = self.slots.get_mut(&sequence) {
            aside.slot = to(&aside.slot);
        }
    }

    /// An entry that was rejected before is pending again, so its dead letters are history.
    pub(crate) fn retried(&mut self, key: &str) {
        let letters = self
            .slots
            .iter()
            .filter(|(_, aside)| matches!(aside.why, Aside::Rejected { .. }) && *aside.slot.key == *key);
        for sequence in letters.map(|(sequence, _)| *sequence).collect::<Vec<u64>>() {
            self.settle(sequence);
        }
    }

    fn take(&mut self, sequence: u64) -> Option<AsideSlot> {
        let gone = self.slots.remove(&sequence)?;
        self.counts.bytes -= u64::from(gone.slot.length);
        match &gone.why {
            Aside::Rejected { .. } => self.counts.rejected -= 1,
            Aside::Held { .. } => {
                self.counts.held -= 1;
                let was_released = self.released.remove(&sequence);
                if let Some((all, unreleased)) = self.held.get_mut(&gone.slot.ordering_key) {
                    *all -= 1;
                    *unreleased -= u64::from(!was_released);
                    if *all == 0 {
                        self.held.remove(&gone.slot.ordering_key);
                    }
                }
                if self.held_by_key.get(&gone.slot.key) == Some(&sequence) {
                    self.held_by_key.remove(&gone.slot.key);
                }
            }
        }
        Some(gone)
    }

    /// Makes all held entries of an ordering key pending again; how many there are.
    pub(crate) fn release(&mut self, ordering_key: &str) -> u64 {
        let Some((all, unreleased)) = self.held.get_mut(ordering_key) else { return 0 };
        *unreleased = 0;
        let all = *all;
        let held = self.slots.iter().filter(|(_, aside)| {
            matches!(aside.why, Aside::Held { .. }) && *aside.slot.ordering_key == *ordering_key
        });
        self.released.extend(held.map(|(sequence, _)| *sequence));
        all
    }

    pub(crate) fn is_held(&self, ordering_key: &str) -> bool {
        self.held.get(ordering_key).is_some_and(|(_, unreleased)| *unreleased > 0)
    }

    pub(crate) fn is_waiting(&self, ordering_key: &str) -> bool {
        self.held.contains_key(ordering_key)
    }

    pub(crate) fn find(&self, key: &str) -> Option<Pending> {
        let sequence = *self.held_by_key.get(key)?;
        let slot = self.slot(sequence)?;
        let accepted_at = time(slot.accepted_micros);
        Some(Pending { sequence, fingerprint: slot.fingerprint, accepted_at })
    }

    /// The newest dead letter of a key. Looks at all of them: it is for an operator's commands.
    pub(crate) fn rejected(&self, key: &str) -> Option<u64> {
        let is_it =
            |aside: &AsideSlot| matches!(aside.why, Aside::Rejected { .. }) && *aside.slot.key == *key;
        self.slots.iter().rev().find(|(_, aside)| is_it(aside)).map(|(sequence, _)| *sequence)
    }

    pub(crate) fn rejected_keys(&self) -> Vec<String> {
        let letters = self.slots.values().filter(|aside| matches!(aside.why, Aside::Rejected { .. }));
        letters.map(|aside| aside.slot.key.to_string()).collect()
    }

    pub(crate) fn slot(&self, sequence: u64) -> Option<&Slot> {
        self.slots.get(&sequence).map(|aside| &aside.slot)
    }

    /// The released entries in order.
    pub(crate) fn released(&self) -> impl Iterator<Item = (u64, &Slot)> {
        self.released.iter().filter_map(|sequence| Some((*sequence, self.slot(*sequence)?)))
    }

    pub(crate) fn released_entries(&self) -> u64 {
        self.released.len() as u64
    }

    pub(crate) fn counts(&self) -> AsideCounts {
        self.counts
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &AsideSlot)> {
        self.slots.iter().map(|(sequence, aside)| (*sequence, aside))
    }
}
