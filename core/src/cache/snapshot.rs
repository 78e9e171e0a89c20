//! The bytes of a cache snapshot: header, records, checksums, both ways. Pure: it knows no files, no cache and no clock.
//!
//! Reading is total: any bytes give entries or a fault, and what is allocated follows the bytes that are there, never a
//! length that they claim. A snapshot is taken whole or not at all. The format in words is in
//! `docs/patterns/degraded-reads.md`.

use bytes::Bytes;

const MAGIC: [u8; 8] = *b"RTcached";
/// The format that is written, and the only one that is read.
pub(crate) const VERSION: u16 = 1;
/// Magic, version, reserved, origin, time, entries, bytes of the records, checksum.
pub(super) const HEADER_BYTES: usize = 8 + 2 + 2 + 4 + 8 + 4 + 8 + CHECKSUM_BYTES;
/// Length, time, length of the key, number of tags, flags.
const FIXED_BYTES: usize = 4 + 8 + 4 + 2 + 2;
const CHECKSUM_BYTES: usize = 4;
const RECORD_BYTES_MIN: usize = FIXED_BYTES + CHECKSUM_BYTES;
/// Of one entry; more are never written, and are a fault where they are read.
const TAGS_LIMIT: usize = 64;
/// There is no such thing: no answer follows.
const NOTHING: u16 = 1;
const OF_EVERYTHING: u16 = 2;

/// One kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The key as it was, its principal included.
    pub(crate) key: Bytes,
    /// The encoded answer; `None` where the answer was that there is no such thing.
    pub(crate) value: Option<Bytes>,
    /// When its question was sent, in microseconds since 1970.
    pub(crate) as_of: i64,
    /// What it is made of.
    pub(crate) tags: Vec<Box<str>>,
    /// It is made of so much that any change concerns it.
    pub(crate) of_everything: bool,
}

/// How much a snapshot may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of the whole file.
    pub(crate) bytes: u64,
    pub(crate) entries: usize,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// When it was written, in microseconds since 1970.
    pub(crate) written: i64,
    /// In the order in which they were written.
    pub(crate) entries: Vec<Saved>,
}

/// Why bytes are not a snapshot to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it does not begin as a cache snapshot does")]
    Magic,
    #[error("it has format version {0}, and this program reads version {VERSION} only")]
    Version(u16),
    #[error("it belongs to another database or role")]
    Origin,
    #[error("it is larger than the bound")]
    TooLarge,
    #[error("it has another length than it says")]
    Length,
    #[error("a checksum does not match")]
    Checksum,
    #[error("its checksums match, but its fields are not those of format version {VERSION}")]
    Fields,
}

/// A snapshot of `entries`, as many of them from the first on as the limits allow.
pub(crate) fn encode(
    entries: impl IntoIterator<Item = Saved>,
    origin: u32,
    written: i64,
    limits: Limits,
) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    let mut count = 0_u32;
    for entry in entries.into_iter().filter(|entry| entry.tags.len() <= TAGS_LIMIT).take(limits.entries) {
        let before = out.len();
        let is_whole = put(&mut out, &entry, origin).is_some();
        if !is_whole || out.len() as u64 > limits.bytes {
            out.truncate(before);
            continue;
        }
        count = count.saturating_add(1);
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0, 0]);
    header.extend_from_slice(&origin.to_le_bytes());
    header.extend_from_slice(&written.to_le_bytes());
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&((out.len() - HEADER_BYTES) as u64).to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    if let Some(place) = out.get_mut(..HEADER_BYTES) {
        place.copy_from_slice(&header);
    }
    out
}

/// `None` where a part is longer than the format can say.
fn put(out: &mut Vec<u8>, entry: &Saved, origin: u32) -> Option<()> {
    let start = out.len();
    let tags: usize = entry.tags.iter().map(|tag| 2 + tag.len()).sum();
    let value = entry.value.as_deref().unwrap_or_default();
    let length = RECORD_BYTES_MIN + tags + entry.key.len() + value.len();
    let nothing = if entry.value.is_none() { NOTHING } else { 0 };
    let flags = nothing | if entry.of_everything { OF_EVERYTHING } else { 0 };
    out.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    out.extend_from_slice(&entry.as_of.to_le_bytes());
    out.extend_from_slice(&u32::try_from(entry.key.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&u16::try_from(entry.tags.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    for tag in &entry.tags {
        out.extend_from_slice(&u16::try_from(tag.len()).ok()?.to_le_bytes());
        out.extend_from_slice(tag.as_bytes());
    }
    out.extend_from_slice(&entry.key);
    out.extend_from_slice(value);
    let sum = checksum(origin, out.get(start..)?);
    out.extend_from_slice(&sum.to_le_bytes());
    Some(())
}

/// What the bytes of a whole file hold.
///
/// # Errors
/// [`Fault`]: none of it is to be trusted then.
pub(crate) fn decode(bytes: &[u8], origin: u32, limits: Limits) -> Result<Snapshot, Fault> {
    if bytes.len() as u64 > limits.bytes {
        return Err(Fault::TooLarge);
    }
    let (header, mut rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Fault::Magic)?;
    let (covered, sum) = header.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Fault::Magic)?;
    let mut fields = Fields(covered);
    if *fields.array::<8>().ok_or(Fault::Magic)? != MAGIC {
        return Err(Fault::Magic);
    }
    let version = u16::from_le_bytes(*fields.array().ok_or(Fault::Fields)?);
    if version != VERSION {
        return Err(Fault::Version(version));
    }
    if crc32c::crc32c(covered) != u32::from_le_bytes(*sum) {
        return Err(Fault::Checksum);
    }
    let _reserved: &[u8; 2] = fields.array().ok_or(Fault::Fields)?;
    let belongs_to = u32::from_le_bytes(*fields.array().ok_or(Fault::Fields)?);
    let written = i64::from_le_bytes(*fields.array().ok_or(Fault::Fields)?);
    let count = u32::from_le_bytes(*fields.array().ok_or(Fault::Fields)?);
    let length = u64::from_le_bytes(*fields.array().ok_or(Fault::Fields)?);
    if belongs_to != origin {
        return Err(Fault::Origin);
    }
    if length != rest.len() as u64 {
        return Err(Fault::Length);
    }
    let mut entries = Vec::with_capacity((count as usize).min(rest.len() / RECORD_BYTES_MIN));
    while !rest.is_empty() {
        let (entry, further) = take(rest, origin)?;
        entries.push(entry);
        rest = further;
    }
    if entries.len() != count as usize {
        return Err(Fault::Length);
    }
    entries.truncate(limits.entries);
    Ok(Snapshot { written, entries })
}

/// The record that begins with the first byte, and what follows it.
fn take(bytes: &[u8], origin: u32) -> Result<(Saved, &[u8]), Fault> {
    let length = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length)).ok_or(Fault::Length)?;
    let length = usize::try_from(length).map_err(|_| Fault::Length)?;
    let (record, rest) = bytes.split_at_checked(length).ok_or(Fault::Length)?;
    let (covered, sum) = record.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Fault::Length)?;
    if checksum(origin, covered) != u32::from_le_bytes(*sum) {
        return Err(Fault::Checksum);
    }
    let entry = saved(covered).ok_or(Fault::Fields)?;
    Ok((entry, rest))
}

fn saved(covered: &[u8]) -> Option<Saved> {
    let mut fields = Fields(covered);
    let _length: &[u8; 4] = fields.array()?;
    let as_of = i64::from_le_bytes(*fields.array()?);
    let key_length = usize::try_from(u32::from_le_bytes(*fields.array()?)).ok()?;
    let tag_count = usize::from(u16::from_le_bytes(*fields.array()?));
    let flags = u16::from_le_bytes(*fields.array()?);
    if tag_count > TAGS_LIMIT || flags & !(NOTHING | OF_EVERYTHING) != 0 {
        return None;
    }
    let mut tags = Vec::with_capacity(tag_count);
    for _ in 0..tag_count {
        let length = usize::from(u16::from_le_bytes(*fields.array()?));
        tags.push(std::str::from_utf8(fields.slice(length)?).ok()?.into());
    }
    let key = Bytes::copy_from_slice(fields.slice(key_length)?);
    let value = match (flags & NOTHING, fields.0) {
        // A copy of its own: a piece of the file would keep all of it in memory.
        (0, value) => Some(Bytes::copy_from_slice(value)),
        (_, []) => None,
        _ => return None,
    };
    Some(Saved { key, value, as_of, tags, of_everything: flags & OF_EVERYTHING != 0 })
}

pub(super) fn checksum(origin: u32, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&origin.to_le_bytes()), covered)
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
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

#[cfg(test)]
mod tests;
