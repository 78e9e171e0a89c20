//! Every fault of the catalogue on a real stack: it bites and proves it, it heals, and without its effect it proves nothing.
//! A witness that is found where nothing was broken would turn every run into a false proof.

use std::net::SocketAddr;
use std::time::Duration;

use ridethrough_chaos::nemesis::{self, Fault, Scene};
use ridethrough_chaos::stack::{Options, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long a stack may take to be ready, at first and after a fault.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long a fault stays on here. Some need a moment until there is anything to see.
const ON: Duration = Duration::from_millis(100);

/// Faults in other forms than their default, where the form changes what has to be proved.
const FORMS: &[&str] = &[
    "db-kill:moment=transaction",
    "db-kill:moment=commit",
    "db-kill:moment=computing",
    "db-stop:mode=immediate",
    "db-stop:mode=smart",
    "idle-timeout:of=transaction",
    "lock-storm:against=writes",
    "sync-standby-missing:end=cancel",
    "sync-standby-missing:end=terminate",
    "db-flapping:mode=fast,times=1,down=0",
];

fn every_form() -> impl Iterator<Item = Fault> {
    let plain = nemesis::catalogue().map(|kind| kind.name);
    plain.chain(FORMS.iter().copied()).map(|text| text.parse().expect("a fault of the catalogue"))
}

/// A fault on and off again; gives the witness.
async fn through(fault: &Fault, scene: &Scene) -> Option<String> {
    let bite =
        nemesis::inject(fault, scene).await.unwrap_or_else(|error| panic!("{fault}: failed to {error}"));
    tokio::time::sleep(ON).await;
    bite.heal().await.unwrap_or_else(|error| panic!("{fault}: failed to {error}")).witness
}

/// Writes one todo after the other: some faults are on statements, and need one.
async fn write_on(address: SocketAddr) {
    let body = r#"{"title":"a todo"}"#;
    let request = format!(
        "POST /api/todos HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut Vec::new())).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_bites_heals_and_proves_nothing_without_its_effect() {
    let stack = Stack::start(&Options::default()).await.unwrap_or_else(|error| panic!("failed to {error}"));
    stack.ready(READY_LIMIT).await.unwrap_or_else(|error| panic!("failed to {error}"));
    let mut writers = JoinSet::new();
    for server in stack.servers() {
        writers.spawn(write_on(server.main()));
    }
    let mut wrong = Vec::new();
    for fault in every_form() {
        let began = tokio::time::Instant::now();
        if let Some(witness) = through(&fault, &Scene::of(&stack, 0, true)).await {
            wrong.push(format!("{fault} without its effect was proved by: {witness}"));
        }
        match through(&fault, &Scene::of(&stack, 0, false)).await {
            Some(witness) => eprintln!("{:5} ms {fault}: {witness}", began.elapsed().as_millis()),
            None => wrong.push(format!("nothing proves that {fault} bit")),
        }
        if let Err(error) = stack.ready(READY_LIMIT).await {
            panic!("after {fault} failed to {error}");
        }
    }
    writers.shutdown().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let stopped = stack.stop().await.unwrap_or_else(|error| panic!("failed to {error}"));
    assert!(stopped.is_clean(), "{stopped:?}");
}
