//! Sound files of journal and cache with changes at random, a bounded number of them from a printed seed: what `fuzz/` does for hours with a
//! fuzzer that learns.

use std::io::Write as _;

use crate::cache::fuzzing as cache;
use crate::journal::fuzzing::{
    aside, cursor, folder, reseal, segment, sound_aside, sound_cursor, sound_segment,
};

/// A second or two.
const ROUNDS: usize = 20_000;
/// Values that lengths and flags are made of.
const TELLING: [u8; 6] = [0, 1, 0x7f, 0x80, 0xa7, 0xff];

fn change(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let place = random.usize(..bytes.len());
    let end = (place + random.usize(1..64)).min(bytes.len());
    match random.u8(..7) {
        0 => bytes[place] ^= 1 << random.u8(..8),
        1 => bytes[place] = TELLING[random.usize(..TELLING.len())],
        2 => bytes.truncate(place),
        3 => drop(bytes.drain(place..end)),
        4 => {
            let piece = bytes[place..end].to_vec();
            let to = random.usize(..=bytes.len());
            bytes.splice(to..to, piece);
        }
        5 => bytes[place..end].fill(0),
        _ => {
            let piece = bytes[place..end].to_vec();
            let to = random.usize(..bytes.len());
            let length = piece.len().min(bytes.len() - to);
            bytes[to..to + length].copy_from_slice(&piece[..length]);
        }
    }
}

fn random() -> fastrand::Rng {
    let given = std::env::var("RIDETHROUGH_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let _ = writeln!(std::io::stderr().lock(), "seed {seed}; again with RIDETHROUGH_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

#[test]
fn changed_files_are_refused_or_give_what_was_written() {
    let mut random = random();
    for _ in 0..ROUNDS {
        let shape = random.u8(..20);
        let (mut position, mut file, mut letters) =
            (sound_cursor(shape), sound_segment(shape), sound_aside(shape));
        for bytes in [&mut file, &mut letters] {
            for _ in 0..random.usize(..4) {
                change(bytes, &mut random);
            }
            if random.bool() {
                reseal(bytes);
            }
        }
        aside(&letters);
        if random.u8(..4) == 0 {
            change(&mut position, &mut random);
        }
        segment(&file);
        cursor(&position);
        position.resize(40, 0);
        position.extend(file);
        folder(&position);
    }
}

#[test]
fn changed_snapshots_are_refused_or_give_what_was_written() {
    let mut random = random();
    for _ in 0..ROUNDS {
        let mut file = cache::sound_snapshot(random.u8(..20));
        for _ in 0..random.usize(..4) {
            change(&mut file, &mut random);
        }
        if random.bool() {
            cache::reseal(&mut file);
        }
        cache::snapshot(&file);
    }
}

#[test]
fn a_sound_snapshot_has_the_right_checksums_already() {
    for shape in 0..20 {
        let file = cache::sound_snapshot(shape);
        let mut again = file.clone();
        cache::reseal(&mut again);
        assert_eq!(again, file);
    }
}

/// Otherwise the first test would try nothing but refusals.
#[test]
fn the_files_that_it_begins_with_are_sound() {
    for shape in 0..20 {
        let file = sound_segment(shape);
        let header = crate::journal::segment::Header::decode(&file).unwrap();
        let mut records = 0;
        crate::journal::scan::scan(&file, header.seed(), header.first, |_, _| records += 1).unwrap();
        assert_eq!(records, shape % 5);
        let mut again = file.clone();
        reseal(&mut again);
        assert_eq!(again, file, "a sound file has the right checksums already");
    }
}
