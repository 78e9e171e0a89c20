//! A segment file, as it is, and with its checksums made right: what is taken for a record must be one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ridethrough::journal::fuzzing as journal;

fuzz_target!(|bytes: &[u8]| {
    journal::segment(bytes);
    let mut sealed = bytes.to_vec();
    journal::reseal(&mut sealed);
    journal::segment(&sealed);
});
