//! Every fault of the catalogue on a real stack: it bites and proves it, it heals, and without its effect it proves nothing.
//! A witness that is found where nothing was broken would turn every run into a false proof.

#[path = "laboratory/room.rs"]
mod room;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ridethrough_chaos::nemesis::{self, Fault, Scene};
use ridethrough_chaos::shim::Shim;
use ridethrough_chaos::stack::{Fitting, Options, Stack};
use ridethrough_chaos::{Error, RunFolder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long a stack may take to be ready, at first and after a fault.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long a fault stays on here. Some need a moment until there is anything to see.
const ON: Duration = Duration::from_millis(100);
/// The same for one that waits for a message of the servers.
const ON_FOR_A_MESSAGE: Duration = Duration::from_millis(700);

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
    "connection-cut:at=startup",
    "connection-cut:at=password,way=close",
    "connection-cut:at=commit",
    "connection-cut:at=ready,way=blackhole",
    "commit-cut:way=blackhole,nth=1",
    "error-injected:code=57P03",
    "error-injected:code=57P01",
    "db-clock-jump:direction=back",
    "packets-lost:way=to",
    "packets-lost:way=from",
    "name-unknown:answer=unknown",
    "name-unknown:answer=silence",
];
/// Shows only where somebody journals.
const JOURNAL: &str = "journal-";

fn every_form() -> impl Iterator<Item = Fault> {
    let plain = nemesis::catalogue().map(|kind| kind.name);
    plain.chain(FORMS.iter().copied()).map(|text| text.parse().expect("a fault of the catalogue"))
}

/// A fault on and off again; gives the witness.
async fn through(fault: &Fault, scene: &Scene) -> Option<String> {
    let bite =
        nemesis::inject(fault, scene).await.unwrap_or_else(|error| panic!("{fault}: failed to {error}"));
    let is_armed = nemesis::fitting([fault]).messages && !scene.toothless;
    tokio::time::sleep(if is_armed { ON_FOR_A_MESSAGE } else { ON }).await;
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

/// The harness binary, which is the guardian too.
fn guardian() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ridethrough-chaos"))
}

/// A figure for whoever reads the log of a run.
fn say(line: &str) {
    eprintln!("{line}");
}

/// The faults that need this fitting and nothing else of it.
fn of_fitting(wanted: impl Fn(Fitting) -> bool) -> Vec<Fault> {
    every_form().filter(|fault| wanted(nemesis::fitting([fault]))).collect()
}

/// A stack that is ready, with somebody who writes to each server.
async fn busy(fitting: Fitting) -> (Stack, JoinSet<()>) {
    let options = Options { fitting, ..Options::default() };
    let stack = Stack::start(&options).await.unwrap_or_else(|error| panic!("failed to {error}"));
    stack.ready(READY_LIMIT).await.unwrap_or_else(|error| panic!("failed to {error}"));
    let mut writers = JoinSet::new();
    for server in stack.servers() {
        writers.spawn(write_on(server.main()));
    }
    (stack, writers)
}

/// Each of them without and with its effect, one after the other on one stack.
async fn all_bite(faults: Vec<Fault>, fitting: Fitting) {
    let (stack, mut writers) = busy(fitting).await;
    let mut wrong = Vec::new();
    for fault in faults {
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
    end(stack, wrong).await;
}

async fn end(stack: Stack, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let stopped = stack.stop().await.unwrap_or_else(|error| panic!("failed to {error}"));
    assert!(stopped.is_clean(), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_on_a_plain_stack_bites_heals_and_proves_nothing_without_its_effect() {
    all_bite(of_fitting(|fitting| fitting == Fitting::default()), Fitting::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_between_servers_and_database_bites_and_proves_nothing_without_its_effect() {
    let fitting = Fitting { messages: true, tls: true, bytes: true, ..Fitting::default() };
    all_bite(of_fitting(|fitting| fitting.messages || fitting.bytes), fitting).await;
}

/// The fitting with shims, where this machine can compile one.
fn shims() -> Option<Fitting> {
    let folder = RunFolder::create(None).unwrap_or_else(|error| panic!("failed to {error}"));
    match Shim::build(&folder) {
        Ok(_) => Some(Fitting { database_shim: true, server_shim: true, ..Fitting::default() }),
        Err(error @ Error::NoMeans { .. }) => {
            eprintln!("skipped: failed to {error}");
            None
        }
        Err(error) => panic!("failed to {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_disk_and_clock_bites_and_proves_nothing_without_its_effect() {
    let Some(fitting) = shims() else { return };
    let mut faults = of_fitting(|fitting| fitting.database_shim || fitting.server_shim);
    faults.retain(|fault| !fault.name().starts_with(JOURNAL));
    all_bite(faults, fitting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_a_journal_bites_where_the_database_is_away() {
    let Some(fitting) = shims() else { return };
    let (stack, mut writers) = busy(fitting).await;
    let mut wrong = Vec::new();
    let scene = |toothless| Scene::of(&stack, 0, toothless);
    let away = "db-stop".parse().expect("a fault of the catalogue");
    let away =
        nemesis::inject(&away, &scene(false)).await.unwrap_or_else(|error| panic!("failed to {error}"));
    // Until the servers have noticed and journal.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for fault in every_form().filter(|fault| fault.name().starts_with(JOURNAL)) {
        if let Some(witness) = through(&fault, &scene(true)).await {
            wrong.push(format!("{fault} without its effect was proved by: {witness}"));
        }
        let bite = nemesis::inject(&fault, &scene(false)).await.unwrap_or_else(|error| panic!("{error}"));
        tokio::time::sleep(Duration::from_millis(500)).await;
        match bite.heal().await.unwrap_or_else(|error| panic!("{fault}: failed to {error}")).witness {
            Some(witness) => eprintln!("{fault}: {witness}"),
            None => wrong.push(format!("nothing proves that {fault} bit")),
        }
    }
    away.heal().await.unwrap_or_else(|error| panic!("failed to {error}"));
    writers.shutdown().await;
    stack.ready(READY_LIMIT).await.unwrap_or_else(|error| panic!("failed to {error}"));
    end(stack, wrong).await;
}

#[test]
fn every_fault_on_packets_bites_and_proves_nothing_without_its_effect() {
    room::inside("every_fault_on_packets_bites_and_proves_nothing_without_its_effect", async {
        let fitting = Fitting { wire: true, ..Fitting::default() };
        all_bite(of_fitting(|fitting| fitting.wire), fitting).await;
    });
}

#[test]
fn every_fault_on_the_name_of_the_database_bites_and_proves_nothing_without_its_effect() {
    room::inside(
        "every_fault_on_the_name_of_the_database_bites_and_proves_nothing_without_its_effect",
        async {
            let fitting = Fitting { names: true, ..Fitting::default() };
            all_bite(of_fitting(|fitting| fitting.names), fitting).await;
        },
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_bites_and_the_servers_follow() {
    for fault in of_fitting(|fitting| fitting.standby) {
        let (stack, mut writers) = busy(Fitting { standby: true, ..Fitting::default() }).await;
        let mut wrong = Vec::new();
        if let Some(witness) = through(&fault, &Scene::of(&stack, 0, true)).await {
            wrong.push(format!("{fault} without its effect was proved by: {witness}"));
        }
        match through(&fault, &Scene::of(&stack, 0, false)).await {
            Some(witness) => eprintln!("{fault}: {witness}"),
            None => wrong.push(format!("nothing proves that {fault} bit")),
        }
        stack.ready(READY_LIMIT).await.unwrap_or_else(|error| panic!("after {fault} failed to {error}"));
        writers.shutdown().await;
        end(stack, wrong).await;
    }
}
