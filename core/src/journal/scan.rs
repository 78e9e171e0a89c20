//! Walks the records of one segment's bytes and judges the end: clean, padded, torn, or damaged. Pure: no files,
//! and it allocates nothing that depends on what the bytes claim.

use crate::journal::record::{self, Frame, FrameFault, RECORD_MAGIC, Seed};
use crate::journal::segment::HEADER_BYTES;

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Offset just past the last good record.
    pub(crate) end: u64,
    /// The sequence that the next record has.
    pub(crate) next: u64,
    /// Where the last batch of records begins; equal to `end` where there is no record.
    pub(crate) last_batch: u64,
    /// What lies after the last good record.
    pub(crate) tail: Tail,
}

/// What lies after the last good record of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing.
    Clean,
    /// Only zeros.
    Padding,
    /// An append that was never acknowledged; this many bytes of it, not counting zeros at the end.
    Torn { bytes: u64, why: FrameFault },
}

/// Bytes that no crash can explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    pub(crate) what: String,
}

/// Walks the records of a whole segment file (header included, already read), and hands each one to `each`.
///
/// # Errors
/// [`Damage`] where bytes that were synced once are not what was written: a good record of a later batch follows the
/// bad place, or a good record has the wrong sequence.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    seed: Seed,
    first: u64,
    mut each: impl FnMut(u64, Frame<'a>),
) -> Result<Scan, Damage> {
    let mut offset = HEADER_BYTES;
    let mut next = first;
    // No batch begins with record 0, so the first record opens one.
    let mut batch = (0, offset);
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        let found = |last_batch, tail| Scan { end: offset as u64, next, last_batch, tail };
        if rest.is_empty() {
            return Ok(found(batch.1 as u64, Tail::Clean));
        }
        let frame = match record::decode(rest, seed) {
            Ok(frame) => frame,
            Err(why) => return tail(rest, seed, next, why, offset).map(|tail| found(batch.1 as u64, tail)),
        };
        if frame.sequence != next {
            let what = format!("record {} stands where record {next} belongs", frame.sequence);
            return Err(Damage { offset: offset as u64, what });
        }
        if frame.batch_first != batch.0 {
            batch = (frame.batch_first, offset);
        }
        each(offset as u64, frame);
        offset += frame.length;
        next += 1;
    }
}

/// Judges the bytes from the first place on that is not a good record.
fn tail(rest: &[u8], seed: Seed, broken: u64, why: FrameFault, offset: usize) -> Result<Tail, Damage> {
    let Some(last) = last_nonzero(rest) else { return Ok(Tail::Padding) };
    if why == FrameFault::Fields {
        // No torn append has a checksum that matches: somebody wrote this, and a newer program may know what it is.
        return Err(Damage { offset: offset as u64, what: why.to_string() });
    }
    match later_batch(rest, seed, broken) {
        Search::Nothing => Ok(Tail::Torn { bytes: last as u64 + 1, why }),
        Search::Record(sequence) => {
            let what =
                format!("{why}, but record {sequence}, written after record {broken} was synced, follows");
            Err(Damage { offset: offset as u64, what })
        }
        Search::TooCostly => {
            let what = format!("{why}, and what follows is too confused to rule out later records");
            Err(Damage { offset: offset as u64, what })
        }
    }
}

/// The place of the last byte that is not zero. Room that is reserved is mebibytes of zeros, so many are looked at together.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<ZERO_BLOCK_BYTES>();
    let within = |block: &[u8]| block.iter().rposition(|byte| *byte != 0);
    if let Some(last) = within(rest) {
        return Some(bytes.len() - rest.len() + last);
    }
    let place = blocks.iter().rposition(|block| block.iter().fold(0, |all, byte| all | byte) != 0)?;
    Some(place * ZERO_BLOCK_BYTES + within(blocks.get(place)?)?)
}

/// Bytes of zeros that are looked at together.
const ZERO_BLOCK_BYTES: usize = 256;

enum Search {
    Nothing,
    Record(u64),
    TooCostly,
}

/// Each byte may be covered by this many checksums on average before the search gives up: real torn tails need less
/// than two, and hostile bytes could otherwise make the search quadratic.
const CHECKSUM_PASSES_MAX: usize = 8;

/// Looks for a record whose batch began after the broken record: its writer had seen the sync of the broken one return,
/// so the broken one was durable. Later records of the broken one's own batch prove nothing, since a disk may keep the
/// blocks of one unsynced write in any order.
fn later_batch(rest: &[u8], seed: Seed, broken: u64) -> Search {
    let mut allowance = rest.len().saturating_mul(CHECKSUM_PASSES_MAX);
    let mut from = 1;
    while let Some(candidate) = rest.get(from..) {
        let Some(distance) = candidate.windows(RECORD_MAGIC.len()).position(|four| four == RECORD_MAGIC)
        else {
            break;
        };
        let candidate = candidate.get(distance..).unwrap_or_default();
        let cost = record::frame_length(candidate).unwrap_or(0);
        if cost > allowance {
            return Search::TooCostly;
        }
        allowance -= cost.min(candidate.len());
        match record::decode(candidate, seed) {
            Ok(frame) if frame.batch_first > broken => return Search::Record(frame.sequence),
            Ok(frame) => from += distance + frame.length,
            Err(_) => from += distance + 1,
        }
    }
    Search::Nothing
}
