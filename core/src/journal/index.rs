//! Where the pending entries lie: in memory, one slot an entry, payloads left on disk, chained by ordering key. It knows
//! nothing of waiting tasks and does no I/O.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::journal::Pending;
use crate::journal::aside::{AsideIndex, AsideSlot};
use crate::journal::disk::DiskFile;
use crate::journal::heads::Heads;
use crate::journal::record::{self, Seed};
use crate::journal::segment::FileKind;

mod links;
mod names;
mod notes;
mod taken;

use crate::journal::index::links::Link;
pub(crate) use crate::journal::index::links::{Keys, Links, NewSlot, is_same};
use crate::journal::index::names::Names;
pub(crate) use crate::journal::index::names::{Hashes, NameHash, Naming};
pub(crate) use crate::journal::index::notes::Note;
use crate::journal::index::taken::Taken;

/// Room for so many entries stays when none is left; what a long outage took beyond that is given back.
const KEPT_ROOM: usize = 4_096;

/// A file that holds records, kept open while a slot points into it.
#[derive(Debug)]
pub(crate) struct RecordFile {
    pub(crate) name: Arc<str>,
    pub(crate) kind: FileKind,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) seed: Seed,
}

/// One entry on its own, with its names.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) key: Arc<str>,
    pub(crate) ordering_key: Arc<str>,
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

/// All durable entries behind the cursor, in order and without gaps, with those that were settled early among them.
#[derive(Debug)]
pub(crate) struct Index {
    links: Links,
    naming: Naming,
    by_key: Names,
    /// The newest entry of each ordering key that has a pending one.
    tails: Names,
    /// The oldest pending entry of each ordering key.
    heads: Heads,
    entries: u64,
    bytes: u64,
    /// What was set aside.
    pub(crate) aside: AsideIndex,
}

impl Index {
    /// An empty index whose first entry will have this sequence.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self {
            links: Links::starting_at(first),
            naming: Naming::default(),
            by_key: Names::default(),
            tails: Names::default(),
            heads: Heads::default(),
            entries: 0,
            bytes: 0,
            aside: AsideIndex::default(),
        }
    }

    /// Makes room for so many more entries.
    pub(crate) fn reserve(&mut self, entries: usize) {
        self.links.reserve(entries);
    }

    /// How names are hashed here.
    pub(crate) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The sequence that the next entry will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.links.next()
    }

    /// Takes the next entry.
    pub(crate) fn push(&mut self, new: NewSlot<'_>) -> u64 {
        let sequence = self.next_sequence();
        self.entries += 1;
        self.bytes += u64::from(new.length);
        let hash = new.hashes.key;
        self.links.push(new);
        self.lead_to_key(hash, sequence);
        self.chain(sequence);
        sequence
    }

    /// Takes entries that follow, all of them pending, which nobody finds by their keys before [`lead_to`](Self::lead_to).
    pub(crate) fn append(&mut self, entries: Links) {
        let from = self.next_sequence();
        self.entries += entries.len() as u64;
        self.bytes += entries.bytes();
        self.links.append(entries);
        (from..self.next_sequence()).for_each(|sequence| self.chain(sequence));
    }

    /// Lets all entries that were [appended](Self::append) be found by their keys, before anything else is done with them.
    pub(crate) fn lead_to(&mut self, runs: &[Keys]) {
        // In a table that grows on the way, the keys of one range would all be in one another's way.
        self.by_key.reserve(usize::try_from(self.entries).unwrap_or_default());
        for (hash, sequence) in Keys::in_ranges(runs) {
            self.lead_to_key(hash, sequence);
        }
    }

    /// Lets a new entry be found by its key.
    fn lead_to_key(&mut self, hash: NameHash, sequence: u64) {
        let links = &self.links;
        let key = |sequence| links.note(sequence).map(|note| note.key);
        // A lost cursor can bring two entries of one key back; the later one is what a caller means by the key.
        self.by_key.set(hash, sequence, links.first(), |other| key(other) == key(sequence));
    }

    /// Puts a new entry, the newest of all, at the end of its ordering key's chain.
    fn chain(&mut self, sequence: u64) {
        let links = &self.links;
        let Some(Link { hashes, is_alike, .. }) = links.get(sequence) else { return };
        let (hash, is_alike) = (hashes.ordering_key, *is_alike);
        let ordering_key = |sequence| links.note(sequence).map(|note| note.ordering_key);
        let is_tail = |other| match other + 1 == sequence {
            true => is_alike,
            false => {
                matches!((ordering_key(other), ordering_key(sequence)), (Some(a), Some(b)) if is_same(a, b))
            }
        };
        match self.tails.set(hash, sequence, links.first(), is_tail) {
            None => self.heads.set(sequence),
            Some(tail) => self.links.follow(tail, sequence),
        }
    }

    /// Says that an entry is done with; the cursor can pass it once nothing before it is left.
    pub(crate) fn settle(&mut self, sequence: u64) {
        if !self.aside.settle(sequence) {
            self.leave(sequence);
            self.advance();
        }
    }

    /// Takes an entry out that was found to be aside, or gone from there.
    pub(crate) fn left(&mut self, sequence: u64) {
        self.leave(sequence);
        self.advance();
    }

    /// Says that an entry is kept elsewhere from now on.
    pub(crate) fn set_aside(&mut self, sequence: u64, aside: AsideSlot) {
        let was_aside = self.aside.slot(sequence).is_some();
        let was_pending = self.leave(sequence);
        self.aside.insert(sequence, aside);
        if !was_aside && !was_pending {
            // Settled while it was being written there.
            self.aside.settle(sequence);
        }
        self.advance();
    }

    fn advance(&mut self) {
        self.links.advance();
        self.heads.forget_before(self.links.first());
        if self.links.len() == 0 {
            self.links.shrink_to(KEPT_ROOM);
            self.by_key.shrink_to(KEPT_ROOM);
            self.tails.shrink_to(KEPT_ROOM);
        }
    }

    /// Takes a pending entry out of its ordering key's chain; whether it was pending.
    fn leave(&mut self, sequence: u64) -> bool {
        let Some(link) = self.links.get_mut(sequence).filter(|link| link.is_pending) else { return false };
        link.is_pending = false;
        let (hashes, length) = (link.hashes, u64::from(link.length));
        self.entries -= 1;
        self.bytes -= length;
        self.by_key.remove(hashes.key, sequence);
        if self.heads.clear(sequence) {
            match self.pending_after(sequence) {
                Ok(next) => self.heads.set(next),
                Err(tail) => self.tails.remove(hashes.ordering_key, tail),
            }
        }
        true
    }

    /// Where an entry lies that is pending or aside.
    pub(crate) fn place(&self, sequence: u64) -> Option<Place> {
        let pending = || self.links.get(sequence).filter(|link| link.is_pending);
        let slot = match self.aside.slot(sequence) {
            Some(slot) => slot.clone(),
            None => self.links.slot(pending()?),
        };
        Some(Place { sequence, slot })
    }

    /// The next pending entry of the same ordering key.
    ///
    /// # Errors
    /// The last entry of it, where none is pending.
    fn pending_after(&self, sequence: u64) -> Result<u64, u64> {
        let mut at = sequence;
        loop {
            match self.links.get(at).map(|link| link.next) {
                None | Some(0) => return Err(at),
                Some(distance) => at += u64::from(distance),
            }
            if self.links.get(at).is_some_and(|link| link.is_pending) {
                return Ok(at);
            }
        }
    }

    /// Nothing up to this sequence is left.
    pub(crate) fn settled_through(&self) -> u64 {
        self.links.first() - 1
    }

    /// The pending or held entry of a key.
    pub(crate) fn find(&self, key: &str) -> Option<Pending> {
        self.find_hashed(key, self.naming.hash(key))
    }

    /// The same, where the hash of the key is known.
    pub(crate) fn find_hashed(&self, key: &str, hash: NameHash) -> Option<Pending> {
        let is_it = |sequence| self.links.note(sequence).is_some_and(|note| note.key == key);
        let Some(sequence) = self.by_key.find(hash, self.links.first(), is_it) else {
            return self.aside.find(key);
        };
        let note = self.links.note(sequence)?;
        let accepted_at = record::time(note.accepted_micros);
        Some(Pending { sequence, fingerprint: note.fingerprint, accepted_at })
    }

    /// Whether an entry of this ordering key is pending or held.
    pub(crate) fn is_waiting(&self, ordering_key: &str) -> bool {
        let is_it =
            |sequence| self.links.note(sequence).is_some_and(|note| is_same(note.ordering_key, ordering_key));
        let tail = self.tails.find(self.naming.hash(ordering_key), self.links.first(), is_it);
        tail.is_some() || self.aside.is_waiting(ordering_key)
    }

    /// The oldest entries in order, of ordering keys that are neither held nor skipped; at least one where there is one,
    /// and as many as fit. What it costs grows with what it gives and with the skipped keys, not with the backlog.
    pub(crate) fn oldest(
        &self,
        entries_max: usize,
        bytes_max: u64,
        skip: &dyn Fn(&str) -> bool,
    ) -> Vec<Place> {
        let mut taken = Taken::new(entries_max, bytes_max);
        let Some(left_out) = taken.take_released(&self.aside, skip) else { return taken.places };
        let mut following = BinaryHeap::new();
        let mut head = self.heads.at_or_after(self.links.first());
        loop {
            let next = following.peek().map(|Reverse(sequence)| *sequence);
            let sequence = match (head, next) {
                (Some(head), None) => head,
                (Some(head), Some(next)) if head < next => head,
                (_, Some(next)) => next,
                (None, None) => return taken.places,
            };
            let Some(link) = self.links.get(sequence) else { return taken.places };
            if head == Some(sequence) {
                head = self.heads.at_or_after(sequence + 1);
                let ordering_key = self.links.note_of(link).ordering_key;
                let is_left_out = self.aside.is_held(ordering_key) || left_out.contains(ordering_key);
                if is_left_out || skip(ordering_key) {
                    continue;
                }
            } else {
                following.pop();
            }
            if !taken.take(sequence, link.length, || self.links.slot(link)) {
                return taken.places;
            }
            following.extend(self.pending_after(sequence).ok().map(Reverse));
        }
    }

    /// The oldest entries in order that are not done with, also those that are held back: as many as fit.
    pub(crate) fn waiting(&self, entries_max: usize, bytes_max: u64) -> Vec<Place> {
        let mut taken = Taken::new(entries_max, bytes_max);
        let mut aside = self.aside.held().peekable();
        let mut pending = self.links.through(u64::MAX).filter(|(_, link)| link.is_pending).peekable();
        loop {
            let is_aside_next = match (aside.peek(), pending.peek()) {
                (Some((one, _)), Some((other, _))) => one < other,
                (one, _) => one.is_some(),
            };
            let fits = if is_aside_next {
                aside.next().map(|(sequence, slot)| taken.take(sequence, slot.length, || slot.clone()))
            } else {
                pending
                    .next()
                    .map(|(sequence, link)| taken.take(sequence, link.length, || self.links.slot(link)))
            };
            if fits != Some(true) {
                return taken.places;
            }
        }
    }

    /// Number of pending entries.
    pub(crate) fn entries(&self) -> u64 {
        self.entries + self.aside.released_entries()
    }

    /// Bytes of all pending frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the oldest pending entry was accepted before this, in microseconds since 1970.
    pub(crate) fn is_older_than(&self, micros: i64) -> bool {
        self.oldest_micros().is_some_and(|oldest| oldest < micros)
    }

    /// The oldest pending entries up to this sequence, at most so many.
    pub(crate) fn pending_through(&self, last: u64, entries_max: usize) -> Vec<u64> {
        let pending = self.links.through(last).filter(|(_, link)| link.is_pending);
        pending.take(entries_max).map(|(sequence, _)| sequence).collect()
    }

    /// When the oldest pending entry was accepted, in microseconds since 1970.
    pub(crate) fn oldest_micros(&self) -> Option<i64> {
        let released = self.aside.released_first().map(|slot| slot.accepted_micros);
        let head = || Some(self.links.note(self.heads.at_or_after(self.links.first())?)?.accepted_micros);
        released.or_else(head)
    }
}
