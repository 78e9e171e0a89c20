//! What handles and the writer share: the queue of waiting appends, the keys in it, the index, and the flags. One
//! mutex, held for bookkeeping only, never across I/O or an await.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tokio::sync::{oneshot, watch};

use crate::journal::disk::FolderLock;
use crate::journal::index::{Hashes, Index, NameHash, Naming, NewSlot, Note, RecordFile, is_same};
use crate::journal::record;
use crate::journal::{AppendError, Aside, JournalConfig, JournalError, NewEntry, WhenTooOld};

/// Bytes of waiting appends beyond which the journal is busy: queue length times payload limit would be gigabytes.
const QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of one batch: large enough that the sync dominates, small enough that nobody waits long for others' bytes.
const BATCH_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A backlog this close to `bytes_max` counts as full in health, since an ordinary entry would not fit.
const FULL_MARGIN_BYTES: u64 = 4 * 1024;
/// Chores that may wait for the writer; replay gives one at a time for each of its lanes.
const CHORES_MAX: usize = 256;
/// Appends of one batch that are told their end at a time: while they hear it nobody is kept from the state.
const TOLD_AT_ONCE: usize = 8;

/// What the writer answers to one append.
pub(crate) type Reply = Result<u64, AppendError>;

/// An append that waits for the writer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) entry: Arc<NewEntry>,
    hashes: Hashes,
    reply: oneshot::Sender<Reply>,
}

/// An append that was taken, as its caller has it.
#[derive(Debug)]
pub(crate) struct Queued {
    /// Tells once it is durable or refused.
    pub(crate) answer: oneshot::Receiver<Reply>,
    /// To be dropped last: freeing memory where it was allocated costs a fraction of what it costs elsewhere.
    pub(crate) entry: Arc<NewEntry>,
}

/// A key that is in the queue or with the writer.
#[derive(Debug)]
struct Flight {
    hash: NameHash,
    /// Has the key.
    entry: Arc<NewEntry>,
    followers: Vec<Follower>,
}

/// An ordering key that is in the queue or with the writer.
#[derive(Debug)]
struct Ordering {
    hash: NameHash,
    /// Has the ordering key.
    entry: Arc<NewEntry>,
    /// How many entries of it there are.
    count: usize,
}

/// A later append of a key that is in the queue or with the writer; it learns the fate of the first one.
#[derive(Debug)]
struct Follower {
    fingerprint: [u8; 32],
    reply: oneshot::Sender<Reply>,
}

/// Work that is not an append.
#[derive(Debug)]
pub(crate) enum Chore {
    SetAside(SetAside),
    /// Make durable what is aside no more.
    SaveGone(oneshot::Sender<Result<(), JournalError>>),
}

/// Entries to keep elsewhere.
#[derive(Debug)]
pub(crate) struct SetAside {
    pub(crate) sequences: Vec<u64>,
    pub(crate) why: Aside,
    pub(crate) reply: oneshot::Sender<Result<(), JournalError>>,
}

#[derive(Debug)]
struct State {
    chores: VecDeque<Chore>,
    queue: VecDeque<Request>,
    flights: HashTable<Flight>,
    orderings: HashTable<Ordering>,
    /// Appends and followers that have no answer yet.
    waiting: usize,
    in_flight: u64,
    in_flight_bytes: u64,
    index: Index,
    /// Length of all segment files.
    disk_bytes: u64,
    disk_full: bool,
    failed: bool,
    closed: bool,
}

/// The shared part of one journal.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: JournalConfig,
    naming: Naming,
    state: Mutex<State>,
    work: Condvar,
    pub(crate) changed: watch::Sender<u64>,
    /// Held as long as anyone can use the files.
    _lock: FolderLock,
}

/// What the writer shall do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write these, in this order.
    Batch(Vec<Request>),
    /// Do this, before any further append.
    Chore(Chore),
    /// Nothing came for a while.
    Idle,
    /// Nothing waits and nothing will come.
    Closed,
}

/// Where a batch was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) file: Arc<RecordFile>,
    /// Offset and length of each frame, in the order of the batch.
    pub(crate) places: Vec<(u64, u32)>,
}

/// Counts for health and metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest_micros: Option<i64>,
    pub(crate) failed: bool,
    pub(crate) full: bool,
}

impl Shared {
    pub(crate) fn new(config: JournalConfig, lock: FolderLock, index: Index, disk_bytes: u64) -> Self {
        let changed = watch::Sender::new(index.next_sequence() - 1);
        let naming = index.naming().clone();
        let state = State {
            chores: VecDeque::new(),
            queue: VecDeque::new(),
            flights: HashTable::new(),
            orderings: HashTable::new(),
            waiting: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            index,
            disk_bytes,
            disk_full: false,
            failed: false,
            closed: false,
        };
        Self { config, naming, state: Mutex::new(state), work: Condvar::new(), changed, _lock: lock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each section below leaves the state whole before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the key and queues the append.
    pub(crate) fn enqueue(&self, entry: NewEntry) -> Result<Queued, AppendError> {
        let frame_bytes = record::frame_bytes(&entry) as u64;
        let hashes =
            Hashes { key: self.naming.hash(&entry.key), ordering_key: self.naming.hash(&entry.ordering_key) };
        let entry = Arc::new(entry);
        let (reply, answer) = oneshot::channel();
        let mut state = self.state();
        if state.closed {
            return Err(AppendError::Closed);
        }
        // A durable entry is told of even where nothing more is taken: its promise stands.
        if let Some(pending) = state.index.find_hashed(&entry.key, hashes.key) {
            let same_fingerprint = pending.fingerprint == entry.fingerprint;
            return Err(AppendError::KeyPending { sequence: pending.sequence, same_fingerprint });
        }
        if state.failed {
            return Err(AppendError::Poisoned);
        }
        if state.waiting >= self.config.queue_max || state.in_flight_bytes + frame_bytes > QUEUE_BYTES_MAX {
            return Err(AppendError::Busy);
        }
        if let Some(flight) = state.flight(&entry.key, hashes.key) {
            flight.followers.push(Follower { fingerprint: entry.fingerprint, reply });
            state.waiting += 1;
            return Ok(Queued { answer, entry });
        }
        if self.config.when_too_old == WhenTooOld::Refuse
            && state.index.is_older_than(record::micros_before(entry.accepted_at, self.config.age_max))
        {
            return Err(AppendError::TooOld);
        }
        if state.is_full_for(&self.config, frame_bytes) {
            return Err(AppendError::Full);
        }
        state.take_off(&entry, hashes);
        state.waiting += 1;
        state.in_flight += 1;
        state.in_flight_bytes += frame_bytes;
        let writer_may_sleep = state.queue.is_empty();
        state.queue.push_back(Request { entry: Arc::clone(&entry), hashes, reply });
        drop(state);
        if writer_may_sleep {
            self.work.notify_one();
        }
        Ok(Queued { answer, entry })
    }

    /// Gives the writer something to do beside appends.
    ///
    /// # Errors
    /// [`JournalError::Closed`].
    pub(crate) fn enqueue_chore(&self, chore: Chore) -> Result<(), JournalError> {
        let mut state = self.state();
        if state.closed || state.chores.len() >= CHORES_MAX {
            return Err(if state.closed { JournalError::Closed } else { JournalError::Busy });
        }
        state.chores.push_back(chore);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Waits at most `patience` for appends; the queue is emptied before closing shows.
    pub(crate) fn next_work(&self, patience: Duration) -> Work {
        let mut state = self.state();
        // A wait of no time would still cost a system call, and the timer's slack with it.
        if state.queue.is_empty() && state.chores.is_empty() && !state.closed && !patience.is_zero() {
            let waited = self.work.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(chore) = state.chores.pop_front() {
            return Work::Chore(chore);
        }
        match (state.queue.is_empty(), state.closed) {
            (false, _) => Work::Batch(state.take_batch(self.config.batch_max)),
            (true, false) => Work::Idle,
            (true, true) => Work::Closed,
        }
    }

    /// Ends a batch: from here on its entries are pending, or it has been refused; then everybody is told.
    pub(crate) fn settle(&self, batch: Vec<Request>, outcome: Result<Written, AppendError>) {
        let places = outcome.as_ref().map_or(&[][..], |written| &written.places);
        let mut places = places.iter().copied();
        let mut batch = batch.into_iter();
        let mut answers = Vec::with_capacity(TOLD_AT_ONCE);
        let mut durable = 0;
        while !batch.as_slice().is_empty() {
            let mut state = self.state();
            for request in batch.by_ref().take(TOLD_AT_ONCE) {
                let place = outcome.as_ref().map(|written| {
                    let (offset, length) = places.next().expect("the writer gives a place for each request");
                    (&written.file, offset, length)
                });
                let reply = state.end(&request, place);
                answers.push((request, reply));
            }
            durable = state.index.next_sequence() - 1;
            drop(state);
            for (request, (reply, followers)) in answers.drain(..) {
                for follower in followers {
                    let told = follower_reply(&reply, request.entry.fingerprint, follower.fingerprint);
                    let _ = follower.reply.send(told);
                }
                // A caller that went away does not need the answer; the entry stays as it is.
                drop(request.entry);
                let _ = request.reply.send(reply);
            }
        }
        if outcome.is_ok() {
            self.changed.send_replace(durable);
        }
    }

    /// Runs `read` on the index.
    pub(crate) fn with_index<T>(&self, read: impl FnOnce(&mut Index) -> T) -> T {
        read(&mut self.state().index)
    }

    pub(crate) fn is_waiting(&self, ordering_key: &str) -> bool {
        let hash = self.naming.hash(ordering_key);
        let state = self.state();
        let is_it = |ordering: &Ordering| is_same(&ordering.entry.ordering_key, ordering_key);
        state.orderings.find(hash.spread(), is_it).is_some() || state.index.is_waiting(ordering_key)
    }

    /// Releases what is held of an ordering key, and wakes replay.
    pub(crate) fn release(&self, ordering_key: &str) -> u64 {
        let released = self.with_index(|index| index.aside.release(ordering_key));
        if released > 0 {
            self.changed.send_modify(|_| {});
        }
        released
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            entries: state.index.entries(),
            bytes: state.index.bytes(),
            oldest_micros: state.index.oldest_micros(),
            failed: state.failed,
            full: state.disk_full || state.is_full_for(&self.config, FULL_MARGIN_BYTES),
        }
    }

    /// Takes no more appends; the writer ends once the queue is empty.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
    }

    /// The writer is gone: whoever still waits learns that nobody knows (their channels close).
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.orderings.clear();
        let flights = std::mem::take(&mut state.flights);
        drop(state);
        drop(flights);
    }

    /// Takes no more appends until a restart.
    pub(crate) fn poison(&self) {
        self.state().failed = true;
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.state().failed
    }

    pub(crate) fn set_disk_full(&self, full: bool) {
        self.state().disk_full = full;
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        self.state().disk_full
    }

    pub(crate) fn set_disk_bytes(&self, bytes: u64) {
        self.state().disk_bytes = bytes;
    }
}

impl State {
    /// The oldest appends that wait, as many as one sync may cover; at least one.
    fn take_batch(&mut self, entries_max: usize) -> Vec<Request> {
        let mut bytes = 0;
        let fits = |(place, request): &(usize, &Request)| {
            bytes += record::frame_bytes(&request.entry) as u64;
            *place == 0 || bytes <= BATCH_BYTES_MAX
        };
        // Most often it is all of them, and nobody should wait for the lock while they are counted.
        let count = match self.queue.len() <= entries_max && self.in_flight_bytes <= BATCH_BYTES_MAX {
            true => self.queue.len(),
            false => self.queue.iter().take(entries_max).enumerate().take_while(fits).count(),
        };
        self.queue.drain(..count).collect()
    }

    /// Where the entry of a key is in the queue or with the writer.
    fn flight(&mut self, key: &str, hash: NameHash) -> Option<&mut Flight> {
        self.flights.find_mut(hash.spread(), |flight| flight.entry.key == key)
    }

    /// Notes that an entry is in the queue, whose key is not.
    fn take_off(&mut self, entry: &Arc<NewEntry>, hashes: Hashes) {
        let flight = Flight { hash: hashes.key, entry: Arc::clone(entry), followers: Vec::new() };
        self.flights.insert_unique(hashes.key.spread(), flight, |flight| flight.hash.spread());
        let hash = hashes.ordering_key;
        let is_it = |ordering: &Ordering| is_same(&ordering.entry.ordering_key, &entry.ordering_key);
        match self.orderings.entry(hash.spread(), is_it, |ordering| ordering.hash.spread()) {
            Entry::Occupied(mut found) => found.get_mut().count += 1,
            Entry::Vacant(free) => drop(free.insert(Ordering { hash, entry: Arc::clone(entry), count: 1 })),
        }
    }

    /// The reverse of [`take_off`](Self::take_off); gives those who wait for the same entry.
    fn land(&mut self, entry: &Arc<NewEntry>, hashes: Hashes) -> Vec<Follower> {
        let is_it = |ordering: &Ordering| is_same(&ordering.entry.ordering_key, &entry.ordering_key);
        if let Ok(mut found) = self.orderings.find_entry(hashes.ordering_key.spread(), is_it) {
            found.get_mut().count -= 1;
            if found.get().count == 0 {
                found.remove();
            }
        }
        let is_it = |flight: &Flight| Arc::ptr_eq(&flight.entry, entry);
        let flight = self.flights.find_entry(hashes.key.spread(), is_it);
        flight.map_or_else(|_| Vec::new(), |found| found.remove().0.followers)
    }

    /// Ends one append of a batch that lies in this file at this offset with this length, or was refused.
    fn end(
        &mut self,
        request: &Request,
        place: Result<(&Arc<RecordFile>, u64, u32), &AppendError>,
    ) -> (Reply, Vec<Follower>) {
        let Request { entry, hashes, .. } = request;
        let followers = self.land(entry, *hashes);
        self.waiting = self.waiting.saturating_sub(1 + followers.len());
        self.in_flight -= 1;
        self.in_flight_bytes -= record::frame_bytes(entry) as u64;
        let (file, offset, length) = match place {
            Ok(place) => place,
            Err(error) => return (Err(error.clone()), followers),
        };
        if entry.retried {
            self.index.aside.retried(&entry.key);
        }
        let note = Note {
            key: &entry.key,
            ordering_key: &entry.ordering_key,
            fingerprint: entry.fingerprint,
            accepted_micros: record::micros(entry.accepted_at),
        };
        (Ok(self.index.push(NewSlot { note, hashes: *hashes, file, offset, length })), followers)
    }

    fn is_full_for(&self, config: &JournalConfig, frame_bytes: u64) -> bool {
        self.index.entries() + self.in_flight >= config.entries_max
            || self.index.bytes() + self.in_flight_bytes + frame_bytes > config.bytes_max
            || self.disk_bytes > config.disk_bytes_max()
    }
}

/// What a later append of a key learns from the fate of the first one.
fn follower_reply(first: &Reply, fingerprint: [u8; 32], own: [u8; 32]) -> Reply {
    match first {
        Ok(sequence) => {
            Err(AppendError::KeyPending { sequence: *sequence, same_fingerprint: fingerprint == own })
        }
        Err(error) => Err(error.clone()),
    }
}
