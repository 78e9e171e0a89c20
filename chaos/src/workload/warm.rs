//! The warm-up: makes the todos that the load will read and update, and reads each of them on every server,
//! so that no replica enters the fault cold. Sends no load.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::history::{Action, Event, Invoke, Recorder};
use crate::workload::client::{Client, Exchange, Request};
use crate::workload::schedule::{warm_key, warm_title};
use crate::workload::{Plan, answer, settle};

/// Requests of the warm-up at one time.
const CONCURRENCY: usize = 16;
/// The warm-up is given up after this time.
const WARM_UP_MAX: Duration = Duration::from_secs(60);
/// The list is read so often on each server.
const LIST_READS: u64 = 3;

/// The todos that are there before the load.
#[derive(Debug, Clone)]
pub struct Warmed {
    ids: Vec<String>,
}

impl Warmed {
    pub(crate) fn id(&self, index: usize) -> Option<&str> {
        self.ids.get(index).map(String::as_str)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
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

/// Creates the warm todos through the proxy and reads each on every server. Recorded, not measured.
///
/// # Errors
/// [`WarmUpError`] at the first answer that is not good.
///
/// # Cancel safety
/// Dropping it ends the requests in flight; todos made so far stay.
pub async fn warm_up(plan: &Plan, recorder: &Recorder) -> Result<Warmed, WarmUpError> {
    tokio::time::timeout(WARM_UP_MAX, async {
        let ids = create_all(plan, recorder).await?;
        // A server that just started, or a busy machine, may have journaled some; they must be rows before they are
        // read on another server.
        if !settle::wait_for_journals(&plan.servers, recorder, Instant::now() + WARM_UP_MAX).await {
            return Err(WarmUpError::TooSlow);
        }
        let mut op = ids.len() as u64;
        for server in &plan.servers {
            let asks = reads(&ids, op);
            op += asks.len() as u64;
            ask_all(server.main, &server.name, asks, recorder).await?;
        }
        Ok(Warmed { ids })
    })
    .await
    .unwrap_or(Err(WarmUpError::TooSlow))
}

#[derive(Clone)]
struct Ask {
    op: u64,
    action: Action,
    request: Request,
    todo: Option<String>,
    value: Option<String>,
}

async fn create_all(plan: &Plan, recorder: &Recorder) -> Result<Vec<String>, WarmUpError> {
    let asks = (0..plan.load.warm_todos as usize).map(|index| {
        let (value, key) = (warm_title(plan.seed, index), warm_key(plan.seed, index));
        let request = Request::of(Action::Create, None, Some(&value), Some(&key));
        Ask { op: index as u64, action: Action::Create, request, todo: None, value: Some(value) }
    });
    ask_all(plan.proxy, "proxy", asks.collect(), recorder).await
}

fn reads(ids: &[String], from: u64) -> Vec<Ask> {
    let single = ids.iter().map(|id| (Action::Read, Some(id.clone())));
    let lists = (0..LIST_READS).map(|_| (Action::List, None));
    (from..)
        .zip(single.chain(lists))
        .map(|(op, (action, todo))| {
            let request = Request::of(action, todo.as_deref(), None, None);
            Ask { op, action, request, todo, value: None }
        })
        .collect()
}

/// Asks everything, a few at a time, and returns the id in each answer, in the order of asking.
async fn ask_all(
    address: SocketAddr,
    to: &str,
    asks: Vec<Ask>,
    recorder: &Recorder,
) -> Result<Vec<String>, WarmUpError> {
    let client = Client::new(address, CONCURRENCY);
    let mut running = JoinSet::new();
    let mut ids = vec![String::new(); asks.len()];
    for (place, ask) in asks.into_iter().enumerate() {
        let (client, recorder, to) = (client.clone(), recorder.clone(), to.to_owned());
        running.spawn(async move { (place, ask_one(&client, &to, ask, &recorder).await) });
    }
    while let Some(ended) = running.join_next().await {
        let (place, id) = ended.map_err(|_| WarmUpError::TooSlow)?;
        if let Some(slot) = ids.get_mut(place) {
            *slot = id?;
        }
    }
    Ok(ids)
}

async fn ask_one(client: &Client, to: &str, ask: Ask, recorder: &Recorder) -> Result<String, WarmUpError> {
    let now_us = recorder.now_us();
    recorder.record(Event::Invoke(Invoke {
        op: ask.op,
        action: ask.action,
        planned_us: now_us,
        at_us: now_us,
        measured: false,
        todo: ask.todo,
        value: ask.value,
        key: ask.request.key.clone(),
        repeat_of: None,
        to: to.to_owned(),
        ..Invoke::default()
    }));
    // Those that wait for a connection wait inside the limit of the whole warm-up.
    let exchange = client.send(&ask.request, Instant::now() + WARM_UP_MAX).await;
    let event = answer::event(ask.op, ask.action, &exchange, recorder);
    recorder.record(event.clone());
    let problem = |reason| WarmUpError::Answer {
        what: format!("{} {}", ask.request.method, ask.request.path),
        to: to.to_owned(),
        reason,
    };
    match event {
        Event::Ok(done) if ask.action == Action::List && done.error.is_none() => Ok(String::new()),
        Event::Ok(done) => match done.todos.into_iter().next() {
            Some(todo) => Ok(todo.id),
            None => Err(problem(done.error.unwrap_or_else(|| "an answer without a todo".into()))),
        },
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
