//! Where the pending entries lie: in memory, one slot an entry, payloads left on disk, chained by ordering key. It knows
//! nothing of waiting tasks and does no I/O.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use crate::journal::aside::{AsideIndex, AsideSlot};
use crate::journal::disk::DiskFile;
use crate::journal::heads::Heads;
use crate::journal::segment::FileKind;
use crate::journal::{Pending, record};

/// A file that holds records, kept open while a slot points into it.
#[derive(Debug)]
pub(crate) struct RecordFile {
    pub(crate) name: Arc<str>,
    pub(crate) kind: FileKind,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: u32,
}

/// One entry.
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

#[derive(Debug)]
struct Link {
    slot: Slot,
    is_pending: bool,
    /// The sequence of the next entry of the same ordering key; 0 where there is none.
    next: u64,
}

/// All durable entries behind the cursor, in order and without gaps, with those that were settled early among them.
#[derive(Debug)]
pub(crate) struct Index {
    /// The sequence of the front slot, or of the next one to come.
    first: u64,
    links: VecDeque<Link>,
    by_key: HashMap<Arc<str>, u64>,
    /// The newest entry of each ordering key that has a pending one.
    tails: HashMap<Arc<str>, u64>,
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
            first,
            links: VecDeque::new(),
            by_key: HashMap::new(),
            tails: HashMap::new(),
            heads: Heads::default(),
            entries: 0,
            bytes: 0,
            aside: AsideIndex::default(),
        }
    }

    /// Makes room for so many more entries.
    pub(crate) fn reserve(&mut self, entries: usize) {
        self.links.reserve(entries);
        self.by_key.reserve(entries);
    }

    /// The text of an ordering key, shared with the entries of it that are pending.
    pub(crate) fn ordering_key(&self, ordering_key: &str, key: &Arc<str>) -> Arc<str> {
        if *ordering_key == **key {
            return Arc::clone(key);
        }
        let known = self.tails.get_key_value(ordering_key);
        known.map_or_else(|| ordering_key.into(), |(known, _)| Arc::clone(known))
    }

    /// The sequence that the next entry will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.first + self.links.len() as u64
    }

    fn position(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    fn link(&self, sequence: u64) -> Option<&Link> {
        self.links.get(self.position(sequence)?)
    }

    fn link_mut(&mut self, sequence: u64) -> Option<&mut Link> {
        let position = self.position(sequence)?;
        self.links.get_mut(position)
    }

    /// Takes the next entry.
    pub(crate) fn push(&mut self, slot: Slot) -> u64 {
        let sequence = self.next_sequence();
        self.entries += 1;
        self.bytes += u64::from(slot.length);
        // A lost cursor can bring two entries of one key back; the later one is what a caller means by the key.
        self.by_key.insert(Arc::clone(&slot.key), sequence);
        match self.tails.insert(Arc::clone(&slot.ordering_key), sequence) {
            None => self.heads.set(sequence),
            Some(tail) => {
                if let Some(link) = self.link_mut(tail) {
                    link.next = sequence;
                }
            }
        }
        self.links.push_back(Link { slot, is_pending: true, next: 0 });
        sequence
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
        while self.links.front().is_some_and(|link| !link.is_pending) {
            self.links.pop_front();
            self.first += 1;
        }
        self.heads.forget_before(self.first);
    }

    /// Takes a pending entry out of its ordering key's chain; whether it was pending.
    fn leave(&mut self, sequence: u64) -> bool {
        let Some(link) = self.link_mut(sequence).filter(|link| link.is_pending) else { return false };
        link.is_pending = false;
        let (key, ordering_key) = (Arc::clone(&link.slot.key), Arc::clone(&link.slot.ordering_key));
        let length = u64::from(link.slot.length);
        self.entries -= 1;
        self.bytes -= length;
        if self.by_key.get(&key) == Some(&sequence) {
            self.by_key.remove(&key);
        }
        if self.heads.clear(sequence) {
            match self.pending_after(sequence) {
                Some(next) => self.heads.set(next),
                None => drop(self.tails.remove(&ordering_key)),
            }
        }
        true
    }

    /// Where an entry lies that is pending or aside.
    pub(crate) fn place(&self, sequence: u64) -> Option<Place> {
        let pending = || self.link(sequence).filter(|link| link.is_pending).map(|link| &link.slot);
        let slot = self.aside.slot(sequence).or_else(pending)?.clone();
        Some(Place { sequence, slot })
    }

    /// The next pending entry of the same ordering key.
    fn pending_after(&self, sequence: u64) -> Option<u64> {
        let mut at = self.link(sequence)?.next;
        while let Some(link) = self.link(at) {
            if link.is_pending {
                return Some(at);
            }
            at = link.next;
        }
        None
    }

    /// Nothing up to this sequence is left.
    pub(crate) fn settled_through(&self) -> u64 {
        self.first - 1
    }

    /// The pending or held entry of a key.
    pub(crate) fn find(&self, key: &str) -> Option<Pending> {
        let Some(sequence) = self.by_key.get(key).copied() else { return self.aside.find(key) };
        let slot = &self.link(sequence)?.slot;
        let accepted_at = record::time(slot.accepted_micros);
        Some(Pending { sequence, fingerprint: slot.fingerprint, accepted_at })
    }

    /// Whether an entry of this ordering key is pending or held.
    pub(crate) fn is_waiting(&self, ordering_key: &str) -> bool {
        self.tails.contains_key(ordering_key) || self.aside.is_waiting(ordering_key)
    }

    /// The oldest entries in order, of ordering keys that are neither held nor skipped; at least one where there is one,
    /// and as many as fit. What it costs grows with what it gives and with the skipped keys, not with the backlog.
    pub(crate) fn oldest(
        &self,
        entries_max: usize,
        bytes_max: u64,
        skip: &dyn Fn(&str) -> bool,
    ) -> Vec<Place> {
        let mut taken = Taken { places: Vec::new(), bytes: 0, entries_max: entries_max.max(1), bytes_max };
        // Released entries were appended before all others of their ordering keys.
        let mut left_out: Vec<Arc<str>> = Vec::new();
        for (sequence, slot) in self.aside.released() {
            if left_out.contains(&slot.ordering_key) {
                continue;
            }
            if skip(&slot.ordering_key) {
                left_out.push(Arc::clone(&slot.ordering_key));
            } else if !taken.take(sequence, slot) {
                return taken.places;
            }
        }
        let mut following = BinaryHeap::new();
        let mut head = self.heads.at_or_after(self.first);
        loop {
            let next = following.peek().map(|Reverse(sequence)| *sequence);
            let sequence = match (head, next) {
                (Some(head), None) => head,
                (Some(head), Some(next)) if head < next => head,
                (_, Some(next)) => next,
                (None, None) => return taken.places,
            };
            let Some(link) = self.link(sequence) else { return taken.places };
            if head == Some(sequence) {
                head = self.heads.at_or_after(sequence + 1);
                let ordering_key = &link.slot.ordering_key;
                if self.aside.is_held(ordering_key) || skip(ordering_key) {
                    continue;
                }
            } else {
                following.pop();
            }
            if !taken.take(sequence, &link.slot) {
                return taken.places;
            }
            following.extend(self.pending_after(sequence).map(Reverse));
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

    /// The oldest pending entries that were accepted before this, at most so many. One that was accepted earlier than
    /// those before it is found once those are gone.
    pub(crate) fn older_than(&self, micros: i64, entries_max: usize) -> Vec<u64> {
        let numbered = (self.first..).zip(&self.links);
        let pending = numbered.filter(|(_, link)| link.is_pending);
        let old = pending.take_while(|(_, link)| link.slot.accepted_micros < micros);
        old.take(entries_max).map(|(sequence, _)| sequence).collect()
    }

    /// When the oldest pending entry was accepted, in microseconds since 1970.
    pub(crate) fn oldest_micros(&self) -> Option<i64> {
        let released = self.aside.released().next().map(|(_, slot)| slot.accepted_micros);
        let head = || self.link(self.heads.at_or_after(self.first)?).map(|link| link.slot.accepted_micros);
        released.or_else(head)
    }
}

/// What a batch holds so far.
struct Taken {
    places: Vec<Place>,
    bytes: u64,
    entries_max: usize,
    bytes_max: u64,
}

impl Taken {
    /// Takes one more entry; `false` where it does not fit.
    fn take(&mut self, sequence: u64, slot: &Slot) -> bool {
        let bytes = self.bytes + u64::from(slot.length);
        if self.places.len() >= self.entries_max || (bytes > self.bytes_max && !self.places.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.places.push(Place { sequence, slot: slot.clone() });
        true
    }
}
