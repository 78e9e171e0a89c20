//! The write journal: accepted writes, durable on this machine's disk, in order, until they are applied elsewhere.
//! It does not know what an entry means, never talks to a database, and spawns nothing.
//!
//! # What is promised
//!
//! - **Durable before acknowledged.** [`Journal::append`] returns `Ok` only after one `fdatasync` that covers the entry
//!   has succeeded. A crash of the process, of the machine or of its power after that does not lose the entry.
//! - **Refused means without effect.** Every [`AppendError`] but [`AppendError::Unknown`] leaves no trace: the entry is
//!   not found, and not replayed, now or after a restart. `Unknown` promises nothing either way.
//! - **In order, without gaps.** Sequences are given in the order of appending. Entries with the same ordering key keep
//!   that order among themselves; [`Journal::batch`] gives the oldest first, each again and again until
//!   [`Journal::settled`] names it. After a crash an entry that was settled before may be given once more: applying must
//!   be idempotent by key.
//! - **Nothing accepted vanishes.** What can never be applied, or not by this program, is [set
//!   aside](Journal::set_aside), and kept until somebody sees to it.
//! - **One pending entry a key.** Of appends of one key at the same time, one becomes the entry, and the others learn its
//!   sequence, and that only once it is durable.
//! - **Sound or refused.** Bytes that cannot be what was written are never handed out. An append torn by a crash is cut
//!   from the very end; any other damage stops [`Journal::open`] with file and offset, and nothing is touched.
//! - **A failed sync is final.** The journal then takes nothing more until a restart, since a second sync that succeeds
//!   would prove nothing. What was durable before can still be read, replayed and settled.
//! - **Bounded.** Entries, bytes, waiting appends and files have limits, and at each of them an append is refused.
//!
//! What is not promised: a disk that is lost loses what was not yet replayed, and a disk that lies about syncs makes
//! every promise void. The file format is in `docs/journal-format.md`.
//!
//! # Example
//! ```
//! use ridethrough::journal::{Journal, JournalConfig, NewEntry};
//!
//! let folder = tempfile::tempdir()?;
//! let (journal, writer, _recovery) = Journal::open(JournalConfig::new(folder.path()))?;
//! let thread = std::thread::spawn(move || writer.run());
//! let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! let appended = runtime.block_on(journal.append(NewEntry {
//!     key: "order-17".to_owned(),
//!     kind: "order.create".to_owned(),
//!     fingerprint: [0; 32],
//!     accepted_at: std::time::SystemTime::now(),
//!     payload: "{}".into(),
//!     version: 1,
//!     ordering_key: "customer-4".to_owned(),
//!     retried: false,
//! }))?;
//! let entry = journal.next()?.expect("an entry waits");
//! assert_eq!((entry.sequence, entry.key.as_str()), (appended.sequence, "order-17"));
//! journal.settled(&[entry.sequence]);
//! drop(journal);
//! thread.join().expect("the writer ends without a panic");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Defaults, metrics and what not to do: `docs/patterns/journal.md`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::journal::disk::Disk;
use crate::journal::recovery::Paths;
use crate::journal::state::{Queued, Shared};
use crate::metrics;

mod aside;
mod config;
mod cursor;
pub(crate) mod disk;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod heads;
mod index;
mod inspect;
mod order;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod shown;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use crate::journal::aside::{Aside, AsideCounts, AsideEntry};
pub use crate::journal::config::{JournalConfig, WhenTooOld};
#[cfg(all(test, feature = "testkit"))]
pub(crate) use crate::journal::disk::memory;
pub use crate::journal::error::{AppendError, JournalError, RetryError};
pub use crate::journal::inspect::{
    AsideGroup, AsideSurvey, CursorState, Loss, SegmentState, SegmentSurvey, Survey, export, inspect,
};
pub use crate::journal::store::{Store, StoreFuture};
pub use crate::journal::writer::JournalWriter;

/// An entry to append.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// The idempotency key, 1 to 255 bytes; one pending entry a key.
    pub key: String,
    /// The name of the command that applies the payload, at most 64 bytes.
    pub kind: String,
    /// A digest of the request, to tell a repetition from another request under the same key.
    pub fingerprint: [u8; 32],
    /// When the write was accepted; kept to the microsecond.
    pub accepted_at: SystemTime,
    /// What the command needs, at most [`JournalConfig::payload_bytes_max`].
    pub payload: Bytes,
    /// The version of the payload, as the command counts it.
    pub version: u16,
    /// At most 255 bytes. Entries with the same one keep their order among themselves; different ones may be applied in any
    /// order. The empty one is like any other.
    pub ordering_key: String,
    /// An operator gave the entry back after it was rejected, so what the database recorded of that may be overwritten
    /// once.
    pub retried: bool,
}

impl NewEntry {
    /// Whether every field is within what a store takes.
    pub(crate) fn check(&self, payload_bytes_max: u64) -> Result<(), AppendError> {
        let within = |field, bytes: usize, bytes_min, bytes_max| match bytes as u64 {
            bytes if (bytes_min..=bytes_max).contains(&bytes) => Ok(()),
            bytes => Err(AppendError::TooLarge { field, bytes, bytes_min, bytes_max }),
        };
        within("key", self.key.len(), 1, record::KEY_BYTES_LIMIT as u64)?;
        within("kind", self.kind.len(), 0, record::KIND_BYTES_LIMIT as u64)?;
        within("ordering key", self.ordering_key.len(), 0, record::ORDERING_KEY_BYTES_LIMIT as u64)?;
        within("payload", self.payload.len(), 0, payload_bytes_max)
    }

    /// The room it takes in a journal, in bytes.
    #[cfg(feature = "testkit")]
    pub(crate) fn bytes(&self) -> u64 {
        record::frame_bytes(self) as u64
    }
}

/// An entry as it was appended, read back from disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of this journal; the first is 1, and no number is given twice.
    pub sequence: u64,
    /// The idempotency key.
    pub key: String,
    /// The name of the command.
    pub kind: String,
    /// The digest of the request.
    pub fingerprint: [u8; 32],
    /// When the write was accepted, to the microsecond.
    pub accepted_at: SystemTime,
    /// What the command needs.
    pub payload: Bytes,
    /// The version of the payload.
    pub version: u16,
    /// What it is in order with.
    pub ordering_key: String,
    /// It was rejected before, and an operator gave it back.
    pub retried: bool,
}

/// An entry that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the order of this journal.
    pub sequence: u64,
}

/// What is known of a pending entry without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its place in the order.
    pub sequence: u64,
    /// The digest of the request.
    pub fingerprint: [u8; 32],
    /// When the write was accepted.
    pub accepted_at: SystemTime,
}

/// How much waits for replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Number of pending entries.
    pub entries: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// When the oldest of them was accepted.
    pub oldest_accepted_at: Option<SystemTime>,
}

/// What the journal can do for the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalHealth {
    /// Take it.
    Ok,
    /// Take it where it matters: no more is left than [`JournalConfig::reserve_percent`] keeps for such.
    Reserved,
    /// Refuse it until entries are settled or the disk has room.
    Full,
    /// Refuse it until a restart.
    Failed,
}

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that wait for replay.
    pub entries: u64,
    /// Bytes of appends that a crash tore and that were cut; none of them was ever acknowledged, unless the disk
    /// itself spoiled the very last batch.
    pub torn_bytes: u64,
    /// The cursor's file could not be understood: entries that were applied already will be given again.
    pub cursor_lost: bool,
    /// How long it took.
    pub duration: Duration,
}

/// The handle: append, look up, read, settle, set aside. Clones share one journal; when the last is dropped, the writer ends.
#[derive(Debug, Clone)]
pub struct Journal {
    handles: Arc<Handles>,
}

/// Closes the journal when the last handle goes.
#[derive(Debug)]
struct Handles {
    shared: Arc<Shared>,
    paths: Paths,
    id: [u8; 16],
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Journal {
    /// Opens the journal in a folder of its own, making it where it is missing; blocks while it reads what is there.
    ///
    /// Nothing is durable, and no append returns, unless a thread runs the [`JournalWriter`].
    ///
    /// # Errors
    /// [`JournalError::Config`]; [`JournalError::Locked`] where the folder has an owner; [`JournalError::Damaged`]
    /// where the content cannot be trusted (nothing is touched then); [`JournalError::Io`].
    pub fn open(config: JournalConfig) -> Result<(Self, JournalWriter, Recovery), JournalError> {
        config.validate()?;
        let disk = config.disk().map_err(|source| JournalError::Io {
            action: "create the folder",
            path: config.dir.clone(),
            source,
        })?;
        Self::open_on(config, disk)
    }

    /// A journal that is gone with its last handle; for the test kit.
    #[cfg(feature = "testkit")]
    pub(crate) fn open_in_memory(config: JournalConfig) -> Result<(Self, JournalWriter), JournalError> {
        let (journal, writer, _) = Self::open_on(config, Arc::new(disk::scratch::ScratchDisk::default()))?;
        Ok((journal, writer))
    }

    pub(crate) fn open_on(
        config: JournalConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, JournalWriter, Recovery), JournalError> {
        config.validate()?;
        let started = Instant::now();
        let paths = Paths { folder: config.dir.clone() };
        let lock = disk.lock().map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => JournalError::Locked { folder: config.dir.clone() },
            _ => paths.io("lock", disk::LOCK_NAME, error),
        })?;
        let recovered = recovery::recover(disk.as_ref(), &paths, config.segment_bytes)?;
        let recovery = Recovery {
            entries: recovered.index.entries(),
            torn_bytes: recovered.torn_bytes,
            cursor_lost: recovered.cursor_lost,
            duration: started.elapsed(),
        };
        let start = recovered.start;
        let disk_bytes = start.active.length + start.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>();
        let shared = Arc::new(Shared::new(config, lock, recovered.index, disk_bytes));
        let id = start.active.header.journal_id;
        let writer = JournalWriter::new(Arc::clone(&shared), disk, start, paths.clone());
        let handles = Arc::new(Handles { shared, paths, id });
        Ok((Self { handles }, writer, recovery))
    }

    /// Appends an entry, and returns once it is durable.
    ///
    /// Waits for the disk without a limit of its own: bound it with the caller's deadline.
    ///
    /// # Errors
    /// [`AppendError`]; all of its cases but `Unknown` mean that this entry has, and will have, no effect.
    ///
    /// # Cancel safety
    /// The entry is queued at the first poll. A future dropped after that leaves it there: it may or may not become
    /// durable, and if it does it is replayed. To know, look with [`find`](Self::find) or append the same key again.
    pub async fn append(&self, entry: NewEntry) -> Result<Appended, AppendError> {
        let started = Instant::now();
        let outcome = match self.enqueue(entry) {
            // The writer answers everything it takes; a closed channel means that it panicked with the entry in hand.
            Ok(Queued { answer, entry: _kept }) => answer.await.unwrap_or(Err(AppendError::Unknown)),
            Err(refused) => Err(refused),
        };
        match &outcome {
            Ok(_) => metrics::journal_append(started.elapsed()),
            Err(error) => metrics::journal_refused(error.reason()),
        }
        outcome.map(|sequence| Appended { sequence })
    }

    fn enqueue(&self, entry: NewEntry) -> Result<Queued, AppendError> {
        entry.check(self.handles.shared.config.payload_bytes_max)?;
        self.handles.shared.enqueue(entry)
    }

    /// The random number that this folder got when it was made; no other journal has it.
    pub fn id(&self) -> [u8; 16] {
        self.handles.id
    }

    /// The entry of a key that is pending or held: durable, and not yet settled.
    pub fn find(&self, key: &str) -> Option<Pending> {
        self.handles.shared.with_index(|index| index.find(key))
    }

    /// Whether an entry of this ordering key waits: queued, pending, or held.
    pub fn is_waiting(&self, ordering_key: &str) -> bool {
        self.handles.shared.is_waiting(ordering_key)
    }

    /// How much waits for replay; what is set aside and not released does not.
    pub fn backlog(&self) -> Backlog {
        let counts = self.handles.shared.counts();
        Backlog {
            entries: counts.entries,
            bytes: counts.bytes,
            oldest_accepted_at: counts.oldest_micros.map(record::time),
        }
    }

    /// What the journal can do for the next append.
    pub fn health(&self) -> JournalHealth {
        let counts = self.handles.shared.counts();
        let config = &self.handles.shared.config;
        match (counts.failed, counts.full) {
            (true, _) => JournalHealth::Failed,
            (false, true) => JournalHealth::Full,
            (false, false) if config.is_in_reserve(counts.entries, counts.bytes) => JournalHealth::Reserved,
            (false, false) => JournalHealth::Ok,
        }
    }

    /// The age beyond which an entry is not to be applied any more, where there is one: [`JournalConfig::age_max`] with
    /// [`WhenTooOld::SetAside`]. Whoever applies entries keeps to it.
    pub fn max_age(&self) -> Option<Duration> {
        self.handles.shared.config.max_age()
    }

    /// The oldest pending entry, read from disk and checked again; blocks for that read.
    ///
    /// # Errors
    /// [`JournalError::Io`], or [`JournalError::Damaged`] where the disk no longer gives what was written.
    pub fn next(&self) -> Result<Option<Entry>, JournalError> {
        Ok(self.batch(1, u64::MAX, &|_| false)?.pop())
    }

    /// The oldest pending entries in order whose ordering keys are neither held nor to `skip`: at most `entries_max` and,
    /// after the first, at most `bytes_max` in all. Once an entry of an ordering key is left out, no later one of it is
    /// given. Blocks for the reads.
    ///
    /// # Errors
    /// As [`next`](Self::next), for the first entry that cannot be read.
    pub fn batch(
        &self,
        entries_max: usize,
        bytes_max: u64,
        skip: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, JournalError> {
        let places = self.handles.shared.with_index(|index| index.oldest(entries_max, bytes_max, skip));
        read::read(&self.handles.paths, &places)
    }

    /// The oldest entries in order that are not done with, also those that are held and those behind them: at most
    /// `entries_max` and, after the first, at most `bytes_max` in all. Blocks for the reads.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn waiting(&self, entries_max: usize, bytes_max: u64) -> Result<Vec<Entry>, JournalError> {
        let places = self.handles.shared.with_index(|index| index.waiting(entries_max, bytes_max));
        read::read(&self.handles.paths, &places)
    }

    /// Says that these entries are done with, in any order; they are never given again in this process, and count no more.
    ///
    /// The position up to which everything is settled reaches the disk about a second later, or when the journal closes;
    /// entries that were settled beyond it are given again after a restart. Space returns segment by segment.
    pub fn settled(&self, sequences: &[u64]) {
        self.handles.shared.with_index(|index| sequences.iter().for_each(|sequence| index.settle(*sequence)));
    }

    /// Shows the sequence of the newest durable entry, and changes whenever there are more: what wakes replay.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.handles.shared.changed.subscribe()
    }

    /// Takes no more appends. The writer finishes what is queued, stores the cursor and ends; reading and
    /// settling go on, but what is settled after the writer's end is not stored.
    pub fn close(&self) {
        self.handles.shared.close();
    }
}
