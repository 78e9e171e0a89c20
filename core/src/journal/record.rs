//! The bytes of one record: frame, fields and checksum, both ways. It knows no files and does no I/O;
//! `docs/journal-format.md` is the same in words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::journal::NewEntry;

/// The first bytes of every record. None of them is zero, so a record is never taken for padding or the reverse.
pub(crate) const RECORD_MAGIC: [u8; 4] = [0xA7, b'R', b'e', b'c'];

/// The longest payload that format version 1 can hold, in bytes; bounds what a hostile length can make a reader do.
pub(crate) const PAYLOAD_BYTES_LIMIT: u64 = 16 * 1024 * 1024;
/// The longest idempotency key, in bytes.
pub(crate) const KEY_BYTES_LIMIT: usize = 255;
/// The longest name of a command, in bytes.
pub(crate) const KIND_BYTES_LIMIT: usize = 64;

/// The longest ordering key, in bytes.
pub(crate) const ORDERING_KEY_BYTES_LIMIT: usize = 255;

/// What a record of the file `aside` holds beside the payload is shorter than this.
const ASIDE_BYTES_LIMIT: usize = 512;

/// Flag: an operator gave the entry back after it was rejected.
const FLAG_RETRIED: u16 = 1;

/// Magic, length, sequence, first of batch, time, fingerprint, lengths of kind and key, flags, version, length of the
/// ordering key, zero.
const FIXED_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 32 + 1 + 1 + 2 + 2 + 1 + 1;
const CHECKSUM_BYTES: usize = 4;
const FRAME_BYTES_MIN: usize = FIXED_BYTES + CHECKSUM_BYTES;
const CONTENT_BYTES_MAX: usize = PAYLOAD_BYTES_LIMIT as usize + ASIDE_BYTES_LIMIT;
const FRAME_BYTES_MAX: usize =
    FRAME_BYTES_MIN + KEY_BYTES_LIMIT + KIND_BYTES_LIMIT + ORDERING_KEY_BYTES_LIMIT + CONTENT_BYTES_MAX;

/// What the checksums of one file's records begin with: that of the salt in its header, so that bytes of another file or of a
/// user never look valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn of(salt: u32) -> Self {
        Self(crc32c::crc32c(&salt.to_le_bytes()))
    }
}

/// What makes a record belong to its place: its file's seed, its own number, and the number its batch began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seed: Seed,
    /// Position in the journal; the first record ever is 1.
    pub(crate) sequence: u64,
    /// Every record before this one was synced before this one was written.
    pub(crate) batch_first: u64,
}

/// A record as it lies in the bytes it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) sequence: u64,
    pub(crate) batch_first: u64,
    pub(crate) accepted_micros: i64,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) kind: &'a str,
    pub(crate) version: u16,
    pub(crate) key: &'a str,
    pub(crate) ordering_key: &'a str,
    pub(crate) retried: bool,
    pub(crate) payload: &'a [u8],
    /// Length of the whole frame in bytes.
    pub(crate) length: usize,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameFault {
    #[error("no record begins here")]
    Magic,
    #[error("the record's length is impossible")]
    Length,
    #[error("the record goes on past the end of the file")]
    Short,
    #[error("the record's checksum does not match")]
    Checksum,
    #[error("the record's checksum matches but its fields are not those of format version 1")]
    Fields,
}

/// The length of the frame that holds an entry, in bytes.
pub(crate) fn frame_bytes(entry: &NewEntry) -> usize {
    FRAME_BYTES_MIN + entry.kind.len() + entry.key.len() + entry.ordering_key.len() + entry.payload.len()
}

/// Appends the frame of `entry` to `out`; the entry's fields are within the limits above (`append` checked them).
pub(crate) fn encode(out: &mut Vec<u8>, stamp: Stamp, entry: &NewEntry) {
    let start = out.len();
    let length = u32::try_from(frame_bytes(entry)).expect("a frame within the limits fits u32");
    out.reserve(length as usize);
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&stamp.sequence.to_le_bytes());
    out.extend_from_slice(&stamp.batch_first.to_le_bytes());
    out.extend_from_slice(&micros(entry.accepted_at).to_le_bytes());
    out.extend_from_slice(&entry.fingerprint);
    out.push(u8::try_from(entry.kind.len()).expect("kinds are at most 64 bytes"));
    out.push(u8::try_from(entry.key.len()).expect("keys are at most 255 bytes"));
    let flags = if entry.retried { FLAG_RETRIED } else { 0 };
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&entry.version.to_le_bytes());
    out.push(u8::try_from(entry.ordering_key.len()).expect("ordering keys are at most 255 bytes"));
    out.push(0);
    out.extend_from_slice(entry.kind.as_bytes());
    out.extend_from_slice(entry.key.as_bytes());
    out.extend_from_slice(entry.ordering_key.as_bytes());
    out.extend_from_slice(&entry.payload);
    let sum = checksum(stamp.seed, out.get(start..).unwrap_or_default());
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Reads the record that begins with the first byte; bytes after it are left alone.
pub(crate) fn decode(bytes: &[u8], seed: Seed) -> Result<Frame<'_>, FrameFault> {
    let length = frame_length(bytes)?;
    let frame = bytes.get(..length).ok_or(FrameFault::Short)?;
    let (covered, sum) = frame.split_last_chunk::<CHECKSUM_BYTES>().ok_or(FrameFault::Length)?;
    if checksum(seed, covered) != u32::from_le_bytes(*sum) {
        return Err(FrameFault::Checksum);
    }
    fields(covered, length).ok_or(FrameFault::Fields)
}

/// The length that the frame at the first byte claims, if a record could have it; reads nothing past it.
pub(crate) fn frame_length(bytes: &[u8]) -> Result<usize, FrameFault> {
    let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(FrameFault::Short)?;
    if *magic != RECORD_MAGIC {
        return Err(FrameFault::Magic);
    }
    let (length, _) = rest.split_first_chunk::<4>().ok_or(FrameFault::Short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| FrameFault::Length)?;
    if (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length) { Ok(length) } else { Err(FrameFault::Length) }
}

fn fields(covered: &[u8], length: usize) -> Option<Frame<'_>> {
    let mut rest = Bytes(covered.get(8..)?);
    let sequence = u64::from_le_bytes(*rest.array()?);
    let batch_first = u64::from_le_bytes(*rest.array()?);
    let accepted_micros = i64::from_le_bytes(*rest.array()?);
    let fingerprint = *rest.array::<32>()?;
    let [kind_bytes, key_bytes] = *rest.array()?;
    let flags = u16::from_le_bytes(*rest.array()?);
    let version = u16::from_le_bytes(*rest.array()?);
    let [ordering_key_bytes, zero] = *rest.array()?;
    let names_bytes = usize::from(kind_bytes) + usize::from(key_bytes) + usize::from(ordering_key_bytes);
    // Once for all three: most of what it takes is getting there.
    let names = std::str::from_utf8(rest.slice(names_bytes)?).ok()?;
    let (kind, names) = names.split_at_checked(kind_bytes.into())?;
    let (key, ordering_key) = names.split_at_checked(key_bytes.into())?;
    let sane = flags & !FLAG_RETRIED == 0
        && zero == 0
        && batch_first <= sequence
        && !key.is_empty()
        && kind.len() <= KIND_BYTES_LIMIT
        && rest.0.len() <= CONTENT_BYTES_MAX;
    sane.then_some(Frame {
        sequence,
        batch_first,
        accepted_micros,
        fingerprint,
        kind,
        version,
        key,
        ordering_key,
        retried: flags & FLAG_RETRIED != 0,
        payload: rest.0,
        length,
    })
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(head)
    }

    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

fn checksum(seed: Seed, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed.0, bytes)
}

/// Microseconds since 1970, negative before; a time beyond the year 290,000 is held at the end of the range.
pub(crate) fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}

/// That long before `time`, in microseconds since 1970.
pub(crate) fn micros_before(time: SystemTime, distance: Duration) -> i64 {
    micros(time).saturating_sub(i64::try_from(distance.as_micros()).unwrap_or(i64::MAX))
}

/// The time that [`micros`] gave, to the microsecond.
pub(crate) fn time(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}
