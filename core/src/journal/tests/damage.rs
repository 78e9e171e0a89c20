//! Bytes that are not what was written: a torn tail is cut, everything else is refused with file and offset, and
//! never taken for other content.

use std::sync::Arc;

use super::inspect::surveyed;
use super::{entry, one, open, pending, settle_through, together};
use crate::journal::disk::memory::{MemoryDisk, Survival};
use crate::journal::{CursorState, Entry, Journal, JournalConfig, JournalError, SegmentState};

const SEGMENT: &str = "00000000000000000001.segment";

fn filled() -> (MemoryDisk, Vec<Entry>) {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    for key in ["a", "b", "c"] {
        one(&journal, &mut writer, key).unwrap();
    }
    let entries = pending(&journal);
    (disk, entries)
}

fn with_segment(bytes: Vec<u8>) -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.put(SEGMENT, bytes);
    disk
}

/// Opens, after looking: whatever is thrown at these tests, the survey must foretell what the start does.
fn try_open(disk: &MemoryDisk) -> Result<Vec<Entry>, JournalError> {
    let survey = surveyed(disk);
    let config = JournalConfig::new("/srv/data/journal");
    let opened = Journal::open_on(config, Arc::new(disk.clone())).map(|(journal, _writer, recovery)| {
        assert_eq!(survey.pending, journal.backlog());
        assert_eq!(matches!(survey.cursor, CursorState::Lost { .. }), recovery.cursor_lost);
        let torn = survey.segments.iter().map(|segment| match segment.state {
            SegmentState::Torn { bytes, .. } => bytes,
            _ => 0,
        });
        assert_eq!(torn.sum::<u64>(), recovery.torn_bytes);
        pending(&journal)
    });
    assert_eq!(survey.is_sound(), opened.is_ok(), "{survey:?}");
    if let Err(JournalError::Damaged { file, offset, what, .. }) = &opened {
        let damaged = survey.segments.iter().find_map(|segment| match &segment.state {
            SegmentState::Damaged { offset, what } => Some((segment.name.clone(), *offset, what.clone())),
            _ => None,
        });
        match (damaged, &survey.cursor) {
            (Some((name, at, why)), _) => {
                assert_eq!(
                    (name.as_str(), at, &why),
                    (file.file_name().unwrap().to_str().unwrap(), *offset, what)
                );
            }
            (None, CursorState::Contradicts { what: why, .. }) => assert_eq!(why, what),
            (None, other) => panic!("the survey sees no damage: {other:?}"),
        }
    }
    opened
}

fn refusal(disk: &MemoryDisk) -> String {
    let before = disk.everything();
    let steps = disk.steps();
    let refused = try_open(disk).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { .. }), "{refused}");
    assert_eq!(disk.everything(), before, "a refusal touches nothing");
    assert_eq!(disk.steps(), steps, "a refusal touches nothing");
    refused.to_string()
}

/// Offset of the last record: all three have the same length.
fn last_record(bytes: &[u8]) -> usize {
    let header = crate::journal::segment::HEADER_BYTES;
    header + (bytes.len() - header) / 3 * 2
}

#[test]
fn a_last_record_cut_at_any_byte_leaves_exactly_those_before_it() {
    let (disk, entries) = filled();
    let bytes = disk.bytes(SEGMENT);
    let last = last_record(&bytes);
    for length in last..bytes.len() {
        for padding in [0, 1, 4096] {
            let mut torn = bytes[..length].to_vec();
            torn.resize(length + padding, 0);
            let disk = with_segment(torn);
            let (journal, mut writer, recovery) = open(&disk);
            assert_eq!(pending(&journal), entries[..2], "cut at {length}");
            assert!(recovery.torn_bytes <= (length - last) as u64);
            assert_eq!(one(&journal, &mut writer, "next"), Ok(3));
            let (journal, _writer, _) = open(&disk.after_crash(Survival::Nothing));
            assert_eq!(pending(&journal).len(), 3);
        }
    }
}

#[test]
fn a_bit_turned_over_anywhere_is_refused_or_cuts_the_last_record() {
    let (disk, entries) = filled();
    let bytes = disk.bytes(SEGMENT);
    let last = last_record(&bytes);
    for offset in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut bad = bytes.clone();
            bad[offset] ^= bit;
            let disk = with_segment(bad);
            if offset >= last {
                assert_eq!(try_open(&disk).unwrap(), entries[..2], "offset {offset}");
            } else {
                let text = refusal(&disk);
                assert!(text.contains(SEGMENT), "{text}");
                assert!(text.contains("ridethrough-server journal inspect --data-dir /srv/data"), "{text}");
            }
        }
    }
}

#[test]
fn a_torn_batch_may_lack_blocks_in_the_middle() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    one(&journal, &mut writer, "alone").unwrap();
    let start = disk.bytes(SEGMENT).len();
    together(&journal, &mut writer, &[entry("x", "1"), entry("y", "2"), entry("z", "3")]);
    let bytes = disk.bytes(SEGMENT);
    let record = (bytes.len() - start) / 3;
    for missing in 0..3 {
        let mut torn = bytes.clone();
        torn[start + missing * record..start + (missing + 1) * record].fill(0);
        let kept = try_open(&with_segment(torn)).unwrap();
        assert_eq!(kept.len(), 1 + missing, "those before the gap, and none after it");
    }
    one(&journal, &mut writer, "later batch").unwrap();
    let mut damaged = disk.bytes(SEGMENT);
    damaged[start + record..start + 2 * record].fill(0);
    let text = refusal(&with_segment(damaged));
    assert!(text.contains(&format!("at byte {}", start + record)), "{text}");
    assert!(text.contains("record 5"), "{text}");
}

#[test]
fn a_payload_that_holds_a_journal_does_not_look_like_records() {
    let (other, _) = filled();
    let inner = other.bytes(SEGMENT);
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    one(&journal, &mut writer, "first").unwrap();
    let start = disk.bytes(SEGMENT).len();
    let mut hostile = entry("hostile", "");
    hostile.payload = inner.into();
    together(&journal, &mut writer, &[hostile]);
    let mut torn = disk.bytes(SEGMENT);
    torn[start] = 0;
    assert_eq!(try_open(&with_segment(torn)).unwrap().len(), 1);
}

#[test]
fn a_missing_or_foreign_segment_is_refused() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    let large = "x".repeat(3000);
    for key in ["a", "b", "c"] {
        together(&journal, &mut writer, &[entry(key, &large)]);
    }
    drop((journal, writer));
    let gap = disk.after_crash(Survival::Nothing);
    gap.lose("00000000000000000002.segment");
    assert!(refusal(&gap).contains("records 2 to 2 are missing"));

    let torn_inside = disk.after_crash(Survival::Nothing);
    let bytes = torn_inside.bytes("00000000000000000002.segment");
    torn_inside.put("00000000000000000002.segment", bytes[..bytes.len() - 1].to_vec());
    assert!(refusal(&torn_inside).contains("a newer segment exists"));

    let foreign = disk.after_crash(Survival::Nothing);
    foreign.put(SEGMENT, filled().0.bytes(SEGMENT));
    assert!(refusal(&foreign).contains("another journal"));

    let renamed = disk.after_crash(Survival::Nothing);
    renamed.put("00000000000000000009.segment", renamed.bytes(SEGMENT));
    assert!(refusal(&renamed).contains("header says record 1"));

    let padded = disk.after_crash(Survival::Nothing);
    let mut bytes = padded.bytes("00000000000000000002.segment");
    bytes.resize(bytes.len() + 5000, 0);
    padded.put("00000000000000000002.segment", bytes);
    assert_eq!(try_open(&padded).unwrap().len(), 3, "zeros after the last record are padding");
}

#[test]
fn an_acknowledged_record_that_is_missing_proves_a_loss() {
    let (disk, _) = filled();
    let (journal, mut writer, _) = open(&disk);
    settle_through(&journal, 3);
    writer.housekeep();
    drop((journal, writer));
    let cut = disk.after_crash(Survival::Nothing);
    let bytes = cut.bytes(SEGMENT);
    cut.put(SEGMENT, bytes[..bytes.len() - 1].to_vec());
    assert!(refusal(&cut).contains("records up to 3 were durable"));
    let emptied = disk.after_crash(Survival::Nothing);
    emptied.lose(SEGMENT);
    assert!(refusal(&emptied).contains("cursor"));
}

#[test]
fn another_format_version_is_refused_by_its_number() {
    let (disk, _) = filled();
    let mut bytes = disk.bytes(SEGMENT);
    bytes[8] = 2;
    assert!(refusal(&with_segment(bytes)).contains("format version 2"));
}

/// A last record with flags of a later program was taken for a torn append and cut, although its checksum matched.
#[test]
fn a_sound_record_of_a_newer_program_is_refused_and_not_cut() {
    let (disk, _) = filled();
    let mut bytes = disk.bytes(SEGMENT);
    let header = crate::journal::segment::Header::decode(&bytes).unwrap();
    let (last, end) = (last_record(&bytes), bytes.len() - 4);
    bytes[last + 66] = 2;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header.salt.to_le_bytes()), &bytes[last..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    assert!(refusal(&with_segment(bytes)).contains("fields are not those of format version 1"));
}

#[test]
fn a_file_without_a_whole_header_is_refused() {
    let (disk, _) = filled();
    let bytes = disk.bytes(SEGMENT);
    for length in [0, 1, 20, 51] {
        refusal(&with_segment(bytes[..length].to_vec()));
    }
}

#[test]
fn unfinished_files_are_removed() {
    let (disk, entries) = filled();
    disk.put("00000000000000000004.segment.unfinished", b"half".to_vec());
    disk.put("cursor.unfinished", Vec::new());
    assert_eq!(try_open(&disk).unwrap(), entries);
    assert!(!disk.everything().keys().any(|name| name.contains("unfinished")));
}

#[test]
fn a_record_that_rots_under_an_open_journal_is_not_handed_out() {
    let disk = MemoryDisk::default();
    let (journal, mut writer, _) = open(&disk);
    one(&journal, &mut writer, "a").unwrap();
    disk.flip(SEGMENT, disk.bytes(SEGMENT).len() - 6);
    let refused = journal.next().unwrap_err().to_string();
    assert!(refused.contains("checksum"), "{refused}");
}
