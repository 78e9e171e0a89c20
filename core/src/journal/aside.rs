//! Entries that were set aside: dead letters that wait for an operator, and held ones that wait for a newer program. It
//! does no I/O.

pub(crate) mod file;
mod handle;
mod held;
pub(crate) mod record;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use crate::journal::aside::held::HeldKey;
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
    /// [`release`](crate::journal::Journal::release). With the reason `moved`, which the journal itself gives, it only made
    /// room in the segments, and is pending like any other.
    Held {
        /// A code for the reason, at most 255 bytes.
        reason: String,
    },
}

/// The code of the reason for entries that the journal itself took out of its segments' way.
const MOVED: &str = "moved";

impl Aside {
    /// It is as pending as before, unless it follows a held one, but lies elsewhere.
    pub(crate) fn moved() -> Self {
        Self::Held { reason: MOVED.to_owned() }
    }

    /// Whether the journal only moved it out of its segments' way.
    pub fn is_moved(&self) -> bool {
        matches!(self, Self::Held { reason } if reason == MOVED)
    }
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
    /// Entries that only made room in the segments, and are pending like any other.
    pub moved: u64,
    /// Bytes of all of them on disk.
    pub bytes: u64,
}

impl AsideCounts {
    /// All of them.
    pub fn entries(&self) -> u64 {
        self.rejected + self.held + self.moved
    }

    fn of(&mut self, why: &Aside) -> &mut u64 {
        match why {
            Aside::Rejected { .. } => &mut self.rejected,
            Aside::Held { .. } if why.is_moved() => &mut self.moved,
            Aside::Held { .. } => &mut self.held,
        }
    }
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
    held: HashMap<Arc<str>, HeldKey>,
    held_by_key: HashMap<Arc<str>, u64>,
    /// The dead letters of each key; another request under a key that is in use makes a second one.
    rejected_by_key: HashMap<Arc<str>, Vec<u64>>,
    /// The oldest released entry of each ordering key that has one.
    released_heads: BTreeMap<u64, Arc<str>>,
    released_entries: u64,
    counts: AsideCounts,
    /// What is aside no more, but still in the file as if it were.
    gone: Vec<u64>,
}

impl AsideIndex {
    pub(crate) fn insert(&mut self, sequence: u64, aside: AsideSlot) {
        // Set aside once more, for another reason: the newest record in the file is the one that counts.
        self.take(sequence);
        self.counts.bytes += u64::from(aside.slot.length);
        *self.counts.of(&aside.why) += 1;
        match &aside.why {
            Aside::Rejected { .. } => {
                self.rejected_by_key.entry(Arc::clone(&aside.slot.key)).or_default().push(sequence);
            }
            Aside::Held { .. } => {
                let is_moved = aside.why.is_moved();
                self.change_held(&aside.slot.ordering_key, |held| match is_moved {
                    true => held.take_in(sequence),
                    false => held.hold(sequence),
                });
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
        for sequence in self.rejected_by_key.get(key).cloned().unwrap_or_default() {
            self.settle(sequence);
        }
    }

    fn take(&mut self, sequence: u64) -> Option<AsideSlot> {
        let gone = self.slots.remove(&sequence)?;
        self.counts.bytes -= u64::from(gone.slot.length);
        *self.counts.of(&gone.why) -= 1;
        match &gone.why {
            Aside::Rejected { .. } => {
                if let Some(letters) = self.rejected_by_key.get_mut(&gone.slot.key) {
                    letters.retain(|letter| *letter != sequence);
                    if letters.is_empty() {
                        self.rejected_by_key.remove(&gone.slot.key);
                    }
                }
            }
            Aside::Held { .. } => {
                self.change_held(&gone.slot.ordering_key, |held| held.remove(sequence));
                if self.held_by_key.get(&gone.slot.key) == Some(&sequence) {
                    self.held_by_key.remove(&gone.slot.key);
                }
            }
        }
        Some(gone)
    }

    fn change_held<T>(&mut self, ordering_key: &Arc<str>, change: impl FnOnce(&mut HeldKey) -> T) -> T {
        let held = self.held.entry(Arc::clone(ordering_key)).or_default();
        let (head, released) = (held.head(), held.released_entries());
        let changed = change(held);
        if held.head() != head {
            if let Some(former) = head {
                self.released_heads.remove(&former);
            }
            if let Some(head) = held.head() {
                self.released_heads.insert(head, Arc::clone(ordering_key));
            }
        }
        self.released_entries = self.released_entries - released + held.released_entries();
        if held.is_empty() {
            self.held.remove(ordering_key);
        }
        changed
    }

    /// Makes all held entries of an ordering key pending again; how many were not before.
    pub(crate) fn release(&mut self, ordering_key: &str) -> u64 {
        let Some((ordering_key, _)) = self.held.get_key_value(ordering_key) else { return 0 };
        let ordering_key = Arc::clone(ordering_key);
        self.change_held(&ordering_key, HeldKey::release)
    }

    pub(crate) fn is_held(&self, ordering_key: &str) -> bool {
        self.held.get(ordering_key).is_some_and(HeldKey::is_held)
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

    /// The newest dead letter of a key.
    pub(crate) fn rejected(&self, key: &str) -> Option<u64> {
        self.rejected_by_key.get(key)?.iter().max().copied()
    }

    /// All dead letters, each with its key, in order.
    pub(crate) fn letters(&self) -> impl Iterator<Item = (u64, &Arc<str>)> {
        let letters = self.slots.iter().filter(|(_, aside)| matches!(aside.why, Aside::Rejected { .. }));
        letters.map(|(sequence, aside)| (*sequence, &aside.slot.key))
    }

    /// All held entries in order, released or not.
    pub(crate) fn held(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let held = self.slots.iter().filter(|(_, aside)| matches!(aside.why, Aside::Held { .. }));
        held.map(|(sequence, aside)| (*sequence, &aside.slot))
    }

    pub(crate) fn slot(&self, sequence: u64) -> Option<&Slot> {
        self.slots.get(&sequence).map(|aside| &aside.slot)
    }

    /// The ordering keys of released entries, by the oldest of each.
    pub(crate) fn released_keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.released_heads.values()
    }

    /// The released entries of an ordering key in order.
    pub(crate) fn released(&self, ordering_key: &str) -> impl Iterator<Item = (u64, &Slot)> {
        let released = self.held.get(ordering_key).into_iter().flat_map(HeldKey::released);
        released.filter_map(|sequence| Some((sequence, self.slot(sequence)?)))
    }

    /// The oldest released entry.
    pub(crate) fn released_first(&self) -> Option<&Slot> {
        self.slot(*self.released_heads.first_key_value()?.0)
    }

    pub(crate) fn released_entries(&self) -> u64 {
        self.released_entries
    }

    pub(crate) fn counts(&self) -> AsideCounts {
        self.counts
    }

    /// All entries from this sequence on.
    pub(crate) fn from(&self, sequence: u64) -> impl Iterator<Item = (u64, &AsideSlot)> {
        self.slots.range(sequence..).map(|(sequence, aside)| (*sequence, aside))
    }
}
