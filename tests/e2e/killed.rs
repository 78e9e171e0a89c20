//! The server dies by SIGKILL at a chosen step of journal, write or replay, again and again on the same folder: nothing
//! acknowledged is lost, nothing happens twice, and each todo's writes take effect in order. What can never be applied is
//! looked after in `letters`.
//!
//! The steps are planted: the program is `ridethrough-server-sabotage`, which nobody ships.

mod letters;

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use ridethrough_tests::{
    app::App,
    http::{Answer, request},
    launch::{Exit, program},
    seed,
    stack::{Lab, Server},
};
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use self::letters::Letters;
use crate::steps::{member, stored_todo, title};

/// At this step an operator's command dies, before the server of the round starts.
const COMPACTION: &str = "before-compaction";
/// Every step at which a process can die, and how often at the most it is passed first.
const STEPS: [(&str, u64); 13] = [
    ("before-append", 25),
    ("before-sync", 25),
    ("before-answer", 25),
    ("before-rotation", 6),
    ("before-cursor", 2),
    ("before-removal", 3),
    ("before-claim", 12),
    ("after-claim", 12),
    ("before-commit", 6),
    ("after-commit", 6),
    ("before-aside", 8),
    ("after-aside", 8),
    (COMPACTION, 2),
];
/// Todos of a round, each with one client.
const CLIENTS: usize = 6;
/// Writes of each client, one after the other.
const WRITES: usize = 10;
/// For a step that is not passed any more once the clients have ended: the cursor is stored once a second.
const DEATH_LIMIT: Duration = Duration::from_millis(2_500);

/// A write and what was heard of it: nothing where the server died over it.
#[derive(Debug)]
struct Put {
    key: String,
    answer: Option<Answer>,
}

impl Put {
    fn outcome(&self) -> &str {
        self.answer.as_ref().map_or("unknown", |answer| answer.header("ridethrough-outcome"))
    }
}

/// Replaces one todo again and again, until the server is gone.
async fn client(server: App, todo: String, prefix: String) -> Vec<Put> {
    let mut puts: Vec<Put> = Vec::new();
    for number in 0..WRITES {
        let key = format!("{prefix}-{number}");
        let body = json!({"title": title(&key), "done": false});
        let request = request(Method::PUT, &format!("/api/todos/{todo}"), Some(&key), Some(&body));
        let answer = server.main().try_send(request).await.ok();
        let is_gone = answer.is_none();
        puts.push(Put { key, answer });
        if is_gone {
            break;
        }
    }
    puts
}

/// What became of all writes to one todo, in the order in which one client sent them.
async fn judge(lab: &Lab, server: &App, todo: &str, puts: &[Put], context: &str) {
    let mut versions = BTreeMap::new();
    let mut last = 0;
    for put in puts {
        let answer = server.main().get(&format!("/api/writes/{}", put.key)).await;
        let version = match answer.status {
            404 => None,
            _ => {
                let status = answer.expect(200).json();
                assert_eq!(member(&status, "status"), "applied", "{context}: {} became {status}", put.key);
                member(&member(&status, "outcome"), "version").as_i64()
            }
        };
        match put.outcome() {
            "committed" | "journaled" => assert!(version.is_some(), "{context}: {} is lost", put.key),
            "rejected" => assert_eq!(version, None, "{context}: {} was rejected, and happened", put.key),
            other => assert_eq!(other, "unknown", "{context}: {put:?}"),
        }
        if let Some(version) = version {
            assert!(version > last, "{context}: {} made version {version} after {last}", put.key);
            last = version;
            versions.insert(version, put.key.as_str());
        }
    }
    let (stored_title, stored_version) = lab.stored(todo).await.expect("it is stored");
    let made = i64::try_from(versions.len()).expect("few writes");
    assert_eq!(stored_version, made + 1, "{context}: each write that happened, happened once: {versions:?}");
    if let Some((_, key)) = versions.last_key_value() {
        assert_eq!(stored_title, title(key), "{context}: the last word stands");
    }
}

/// All clients of a round, while the database goes and comes back. What they sent, and what was impossible of it.
async fn load(
    lab: &Lab,
    server: &App,
    number: usize,
    todos: &[String],
    random: &mut fastrand::Rng,
) -> (Vec<(String, Vec<Put>)>, Vec<Put>) {
    // Mostly an outage from the start, so that there is something to replay; sometimes one in between, or none.
    let away = random.usize(..8);
    if away < 6 {
        lab.database_dies().await;
    }
    let mut clients = JoinSet::new();
    for (one, todo) in todos.iter().enumerate() {
        let (server, todo, prefix) = (server.clone(), todo.clone(), format!("put-{number}-{one}"));
        clients.spawn(async move { (todo.clone(), client(server, todo, prefix).await) });
    }
    let impossible = tokio::spawn(letters::client(server.clone(), number));
    if away == 6 {
        sleep(Duration::from_millis(random.u64(1..100))).await;
        lab.database_dies().await;
    }
    if away < 7 {
        sleep(Duration::from_millis(random.u64(1..300))).await;
        lab.database_returns().await;
    }
    let sent = clients.join_all().await;
    (sent, impossible.await.expect("a client does not panic"))
}

/// One life and death of the server. Says whether the planned step was what killed it.
async fn round(
    lab: &Lab,
    server: &App,
    letters: &mut Letters,
    number: usize,
    random: &mut fastrand::Rng,
) -> (&'static str, bool) {
    let (step, passes) = STEPS[number % STEPS.len()];
    let failpoint = format!("{step}:{}", random.u64(1..=passes));
    let context = format!("round {number}, {failpoint}");
    let mut todos = Vec::new();
    for one in 0..CLIENTS {
        todos.push(stored_todo(server, &format!("todo-{number}-{one}")).await);
    }
    server.kill().await;
    let is_command = step == COMPACTION;
    let command_died =
        is_command && letters.see_to_all(lab, server, &failpoint, random.bool(), &context).await;
    let failpoint = if is_command { String::new() } else { failpoint };
    server.restart_with(&[("RIDETHROUGH_FAILPOINT", failpoint)]).await;
    let (sent, impossible) = load(lab, server, number, &todos, random).await;
    let end = tokio::time::Instant::now() + DEATH_LIMIT;
    while !is_command && server.exit().is_none() && tokio::time::Instant::now() < end {
        sleep(Duration::from_millis(15)).await;
    }
    let died = server.exit();
    match died {
        Some(exit) => assert_eq!(exit, Exit::Signal(9), "{context}"),
        None => server.kill().await,
    }
    server.restart().await;
    server.ready().await;
    server.mode_becomes("normal").await;
    server.journal_is_empty().await;
    for (todo, puts) in sent {
        judge(lab, server, &todo, &puts, &context).await;
    }
    letters.judge(lab, server, &impossible, &context).await;
    (step, died.is_some() || command_died)
}

/// `RIDETHROUGH_KILL_ROUNDS` asks for more of them; `make soak-kill` does 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_at_any_step_loses_nothing_and_does_nothing_twice() {
    use std::io::Write as _;

    let rounds = std::env::var("RIDETHROUGH_KILL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(STEPS.len());
    let mut random = fastrand::Rng::with_seed(seed());
    let lab = Lab::start().await;
    lab.expect_outage();
    // It may lose the database in the middle of the start.
    lab.expect_in_logs(&["the schema could not be checked"]);
    // A few writes to a segment, so that rotation and removal are as common as all else.
    let env = vec![("RIDETHROUGH_JOURNAL__SEGMENT_BYTES", "4096".to_owned())];
    let program = Some(program("ridethrough-server-sabotage"));
    let server = lab.server_as("server-1", Server { env, program, ..Server::default() }).await;
    server.ready().await;
    let mut letters = Letters::default();
    let mut deaths: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for number in 0..rounds {
        let (step, as_planned) = round(&lab, &server, &mut letters, number, &mut random).await;
        let (planned, died) = deaths.entry(step).or_default();
        *planned += 1;
        *died += usize::from(as_planned);
    }
    let died: usize = deaths.values().map(|(_, died)| died).sum();
    let _ =
        writeln!(std::io::stderr().lock(), "{died} of {rounds} died as planned, the others between steps:");
    for (step, (planned, died)) in &deaths {
        let _ = writeln!(std::io::stderr().lock(), "  {step}: {died} of {planned}");
    }
    assert!(died * 2 >= rounds, "only {died} of {rounds} died at their step: {deaths:?}");
    lab.finish().await;
}
