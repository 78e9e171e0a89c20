//! Somebody else's service under the laboratory: the naive one of `examples/` is found out, by the checks that should
//! find it, and only where something was broken.

use std::path::{Path, PathBuf};
use std::process::Command;

use ridethrough_chaos::verdict::{Outcome, State, Verdict};

/// The target file of the example, with its program where cargo built it for this test.
fn target_file(folder: &Path) -> PathBuf {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/naive/target.toml");
    let tests = std::env::current_exe().expect("a test knows itself");
    let program = tests.ancestors().nth(2).expect("it lies in a folder of cargo's").join("examples/naive");
    assert!(program.is_file(), "build it with `cargo build -p ridethrough-chaos --example naive`");
    let text = std::fs::read_to_string(example).expect("the example has a target");
    let there = "{{here}}/../../../target/debug/examples/naive";
    assert!(text.contains(there));
    let file = folder.join("target.toml");
    let text = text.replace(there, program.to_str().expect("cargo's folder has a plain name"));
    std::fs::write(&file, text).expect("a file can be made");
    file
}

/// Runs a scenario on it; gives the exit code and the verdict.
fn run(scenario: &str) -> (Option<i32>, Verdict) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let out = folder.path().join("out");
    let ran = Command::new(env!("CARGO_BIN_EXE_ridethrough-chaos"))
        .args(["run", scenario, "--seed", "7", "--duration", "8", "--target"])
        .arg(target_file(folder.path()))
        .arg("--out")
        .arg(&out)
        .output()
        .expect("the laboratory can be started");
    let text = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    eprintln!("{text}");
    let verdict = std::fs::read_to_string(out.join(scenario).join("verdict.json")).expect(&text);
    (ran.status.code(), serde_json::from_str(&verdict).expect("a verdict"))
}

fn broken(verdict: &Verdict) -> Vec<&str> {
    let broken = verdict.checks.iter().filter(|check| check.state == State::Violated);
    broken.map(|check| check.id.as_str()).collect()
}

#[test]
fn a_naive_service_is_found_out_when_its_database_is_killed() {
    let (code, verdict) = run("db-kill");
    assert_eq!((code, verdict.outcome), (Some(1), Outcome::Violated), "{}", verdict.reason);
    let broken = broken(&verdict);
    // Done twice by a retry without a key; not alive without its database; no answer but the database's.
    for id in ["W2", "L1", "E1"] {
        assert!(broken.contains(&id), "{id} is not among {broken:?}");
    }
    assert!(!broken.contains(&"W1"), "it loses nothing that it acknowledged: {broken:?}");
}

#[test]
fn and_nothing_is_held_against_it_where_nothing_was_broken() {
    let (code, verdict) = run("no-fault");
    assert_eq!(
        (code, verdict.outcome),
        (Some(0), Outcome::Held),
        "{} {:?}",
        verdict.reason,
        broken(&verdict)
    );
}
