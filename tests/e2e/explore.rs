//! The explorer of lost connections: our server tells nothing false at any message, one that forgets keys is found out,
//! and a plain driver cannot know what became of its write.

use std::{ffi::OsString, path::Path, time::Duration};

use ridethrough_tests::launch::{Blueprint, Exit, Output, program, run};
use serde_json::Value;

/// One way at all messages takes seconds.
const LIMIT: Duration = Duration::from_secs(90);
/// The fewest places that there must be, or the transaction was not what this is about.
const BOUNDARIES_MIN: u64 = 20;

async fn explore(home: &Path, more: &[&str]) -> Output {
    let args = ["explore", "--lanes", "2", "--way", "close", "--out", "table"];
    let args: Vec<OsString> = args.iter().chain(more).map(Into::into).collect();
    let program = program("ridethrough-chaos");
    let blueprint = Blueprint { name: "explore".to_owned(), program, args, env: Vec::new() };
    run(&blueprint, home, LIMIT).await
}

fn table(home: &Path) -> Value {
    let json =
        std::fs::read_to_string(home.join("table").join("explore.json")).expect("the table is written");
    serde_json::from_str(&json).expect("the table is JSON")
}

fn rows(table: &Value) -> &Vec<Value> {
    table.get("rows").and_then(Value::as_array).expect("the table has rows")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_tells_nothing_false_at_any_message() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let output = explore(home.path(), &["--way", "reset"]).await;
    assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
    assert!(
        output.stdout.contains("no boundary where the user was told something false"),
        "{}",
        output.stdout
    );
    let table = table(home.path());
    let boundaries = table.get("boundaries").and_then(Value::as_u64).expect("a number");
    assert!(boundaries >= BOUNDARIES_MIN, "only {boundaries} places");
    assert_eq!(rows(&table).len() as u64, 2 * boundaries);
    assert!(!output.stdout.contains("postgres://"), "the table tells the URL of the database");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_keys_is_found_out_by_its_answers() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let server = program("ridethrough-server-sabotage").display().to_string();
    let bug = "RIDETHROUGH_SABOTAGE=no-idempotency";
    let output = explore(home.path(), &["--server-bin", &server, "--server-env", bug]).await;
    assert_eq!(output.exit, Exit::Code(1), "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("found 2 times"), "{}", output.stdout);
}

/// Before COMMIT every loss is a failure; after it was sent, the same error stands for both ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_driver_cannot_know_what_became_of_its_write() {
    let home = tempfile::tempdir().expect("a folder can be made");
    let output = explore(home.path(), &["--raw"]).await;
    assert_eq!(output.exit, Exit::Code(0), "{}\n{}", output.stdout, output.stderr);
    let table = table(home.path());
    let unknown: Vec<&Value> = rows(&table)
        .iter()
        .filter(|row| row.get("told").and_then(Value::as_str) == Some("unknown"))
        .map(|row| row.pointer("/truth/settled").expect("a run that proved something"))
        .collect();
    assert!(unknown.contains(&&Value::from(0)) && unknown.contains(&&Value::from(1)), "{unknown:?}");
}
