//! The harness itself must be able to fail: what it looks for in logs and answers is planted here, and found.

use ridethrough_tests::{
    logs::{CANARY, Secrets, complaints},
    stack::Lab,
};

const URL: &str = "postgres://app:sesame@127.0.0.1:5432/app";

/// What is wrong with a log of one line.
fn complaint(line: &str, expected: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let log = folder.path().join("log");
    std::fs::write(&log, format!("{line}\n")).expect("a file can be written");
    let expected: Vec<String> = expected.iter().map(|piece| (*piece).to_owned()).collect();
    complaints("server", &log, &expected, &Secrets::of_url(URL)).join("\n")
}

#[test]
fn a_log_line_that_was_not_expected_is_found() {
    let warning = r#"{"level":"WARN","message":"the disk is slow"}"#;
    assert!(complaint(warning, &[]).contains("unexpected WARN"));
    assert_eq!(complaint(warning, &["the disk is slow"]), "");
    assert_eq!(complaint(r#"{"level":"INFO","message":"listening"}"#, &[]), "");
    assert!(complaint("thread panicked", &[]).contains("no JSON"));
}

#[test]
fn a_secret_in_a_log_is_found_at_every_level_and_even_where_the_line_was_expected() {
    let say = |what: &str| format!(r#"{{"level":"INFO","message":"{what}"}}"#);
    for secret in ["sesame", "127.0.0.1:5432", "SELECT id FROM todos", CANARY] {
        let found = complaint(&say(&format!("it says {secret} here")), &["it says"]);
        assert!(found.contains("server logged"), "{secret}: {found}");
    }
    assert_eq!(complaint(&say("127.0.0.1:15432 is not it"), &[]), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "logged an unexpected WARN")]
async fn a_warning_that_the_test_did_not_expect_fails_it() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    // Past the lab, which would expect the warnings.
    lab.cluster().kill().await.expect("a running database can be killed");
    server.mode_becomes("write-only").await;
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "a test ends with `lab.finish()`")]
async fn a_lab_that_is_not_finished_fails_its_test() {
    drop(Lab::start().await);
}
