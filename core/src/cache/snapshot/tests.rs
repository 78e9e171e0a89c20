//! Tests of the snapshot's bytes: the round trip, every kind of damage, and bytes of all kinds. Changed ones with
//! good checksums come from `journal/tests/mutated.rs`.

use proptest::prelude::*;

use super::*;

const ORIGIN: u32 = 7;
const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 1_000 };

fn saved_as(key: &str, value: &str) -> Saved {
    let tags = vec!["todos".into(), format!("todo/{key}").into()];
    let value = Some(value.to_owned().into());
    Saved { key: key.to_owned().into(), value, as_of: -5, tags, of_everything: false }
}

fn three() -> Vec<Saved> {
    let nothing = Saved { tags: Vec::new(), value: None, of_everything: true, ..saved_as("", "") };
    vec![saved_as("a", "one"), saved_as("b", ""), nothing]
}

fn bytes_of(entries: Vec<Saved>) -> Vec<u8> {
    encode(entries, ORIGIN, 99, LIMITS)
}

#[test]
fn what_was_written_is_read_again() {
    let snapshot = decode(&bytes_of(three()), ORIGIN, LIMITS).unwrap();
    assert_eq!(snapshot, Snapshot { written: 99, entries: three() });
    assert_eq!(decode(&bytes_of(Vec::new()), ORIGIN, LIMITS).unwrap().entries, []);
}

#[test]
fn the_bounds_keep_the_first_entries() {
    let two = encode(three(), ORIGIN, 99, Limits { entries: 2, ..LIMITS });
    assert_eq!(decode(&two, ORIGIN, LIMITS).unwrap().entries, three()[..2]);
    let few = Limits { bytes: two.len() as u64, ..LIMITS };
    let small = encode(three(), ORIGIN, 99, few);
    assert!(small.len() <= two.len());
    assert_eq!(decode(&small, ORIGIN, LIMITS).unwrap().entries, three()[..2]);
    let read_few = decode(&bytes_of(three()), ORIGIN, Limits { entries: 1, ..LIMITS });
    assert_eq!(read_few.unwrap().entries, three()[..1]);
    assert_eq!(decode(&two, ORIGIN, Limits { bytes: 50, ..LIMITS }), Err(Fault::TooLarge));
}

/// One answer that is larger than the whole bound must not keep the others out.
#[test]
fn what_does_not_fit_is_left_out_and_the_rest_goes_on() {
    let large = saved_as("large", &"x".repeat(5_000));
    let bytes = encode([large, saved_as("a", "one")], ORIGIN, 99, Limits { bytes: 500, ..LIMITS });
    assert_eq!(decode(&bytes, ORIGIN, LIMITS).unwrap().entries, [saved_as("a", "one")]);
}

/// Two services, or one with two databases, that share a folder by mistake.
#[test]
fn a_snapshot_of_another_origin_is_refused() {
    assert_eq!(decode(&bytes_of(three()), ORIGIN + 1, LIMITS), Err(Fault::Origin));
}

#[test]
fn another_version_is_named_and_a_foreign_file_too() {
    let mut bytes = bytes_of(three());
    bytes[8] = 2;
    assert_eq!(decode(&bytes, ORIGIN, LIMITS), Err(Fault::Version(2)));
    bytes[0] = b'x';
    assert_eq!(decode(&bytes, ORIGIN, LIMITS), Err(Fault::Magic));
    assert_eq!(decode(b"", ORIGIN, LIMITS), Err(Fault::Magic));
}

#[test]
fn every_single_changed_bit_and_every_cut_is_found() {
    let good = bytes_of(three());
    for at in 0..good.len() {
        assert!(decode(&good[..at], ORIGIN, LIMITS).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert!(decode(&bytes, ORIGIN, LIMITS).is_err(), "bit {bit} of byte {at}");
        }
    }
    let mut longer = good;
    longer.push(0);
    assert_eq!(decode(&longer, ORIGIN, LIMITS), Err(Fault::Length));
}

proptest! {
    #[test]
    fn any_entries_survive_the_round_trip(
        entries in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..40),
             prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
             any::<i64>(), prop::collection::vec("[a-z/é]{0,12}", 0..5), any::<bool>()),
            0..20),
        written in any::<i64>(),
    ) {
        let entries: Vec<Saved> = entries
            .into_iter()
            .map(|(key, value, as_of, tags, of_everything)| {
                let tags = tags.into_iter().map(String::into_boxed_str).collect();
                Saved { key: key.into(), value: value.map(Bytes::from), as_of, tags, of_everything }
            })
            .collect();
        let bytes = encode(entries.clone(), ORIGIN, written, LIMITS);
        prop_assert_eq!(decode(&bytes, ORIGIN, LIMITS), Ok(Snapshot { written, entries }));
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), begins in any::<bool>()) {
        let mut bytes = bytes;
        if begins && let Some(start) = bytes.first_chunk_mut::<10>() {
            *start = *b"RTcached\x01\x00";
        }
        prop_assert!(decode(&bytes, ORIGIN, LIMITS).is_err());
    }
}
