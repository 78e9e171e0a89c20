//! The single writer: group commit, rotation, poison, and the lazy work of cursor and deletion. It reads no records
//! and decides nothing about who may append.

mod age;
mod chores;
mod stuck;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::journal::AppendError;
use crate::journal::aside::file::AsideFile;
use crate::journal::cursor::Cursor;
use crate::journal::disk::Disk;
use crate::journal::index::RecordFile;
use crate::journal::record::{self, Stamp};
use crate::journal::recovery::{Paths, Sealed, Start};
use crate::journal::segment::{FileKind, Segment};
use crate::journal::state::{Request, Shared, Work, Written};
use crate::sabotage::{self, Bug, Step};

/// How long an idle writer waits before it looks after the cursor; also the least time between two stored cursors,
/// because each costs two syncs and losing one only means replaying a second's worth again.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(1);
/// An acknowledged active segment of at least this share of `segment_bytes` is replaced, so that its space returns.
const ROTATE_WHEN_IDLE_SHARE: u64 = 4;
/// What must fit on a disk that was full before the journal says that it is well again, in bytes.
const ROOM_PROBE_BYTES: usize = 256 * 1024;
/// Zeros that are written ahead of the records at a time, in bytes: one sync in some thousand small ones takes them along,
/// and the others find room that has been written to, which takes about a third off them.
const ZEROS_AHEAD_BYTES: u64 = 1024 * 1024;

/// The background half of a journal: owns the files, and is the only one that writes.
///
/// Dropping it without [`run`](Self::run) closes the journal.
#[derive(Debug)]
#[must_use = "appends wait for ever unless a thread runs the writer"]
pub struct JournalWriter {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    active: Active,
    sealed: VecDeque<Sealed>,
    next_sequence: u64,
    stored_cursor: u64,
    /// Made when the first entry is set aside.
    aside: Option<AsideFile>,
    paths: Paths,
    /// It was said that the oldest entry is too old.
    told_too_old: bool,
    /// It was said that entries which do not go through cannot be moved.
    told_stuck: bool,
    /// Reused for every batch.
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Active {
    segment: Segment,
    records: Arc<RecordFile>,
    /// Up to here the file was written to, by records or zeros; where a full disk took some back, syncs cost more again.
    zeroed: u64,
    /// A rotation failed half-way: its file may be there, so nothing may be added to the old one.
    must_rotate: bool,
}

impl Active {
    fn new(segment: Segment) -> Self {
        let records = Arc::new(RecordFile {
            name: Arc::clone(&segment.name),
            kind: FileKind::Segment,
            file: Arc::clone(&segment.file),
            seed: segment.header.seed(),
        });
        let zeroed = segment.length;
        Self { segment, records, zeroed, must_rotate: false }
    }
}

impl Active {
    /// Writes zeros ahead, where the next batch would go past those that are there.
    fn zero_ahead(&mut self, batch_bytes: u64, segment_bytes: u64) {
        let end = self.segment.length + batch_bytes;
        if end <= self.zeroed {
            return;
        }
        let ahead = (end + ZEROS_AHEAD_BYTES).min(segment_bytes);
        if end < ahead {
            self.segment.file.zero(end, ahead);
        }
        self.zeroed = ahead.max(end);
    }
}

impl JournalWriter {
    pub(crate) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, recovered: Start, paths: Paths) -> Self {
        let Start { active: segment, sealed, stored_cursor, aside } = recovered;
        let next_sequence = shared.with_index(|index| index.next_sequence());
        let active = Active::new(segment);
        let buffer = Vec::new();
        Self {
            shared,
            disk,
            active,
            sealed,
            next_sequence,
            stored_cursor,
            aside,
            paths,
            told_too_old: false,
            told_stuck: false,
            buffer,
        }
    }

    /// Serves appends until the journal is closed (by [`Journal::close`](crate::journal::Journal::close) or because
    /// every handle is gone), then answers what still waits, stores the cursor, and returns.
    ///
    /// Blocks its thread; give it one of its own.
    pub fn run(mut self) {
        let mut housekept_at = Instant::now();
        while self.turn(HOUSEKEEPING_PERIOD) {
            let now = Instant::now();
            if now.duration_since(housekept_at) >= HOUSEKEEPING_PERIOD {
                housekept_at = now;
                self.housekeep();
            }
        }
        self.housekeep();
        self.give_room_back();
    }

    /// Cuts what was reserved and not used; a start does the same.
    fn give_room_back(&self) {
        if !self.shared.is_failed() {
            let segment = &self.active.segment;
            // What stays is padding.
            let _ = segment.file.set_length(segment.length);
        }
    }

    /// Serves one batch, or waits for one that long; false once the journal is closed and nothing waits.
    pub(crate) fn turn(&mut self, patience: Duration) -> bool {
        match self.shared.next_work(patience) {
            Work::Batch(batch) => {
                let outcome = self.write(&batch);
                self.shared.settle(batch, outcome);
                if sabotage::planted(Bug::EarlyAck) {
                    self.write_late();
                }
                true
            }
            Work::Chore(chore) => {
                self.do_chore(chore);
                true
            }
            Work::Idle => true,
            Work::Closed => false,
        }
    }

    /// Writes a batch and syncs it once. Anything but `Ok` says whether the entries may be durable.
    fn write(&mut self, batch: &[Request]) -> Result<Written, AppendError> {
        if self.shared.is_failed() {
            return Err(AppendError::Poisoned);
        }
        let bytes: u64 = batch.iter().map(|request| record::frame_bytes(&request.entry) as u64).sum();
        let crowded = self.active.segment.length + bytes > self.shared.config.segment_bytes;
        if self.active.must_rotate || (crowded && self.active_records() > 0) {
            self.rotate().map_err(|error| self.refuse(&error, "create a journal segment"))?;
        }
        let places = self.encode(batch);
        sabotage::reached(Step::BeforeAppend);
        self.active.zero_ahead(bytes, self.shared.config.segment_bytes);
        let segment = &mut self.active.segment;
        if !sabotage::planted(Bug::EarlyAck)
            && let Err(error) = segment.file.write_all_at(&self.buffer, segment.length)
        {
            return Err(self.undo(&error));
        }
        sabotage::reached(Step::BeforeSync);
        if !sabotage::planted(Bug::SkipFsync)
            && let Err(error) = segment.file.sync_data()
        {
            // The system may have dropped the pages and cleared the error: a second sync would prove nothing.
            self.poison(&error, "sync the journal");
            return Err(AppendError::Unknown);
        }
        sabotage::reached(Step::BeforeAnswer);
        segment.length += self.buffer.len() as u64;
        self.next_sequence += batch.len() as u64;
        self.shared.set_disk_full(false);
        self.report_disk_bytes();
        Ok(Written { file: Arc::clone(&self.active.records), places })
    }

    /// What a writer does that would rather be quick than true: the batch was acknowledged, and is written now.
    fn write_late(&self) {
        /// Long enough that a process that is killed at any time leaves something behind.
        const PAUSE: Duration = Duration::from_millis(250);
        std::thread::sleep(PAUSE);
        let segment = &self.active.segment;
        let from = segment.length.saturating_sub(self.buffer.len() as u64);
        let written = segment.file.write_all_at(&self.buffer, from).and_then(|()| segment.file.sync_data());
        if let Err(error) = written {
            self.poison(&error, "write the journal");
        }
    }

    fn encode(&mut self, batch: &[Request]) -> Vec<(u64, u32)> {
        self.buffer.clear();
        let segment = &self.active.segment;
        let numbered = (self.next_sequence..).zip(batch);
        let (batch_first, seed) = (self.next_sequence, self.active.records.seed);
        numbered
            .map(|(sequence, request)| {
                let start = self.buffer.len();
                let stamp = Stamp { seed, sequence, batch_first };
                record::encode(&mut self.buffer, stamp, &request.entry);
                let length =
                    u32::try_from(self.buffer.len() - start).expect("a frame within the limits fits u32");
                (segment.length + start as u64, length)
            })
            .collect()
    }

    /// After a write that failed: a full disk is undone, so that the refusal is true even after a power cut.
    fn undo(&self, error: &io::Error) -> AppendError {
        let segment = &self.active.segment;
        if is_full(error) {
            match segment.file.set_length(segment.length).and_then(|()| segment.file.sync_all()) {
                Ok(()) => return self.refuse(error, "write the journal"),
                Err(worse) => self.poison(&worse, "take back a write that did not fit"),
            }
        } else {
            self.poison(error, "write the journal");
        }
        AppendError::Unknown
    }

    /// The batch has left no trace; says so, and poisons unless the disk is merely full.
    fn refuse(&self, error: &io::Error, what: &'static str) -> AppendError {
        if !is_full(error) {
            self.poison(error, what);
            return AppendError::Poisoned;
        }
        if !self.shared.is_disk_full() {
            tracing::error!(%error, "the disk of the journal is full; writes are refused until there is room");
        }
        self.shared.set_disk_full(true);
        AppendError::Full
    }

    fn poison(&self, error: &io::Error, what: &'static str) {
        self.shared.poison();
        tracing::error!(%error, "could not {what}; the journal takes nothing more until a restart");
    }

    /// Number of records in the active segment.
    fn active_records(&self) -> u64 {
        self.next_sequence - self.active.segment.header.first
    }

    /// Seals the active segment and begins the next one.
    fn rotate(&mut self) -> io::Result<()> {
        self.active.must_rotate = true;
        sabotage::reached(Step::BeforeRotation);
        let id = self.active.segment.header.journal_id;
        let next = Active::new(Segment::create(
            self.disk.as_ref(),
            self.next_sequence,
            id,
            self.shared.config.segment_bytes,
        )?);
        let old = std::mem::replace(&mut self.active, next).segment;
        self.sealed.push_back(Sealed { name: old.name, last: self.next_sequence - 1, bytes: old.length });
        self.report_disk_bytes();
        Ok(())
    }

    fn report_disk_bytes(&self) {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        self.shared.set_disk_bytes(sealed + self.active.segment.length);
    }

    /// Stores the cursor, returns space, and looks whether a full disk has room again. Failures cost space or a
    /// repeated replay, never an entry, so they are logged and met again next time.
    pub(crate) fn housekeep(&mut self) {
        self.move_stuck();
        // Before the cursor passes what came of a dead letter, the dead letter must be gone for good.
        if let Err(error) = self.save_gone() {
            tracing::warn!(%error, "could not tidy what the journal keeps aside; its files stay until this works");
        } else if let Err(error) = self.store_cursor().and_then(|()| self.return_space()) {
            tracing::warn!(%error, "could not tidy the journal; its files stay until this works");
        }
        self.see_to_age(SystemTime::now());
        if self.shared.is_disk_full() && !self.shared.is_failed() {
            self.probe_room();
        }
    }

    fn store_cursor(&mut self) -> io::Result<()> {
        let through = self.shared.with_index(|index| index.settled_through());
        if through > self.stored_cursor {
            sabotage::reached(Step::BeforeCursor);
            let journal_id = self.active.segment.header.journal_id;
            Cursor { journal_id, through }.store(self.disk.as_ref())?;
            self.stored_cursor = through;
        }
        Ok(())
    }

    /// Deletes segments whose records are all behind the stored cursor. Never before it is stored: recovery takes a
    /// missing segment for damage unless the cursor explains it.
    fn return_space(&mut self) -> io::Result<()> {
        let through = self.stored_cursor;
        let idle = self.active_records() > 0 && self.next_sequence - 1 <= through;
        let large = self.active.segment.length >= self.shared.config.segment_bytes / ROTATE_WHEN_IDLE_SHARE;
        if idle && large && !self.shared.is_failed() {
            self.rotate()?;
        }
        let mut removed = false;
        while self.sealed.front().is_some_and(|oldest| oldest.last <= through) {
            sabotage::reached(Step::BeforeRemoval);
            if let Some(oldest) = self.sealed.pop_front()
                && let Err(error) = self.disk.remove(&oldest.name)
                && error.kind() != io::ErrorKind::NotFound
            {
                self.sealed.push_front(oldest);
                return Err(error);
            }
            removed = true;
        }
        if removed {
            self.report_disk_bytes();
            self.disk.sync_folder()?;
        }
        Ok(())
    }

    /// The position that is on disk.
    #[cfg(test)]
    pub(crate) fn stored_position(&self) -> u64 {
        self.stored_cursor
    }

    /// Tries whether zeros fit behind the last record (recovery takes them for padding), and takes them back.
    fn probe_room(&self) {
        let segment = &self.active.segment;
        let wrote = segment.file.write_all_at(&[0; ROOM_PROBE_BYTES], segment.length);
        if let Err(error) = segment.file.set_length(segment.length) {
            self.poison(&error, "take back a trial write");
        } else if wrote.is_ok() {
            self.shared.set_disk_full(false);
            tracing::info!("the disk of the journal has room again");
        }
    }
}

impl Drop for JournalWriter {
    /// Also runs when the thread panics: nobody may wait for a writer that is gone.
    fn drop(&mut self) {
        self.shared.close();
        loop {
            match self.shared.next_work(Duration::ZERO) {
                Work::Batch(batch) => self.shared.settle(batch, Err(AppendError::Closed)),
                // Whoever waits for it learns from the closed channel.
                Work::Chore(_) => {}
                Work::Idle | Work::Closed => break,
            }
        }
        self.shared.abandon();
    }
}

/// Whether the error says that there is no room, as opposed to a disk that fails.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
