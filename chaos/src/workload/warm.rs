//! The warm-up: makes the todos, registers or lists that the load will read and change, and reads each of them on every server,
//! so that no replica enters the fault cold. Sends no load.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::history::{Action, Event, Invoke, Recorder};
use crate::workload::client::{Client, Exchange, Request};
use crate::workload::dialect::{Dialect, Subject, Wish};
use crate::workload::schedule::{object_key, warm_key, warm_title};
use crate::workload::{Plan, described, settle};

/// Requests of the warm-up at one time.
const CONCURRENCY: usize = 16;
/// The warm-up is given up after this time.
const WARM_UP_MAX: Duration = Duration::from_secs(60);
/// The list is read so often on each server.
const LIST_READS: u64 = 3;

/// The todos, registers or lists that are there before the load.
#[derive(Debug, Clone)]
pub struct Warmed {
    subjects: Vec<Subject>,
}

impl Warmed {
    pub(crate) fn subject(&self, index: usize) -> Option<&Subject> {
        self.subjects.get(index)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }
}

/// Why the warm-up failed: the run has no baseline then and says nothing about the service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarmUpError {
    /// A write was not acknowledged, or a read not answered.
    #[error("the warm-up got no good answer to {what} from {to}: {reason}")]
    Answer {
        /// Method and path.
        what: String,
        /// Who was asked.
        to: String,
        /// What came instead.
        reason: String,
    },
    /// It took too long.
    #[error("the warm-up was not done after {} s", WARM_UP_MAX.as_secs())]
    TooSlow,
}

/// Makes what the load will read and change, at the first door, and reads each on every server. Recorded, not measured.
///
/// # Errors
/// [`WarmUpError`] at the first answer that is not good.
///
/// # Cancel safety
/// Dropping it ends the requests in flight; what was made so far stays.
pub async fn warm_up(plan: &Plan, recorder: &Recorder) -> Result<Warmed, WarmUpError> {
    tokio::time::timeout(WARM_UP_MAX, async {
        let subjects = create_all(plan, recorder).await?;
        // A server that just started, or a busy machine, may have journaled some; they must be rows before they are
        // read on another server.
        if plan.dialect == Dialect::Todos
            && !settle::wait_for_journals(&plan.servers, recorder, Instant::now() + WARM_UP_MAX).await
        {
            return Err(WarmUpError::TooSlow);
        }
        let mut op = subjects.len() as u64;
        for server in &plan.servers {
            let asks = reads(&plan.dialect, &subjects, op);
            op += asks.len() as u64;
            ask_all(server.main, &server.name, asks, &plan.dialect, recorder).await?;
        }
        Ok(Warmed { subjects })
    })
    .await
    .unwrap_or(Err(WarmUpError::TooSlow))
}

#[derive(Clone)]
struct Ask {
    op: u64,
    invoke: Invoke,
    request: Request,
}

async fn create_all(plan: &Plan, recorder: &Recorder) -> Result<Vec<Subject>, WarmUpError> {
    let keys: Vec<String> =
        (0..plan.load.warm_todos as usize).map(|index| object_key(plan.seed, index)).collect();
    let asks = keys.iter().enumerate().map(|(index, name)| {
        let (value, key) = (warm_title(plan.seed, index), warm_key(plan.seed, index));
        let subject = Subject { key: name.clone(), id: name.clone() };
        // A todo has no name before it is there.
        let known = plan.dialect != Dialect::Todos;
        let subject = known.then_some(&subject);
        let wish = Wish { action: Action::Create, subject, value: Some(&value), key: Some(&key), user: 0 };
        Ask { op: index as u64, invoke: plan.dialect.invoke(&wish), request: plan.dialect.request(&wish) }
    });
    let asks = asks.collect();
    let Some((to, address)) = plan.doors.first() else { return Err(WarmUpError::TooSlow) };
    let ids = ask_all(*address, to, asks, &plan.dialect, recorder).await?;
    Ok(keys.into_iter().zip(ids).map(|(key, id)| Subject { key, id }).collect())
}

fn reads(dialect: &Dialect, subjects: &[Subject], from: u64) -> Vec<Ask> {
    let lists = match dialect {
        Dialect::Todos => LIST_READS,
        Dialect::Described(traffic) if traffic.read.is_none() => return Vec::new(),
        Dialect::Described(_) => 0,
    };
    let single = subjects.iter().map(|subject| (Action::Read, Some(subject)));
    (from..)
        .zip(single.chain((0..lists).map(|_| (Action::List, None))))
        .map(|(op, (action, subject))| {
            let wish = Wish { action, subject, value: None, key: None, user: 0 };
            Ask { op, invoke: dialect.invoke(&wish), request: dialect.request(&wish) }
        })
        .collect()
}

/// Asks everything, a few at a time, and returns the id of what each is about, in the order of asking.
async fn ask_all(
    address: SocketAddr,
    to: &str,
    asks: Vec<Ask>,
    dialect: &Dialect,
    recorder: &Recorder,
) -> Result<Vec<String>, WarmUpError> {
    let client = Client::new(address, CONCURRENCY);
    let mut running = JoinSet::new();
    let mut ids = vec![String::new(); asks.len()];
    for (place, ask) in asks.into_iter().enumerate() {
        let (client, recorder, to) = (client.clone(), recorder.clone(), to.to_owned());
        let dialect = dialect.clone();
        running.spawn(async move { (place, ask_one(&client, &to, ask, &dialect, &recorder).await) });
    }
    while let Some(ended) = running.join_next().await {
        let (place, id) = ended.map_err(|_| WarmUpError::TooSlow)?;
        if let Some(slot) = ids.get_mut(place) {
            *slot = id?;
        }
    }
    Ok(ids)
}

async fn ask_one(
    client: &Client,
    to: &str,
    ask: Ask,
    dialect: &Dialect,
    recorder: &Recorder,
) -> Result<String, WarmUpError> {
    let now_us = recorder.now_us();
    let action = ask.invoke.action;
    // Those that wait for a connection wait inside the limit of the whole warm-up.
    let exchange = client.send(&ask.request, Instant::now() + WARM_UP_MAX).await;
    let event = dialect.event(ask.op, action, &exchange, recorder);
    let id = match dialect {
        Dialect::Todos => None,
        Dialect::Described(traffic) => {
            described::id(traffic, &exchange).or_else(|| ask.invoke.object.clone())
        }
    };
    let at = Invoke { op: ask.op, planned_us: now_us, at_us: now_us, to: to.to_owned(), ..ask.invoke };
    if let Some(begun) = dialect.warm_invoke(at, id.as_deref()) {
        recorder.record(Event::Invoke(begun));
        recorder.record(event.clone());
    }
    let problem = |reason| WarmUpError::Answer {
        what: format!("{} {}", ask.request.method, ask.request.path),
        to: to.to_owned(),
        reason,
    };
    match event {
        Event::Ok(done) if action == Action::List && done.error.is_none() => Ok(String::new()),
        Event::Ok(done) => {
            let todo = done.todos.into_iter().next().map(|todo| todo.id);
            let told = id.filter(|_| done.error.is_none()).or(todo);
            told.ok_or_else(|| problem(done.error.unwrap_or_else(|| "an answer without an id".into())))
        }
        _ => Err(problem(describe(&exchange))),
    }
}

fn describe(exchange: &Exchange) -> String {
    match (exchange.status, &exchange.error) {
        (Some(status), _) => format!("status {status}"),
        (None, Some(error)) => error.clone(),
        (None, None) => "nothing".into(),
    }
}
