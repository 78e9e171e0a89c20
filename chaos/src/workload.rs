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

use crate::history::{self, Event, Got, Invoke, Load, Recorder};
use crate::workload::client::Client;
use crate::workload::dialect::Wish;
use crate::workload::schedule::{Planned, Schedule};

mod answer;
pub(crate) mod client;
mod counts;
mod described;
mod dialect;
mod probe;
mod schedule;
mod settle;
mod state;
mod todos;
mod warm;

pub use crate::workload::counts::Counts;
pub use crate::workload::dialect::Dialect;
pub use crate::workload::probe::probe_health;
pub(crate) use crate::workload::settle::journal_entries_of;
pub use crate::workload::settle::{Settled, settle};
pub use crate::workload::state::watch_state;
pub(crate) use crate::workload::state::{lost_by, state_of};
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
    /// The path of its liveness probe.
    pub live: String,
    /// The path of its readiness probe.
    pub ready: String,
}

/// Whom to send what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Fixes the schedule, the values and the keys.
    pub seed: u64,
    /// Rates, shares and durations.
    pub load: history::Plan,
    /// Where users connect, by name: the proxy, or each replica where there is none. One user stays with one.
    pub doors: Vec<(String, SocketAddr)>,
    /// The replicas behind it, asked directly only before and after the load.
    pub servers: Vec<Target>,
    /// How operations are asked for.
    pub dialect: Dialect,
    /// Where acknowledgements are counted meanwhile.
    pub counts: Counts,
}

/// What the load left behind.
#[derive(Debug, Clone, Default)]
#[must_use = "settle() needs the keys to ask for"]
pub struct Driven {
    /// Requests that were sent.
    pub sent: u64,
    /// Writes among them, repeated ones included.
    pub writes_sent: u64,
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
    let schedule = Schedule::build(plan.seed, &plan.load, plan.dialect.mix());
    let doors: Vec<Door> = plan.doors.iter().map(|(to, address)| Door::new(to, *address)).collect();
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
        // Who sends a write again is who sent it first, and stays with the same replica.
        let user = planned.repeat_of.map_or(op, |first| LOAD_OPS_FROM + first as u64) % USERS;
        let Some(door) = doors.get(user as usize % doors.len().max(1)).cloned() else { break };
        let (warmed, recorder) = (Arc::clone(&warmed), recorder.clone());
        let (counts, dialect) = (plan.counts.clone(), plan.dialect.clone());
        running.spawn(async move {
            let step = Step { op, user, planned, due, deadline: due + deadline };
            let ended = step.run(&dialect, &door, &warmed, &recorder).await;
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

/// Users of the load: each is a session, whose requests go to one door. Few, so that each asks for the same object more
/// than once.
const USERS: u64 = 16;

/// Where some users connect.
#[derive(Clone)]
struct Door {
    to: String,
    client: Client,
}

impl Door {
    fn new(to: &str, address: SocketAddr) -> Self {
        Self { to: to.to_owned(), client: Client::new(address, CONNECTIONS_MAX) }
    }
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
        self.writes_sent += u64::from(ended.sent && ended.key.is_some());
        match (ended.key, ended.fate) {
            (Some(key), Fate::Journaled) => self.journaled.push(key),
            (Some(key), Fate::Unknown) => self.unknown.push(key),
            (_, _) => {}
        }
    }
}

struct Step {
    op: u64,
    user: u64,
    planned: Planned,
    due: Instant,
    deadline: Instant,
}

impl Step {
    async fn run(self, dialect: &Dialect, door: &Door, warmed: &Warmed, recorder: &Recorder) -> Ended {
        let Planned { action, warm, value, key, repeat_of, .. } = self.planned;
        let wish = Wish {
            action,
            subject: warm.and_then(|index| warmed.subject(index)),
            value: value.as_deref(),
            key: key.as_deref(),
            user: self.user,
        };
        recorder.record(Event::Invoke(Invoke {
            op: self.op,
            planned_us: recorder.us_of(self.due),
            at_us: recorder.now_us(),
            measured: true,
            repeat_of: repeat_of.map(|index| LOAD_OPS_FROM + index as u64),
            to: door.to.clone(),
            ..dialect.invoke(&wish)
        }));
        let exchange = door.client.send(&dialect.request(&wish), self.deadline).await;
        let sent = !matches!(exchange.got, Got::NeverSent);
        let event = dialect.event(self.op, action, &exchange, recorder);
        let fate = match &event {
            Event::Info(_) => Fate::Unknown,
            Event::Ok(done) if action.is_write() && answer::is_journaled(done) => Fate::Journaled,
            Event::Ok(_) if action.is_write() => Fate::Committed,
            _ => Fate::Settled,
        };
        recorder.record(event);
        Ended { key: key.filter(|_| action.is_write()), fate, sent }
    }
}

#[cfg(test)]
mod tests;
