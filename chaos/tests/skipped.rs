//! What this machine has not the means for is skipped with the reason: that is neither a failure of the harness nor a word
//! about the service.

use std::path::Path;
use std::process::Command;

/// Runs the laboratory with nothing on the PATH.
fn without_programs(args: &[&str], out: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ridethrough-chaos"));
    command.args(args).arg("--out").arg(out).env("PATH", out);
    let output = command.output().expect("it can be started");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

/// A machine without a C compiler once ended `run all` with exit code 3, as if the laboratory were broken.
#[test]
fn without_a_c_compiler_a_scenario_that_needs_the_shim_is_skipped_with_the_reason() {
    let out = tempfile::tempdir().expect("a folder can be made");
    let (code, text) = without_programs(&["run", "fsync-fails"], out.path());
    assert_eq!(code, Some(2), "alone it proves nothing: {text}");
    assert!(text.contains("skipped") && text.contains("none of cc, gcc, clang"), "{text}");
    let (_, text) = without_programs(&["run", "fsync-fails", "disk-full-wal"], out.path());
    assert!(text.contains("skipped       fsync-fails"), "{text}");
}

#[test]
fn without_namespaces_a_run_that_needs_them_is_skipped_with_the_reason() {
    let out = tempfile::tempdir().expect("a folder can be made");
    let (code, text) = without_programs(&["run", "packets-lost"], out.path());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("skipped") && text.contains("`unshare` is not on the PATH"), "{text}");
}
