//! Where the pending entries lie: in memory, one slot an entry, payloads left on disk. It knows nothing of waiting
//! tasks and does no I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::journal::disk::DiskFile;
use crate::journal::{Pending, record};

/// A file that holds records, kept open while a slot points into it.
#[derive(Debug)]
pub(crate) struct RecordFile {
    pub(crate) name: Arc<str>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: u32,
}

/// One pending entry.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) key: Arc<str>,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) accepted_micros: i64,
    pub(crate) file: Arc<RecordFile>,
    pub(crate) offset: u64,
    /// Length of the frame in bytes.
    pub(crate) length: u32,
}

/// A slot and its sequence.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) slot: Slot,
}

/// All durable entries that are not acknowledged, in order and without gaps.
#[derive(Debug)]
pub(crate) struct Index {
    /// The sequence of the front slot, or of the next one to come.
    first: u64,
    slots: VecDeque<Slot>,
    by_key: HashMap<Arc<str>, u64>,
    bytes: u64,
}

impl Index {
    /// An empty index whose first entry will have this sequence.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self { first, slots: VecDeque::new(), by_key: HashMap::new(), bytes: 0 }
    }

    /// The sequence that the next entry will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Takes the next entry.
    pub(crate) fn push(&mut self, slot: Slot) -> u64 {
        let sequence = self.next_sequence();
        self.bytes += u64::from(slot.length);
        // A lost cursor can bring two entries of one key back; the later one is what a caller means by the key.
        self.by_key.insert(Arc::clone(&slot.key), sequence);
        self.slots.push_back(slot);
        sequence
    }

    /// Drops all entries up to and including `through`; returns the sequence up to which none is left.
    pub(crate) fn acknowledge(&mut self, through: u64) -> u64 {
        while self.first <= through {
            let Some(slot) = self.slots.pop_front() else { break };
            if self.by_key.get(&slot.key) == Some(&self.first) {
                self.by_key.remove(&slot.key);
            }
            self.bytes -= u64::from(slot.length);
            self.first += 1;
        }
        self.acknowledged()
    }

    /// All entries up to this one are acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.first - 1
    }

    /// The pending entry of a key.
    pub(crate) fn find(&self, key: &str) -> Option<Pending> {
        let sequence = *self.by_key.get(key)?;
        let slot = self.slots.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)?;
        let accepted_at = record::time(slot.accepted_micros);
        Some(Pending { sequence, fingerprint: slot.fingerprint, accepted_at })
    }

    /// The oldest entries, at least one where there is one, as many as fit.
    pub(crate) fn oldest(&self, entries_max: usize, bytes_max: u64) -> Vec<Place> {
        let mut places = Vec::new();
        let mut bytes = 0;
        for (sequence, slot) in (self.first..).zip(&self.slots) {
            bytes += u64::from(slot.length);
            if places.len() >= entries_max.max(1) || (bytes > bytes_max && !places.is_empty()) {
                break;
            }
            places.push(Place { sequence, slot: slot.clone() });
        }
        places
    }

    /// Number of entries.
    pub(crate) fn entries(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Bytes of all frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the oldest entry was accepted, in microseconds since 1970.
    pub(crate) fn oldest_micros(&self) -> Option<i64> {
        self.slots.front().map(|slot| slot.accepted_micros)
    }
}
