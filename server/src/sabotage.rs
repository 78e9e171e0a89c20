//! The binary `ridethrough-server-sabotage`: the same server, built with planted bugs that the environment switches on,
//! so that the chaos suite can prove that it notices them. It is never shipped.

use std::process::ExitCode;

fn main() -> ExitCode {
    ridethrough_server::run()
}
