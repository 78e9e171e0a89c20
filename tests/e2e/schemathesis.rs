//! schemathesis, which knows nothing of the code, holds the server against its document, with the database there and away.
//! What it found stands as ordinary tests beside the code; this runs on demand.

use std::{ffi::OsString, path::Path, time::Duration};

use ridethrough_tests::{
    launch::{self, Blueprint, Exit},
    stack::Lab,
    until,
};

use crate::steps::outage;

/// For each of the two runs, with what their ends take.
const RUN_LIMIT: Duration = Duration::from_secs(300);
const RUN_SECONDS: &str = "60";

async fn judge(lab: &Lab, name: &str, address: &str) {
    let tool = std::env::var_os("RIDETHROUGH_SCHEMATHESIS").expect("`make schemathesis` says where it is");
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let seed = ridethrough_tests::seed();
    let mut args: Vec<OsString> =
        vec!["--config-file".into(), settings.join("schemathesis.toml").into(), "run".into()];
    let rest = ["--no-color", "--max-examples", "40", "--max-time", RUN_SECONDS, "--seed"];
    args.push(format!("http://{address}/openapi.json").into());
    args.extend(rest.map(OsString::from));
    args.push((seed % 1_000_000).to_string().into());
    // Its hooks are found beside its settings.
    let env = vec![
        ("PYTHONPATH".to_owned(), settings.to_string_lossy().into_owned()),
        ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
    ];
    let blueprint = Blueprint { name: format!("schemathesis-{name}"), program: tool.into(), args, env };
    let output = launch::run(&blueprint, &lab.folder().join(&blueprint.name), RUN_LIMIT).await;
    eprintln!("{}", output.stdout);
    assert_eq!(output.exit, Exit::Code(0), "with the database {name}: {}", output.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fetches a tool: make schemathesis"]
async fn the_interface_is_what_its_document_says_with_the_database_and_without() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let address = server.main().address().to_string();
    judge(&lab, "there", &address).await;
    outage(&lab, &[&server]).await;
    judge(&lab, "away", &address).await;
    lab.database_returns().await;
    let back = async || (server.mode().await == "normal").then_some(());
    until("what was accepted is stored", Duration::from_secs(60), back).await;
    lab.finish().await;
}
