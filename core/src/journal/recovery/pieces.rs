//! Reads the segments of a folder, several at a time, and hands them on in order. It judges the bytes of each, and nothing
//! about how they follow each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::journal::JournalError;
use crate::journal::disk::Disk;
use crate::journal::index::{Keys, Links, Naming, RecordFile};
use crate::journal::order;
use crate::journal::recovery::{Paths, read_whole};
use crate::journal::scan::{Damage, Scan, scan};
use crate::journal::segment::{self, FileKind, Header};

/// Segments that are read at the same time, where there are as many processors: each takes a buffer as long as itself, and
/// putting them together is one after the other in any case.
const READERS_MAX: usize = 4;

/// One segment that was read.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) file: Arc<RecordFile>,
    pub(super) header: Header,
    /// Of the file, in bytes.
    pub(super) length: u64,
    pub(super) scan: Result<Scan, Damage>,
    /// Of its records those that are not acknowledged.
    pub(super) entries: Links,
    pub(super) keys: Keys,
    /// Sequence and key of each entry that an operator gave back.
    pub(super) retried: Vec<(u64, String)>,
}

/// Where to read, and what for.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) paths: &'a Paths,
    /// The sequence that each segment begins with, in order.
    pub(super) firsts: &'a [u64],
    /// Everything before this sequence is acknowledged already.
    pub(super) start: u64,
    pub(super) naming: &'a Naming,
}

/// What becomes of each piece, with its place in the order.
type Take<'a> = dyn FnMut(usize, Piece) -> Result<(), JournalError> + Send + 'a;

/// Reads all segments, and gives each to `take` in order until that fails.
///
/// # Errors
/// Of `take`, or of the first segment in the order that is none or cannot be read.
pub(super) fn read_all(source: Source<'_>, take: &mut Take<'_>) -> Result<(), JournalError> {
    let readers = match source.firsts.len() {
        0 | 1 => 1,
        segments => thread::available_parallelism().map_or(1, usize::from).min(segments).min(READERS_MAX),
    };
    let reading = Reading {
        source,
        begun: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        read: Mutex::default(),
        taker: Mutex::new(Taker { next: 0, take, outcome: Ok(()) }),
    };
    thread::scope(|scope| {
        for _ in 1..readers {
            // Without another thread this one reads all.
            let _ = thread::Builder::new().spawn_scoped(scope, || reading.run());
        }
        reading.run();
    });
    reading.take(&mut lock(&reading.taker));
    reading.taker.into_inner().unwrap_or_else(PoisonError::into_inner).outcome
}

/// Segments while they are read.
struct Reading<'a> {
    source: Source<'a>,
    /// Segments that a reader has begun with.
    begun: AtomicUsize,
    /// There is no use in going on.
    failed: AtomicBool,
    /// By their places in the order.
    read: Mutex<BTreeMap<usize, Result<Piece, JournalError>>>,
    taker: Mutex<Taker<'a>>,
}

struct Taker<'a> {
    /// The place of the next one.
    next: usize,
    take: &'a mut Take<'a>,
    outcome: Result<(), JournalError>,
}

impl Reading<'_> {
    /// Reads segments until each has its reader, and takes what is in turn whenever nobody else does.
    fn run(&self) {
        let mut room = Room::default();
        while !self.failed.load(Ordering::Relaxed) {
            let place = self.begun.fetch_add(1, Ordering::Relaxed);
            let Some(first) = self.source.firsts.get(place) else { return };
            let piece = self.source.read(*first, &mut room);
            lock(&self.read).insert(place, piece);
            // Whoever is at it, or comes after, takes this one too; in the end nobody reads any more.
            if let Ok(mut taker) = self.taker.try_lock() {
                self.take(&mut taker);
            }
        }
    }

    fn take(&self, taker: &mut Taker<'_>) {
        while taker.outcome.is_ok() {
            let Some(piece) = self.at(taker.next) else { return };
            taker.outcome = piece.and_then(|piece| (taker.take)(taker.next, piece));
            taker.next += 1;
        }
        self.failed.store(true, Ordering::Relaxed);
    }

    fn at(&self, place: usize) -> Option<Result<Piece, JournalError>> {
        lock(&self.read).remove(&place)
    }
}

/// What a reader has for one segment after the other: fresh memory costs more than what is done with it.
#[derive(Default)]
struct Room {
    bytes: Vec<u8>,
    /// How many the last one had; segments are of one length.
    entries: usize,
}

impl Source<'_> {
    fn read(&self, first: u64, room: &mut Room) -> Result<Piece, JournalError> {
        let Room { bytes, entries: expected } = room;
        let name = segment::name(first);
        let file = read_whole(self.disk, self.paths, &name, bytes)?;
        let header = order::header(bytes);
        let header = header.map_err(|Damage { offset, what }| self.paths.damaged(&name, offset, what))?;
        let file = RecordFile { name: name.into(), kind: FileKind::Segment, file, seed: header.seed() };
        let file = Arc::new(file);
        let mut entries = Links::starting_at(header.first.max(self.start));
        entries.reserve(*expected);
        let mut retried = Vec::new();
        let scan = scan(bytes, file.seed, header.first, |offset, frame| {
            if frame.sequence >= self.start {
                entries.push_found(self.naming, &file, offset, &frame);
                if frame.retried {
                    retried.push((frame.sequence, frame.key.to_owned()));
                }
            }
        });
        *expected = entries.len();
        let keys = entries.keys();
        Ok(Piece { file, header, length: bytes.len() as u64, scan, entries, keys, retried })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A reader that panics takes the whole opening with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
