//! The binary: hands the command line to `cli.rs` and its answer to the shell. Nothing is decided here.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match ridethrough_chaos::cli::main(std::env::args_os()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nowhere to tell it when standard error is closed; the exit code still does.
            let _ = writeln!(std::io::stderr().lock(), "ridethrough-chaos: failed to {error}");
            ExitCode::from(3)
        }
    }
}
