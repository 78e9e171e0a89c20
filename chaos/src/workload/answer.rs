//! Turns an HTTP exchange into a line of the history: what came is kept as it came, and only the question
//! "did it take effect?" is answered here. Right and wrong are for the checker.

use serde::Deserialize;

use crate::history::{Action, Completion, Event, Got, Recorder, Todo};
use crate::workload::client::Exchange;

#[derive(Deserialize)]
struct Page {
    items: Vec<TodoBody>,
}

#[derive(Deserialize)]
struct TodoBody {
    id: String,
    title: String,
    version: i64,
    done: bool,
}

/// The event for one exchange, with the time of now.
pub(crate) fn event(op: u64, action: Action, exchange: &Exchange, recorder: &Recorder) -> Event {
    let header = |name| exchange.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let good =
        exchange.got == Got::Answer && exchange.status.is_some_and(|status| (200..300).contains(&status));
    // A replica that never saw the todo journals an update of it without making up what it would be.
    let is_bare = action == Action::Update && exchange.status == Some(202) && !names_a_title(&exchange.body);
    let has_todos = good && !is_bare;
    let (todos, body_error) = if has_todos { todos(action, &exchange.body) } else { (Vec::new(), None) };
    let done = Completion {
        op,
        at_us: recorder.now_us(),
        sent_us: exchange.sent.map(|sent| recorder.us_of(sent)),
        got: exchange.got,
        status: exchange.status,
        outcome: header("ridethrough-outcome"),
        freshness: header("ridethrough-freshness"),
        proxy_status: header("proxy-status"),
        todos,
        resent: exchange.resent,
        error: exchange.error.clone().or(body_error),
        ..Completion::default()
    };
    if action.is_write() { write_event(done, good) } else { read_event(done, good) }
}

fn read_event(done: Completion, good: bool) -> Event {
    if good { Event::Ok(done) } else { Event::Fail(done) }
}

fn write_event(done: Completion, good: bool) -> Event {
    let claim = done.outcome.as_deref();
    if done.sent_us.is_none() || claim == Some("rejected") {
        Event::Fail(done)
    } else if good && claim != Some("unknown") {
        // A service without the header claims by its status: 202 is journaled, any other 2xx committed.
        Event::Ok(done)
    } else {
        Event::Info(done)
    }
}

/// Whether an acknowledgement came from a journal.
pub(crate) fn is_journaled(done: &Completion) -> bool {
    match done.outcome.as_deref() {
        Some(claim) => claim == "journaled",
        None => done.status == Some(202),
    }
}

/// What became of a write, and why, as the answer to that question says.
pub(crate) fn status(exchange: &Exchange) -> Option<(String, Option<String>)> {
    #[derive(Deserialize)]
    struct Told {
        status: String,
        reason: Option<String>,
    }
    let told: Told = serde_json::from_slice(&exchange.body).ok()?;
    Some((told.status, told.reason))
}

fn names_a_title(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|body| body.get("title").is_some())
}

fn todos(action: Action, body: &[u8]) -> (Vec<Todo>, Option<String>) {
    let parsed = match action {
        Action::List => serde_json::from_slice::<Page>(body).map(|page| page.items),
        Action::Create | Action::Update | Action::Read | Action::Set | Action::Append => {
            serde_json::from_slice::<TodoBody>(body).map(|todo| vec![todo])
        }
    };
    match parsed {
        Ok(items) => (items.into_iter().map(Todo::from).collect(), None),
        Err(error) => (Vec::new(), Some(format!("the body is not what the interface promises: {error}"))),
    }
}

impl From<TodoBody> for Todo {
    fn from(body: TodoBody) -> Self {
        Self { id: body.id, title: body.title, version: body.version, done: body.done }
    }
}
