//! What a record of the file `aside` holds in place of a plain payload, both ways. It knows no files and does no I/O;
//! `docs/journal-format.md` is the same in words.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::journal::record::{self, Frame};
use crate::journal::scan::{self, Damage, Scan};
use crate::journal::segment::Header;
use crate::journal::{Aside, Entry, NewEntry};

/// The longest code of a reason, in bytes.
pub(crate) const REASON_BYTES_LIMIT: usize = 255;

const REJECTED: u8 = 1;
const HELD: u8 = 2;
const GONE: u8 = 3;
/// The key of a record that has none of its own.
const NO_KEY: &str = "-";

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AsideRecord<'a> {
    /// The entry of this sequence is kept here.
    Kept { sequence: u64, since_micros: i64, why: Aside, payload: &'a [u8] },
    /// The entries of these sequences are kept no more.
    Gone(Vec<u64>),
}

/// Reads a record's payload; `None` where it is not one of this format version.
pub(crate) fn parse(payload: &[u8]) -> Option<AsideRecord<'_>> {
    let ([what, reason_bytes], rest) = payload.split_first_chunk::<2>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (since, rest) = rest.split_first_chunk::<8>()?;
    let (reason, payload) = rest.split_at_checked(usize::from(*reason_bytes))?;
    let reason = std::str::from_utf8(reason).ok()?.to_owned();
    let why = match *what {
        REJECTED => Aside::Rejected { reason },
        HELD => Aside::Held { reason },
        GONE => return gone(payload).map(AsideRecord::Gone),
        _ => return None,
    };
    let (sequence, since_micros) = (u64::from_le_bytes(*sequence), i64::from_le_bytes(*since));
    Some(AsideRecord::Kept { sequence, since_micros, why, payload })
}

fn gone(bytes: &[u8]) -> Option<Vec<u64>> {
    let (sequences, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| sequences.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}

/// The record that keeps an entry.
pub(crate) fn keep(entry: &Entry, why: &Aside, since_micros: i64) -> NewEntry {
    let (what, reason) = match why {
        Aside::Rejected { reason } => (REJECTED, reason),
        Aside::Held { reason } => (HELD, reason),
    };
    let reason = reason.get(..reason.floor_char_boundary(REASON_BYTES_LIMIT)).unwrap_or_default();
    let payload = wrapped(what, entry.sequence, since_micros, reason, &entry.payload);
    NewEntry {
        key: entry.key.clone(),
        kind: entry.kind.clone(),
        fingerprint: entry.fingerprint,
        accepted_at: entry.accepted_at,
        payload,
        version: entry.version,
        ordering_key: entry.ordering_key.clone(),
        retried: entry.retried,
    }
}

/// The record that lets entries go.
pub(crate) fn forget(sequences: &[u64], at_micros: i64) -> NewEntry {
    let list: Vec<u8> = sequences.iter().flat_map(|sequence| sequence.to_le_bytes()).collect();
    NewEntry {
        key: NO_KEY.to_owned(),
        kind: String::new(),
        fingerprint: [0; 32],
        accepted_at: record::time(at_micros),
        payload: wrapped(GONE, 0, at_micros, "", &list),
        version: 0,
        ordering_key: String::new(),
        retried: false,
    }
}

fn wrapped(what: u8, sequence: u64, since_micros: i64, reason: &str, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(18 + reason.len() + rest.len());
    out.put_u8(what);
    out.put_u8(u8::try_from(reason.len()).expect("reasons are cut to 255 bytes"));
    out.put_u64_le(sequence);
    out.put_i64_le(since_micros);
    out.put_slice(reason.as_bytes());
    out.put_slice(rest);
    out.freeze()
}

/// Walks the records of a whole file `aside`, and hands each one to `each`.
///
/// # Errors
/// [`Damage`], as for a segment, and where a sound record is none of these.
pub(crate) fn walk<'a>(
    bytes: &'a [u8],
    header: &Header,
    mut each: impl FnMut(u64, Frame<'a>, AsideRecord<'a>),
) -> Result<Scan, Damage> {
    let mut unknown = None;
    let scan = scan::scan(bytes, header.seed(), header.first, |offset, frame| match parse(frame.payload) {
        Some(what) => each(offset, frame, what),
        None => drop(unknown.get_or_insert(offset)),
    })?;
    match unknown {
        None => Ok(scan),
        Some(offset) => {
            let what = "the record's checksum matches but its content is not that of format version 1";
            Err(Damage { offset, what: what.to_owned() })
        }
    }
}
