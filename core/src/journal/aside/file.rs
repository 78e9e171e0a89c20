//! The file `aside`: what was set aside, durably. It is appended to like a segment, and written anew, whole, once most of
//! it is gone. Only the journal's writer uses it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::journal::aside::record as aside_record;
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::index::RecordFile;
use crate::journal::record::{self, Seed, Stamp};
use crate::journal::segment::{FileKind, HEADER_BYTES, Header, create_whole};
use crate::journal::{Aside, Entry, NewEntry};

/// The name of the file.
pub(crate) const ASIDE_NAME: &str = "aside";
/// What is gone may take this much in the file before it is written anew, in bytes; or as much as what is kept.
/// Less in tests, whose crash points and planted deaths are to meet it.
const GONE_BYTES_MAX: u64 = if cfg!(any(test, feature = "sabotage")) { 512 } else { 1024 * 1024 };

/// Sequences that one record lets go at most: far from the longest payload.
const GONE_A_RECORD: usize = 65_536;

/// Where a record was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<RecordFile>,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// The file, ready for appends.
#[derive(Debug)]
pub(crate) struct AsideFile {
    records: Arc<RecordFile>,
    /// Where the next record goes; everything before it is synced.
    length: u64,
    /// The number of the next record.
    next: u64,
    /// Sequences that are gone while a segment may still have them: without a word of it a start would bring them back.
    gone: BTreeSet<u64>,
}

impl AsideFile {
    /// A file that recovery has read and repaired.
    pub(crate) fn found(records: Arc<RecordFile>, length: u64, next: u64, gone: BTreeSet<u64>) -> Self {
        Self { records, length, next, gone }
    }

    /// Makes an empty file.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(crate) fn create(disk: &dyn Disk, journal_id: [u8; 16]) -> io::Result<Self> {
        Self::create_with(disk, journal_id, &[], BTreeSet::new()).map(|(file, _)| file)
    }

    /// Writes the whole file anew, in place of the one that is there.
    ///
    /// # Errors
    /// Whatever the disk says; the former file is then still there.
    pub(crate) fn create_with(
        disk: &dyn Disk,
        journal_id: [u8; 16],
        kept: &[(Entry, Aside, i64)],
        gone: BTreeSet<u64>,
    ) -> io::Result<(Self, Vec<Written>)> {
        let now = record::micros(SystemTime::now());
        let kind = FileKind::Aside;
        let header = Header { kind, salt: fastrand::u32(..), first: 1, created_micros: now, journal_id };
        let mut batch: Vec<NewEntry> =
            kept.iter().map(|(entry, why, since)| aside_record::keep(entry, why, *since)).collect();
        let sequences: Vec<u64> = gone.iter().copied().collect();
        batch.extend(sequences.chunks(GONE_A_RECORD).map(|some| aside_record::forget(some, now)));
        let mut bytes = header.encode();
        let places = encode(&mut bytes, header.seed(), 1, &batch);
        let file = create_whole(disk, ASIDE_NAME, &bytes)?;
        let records = Arc::new(RecordFile { name: ASIDE_NAME.into(), kind, file, seed: header.seed() });
        let sequences = kept.iter().map(|(entry, ..)| entry.sequence);
        let written = place(&records, sequences.zip(places));
        let length = bytes.len() as u64;
        Ok((Self { records, length, next: batch.len() as u64 + 1, gone }, written))
    }

    /// Keeps these entries; durable when this returns.
    ///
    /// # Errors
    /// [`AppendFault`].
    pub(crate) fn keep(
        &mut self,
        entries: &[Entry],
        why: &Aside,
        since: SystemTime,
    ) -> Result<Vec<Written>, AppendFault> {
        let since = record::micros(since);
        let batch: Vec<NewEntry> =
            entries.iter().map(|entry| aside_record::keep(entry, why, since)).collect();
        let places = self.append(&batch)?;
        Ok(place(&self.records, entries.iter().map(|entry| entry.sequence).zip(places)))
    }

    /// Lets these entries go; durable when this returns.
    ///
    /// # Errors
    /// [`AppendFault`].
    pub(crate) fn forget(&mut self, sequences: &[u64]) -> Result<(), AppendFault> {
        let now = record::micros(SystemTime::now());
        let batch: Vec<NewEntry> =
            sequences.chunks(GONE_A_RECORD).map(|some| aside_record::forget(some, now)).collect();
        self.append(&batch)?;
        self.gone.extend(sequences);
        Ok(())
    }

    fn append(&mut self, batch: &[NewEntry]) -> Result<Vec<(u64, u32)>, AppendFault> {
        let mut bytes = Vec::new();
        let mut places = encode(&mut bytes, self.records.seed, self.next, batch);
        let file = &self.records.file;
        if let Err(error) = file.write_all_at(&bytes, self.length) {
            // What is left of it must not stand between the records of later batches.
            return match cut(file.as_ref(), self.length) {
                Ok(()) => Err(AppendFault::Refused(error)),
                Err(worse) => Err(AppendFault::Failed(worse)),
            };
        }
        file.sync_data().map_err(AppendFault::Failed)?;
        for (offset, _) in &mut places {
            *offset += self.length;
        }
        self.length += bytes.len() as u64;
        self.next += batch.len() as u64;
        Ok(places)
    }

    /// Whether so much of the file is gone that it is worth writing anew, with this many bytes kept in it.
    pub(crate) fn is_mostly_gone(&self, kept_bytes: u64) -> bool {
        let all = self.length.saturating_sub(HEADER_BYTES as u64);
        all.saturating_sub(kept_bytes) > GONE_BYTES_MAX.max(kept_bytes)
    }

    /// The sequences that are gone and come after the cursor.
    pub(crate) fn gone_after(&self, cursor: u64) -> BTreeSet<u64> {
        self.gone.range(cursor.saturating_add(1)..).copied().collect()
    }
}

/// Why records were not added.
#[derive(Debug)]
pub(crate) enum AppendFault {
    /// There is no trace of them.
    Refused(io::Error),
    /// They may be there or not, and nothing more may be added.
    Failed(io::Error),
}

fn cut(file: &dyn DiskFile, length: u64) -> io::Result<()> {
    file.set_length(length)?;
    file.sync_all()
}

/// Appends the records to `out`; offset in `out` and length of each.
fn encode(out: &mut Vec<u8>, seed: Seed, first: u64, batch: &[NewEntry]) -> Vec<(u64, u32)> {
    let numbered = (first..).zip(batch);
    let one = |(sequence, entry): (u64, &NewEntry)| {
        let start = out.len();
        record::encode(out, Stamp { seed, sequence, batch_first: first }, entry);
        let length = u32::try_from(out.len() - start).expect("a frame within the limits fits u32");
        (start as u64, length)
    };
    numbered.map(one).collect()
}

fn place(records: &Arc<RecordFile>, places: impl Iterator<Item = (u64, (u64, u32))>) -> Vec<Written> {
    places
        .map(|(sequence, (offset, length))| Written { sequence, file: Arc::clone(records), offset, length })
        .collect()
}
