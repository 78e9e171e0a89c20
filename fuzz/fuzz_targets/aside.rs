//! The file of what is set aside, as it is, and with its checksums made right: what is understood must come back as it
//! went.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ridethrough::journal::fuzzing as journal;

fuzz_target!(|bytes: &[u8]| {
    journal::aside(bytes);
    let mut sealed = bytes.to_vec();
    journal::reseal(&mut sealed);
    journal::aside(&sealed);
});
