//! One segment file: its name, its header, and how it comes to exist. It does not look at records and does not
//! decide when to rotate or delete.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::journal::disk::{Disk, DiskFile};
use crate::journal::record::{self, Seed};

/// What the records of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// Entries, in the order of the journal.
    Segment,
    /// Entries that were set aside.
    Aside,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Segment => *b"RTjournl",
            Self::Aside => *b"RTasides",
        }
    }
}

/// The format that this code writes, and the only one it reads.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// Length of the header; every format version keeps this length and the place of magic, version and checksum.
pub(crate) const HEADER_BYTES: usize = 8 + 2 + 2 + 4 + 8 + 8 + 16 + 4;

const SEGMENT_SUFFIX: &str = ".segment";
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FileKind,
    /// Random; part of every record's checksum in this file.
    pub(crate) salt: u32,
    /// The sequence that the first record has, or will have.
    pub(crate) first: u64,
    /// When the file was made, in microseconds since 1970; for people only.
    pub(crate) created_micros: i64,
    /// Random, the same in all files of one journal, so that files of two folders are never mixed.
    pub(crate) journal_id: [u8; 16],
}

/// Why the start of a file is not a header that this code can go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    #[error("the file does not begin with the header of a journal file")]
    Magic,
    #[error("the file header's checksum does not match")]
    Checksum,
    #[error("the file has format version {0}, and this program reads version {FORMAT_VERSION} only")]
    Version(u16),
}

impl Header {
    /// The header in bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&self.kind.magic());
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.created_micros.to_le_bytes());
        out.extend_from_slice(&self.journal_id);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads the header at the start of a segment.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        Self::decode_as(FileKind::Segment, bytes)
    }

    /// Reads the header at the start of a file of this kind.
    pub(crate) fn decode_as(kind: FileKind, bytes: &[u8]) -> Result<Self, HeaderFault> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>().ok_or(HeaderFault::Magic)?;
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(HeaderFault::Magic)?;
        if *magic != kind.magic() {
            return Err(HeaderFault::Magic);
        }
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(HeaderFault::Magic)?;
        let version = u16::from_le_bytes(*version);
        let (covered, sum) = bytes.split_last_chunk::<4>().ok_or(HeaderFault::Magic)?;
        let matches = crc32c::crc32c(covered) == u32::from_le_bytes(*sum);
        match (version, matches) {
            (FORMAT_VERSION, true) => {}
            (FORMAT_VERSION, false) => return Err(HeaderFault::Checksum),
            (other, _) => return Err(HeaderFault::Version(other)),
        }
        Self::fields(kind, rest).ok_or(HeaderFault::Magic)
    }

    /// What the checksums of the file's records begin with.
    pub(crate) fn seed(&self) -> Seed {
        Seed::of(self.salt)
    }

    /// The format version that the start of a file states, where it can be believed.
    pub(crate) fn version(bytes: &[u8]) -> Option<u16> {
        match Self::decode(bytes) {
            Ok(_) => Some(FORMAT_VERSION),
            Err(HeaderFault::Version(other)) => Some(other),
            Err(HeaderFault::Magic | HeaderFault::Checksum) => None,
        }
    }

    fn fields(kind: FileKind, rest: &[u8]) -> Option<Self> {
        let (_reserved, rest) = rest.split_first_chunk::<2>()?;
        let (salt, rest) = rest.split_first_chunk::<4>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (created_micros, rest) = rest.split_first_chunk::<8>()?;
        let (journal_id, _sum) = rest.split_first_chunk::<16>()?;
        Some(Self {
            kind,
            salt: u32::from_le_bytes(*salt),
            first: u64::from_le_bytes(*first),
            created_micros: i64::from_le_bytes(*created_micros),
            journal_id: *journal_id,
        })
    }
}

/// The name of the segment that begins with `first`; names sort as their sequences do.
pub(crate) fn name(first: u64) -> String {
    format!("{first:020}{SEGMENT_SUFFIX}")
}

/// The sequence in a segment's name; `None` for any other file.
pub(crate) fn first_in_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Whether the file was being made when the process ended; it never held an acknowledged byte.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED_SUFFIX)
}

/// The name of a file that is not yet under its own name.
pub(crate) fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED_SUFFIX}")
}

/// Writes a file so that it is there whole or not at all, and durable when this returns.
///
/// # Errors
/// Whatever the disk says; the unfinished file is then removed again as far as that works.
pub(crate) fn create_whole(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let temporary = unfinished(name);
    let made = (|| {
        let file = disk.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        disk.rename(&temporary, name)?;
        disk.sync_folder()?;
        Ok(file)
    })();
    if made.is_err() {
        // The next start removes what cannot be removed now.
        let _ = disk.remove(&temporary);
    }
    made
}

/// The segment that takes appends.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: Arc<str>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) header: Header,
    /// Where the next record goes; everything before it is synced.
    pub(crate) length: u64,
}

impl Segment {
    /// Makes a new empty segment, durable under its name, with room for this many bytes where the disk can give it.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(crate) fn create(
        disk: &dyn Disk,
        first: u64,
        journal_id: [u8; 16],
        reserve: u64,
    ) -> io::Result<Self> {
        let created_micros = record::micros(SystemTime::now());
        let kind = FileKind::Segment;
        let header = Header { kind, salt: fastrand::u32(..), first, created_micros, journal_id };
        let name = name(first);
        let file = create_whole(disk, &name, &header.encode())?;
        // Zeros after the last record are padding, so nothing depends on it.
        file.reserve(reserve);
        Ok(Self { name: name.into(), file, header, length: HEADER_BYTES as u64 })
    }
}
