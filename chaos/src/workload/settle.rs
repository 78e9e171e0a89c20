//! The questions after the run: are the journals empty, and what became of the writes whose end nobody told
//! or that were only journaled? Bounded in time; what stays open is recorded as such.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::history::{Event, Got, Journal, Recorder, WriteStatus};
use crate::workload::client::{Client, Request};
use crate::workload::{Dialect, Driven, Plan, Target};

/// Pause between two looks at the journals.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Deadline of one question.
const QUESTION_MAX: Duration = Duration::from_secs(3);
/// Questions at one time.
const CONCURRENCY: usize = 8;

/// What was still open at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an open end makes the run inconclusive"]
pub struct Settled {
    /// Whether every server that reports a journal reported an empty one.
    pub journals_empty: bool,
    /// Keys that no server called applied, superseded or rejected.
    pub open: u64,
}

/// Waits until the journals are empty, then asks for each write that was unknown or journaled. Takes at
/// most `journals` for the journals, and `questions` for the questions.
///
/// # Cancel safety
/// Dropping it asks no more; nothing is changed on any server.
pub async fn settle(
    plan: &Plan,
    recorder: &Recorder,
    driven: &Driven,
    journals: Duration,
    questions: Duration,
) -> Settled {
    // Where there is nobody to ask, the rows tell.
    if plan.dialect.question("").is_none() {
        return Settled { journals_empty: true, open: driven.unknown.len() as u64 };
    }
    // Somebody else's service shows no journal: what is asked below waits for what is pending.
    let journals_empty = plan.dialect != Dialect::Todos
        || wait_for_journals(&plan.servers, recorder, Instant::now() + journals).await;
    let deadline = Instant::now() + questions;
    let mut asked = HashSet::new();
    // Those that nobody told anything about come first: after a long outage there is no time for all.
    let keys = driven.unknown.iter().chain(&driven.journaled).filter(|key| asked.insert(*key));
    let clients: Arc<Vec<(String, Client)>> = Arc::new(
        plan.servers
            .iter()
            .map(|server| (server.name.clone(), Client::new(server.main, CONCURRENCY)))
            .collect(),
    );
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut running = JoinSet::new();
    for key in keys {
        let (key, clients, recorder) = (key.clone(), Arc::clone(&clients), recorder.clone());
        let (permits, dialect) = (Arc::clone(&permits), plan.dialect.clone());
        running.spawn(async move {
            let Ok(_permit) = permits.acquire().await else { return false };
            ask_until_decided(&dialect, &key, &clients, &recorder, deadline).await
        });
    }
    let mut open = 0;
    while let Some(decided) = running.join_next().await {
        open += u64::from(!matches!(decided, Ok(true)));
    }
    Settled { journals_empty, open }
}

/// Looks until every journal that is reported is empty, or the deadline passes; true where they are.
pub(crate) async fn wait_for_journals(servers: &[Target], recorder: &Recorder, deadline: Instant) -> bool {
    let mut waiting: Vec<(&Target, Client)> =
        servers.iter().map(|server| (server, Client::new(server.admin, 1))).collect();
    loop {
        let mut still = Vec::new();
        for (server, client) in waiting {
            let entries = journal_entries(&client).await;
            if let Some(entries) = entries {
                let (process, at_us) = (server.name.clone(), recorder.now_us());
                recorder.record(Event::Journal(Journal { process, at_us, entries }));
            }
            // A server that tells no number is waited for by the status of its writes instead.
            if entries.is_some_and(|entries| entries > 0) {
                still.push((server, client));
            }
        }
        waiting = still;
        if waiting.is_empty() || Instant::now() >= deadline {
            return waiting.is_empty();
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// How many entries wait in the journal of a server, asked on its admin listener; `None` where it does not say.
pub(crate) async fn journal_entries_of(server: &Target) -> Option<u64> {
    journal_entries(&Client::new(server.admin, 1)).await
}

async fn journal_entries(client: &Client) -> Option<u64> {
    let exchange = client.send(&Request::get("/debug/state".into()), Instant::now() + QUESTION_MAX).await;
    let state: Value = serde_json::from_slice(&exchange.body).ok()?;
    state.pointer("/journal/entries")?.as_u64()
}

/// Asks every server in turn until one gives a final answer, again and again until the deadline while the
/// write is pending. The last word of each round is recorded.
async fn ask_until_decided(
    dialect: &Dialect,
    key: &str,
    clients: &[(String, Client)],
    recorder: &Recorder,
    deadline: Instant,
) -> bool {
    loop {
        let mut pending = false;
        for (process, client) in clients {
            let Some(status) = ask(dialect, key, process, client, recorder).await else { continue };
            let decided = matches!(status.status.as_str(), "applied" | "superseded" | "rejected");
            pending |= status.status == "pending";
            recorder.record(Event::WriteStatus(status));
            if decided {
                return true;
            }
        }
        if !pending || Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn ask(
    dialect: &Dialect,
    key: &str,
    process: &str,
    client: &Client,
    recorder: &Recorder,
) -> Option<WriteStatus> {
    let exchange = client.send(&dialect.question(key)?, Instant::now() + QUESTION_MAX).await;
    let (status, reason) = match (exchange.got, exchange.status) {
        (Got::Answer, Some(404)) => ("absent".to_owned(), None),
        (Got::Answer, Some(200)) => dialect.told(&exchange)?,
        _ => return None,
    };
    Some(WriteStatus { key: key.into(), at_us: recorder.now_us(), status, process: process.into(), reason })
}
