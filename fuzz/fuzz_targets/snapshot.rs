//! A cache snapshot, as it is, and with its checksums made right: what is understood must come back as it went.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ridethrough::cache::fuzzing as cache;

fuzz_target!(|bytes: &[u8]| {
    cache::snapshot(bytes);
    let mut sealed = bytes.to_vec();
    cache::reseal(&mut sealed);
    cache::snapshot(&sealed);
});
