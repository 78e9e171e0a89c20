//! Record and scan against random and hostile bytes: round trips, no panic, no allocation or time beyond the input.

use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::journal::NewEntry;
use crate::journal::record::{self, FrameFault, Seed, Stamp};
use crate::journal::scan::{Tail, scan};
use crate::journal::segment::{HEADER_BYTES, Header};

fn entries() -> impl Strategy<Value = NewEntry> {
    let texts = ("[a-z0-9é-]{1,60}", "[a-z.]{0,64}");
    let rest = (any::<[u8; 32]>(), any::<i32>(), vec(any::<u8>(), 0..300));
    let replay = (any::<u16>(), "[a-zé-]{0,100}", any::<bool>());
    (texts, rest, replay).prop_map(
        |((key, kind), (fingerprint, seconds, payload), (version, ordering_key, retried))| {
            let distance = Duration::from_secs(seconds.unsigned_abs().into());
            let epoch = SystemTime::UNIX_EPOCH;
            let accepted_at = if seconds < 0 { epoch - distance } else { epoch + distance };
            let payload = payload.into();
            NewEntry { key, kind, fingerprint, accepted_at, payload, version, ordering_key, retried }
        },
    )
}

/// A segment's bytes: the header's place left empty, then batches of the given sizes.
fn segment(salt: u32, entries: &[NewEntry], batch: usize) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = vec![0; HEADER_BYTES];
    let mut ends = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let batch_first = (position / batch * batch) as u64 + 1;
        record::encode(
            &mut bytes,
            Stamp { seed: Seed::of(salt), sequence: position as u64 + 1, batch_first },
            entry,
        );
        ends.push(bytes.len());
    }
    (bytes, ends)
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_went(entry in entries(), salt: u32, sequence in 1..u64::MAX, noise in vec(any::<u8>(), 0..50)) {
        let mut bytes = Vec::new();
        record::encode(&mut bytes, Stamp { seed: Seed::of(salt), sequence, batch_first: sequence }, &entry);
        let length = bytes.len();
        prop_assert_eq!(length, record::frame_bytes(&entry));
        bytes.extend(&noise);
        let frame = record::decode(&bytes, Seed::of(salt)).unwrap();
        prop_assert_eq!(frame.length, length);
        prop_assert_eq!((frame.sequence, frame.key, frame.kind), (sequence, entry.key.as_str(), entry.kind.as_str()));
        prop_assert_eq!((frame.version, frame.ordering_key), (entry.version, entry.ordering_key.as_str()));
        prop_assert_eq!(frame.retried, entry.retried);
        prop_assert_eq!(frame.fingerprint, entry.fingerprint);
        prop_assert_eq!(record::time(frame.accepted_micros), entry.accepted_at);
        prop_assert_eq!(frame.payload, &entry.payload[..]);
        prop_assert!(record::decode(&bytes, Seed::of(salt ^ 1)).is_err(), "another segment's salt");
    }

    #[test]
    fn random_bytes_are_no_records(bytes in vec(any::<u8>(), 0..400), salt: u32) {
        let _ = Header::decode(&bytes);
        prop_assert!(record::decode(&bytes, Seed::of(salt)).is_err());
        let mut magic = record::RECORD_MAGIC.to_vec();
        magic.extend(bytes);
        prop_assert!(record::decode(&magic, Seed::of(salt)).is_err());
    }

    #[test]
    fn a_changed_segment_gives_a_prefix_or_nothing(
        entries in vec(entries(), 1..8), batch in 1..4_usize, salt: u32,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(),
    ) {
        let (bytes, ends) = segment(salt, &entries, batch);
        let mut bad = bytes.clone();
        for (place, value) in &changes {
            bad[HEADER_BYTES + place.index(bytes.len() - HEADER_BYTES)] = *value;
        }
        bad.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES + 1));
        let mut keys = Vec::new();
        let _ = scan(&bad, Seed::of(salt), 1, |_, frame| keys.push(frame.key.to_owned()));
        prop_assert!(keys.len() <= ends.len());
        for (key, entry) in keys.iter().zip(&entries) {
            prop_assert_eq!(key, &entry.key);
        }
    }

    #[test]
    fn a_cut_segment_gives_all_whole_records(entries in vec(entries(), 1..8), batch in 1..4_usize, cut in any::<prop::sample::Index>()) {
        let (mut bytes, ends) = segment(7, &entries, batch);
        bytes.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES + 1));
        let whole = ends.iter().filter(|end| **end <= bytes.len()).count();
        let mut seen = 0;
        let found = scan(&bytes, Seed::of(7), 1, |_, _| seen += 1).unwrap();
        prop_assert_eq!(seen, whole);
        prop_assert_eq!(found.next, whole as u64 + 1);
        prop_assert_eq!(matches!(found.tail, Tail::Clean), found.end == bytes.len() as u64);
    }
}

/// Every four bytes could begin a record as long as the file: looking at all of them would take minutes.
#[test]
fn hostile_lengths_end_the_search_early() {
    let mut bytes = vec![0; HEADER_BYTES];
    while bytes.len() < 4 << 20 {
        bytes.extend(record::RECORD_MAGIC);
        bytes.extend(100_000_u32.to_le_bytes());
    }
    let refused = scan(&bytes, Seed::of(0), 1, |_, _| {}).unwrap_err();
    assert_eq!(refused.offset, HEADER_BYTES as u64);
    assert!(refused.what.contains("too confused"), "{}", refused.what);
}

#[test]
fn a_sound_record_in_the_wrong_place_is_damage() {
    let entry = super::entry("k", "x");
    for wrong in [1, 3] {
        let mut bytes = vec![0; HEADER_BYTES];
        record::encode(&mut bytes, Stamp { seed: Seed::of(0), sequence: 1, batch_first: 1 }, &entry);
        let place = bytes.len() as u64;
        record::encode(&mut bytes, Stamp { seed: Seed::of(0), sequence: wrong, batch_first: wrong }, &entry);
        let refused = scan(&bytes, Seed::of(0), 1, |_, _| {}).unwrap_err();
        assert_eq!(
            (refused.offset, refused.what),
            (place, format!("record {wrong} stands where record 2 belongs"))
        );
    }
}

#[test]
fn a_length_beyond_any_record_is_not_read() {
    let mut bytes = record::RECORD_MAGIC.to_vec();
    bytes.extend(u32::MAX.to_le_bytes());
    assert_eq!(record::decode(&bytes, Seed::of(0)), Err(FrameFault::Length));
}

#[test]
fn names_that_are_text_only_together_are_no_record() {
    let entry = NewEntry {
        key: "key".to_owned(),
        kind: "kindé".to_owned(),
        fingerprint: [0; 32],
        accepted_at: SystemTime::UNIX_EPOCH,
        payload: Default::default(),
        version: 1,
        ordering_key: "orderé".to_owned(),
        retried: false,
    };
    for (what, kind_bytes, key_bytes) in [("kind", 5, 4), ("key", 6, 4 + "orderé".len() - 2)] {
        let mut bytes = Vec::new();
        record::encode(&mut bytes, Stamp { seed: Seed::of(0), sequence: 1, batch_first: 1 }, &entry);
        let names_bytes = "kindékeyorderé".len();
        bytes[64..66].copy_from_slice(&[kind_bytes, u8::try_from(key_bytes).unwrap()]);
        bytes[70] = u8::try_from(names_bytes - usize::from(kind_bytes) - key_bytes).unwrap();
        let end = bytes.len() - 4;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&[0; 4]), &bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(
            record::decode(&bytes, Seed::of(0)),
            Err(FrameFault::Fields),
            "{what} ends within a letter"
        );
    }
}
