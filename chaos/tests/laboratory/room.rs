//! Runs a test once more inside namespaces of its own, which a program with threads cannot enter by itself.

use std::process::Stdio;
use std::time::Duration;

use ridethrough_chaos::namespace;

use crate::say;

/// Above every limit of a test inside.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `test` inside: there as it is, here by starting this program again for the test of that name. Where the
/// machine cannot do it, the test is skipped with the reason.
pub(crate) fn inside(name: &str, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    if namespace::entered() {
        runtime.block_on(test);
        return;
    }
    drop(test);
    runtime.block_on(async {
        if let Err(error) = namespace::probe(Some(&crate::guardian())).await {
            say(&format!("skipped: failed to {error}"));
            return;
        }
        let own = std::env::current_exe().expect("this program has a path");
        let command = namespace::command(&own).unwrap_or_else(|error| panic!("failed to {error}"));
        let mut command = tokio::process::Command::from(command);
        command.args(["--exact", name, "--nocapture"]).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(LIMIT, command.output()).await.expect("it ends");
        let ended = ended.expect("this program can be started again");
        let said = String::from_utf8_lossy(&ended.stderr) + String::from_utf8_lossy(&ended.stdout);
        say(&said);
        assert!(ended.status.success(), "failed inside: {}", ended.status);
        assert!(said.contains("1 passed"), "no test has the name {name}");
    });
}
