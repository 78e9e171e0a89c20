//! What fuzzers call: bytes in, a panic where the promise about the bytes of a snapshot is broken. `fuzz/` runs it with
//! libFuzzer, and a test with changes of its own to sound images. It finds no new bytes itself.

use super::snapshot::{self, HEADER_BYTES, Limits, Saved};

/// To whom all snapshots here belong.
const ORIGIN: u32 = 7;
const LIMITS: Limits = Limits { bytes: 64 * 1024, entries: 100 };

/// Reads a snapshot. What is understood keeps the bounds, and comes back as it went.
///
/// # Panics
/// Where it does not.
pub fn snapshot(bytes: &[u8]) {
    let Ok(read) = snapshot::decode(bytes, ORIGIN, LIMITS) else { return };
    assert!(bytes.len() as u64 <= LIMITS.bytes && read.entries.len() <= LIMITS.entries);
    let again = snapshot::encode(read.entries.clone(), ORIGIN, read.written, LIMITS);
    assert_eq!(
        snapshot::decode(&again, ORIGIN, LIMITS),
        Ok(read),
        "what is understood comes back as it went"
    );
}

/// Makes the checksums of a changed snapshot right again, as far as its lengths lead: without that nearly every change ends
/// at the checksum, and nothing behind it is tried.
pub fn reseal(bytes: &mut [u8]) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return };
    if let Some((covered, sum)) = header.split_last_chunk_mut::<4>() {
        *sum = crc32c::crc32c(covered).to_le_bytes();
    }
    while let Some(length) = rest.first_chunk::<4>().map(|length| u32::from_le_bytes(*length))
        && let Some((record, further)) = rest.split_at_mut_checked(length as usize)
        && let Some((covered, sum)) = record.split_last_chunk_mut::<4>()
    {
        *sum = snapshot::checksum(ORIGIN, covered).to_le_bytes();
        rest = further;
    }
}

/// A sound snapshot for a fuzzer to begin with; `shape` makes different ones.
pub fn sound_snapshot(shape: u8) -> Vec<u8> {
    let one = |number: u8| Saved {
        key: vec![number; usize::from(shape)].into(),
        value: (number % 3 != 1).then(|| vec![shape; 30 * usize::from(number)].into()),
        as_of: 1_795_000_000_000_000 - i64::from(number),
        tags: (0..shape % 4).map(|tag| format!("todo/{tag}").into()).collect(),
        of_everything: number % 2 == 1,
    };
    snapshot::encode((0..shape % 6).map(one), ORIGIN, 1_795_000_000_000_000, LIMITS)
}
