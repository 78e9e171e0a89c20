//! The entries themselves, in order and without gaps, apart from what leads to them: where each lies, and what is noted of it.
//! The entries of one file can be put together on their own and joined to those before. It finds nothing by name.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::journal::index::notes::{NoteAt, Notes};
use crate::journal::index::{Hashes, NameHash, Naming, Note, RecordFile, Slot};
use crate::journal::record::Frame;

/// An entry in the index; what is not needed to go from one to another is in its note.
#[derive(Debug)]
pub(super) struct Link {
    /// Of the frame in its file, which has less than 96 MiB.
    offset: u32,
    /// Of the frame, in bytes.
    pub(super) length: u32,
    note: NoteAt,
    /// How far it is to the next entry of the same ordering key; 0 where there is none.
    pub(super) next: u32,
    pub(super) hashes: Hashes,
    pub(super) is_pending: bool,
    /// Its ordering key is that of the entry before it.
    pub(super) is_alike: bool,
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

/// Ranges of hashes, each with its own part of the table that leads from keys to entries. With a million keys a part fits into
/// the caches of a processor, where the whole does not.
const RANGES: usize = 256;

/// The keys of some entries, by the range of their hashes.
#[derive(Debug)]
pub(crate) struct Keys {
    first: u64,
    /// Of each the hash, and how far its sequence is from the first one.
    ranges: Vec<Vec<(NameHash, u32)>>,
}

impl Keys {
    /// Those of several runs of entries, range by range, and in each as the runs are.
    pub(super) fn in_ranges(runs: &[Self]) -> impl Iterator<Item = (NameHash, u64)> {
        (0..RANGES).flat_map(move |range| runs.iter().flat_map(move |run| run.range(range)))
    }

    fn range(&self, range: usize) -> impl Iterator<Item = (NameHash, u64)> {
        let keys = self.ranges.get(range).into_iter().flatten();
        keys.map(|(hash, distance)| (*hash, self.first + u64::from(*distance)))
    }
}

/// Entries whose sequences follow each other.
#[derive(Debug)]
pub(crate) struct Links {
    /// The sequence of the front one, or of the next one to come.
    first: u64,
    links: VecDeque<Link>,
    notes: Notes,
    /// That of the newest entry: runs of one ordering key are common, and a note just written is slow to read.
    last_ordering_key: String,
}

impl Links {
    /// No entries, of which the first will have this sequence.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self { first, links: VecDeque::new(), notes: Notes::default(), last_ordering_key: String::new() }
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, entries: usize) {
        self.links.reserve(entries);
    }

    /// Gives back room beyond that for so many.
    pub(super) fn shrink_to(&mut self, entries: usize) {
        self.links.shrink_to(entries);
    }

    /// The sequence of the front one, or of the next one to come.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The sequence that the next one will have.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.links.len() as u64
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// The bytes of all frames.
    pub(super) fn bytes(&self) -> u64 {
        self.links.iter().map(|link| u64::from(link.length)).sum()
    }

    /// Takes the next entry.
    pub(super) fn push(&mut self, new: NewSlot<'_>) {
        let NewSlot { note, hashes, file, offset, length } = new;
        let is_alike = is_same(&self.last_ordering_key, note.ordering_key);
        if !is_alike {
            self.last_ordering_key.clear();
            self.last_ordering_key.push_str(note.ordering_key);
        }
        let note = self.notes.push(self.next(), file, &note);
        let offset = u32::try_from(offset).expect("a segment has less than 96 MiB");
        self.links.push_back(Link { offset, length, note, next: 0, hashes, is_pending: true, is_alike });
    }

    /// Takes the next entry as it was found in a file.
    pub(crate) fn push_found(
        &mut self,
        naming: &Naming,
        file: &Arc<RecordFile>,
        offset: u64,
        frame: &Frame<'_>,
    ) {
        let ordering_key = self.hash_of_last(frame.ordering_key);
        let ordering_key = ordering_key.unwrap_or_else(|| naming.hash(frame.ordering_key));
        self.push(NewSlot {
            hashes: Hashes { key: naming.hash(frame.key), ordering_key },
            note: Note {
                key: frame.key,
                ordering_key: frame.ordering_key,
                fingerprint: frame.fingerprint,
                accepted_micros: frame.accepted_micros,
            },
            file,
            offset,
            length: u32::try_from(frame.length).expect("a decoded frame's length came from a u32"),
        });
    }

    /// The keys of all.
    pub(crate) fn keys(&self) -> Keys {
        // As many in each as there will be, with some to spare.
        let expected = self.links.len() / RANGES * 5 / 4;
        let mut ranges = vec![Vec::new(); RANGES];
        for (distance, link) in (0..).zip(&self.links) {
            let hash = link.hashes.key;
            if let Some(range) = ranges.get_mut(hash.range(RANGES)) {
                if range.is_empty() {
                    range.reserve_exact(expected);
                }
                range.push((hash, distance));
            }
        }
        Keys { first: self.first, ranges }
    }

    /// The hash of the newest entry's ordering key, where that is this one.
    fn hash_of_last(&self, ordering_key: &str) -> Option<NameHash> {
        let newest = self.links.back()?;
        is_same(&self.last_ordering_key, ordering_key).then_some(newest.hashes.ordering_key)
    }

    /// Takes entries that follow.
    pub(super) fn append(&mut self, mut later: Self) {
        debug_assert_eq!(self.next(), later.first, "entries follow each other");
        if let Some(ordering_key) = later.links.front().map(|link| later.notes.get(link.note).1.ordering_key)
        {
            let is_alike = is_same(&self.last_ordering_key, ordering_key);
            later.links.front_mut().into_iter().for_each(|first| first.is_alike = is_alike);
            self.last_ordering_key = later.last_ordering_key;
        }
        let shift = self.notes.append(later.notes);
        let links = later.links.into_iter();
        self.links.extend(links.map(|link| Link { note: link.note.shifted(shift), ..link }));
    }

    fn position(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Link> {
        self.links.get(self.position(sequence)?)
    }

    pub(super) fn get_mut(&mut self, sequence: u64) -> Option<&mut Link> {
        let position = self.position(sequence)?;
        self.links.get_mut(position)
    }

    /// Notes that an entry is the next one of another's ordering key.
    pub(super) fn follow(&mut self, former: u64, sequence: u64) {
        if let Some(link) = self.get_mut(former) {
            link.next = (sequence - former) as u32;
        }
    }

    /// All of them, oldest first, up to this sequence.
    pub(super) fn through(&self, last: u64) -> impl Iterator<Item = (u64, &Link)> {
        (self.first..=last).zip(&self.links)
    }

    pub(super) fn note(&self, sequence: u64) -> Option<Note<'_>> {
        Some(self.note_of(self.get(sequence)?))
    }

    pub(super) fn note_of(&self, link: &Link) -> Note<'_> {
        self.notes.get(link.note).1
    }

    pub(super) fn slot(&self, link: &Link) -> Slot {
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
    pub(super) fn advance(&mut self) {
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

/// Whether two names are the same. Most services leave some names empty, and an empty one has no place in memory: reading
/// from there, even nothing, costs some processors as much as a hundred comparisons.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}
