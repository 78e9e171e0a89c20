//! How the operations of a workload are asked for, of our own service or of one that a target describes. It picks; the
//! words of our service are in `todos` and `answer`, those of a target in `described`.

use std::sync::Arc;

use crate::history::{Action, Event, Invoke, Recorder};
use crate::target::Traffic;
use crate::workload::client::{Exchange, Request};
use crate::workload::schedule::Mix;
use crate::workload::{answer, described, todos};

/// How operations become requests, and answers lines of the history.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Dialect {
    /// Our own todos: created, updated once each, read, listed.
    #[default]
    Todos,
    /// Registers or lists of a target.
    Described(Arc<Traffic>),
}

/// What an operation is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The name that the harness gave it.
    pub(crate) key: String,
    /// The id by which the service knows it.
    pub(crate) id: String,
}

/// One operation, before it is put in the words of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) action: Action,
    /// The todo, register or list, where it is there already.
    pub(crate) subject: Option<&'a Subject>,
    pub(crate) value: Option<&'a str>,
    /// Names a write and its repetition.
    pub(crate) key: Option<&'a str>,
    /// The number of the user who asks.
    pub(crate) user: u64,
}

impl Dialect {
    /// Which operations its load is made of.
    pub(crate) fn mix(&self) -> Mix {
        match self {
            Self::Todos => Mix::Todos,
            Self::Described(traffic) => Mix::Objects(traffic.workload.action()),
        }
    }

    pub(crate) fn request(&self, wish: &Wish<'_>) -> Request {
        match self {
            Self::Todos => todos::request(wish),
            Self::Described(traffic) => described::request(traffic, wish),
        }
    }

    /// The line for its beginning, without number, times and addressee.
    pub(crate) fn invoke(&self, wish: &Wish<'_>) -> Invoke {
        let id = wish.subject.map(|subject| subject.id.clone());
        let (value, key) = (wish.value.map(str::to_owned), wish.key.map(str::to_owned));
        let session = Some(format!("user-{}", wish.user));
        let common = Invoke { action: wish.action, value, session, ..Invoke::default() };
        match self {
            Self::Todos => Invoke { todo: id, key, ..common },
            Self::Described(traffic) => Invoke {
                object: id,
                // A name that the service was never told is none by which it could tell writes apart.
                key: key.filter(|_| traffic.knows_repeats()),
                ..common
            },
        }
    }

    /// The line for a beginning in the warm-up, once the id is known; none for what makes an object without a value.
    pub(crate) fn warm_invoke(&self, invoke: Invoke, id: Option<&str>) -> Option<Invoke> {
        let Self::Described(traffic) = self else { return Some(invoke) };
        let is_made = invoke.action == Action::Create;
        if is_made && !traffic.create.as_ref().unwrap_or(&traffic.write).says_value() {
            return None;
        }
        let action = if is_made { traffic.workload.action() } else { invoke.action };
        Some(Invoke { action, object: id.map(str::to_owned), ..invoke })
    }

    /// The question what became of a write; none where there is nobody to ask.
    pub(crate) fn question(&self, key: &str) -> Option<Request> {
        match self {
            Self::Todos => Some(Request::get(format!("/api/writes/{key}"))),
            Self::Described(traffic) => described::question(traffic, key),
        }
    }

    /// The status in its answer, with the reason where it gives one.
    pub(crate) fn told(&self, exchange: &Exchange) -> Option<(String, Option<String>)> {
        match self {
            Self::Todos => answer::status(exchange),
            Self::Described(traffic) => Some((described::told(traffic, exchange)?, None)),
        }
    }

    /// The line for its end, with the time of now.
    pub(crate) fn event(&self, op: u64, action: Action, exchange: &Exchange, recorder: &Recorder) -> Event {
        match self {
            Self::Todos => answer::event(op, action, exchange, recorder),
            Self::Described(traffic) => described::event(traffic, op, action, exchange, recorder),
        }
    }
}
