//! What fuzzers call: bytes in, a panic where a promise about bytes is broken. `fuzz/` runs it with libFuzzer, and a test
//! with changes of its own to sound images. It finds no new bytes itself.

use std::sync::Arc;

use bytes::Bytes;

use crate::journal::aside::record::{self as aside_record, AsideRecord};
use crate::journal::cursor::{CURSOR_NAME, Cursor};
use crate::journal::disk::Disk;
use crate::journal::disk::scratch::ScratchDisk;
use crate::journal::record::{self, Seed, Stamp};
use crate::journal::scan::scan;
use crate::journal::segment::{self, FileKind, HEADER_BYTES, Header};
use crate::journal::{Aside, Entry, Journal, JournalConfig, NewEntry};

/// The cursor's share of what [`folder`] gets.
const CURSOR_BYTES: usize = 40;
/// Where a segment's header keeps the salt.
const SALT_AT: std::ops::Range<usize> = 12..16;

/// Reads a segment file. Whatever is taken for a record must be what `record::encode` writes, in its place.
///
/// # Panics
/// Where it is not.
pub fn segment(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else { return };
    assert_eq!(Header::decode(&header.encode()), Ok(header), "a header comes back as it went");
    let (mut end, mut next) = (HEADER_BYTES as u64, header.first);
    let walked = scan(bytes, header.seed(), header.first, |offset, frame| {
        assert_eq!((offset, frame.sequence), (end, next), "records follow each other");
        let stamp = Stamp { seed: header.seed(), sequence: frame.sequence, batch_first: frame.batch_first };
        let entry = NewEntry {
            key: frame.key.to_owned(),
            kind: frame.kind.to_owned(),
            fingerprint: frame.fingerprint,
            accepted_at: record::time(frame.accepted_micros),
            payload: Bytes::copy_from_slice(frame.payload),
            version: frame.version,
            ordering_key: frame.ordering_key.to_owned(),
            retried: frame.retried,
        };
        let mut again = Vec::new();
        record::encode(&mut again, stamp, &entry);
        let there = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..frame.length));
        assert_eq!(there, Some(again.as_slice()), "a record means the bytes it is made of");
        end += frame.length as u64;
        next = next.saturating_add(1);
    });
    if let Ok(found) = walked {
        assert_eq!((found.end, found.next), (end, next));
    }
}

/// Reads a cursor's file.
///
/// # Panics
/// Where what was understood does not come back as it went.
pub fn cursor(bytes: &[u8]) {
    if let Ok(cursor) = Cursor::decode(bytes) {
        assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
    }
}

/// Reads the file of what is set aside. What is understood must come back as it went.
///
/// # Panics
/// Where it does not.
pub fn aside(bytes: &[u8]) {
    let Ok(header) = Header::decode_as(FileKind::Aside, bytes) else { return };
    let walked = aside_record::walk(bytes, &header, |_, frame, what| match what {
        AsideRecord::Gone(sequences) => {
            let again = aside_record::forget(&sequences, 0);
            assert_eq!(aside_record::parse(&again.payload), Some(AsideRecord::Gone(sequences)));
        }
        AsideRecord::Kept { sequence, since_micros, why, payload } => {
            let entry = Entry {
                sequence,
                key: frame.key.to_owned(),
                kind: frame.kind.to_owned(),
                fingerprint: frame.fingerprint,
                accepted_at: record::time(frame.accepted_micros),
                payload: Bytes::copy_from_slice(payload),
                version: frame.version,
                ordering_key: frame.ordering_key.to_owned(),
                retried: frame.retried,
            };
            let again = aside_record::keep(&entry, &why, since_micros);
            assert_eq!(again.payload, frame.payload, "what is kept means the bytes it is made of");
        }
    });
    drop(walked);
}

/// Opens a folder with a cursor (the first 40 bytes, left out where they are zeros) and one segment (the rest). It must be
/// refused, or opened with every entry readable, and then a second start must find the same.
///
/// # Panics
/// Where it is otherwise.
pub fn folder(bytes: &[u8]) {
    let Some((cursor, segment)) = bytes.split_at_checked(CURSOR_BYTES) else { return };
    let first = Header::decode(segment).map_or(1, |header| header.first);
    let disk = Arc::new(ScratchDisk::default());
    let put = |name: &str, bytes: &[u8]| {
        let written = disk.create(name).and_then(|file| file.write_all_at(bytes, 0));
        written.expect("memory takes what is written to it");
    };
    put(&segment::name(first), segment);
    if cursor.iter().any(|byte| *byte != 0) {
        put(CURSOR_NAME, cursor);
    }
    let open = || {
        let (journal, _writer, recovery) =
            Journal::open_on(JournalConfig::new("/nowhere"), Arc::clone(&disk) as Arc<dyn Disk>).ok()?;
        let pending = journal.batch(usize::MAX, u64::MAX, &|_| false);
        let pending = pending.expect("what was indexed can be read");
        assert_eq!(recovery.entries, pending.len() as u64, "what was counted is given");
        Some((pending, recovery.torn_bytes))
    };
    if let Some((pending, _)) = open() {
        assert_eq!(open(), Some((pending, 0)), "a second start finds the same, and nothing to repair");
    }
}

/// Makes the checksums of a changed segment file right again, as far as its lengths lead: without that nearly every change
/// ends at the checksum, and nothing behind it is tried.
pub fn reseal(bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(..HEADER_BYTES) else { return };
    if let Some((covered, sum)) = header.split_last_chunk_mut::<4>() {
        *sum = crc32c::crc32c(covered).to_le_bytes();
    }
    let salt = bytes.get(SALT_AT).map(crc32c::crc32c).unwrap_or_default();
    let mut offset = HEADER_BYTES;
    while let Some(rest) = bytes.get_mut(offset..)
        && let Ok(length) = record::frame_length(rest)
        && let Some((covered, sum)) =
            rest.get_mut(..length).and_then(|frame| frame.split_last_chunk_mut::<4>())
    {
        *sum = crc32c::crc32c_append(salt, covered).to_le_bytes();
        offset += length;
    }
}

/// A sound segment file for a fuzzer to begin with; `shape` makes different ones.
pub fn sound_segment(shape: u8) -> Vec<u8> {
    let (salt, first) = (u32::from(shape), u64::from(shape) + 1);
    let mut bytes =
        Header { kind: FileKind::Segment, salt, first, created_micros: 0, journal_id: [shape; 16] }.encode();
    for number in 0..u64::from(shape % 5) {
        let entry = NewEntry {
            key: format!("key-{number}"),
            kind: "todo.create".to_owned(),
            fingerprint: [shape; 32],
            accepted_at: record::time(1_795_000_000_000_000),
            payload: vec![shape; 40 * usize::from(shape)].into(),
            version: 1 + u16::from(shape) % 3,
            ordering_key: "todo".repeat(usize::from(shape % 3)),
            retried: shape % 2 == 1,
        };
        let batch_first = first + number / 2 * 2;
        record::encode(
            &mut bytes,
            Stamp { seed: Seed::of(salt), sequence: first + number, batch_first },
            &entry,
        );
    }
    bytes.resize(bytes.len() + 64 * usize::from(shape % 2), 0);
    bytes
}

/// A sound file of what is set aside, for the same journal.
pub fn sound_aside(shape: u8) -> Vec<u8> {
    let salt = u32::from(shape);
    let header = Header { kind: FileKind::Aside, salt, first: 1, created_micros: 0, journal_id: [shape; 16] };
    let mut bytes = header.encode();
    for number in 0..u64::from(shape % 5) {
        let reason = "rejected".repeat(usize::from(shape % 3));
        let why = if number == 1 { Aside::Held { reason } } else { Aside::Rejected { reason } };
        let entry = Entry {
            sequence: number + 3,
            key: format!("key-{number}"),
            kind: "todo.create".to_owned(),
            fingerprint: [shape; 32],
            accepted_at: record::time(1_795_000_000_000_000),
            payload: vec![shape; 20 * usize::from(shape)].into(),
            version: 1,
            ordering_key: "todo".to_owned(),
            retried: false,
        };
        let entry = match number {
            3 => aside_record::forget(&[3, 4], 0),
            _ => aside_record::keep(&entry, &why, 0),
        };
        record::encode(
            &mut bytes,
            Stamp { seed: Seed::of(salt), sequence: number + 1, batch_first: number + 1 },
            &entry,
        );
    }
    bytes
}

/// A sound cursor for the same journal.
pub fn sound_cursor(shape: u8) -> Vec<u8> {
    Cursor { journal_id: [shape; 16], through: u64::from(shape) + 1 }.encode()
}
