//! The user traffic of a run: warm-up, open-loop load, health probes, and the questions asked at the end.
//!
//! Open loop means that the schedule alone decides when a request leaves: a service that hangs gets no
//! pause, and what it did not answer counts from the moment the request was planned. This module records
//! what came back; it does not judge it (`checker`) and breaks nothing (`nemesis`).
//!
//! The order of a run: [`warm_up`], then [`drive`] beside [`probe_health`] and the faults, then, once all
//! faults are healed and the run has been quiet for a while, [`settle`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::history::{self, Action, Event, Got, Invoke, Load, Recorder};
use crate::workload::client::{Client, Request};
use crate::workload::schedule::{Planned, Schedule};

mod answer;
pub(crate) mod client;
mod counts;
mod probe;
mod schedule;
mod settle;
mod state;
mod warm;

pub use crate::workload::counts::Counts;
pub use crate::workload::probe::probe_health;
pub(crate) use crate::workload::settle::journal_entries_of;
pub use crate::workload::settle::{Settled, settle};
pub(crate) use crate::workload::state::state_of;
pub use crate::workload::state::watch_state;
pub use crate::workload::warm::{WarmUpError, Warmed, warm_up};

/// Connections of the load at one time. A hung service at 150 requests per second and a deadline of five
/// seconds fills this; what finds none free by its deadline is recorded as never sent.
const CONNECTIONS_MAX: usize = 768;

/// The schedule begins this long after `drive` is called, so that the first request is not late.
const LEAD: Duration = Duration::from_millis(50);

/// One process with HTTP listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name in the history, such as `server-1`.
    pub name: String,
    /// Its main listener.
    pub main: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
}

/// Whom to send what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Fixes the schedule, the values and the keys.
    pub seed: u64,
    /// Rates, shares and durations.
    pub load: history::Plan,
    /// Where users connect: the main listener of the proxy.
    pub proxy: SocketAddr,
    /// The replicas behind it, asked directly only before and after the load.
    pub servers: Vec<Target>,
    /// Where acknowledgements are counted meanwhile.
    pub counts: Counts,
}

/// What the load left behind.
#[derive(Debug, Clone, Default)]
#[must_use = "settle() needs the keys to ask for"]
pub struct Driven {
    /// Requests that were sent.
    pub sent: u64,
    /// Keys of writes whose outcome nobody told.
    pub unknown: Vec<String>,
    /// Keys of writes acknowledged from a journal.
    pub journaled: Vec<String>,
}

/// Sends the whole load and records it. Returns when the last request has ended, at the latest one
/// deadline after the last planned time.
///
/// # Cancel safety
/// Dropping the future ends every request in flight; the history then holds operations without an end,
/// which the checker reads as "outcome unknown".
pub async fn drive(plan: Plan, warmed: Warmed, recorder: Recorder) -> Driven {
    let schedule = Schedule::build(plan.seed, &plan.load);
    let client = Client::new(plan.proxy, CONNECTIONS_MAX);
    let warmed = Arc::new(warmed);
    let deadline = Duration::from_millis(plan.load.deadline_ms);
    let start = Instant::now() + LEAD;
    let start_us = recorder.us_of(start);
    recorder.record(Event::Load(Load {
        at_us: start_us,
        until_us: start_us + plan.load.load_ms * 1_000,
        reads: schedule.count(false),
        writes: schedule.count(true),
    }));

    let mut running = JoinSet::new();
    let mut driven = Driven::default();
    for (planned, op) in schedule.operations.into_iter().zip(LOAD_OPS_FROM..) {
        let due = start + planned.after;
        sleep_until(due).await;
        let (client, warmed, recorder) = (client.clone(), Arc::clone(&warmed), recorder.clone());
        let counts = plan.counts.clone();
        running.spawn(async move {
            let step = Step { op, planned, due, deadline: due + deadline };
            let ended = step.run(&client, &warmed, &recorder).await;
            match ended.fate {
                Fate::Journaled => counts.journaled(),
                Fate::Committed => counts.committed(),
                Fate::Settled | Fate::Unknown => {}
            }
            ended
        });
        while let Some(Ok(ended)) = running.try_join_next() {
            driven.add(ended);
        }
    }
    while let Some(ended) = running.join_next().await {
        // A task that panicked has left its invocation in the history; the checker sees it as unknown.
        if let Ok(ended) = ended {
            driven.add(ended);
        }
    }
    driven
}

/// Operations of the load are numbered from here; the warm-up has the numbers below.
const LOAD_OPS_FROM: u64 = 1_000_000;

struct Ended {
    key: Option<String>,
    fate: Fate,
    sent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A read, or a write that certainly had no effect.
    Settled,
    Committed,
    Journaled,
    Unknown,
}

impl Driven {
    fn add(&mut self, ended: Ended) {
        self.sent += u64::from(ended.sent);
        match (ended.key, ended.fate) {
            (Some(key), Fate::Journaled) => self.journaled.push(key),
            (Some(key), Fate::Unknown) => self.unknown.push(key),
            (_, _) => {}
        }
    }
}

struct Step {
    op: u64,
    planned: Planned,
    due: Instant,
    deadline: Instant,
}

impl Step {
    async fn run(self, client: &Client, warmed: &Warmed, recorder: &Recorder) -> Ended {
        let Planned { action, warm, value, key, repeat_of, .. } = self.planned;
        let todo = warm.and_then(|index| warmed.id(index)).map(str::to_owned);
        recorder.record(Event::Invoke(Invoke {
            op: self.op,
            action,
            planned_us: recorder.us_of(self.due),
            at_us: recorder.now_us(),
            measured: true,
            todo: todo.clone(),
            value: value.clone(),
            key: key.clone(),
            repeat_of: repeat_of.map(|index| LOAD_OPS_FROM + index as u64),
            to: "proxy".into(),
            ..Invoke::default()
        }));
        let request = Request::of(action, todo.as_deref(), value.as_deref(), key.as_deref());
        let exchange = client.send(&request, self.deadline).await;
        let sent = !matches!(exchange.got, Got::NeverSent);
        let event = answer::event(self.op, action, &exchange, recorder);
        let fate = match &event {
            Event::Info(_) => Fate::Unknown,
            Event::Ok(done) if answer::is_journaled(done) => Fate::Journaled,
            Event::Ok(_) if action.is_write() => Fate::Committed,
            _ => Fate::Settled,
        };
        recorder.record(event);
        Ended { key: key.filter(|_| action.is_write()), fate, sent }
    }
}

impl Request {
    fn of(action: Action, todo: Option<&str>, value: Option<&str>, key: Option<&str>) -> Self {
        let todo = todo.unwrap_or("00000000-0000-0000-0000-000000000000");
        let title = value.unwrap_or_default();
        let key = key.map(str::to_owned);
        match action {
            Action::Create => {
                let body = serde_json::json!({ "title": title }).to_string();
                Self { method: http::Method::POST, path: "/api/todos".into(), key, body }
            }
            // The todo service has no other object: its registers are todos, and it has no lists.
            Action::Update | Action::Set | Action::Append => {
                // The mark turns with the title, so that a half-applied update would show.
                let body = serde_json::json!({ "title": title, "done": true }).to_string();
                Self { method: http::Method::PUT, path: format!("/api/todos/{todo}"), key, body }
            }
            Action::Read => Self::get(format!("/api/todos/{todo}")),
            Action::List => Self::get("/api/todos?limit=10".into()),
        }
    }
}

#[cfg(test)]
mod tests;
