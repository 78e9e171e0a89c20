//! Where the pending entries lie: in memory, one slot an entry, payloads left on disk, chained by ordering key. It knows
//! nothing of waiting tasks and does no I/O.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::journal::aside::{AsideIndex, AsideSlot};
use crate::journal::disk::DiskFile;
use crate::journal::heads::Heads;
use crate::journal::segment::FileKind;
use crate::journal::{Pending, record};

mod names;
mod notes;
mod taken;

use crate::journal::index::names::Names;
pub(crate) use crate::journal::index::names::{Hashes, NameHash, Naming};
pub(crate) use crate::journal::index::notes::Note;
use crate::journal::index::notes::{NoteAt, Notes};
use crate::journal::index::taken::Taken;

/// Room for so many entries stays when none is left; what a long outage took beyond that is given back.
const KEPT_ROOM: usize = 4_096;

/// A file that holds records, kept open while a slot points into it.
#[derive(Debug)]
pub(crate) struct RecordFile {
    pub(crate) name: Arc<str>,
    pub(crate) kind: FileKind,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: u32,
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

/// An entry in the index; what is not needed to go from one to another is in its note.
#[derive(Debug)]
struct Link {
    /// Of the frame in its file, which has less than 96 MiB.
    offset: u32,
    /// Of the frame, in bytes.
    length: u32,
    note: NoteAt,
    /// How far it is to the next entry of the same ordering key; 0 where there is none.
    next: u32,
    hashes: Hashes,
    is_pending: bool,
    /// Its ordering key is that of the entry before it.
    is_alike: bool,
}

/// An entry to put into the index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSlot<'a> {
    pub(crate) note: Note<'a>,
    pub(crate) hashes: Hashes,
    pub(crate) file: &'a Arc<RecordFile>,
    pub(crate) offset: u64,
    /// Length of the frame in bytes.
    pub(crate) length: u32,
}

/// The entries themselves, apart from what leads to them.
#[derive(Debug)]
struct Links {
    /// The sequence of the front one, or of the next one to come.
    first: u64,
    links: VecDeque<Link>,
    notes: Notes,
}

impl Links {
    fn position(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    fn get(&self, sequence: u64) -> Option<&Link> {
        self.links.get(self.position(sequence)?)
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Link> {
        let position = self.position(sequence)?;
        self.links.get_mut(position)
    }

    fn note(&self, sequence: u64) -> Option<Note<'_>> {
        let link = self.get(sequence)?;
        Some(self.notes.get(link.note).1)
    }

    fn slot(&self, link: &Link) -> Slot {
        let (file, note) = self.notes.get(link.note);
        Slot {
            key: note.key.into(),
            ordering_key: note.ordering_key.into(),
            fingerprint: note.fingerprint,
            accepted_micros: note.accepted_micros,
            file: Arc::clone(file),
            offset: link.offset.into(),
            length: link.length,
        }
    }

    /// Lets go of the oldest ones that are not pending.
    fn advance(&mut self) {
        while self.links.front().is_some_and(|link| !link.is_pending) {
            self.links.pop_front();
            self.first += 1;
        }
        match self.links.is_empty() {
            true => self.notes.clear(),
            false => self.notes.forget_before(self.first),
        }
    }
}

/// All durable entries behind the cursor, in order and without gaps, with those that were settled early among them.
#[derive(Debug)]
pub(crate) struct Index {
    links: Links,
    naming: Naming,
    by_key: Names,
    /// The newest entry of each ordering key that has a pending one.
    tails: Names,
    /// That of the newest entry: runs of one ordering key are common, and a note just written is slow to read.
    last_ordering_key: String,
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
            links: Links { first, links: VecDeque::new(), notes: Notes::default() },
            naming: Naming::default(),
            by_key: Names::default(),
            tails: Names::default(),
            last_ordering_key: String::new(),
            heads: Heads::default(),
            entries: 0,
            bytes: 0,
            aside: AsideIndex::default(),
        }
    }

    /// Makes room for so many more entries.
    pub(crate) fn reserve(&mut self, entries: usize) {
        self.links.links.reserve(entries);
        self.by_key.reserve(entries);
    }

    /// How names are hashed here.
    pub(crate) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The sequence that the next entry will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.links.first + self.links.links.len() as u64
    }

    /// Takes the next entry.
    pub(crate) fn push(&mut self, new: NewSlot<'_>) -> u64 {
        let sequence = self.add(new);
        self.lead_to(sequence);
        sequence
    }

    /// Takes the next entry, which counts, and which nobody finds before [`lead_to`](Self::lead_to). Apart for many entries:
    /// the tables are in no order in memory, and the processor waits for them together only where nothing lies between.
    pub(crate) fn add(&mut self, new: NewSlot<'_>) -> u64 {
        let sequence = self.next_sequence();
        let NewSlot { note, hashes, file, offset, length } = new;
        self.entries += 1;
        self.bytes += u64::from(length);
        let is_alike = self.last_ordering_key == note.ordering_key;
        if !is_alike {
            self.last_ordering_key.clear();
            self.last_ordering_key.push_str(note.ordering_key);
        }
        let note = self.links.notes.push(sequence, file, &note);
        let offset = u32::try_from(offset).expect("a segment has less than 96 MiB");
        self.links.links.push_back(Link {
            offset,
            length,
            note,
            next: 0,
            hashes,
            is_pending: true,
            is_alike,
        });
        sequence
    }

    /// Lets an entry that was [added](Self::add) be found; oldest first.
    pub(crate) fn lead_to(&mut self, sequence: u64) {
        let (links, first) = (&self.links, self.links.first);
        let Some(Link { hashes, is_alike, .. }) = links.get(sequence) else { return };
        let (hashes, is_alike) = (*hashes, *is_alike);
        let key = |sequence| links.note(sequence).map(|note| note.key);
        // A lost cursor can bring two entries of one key back; the later one is what a caller means by the key.
        self.by_key.set(hashes.key, sequence, first, |other| key(other) == key(sequence));
        let ordering_key = |sequence| links.note(sequence).map(|note| note.ordering_key);
        let is_tail = |other| match other + 1 == sequence {
            true => is_alike,
            false => ordering_key(other) == ordering_key(sequence),
        };
        match self.tails.set(hashes.ordering_key, sequence, first, is_tail) {
            None => self.heads.set(sequence),
            Some(tail) => {
                if let Some(link) = self.links.get_mut(tail) {
                    link.next = (sequence - tail) as u32;
                }
            }
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
        self.heads.forget_before(self.links.first);
        if self.links.links.is_empty() {
            self.links.links.shrink_to(KEPT_ROOM);
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
        self.links.first - 1
    }

    /// The pending or held entry of a key.
    pub(crate) fn find(&self, key: &str) -> Option<Pending> {
        self.find_hashed(key, self.naming.hash(key))
    }

    /// The same, where the hash of the key is known.
    pub(crate) fn find_hashed(&self, key: &str, hash: NameHash) -> Option<Pending> {
        let is_it = |sequence| self.links.note(sequence).is_some_and(|note| note.key == key);
        let Some(sequence) = self.by_key.find(hash, self.links.first, is_it) else {
            return self.aside.find(key);
        };
        let note = self.links.note(sequence)?;
        let accepted_at = record::time(note.accepted_micros);
        Some(Pending { sequence, fingerprint: note.fingerprint, accepted_at })
    }

    /// Whether an entry of this ordering key is pending or held.
    pub(crate) fn is_waiting(&self, ordering_key: &str) -> bool {
        let is_it =
            |sequence| self.links.note(sequence).is_some_and(|note| note.ordering_key == ordering_key);
        let tail = self.tails.find(self.naming.hash(ordering_key), self.links.first, is_it);
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
        let mut head = self.heads.at_or_after(self.links.first);
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
                let ordering_key = self.links.notes.get(link.note).1.ordering_key;
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
        let numbered = (self.links.first..=last).zip(&self.links.links);
        let pending = numbered.filter(|(_, link)| link.is_pending);
        pending.take(entries_max).map(|(sequence, _)| sequence).collect()
    }

    /// When the oldest pending entry was accepted, in microseconds since 1970.
    pub(crate) fn oldest_micros(&self) -> Option<i64> {
        let released = self.aside.released_first().map(|slot| slot.accepted_micros);
        let head = || Some(self.links.note(self.heads.at_or_after(self.links.first)?)?.accepted_micros);
        released.or_else(head)
    }
}
