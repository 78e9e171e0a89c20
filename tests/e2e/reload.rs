//! The configuration is changed under a server and a proxy that run, or asked for; and a container asks how its server is.

use std::{ffi::OsString, path::Path, time::Duration};

use ridethrough_tests::{
    app::App,
    launch::{Blueprint, Exit, Output, program},
    stack::{Lab, Server},
    until,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

/// A key of what `/debug/config` shows.
async fn shown(server: &App, key: &str) -> Value {
    let config = server.admin().get("/debug/config").await.expect(200).json();
    let value = key.split('.').try_fold(&config, |inner, name| inner.get(name));
    value.unwrap_or_else(|| panic!("no {key} in {config}")).clone()
}

/// Changes the file, and waits until the server says `line` of it.
async fn changed(server: &App, file: &Path, text: &str, line: &str) {
    let before = server.logged().len();
    std::fs::write(file, text).expect("the lab's folder can be written to");
    server.hang_up();
    let said = async || server.logged().get(before..)?.contains(line).then_some(());
    until(line, LIMIT, said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_change_under_a_running_server_does_and_the_rest_is_named() {
    let lab = Lab::start().await;
    let file = lab.folder().join("server.toml");
    std::fs::write(&file, "[database.read]\ndeadline = '3s'\n").expect("the lab's folder can be written to");
    let args = vec![OsString::from("--config"), file.clone().into()];
    let server = lab.server_as("server-1", Server { args, ..Server::default() }).await;
    server.ready().await;
    assert_eq!(shown(&server, "database.read.deadline").await, "3s");
    assert_eq!(shown(&server, "database.write.retention").await, "7d");

    let text = "[database.read]\ndeadline = '1s'\n[ready]\nrequire = 'writes'\n[log]\nfilter = 'warn'\n";
    // By then the lines of that level are not written any more.
    lab.expect_in_logs(&["need a restart", "cannot be used"]);
    changed(&server, &file, &format!("{text}[limits]\nconnections = 77\n"), "limits.connections").await;
    for (key, value) in
        [("database.read.deadline", "1s"), ("ready.require", "writes"), ("log.filter", "warn")]
    {
        assert_eq!(shown(&server, key).await, value, "{key}");
    }
    assert_eq!(shown(&server, "limits.connections").await, 10_000);

    // What cannot be used changes nothing, not even by those of its keys that could.
    for (broken, line) in [
        ("[database.read]\ndeadline = '2s'\nattemps = 1\n", "did you mean `attempts`?"),
        ("[database.read]\ndeadline = '0s'\n", "read.deadline must be"),
        ("[log]\nfilter = 'loud'\n[ready]\nrequire = 'any'\n", "log.filter"),
        ("deadline = ", "cannot be used"),
    ] {
        changed(&server, &file, broken, line).await;
        assert_eq!(shown(&server, "database.read.deadline").await, "1s", "{broken}");
        assert_eq!(shown(&server, "ready.require").await, "writes", "{broken}");
    }
    // A deadline that is over before PostgreSQL answers shows that it is really in force.
    let todo = crate::steps::stored_todo(&server, "known").await;
    changed(&server, &file, "[log]\nfilter = 'info'\n", "the configuration was read again").await;
    assert_eq!(shown(&server, "database.read.deadline").await, "2s");
    let _ = server.main().get(&format!("/api/todos/{todo}")).await.expect(200);
    lab.finish().await;
}

async fn health(lab: &Lab, name: &str, args: &[&str]) -> Output {
    let args = ["health"].iter().chain(args).map(OsString::from).collect();
    let program = program("ridethrough-server");
    lab.run(&Blueprint { name: name.to_owned(), program, args, env: Vec::new() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_asks_its_server_how_it_is() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let admin = server.admin().address().to_string();
    let well = health(&lab, "well", &["--admin-listen", &admin]).await;
    assert_eq!(well.exit, Exit::Code(0), "{well:?}");
    let document: Value = serde_json::from_str(&well.stdout).expect("it prints the probe's document");
    assert_eq!((document["ready"].as_bool(), document["mode"].as_str()), (Some(true), Some("normal")));
    let live = health(&lab, "live", &["--probe", "live", "--admin-listen", &admin]).await;
    assert_eq!(live.exit, Exit::Code(0), "{live:?}");

    // One that never saw its database has started, and is not to be sent anything.
    lab.database_dies().await;
    server.kill().await;
    std::fs::remove_dir_all(server.home().join("data")).expect("its folder can be removed");
    server.restart().await;
    let cold = health(&lab, "cold", &["--admin-listen", &admin]).await;
    assert_eq!(cold.exit, Exit::Code(1), "{cold:?}");
    assert!(cold.stdout.contains("warming"), "{cold:?}");
    let started = health(&lab, "started", &["--probe", "startup", "--admin-listen", &admin]).await;
    assert_eq!(started.exit, Exit::Code(0), "{started:?}");
    server.kill().await;
    let gone = health(&lab, "gone", &["--admin-listen", &admin]).await;
    assert_eq!(gone.exit, Exit::Code(1));
    assert!(gone.stderr.contains("does not answer"), "{gone:?}");
    lab.finish().await;
}
