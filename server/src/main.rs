//! The binary `ridethrough-server`. Everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ridethrough_server::run()
}
