//! A journal folder of a cursor and a segment: refused, or opened with all readable, and again with the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ridethrough::journal::fuzzing as journal;

fuzz_target!(|bytes: &[u8]| {
    journal::folder(bytes);
    if let Some((cursor, segment)) = bytes.split_at_checked(40) {
        let mut sealed = segment.to_vec();
        journal::reseal(&mut sealed);
        journal::folder(&[cursor, &sealed].concat());
    }
});
