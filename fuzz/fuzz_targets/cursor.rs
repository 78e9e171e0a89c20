//! A file of the cursor: what is understood must come back as it went.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ridethrough::journal::fuzzing as journal;

fuzz_target!(|bytes: &[u8]| {
    journal::cursor(bytes);
});
