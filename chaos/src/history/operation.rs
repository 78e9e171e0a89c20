//! What users asked for and what they got: the two lines of an operation. Knows nothing of faults or of the database.

use serde::{Deserialize, Serialize};

/// What an operation does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `POST /api/todos`: the title is the unique value of the operation.
    Create,
    /// `PUT /api/todos/{id}`: each todo gets at most one update in a run.
    Update,
    /// `GET /api/todos/{id}`, or a read of the `object`.
    #[default]
    Read,
    /// `GET /api/todos?limit=…`.
    List,
    /// Sets the register `object` to the unique value.
    Set,
    /// Appends the unique value to the list `object`. A booking in a ledger is one, too.
    Append,
}

impl Action {
    /// Whether the operation changes something.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Set | Self::Append)
    }
}

/// An operation was begun. Made by hand, leave what does not apply to `..Invoke::default()`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Invoke {
    /// Number of the operation, unique in the run; its completion carries the same one.
    pub op: u64,
    /// What it does.
    pub action: Action,
    /// When it was meant to be sent.
    pub planned_us: u64,
    /// When it was really begun.
    pub at_us: u64,
    /// Whether it counts for what users got; the warm-up does not.
    pub measured: bool,
    /// The todo it asks for or changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
    /// The register or list it reads or changes, where that is no todo. Its reads and writes carry the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The unique value it writes; of a todo the title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The operation of which this one is the second sending (same key, same body).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_of: Option<u64>,
    /// To whom it was sent: `proxy`, or the name of one server during the warm-up.
    #[serde(default)]
    pub to: String,
    /// One client that sends one request after the other: S5 holds the service to what this client saw before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The user for whom it was sent. A value written under one user may be shown to no other (S4); absent where
    /// everybody may see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// How an operation ended on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Got {
    /// A whole HTTP answer.
    #[default]
    Answer,
    /// No connection: nothing was sent.
    Refused,
    /// The connection ended after something was sent and before the answer was whole.
    Cut,
    /// Sent, and no answer by the deadline.
    Deadline,
    /// Never sent: no connection came free before the deadline.
    NeverSent,
}

/// An operation ended. Made by hand, leave what does not apply to `..Completion::default()`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Number of the operation.
    pub op: u64,
    /// When it ended.
    pub at_us: u64,
    /// When it was handed to a connection; absent where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_us: Option<u64>,
    /// How it ended on the wire.
    pub got: Got,
    /// HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `Ridethrough-Outcome` as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// `Ridethrough-Freshness` as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<String>,
    /// `Proxy-Status` as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_status: Option<String>,
    /// The todos in the answer: one for a read or write, several for a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub todos: Vec<Todo>,
    /// What a read of an `object` showed: all values of a list in their order; the one value of a register, or none
    /// where it was never set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
    /// The place that the service stated for the value, written or shown, in the order of all writes to the object,
    /// ascending from 1. Of a todo it is [`Todo::version`]. Absent from an acknowledgement that cannot know it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The replica that answered, by its name in `ProcessStart`; absent where the answer does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// The user whose answer it is by its own words (an echo in header or body); absent where it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where its commit stands in the write-ahead log, as the service or a proxy read it. For W7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<u64>,
    /// Whether it was sent again because an idle connection had been closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resent: bool,
    /// What went wrong, in the client's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A todo as an answer showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Todo {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its version.
    pub version: i64,
    /// Its mark.
    pub done: bool,
}
