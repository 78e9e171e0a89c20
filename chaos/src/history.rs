//! The history of a run: every kind of line in `history.jsonl`, and nothing else.
//!
//! This module knows no other module. It does not judge (`checker`), does not send (`workload`), and does
//! not break anything (`nemesis`). Times are microseconds since the start of the run on one monotonic
//! clock: `planned_us` is when something was meant to happen, `sent_us` when it left, `at_us` when it
//! ended (or, for a line without a beginning, when it happened).
//!
//! Lines may stand a little out of order, because many tasks write them; readers go by the times and by
//! the operation numbers. Unknown fields are ignored, so that an older reader reads a newer file of the
//! same format; an unknown `type` or a newer `format` is an error.

use serde::{Deserialize, Serialize};

pub mod file;
pub mod recorder;
pub mod settings;

pub use crate::history::file::{HistoryError, read};
pub use crate::history::recorder::{RecordError, Recorder, Writer};
pub use crate::history::settings::{Bounds, Limits, Plan};

/// The format of the lines below. It rises when an old reader would misread a new file.
pub const FORMAT: u32 = 1;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The first line: what was run, and by which limits it is judged.
    Run(Run),
    /// The load begins: how much is planned. Written before the first operation of the load.
    Load(Load),
    /// An operation was begun (Jepsen's `:invoke`).
    Invoke(Invoke),
    /// It ended and took effect, or the read was answered.
    Ok(Completion),
    /// It ended and certainly had no effect.
    Fail(Completion),
    /// It ended and nobody knows yet whether it had an effect.
    Info(Completion),
    /// One health probe and its answer.
    Probe(Probe),
    /// One commit tried on a new connection straight to the database, past service and proxy.
    Canary(Canary),
    /// A fault began.
    FaultStart(FaultStart),
    /// A fault was healed.
    FaultEnd(FaultEnd),
    /// A process of the stack is up (it said that it listens).
    ProcessStart(ProcessStart),
    /// A process of the stack is gone.
    ProcessExit(ProcessExit),
    /// How many accepted writes one server still held in its journal.
    Journal(Journal),
    /// What a server said about one write after the run went quiet.
    WriteStatus(WriteStatus),
    /// One row as read from the database at the end.
    FinalRow(FinalRow),
    /// The rows above are all there were.
    FinalRows(FinalRows),
    /// The harness itself could not do its work; the run says nothing about the service.
    HarnessError(Note),
    /// How much of the machine other programs used.
    Machine(Machine),
    /// What one server held in memory and on disk.
    Usage(Usage),
    /// A remark for a reader; no check looks at it.
    Note(Note),
}

/// The first line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The seed that fixes the schedule of load and faults.
    pub seed: u64,
    /// The name of the scenario, such as `db-kill`.
    pub scenario: String,
    /// Wall time of the start, RFC 3339, for people only; empty where unknown.
    #[serde(default)]
    pub started: String,
    /// The command that runs the same schedule again.
    #[serde(default)]
    pub rerun: String,
    /// What was planned.
    pub plan: Plan,
    /// What counts as good enough.
    pub limits: Limits,
}

/// The load begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Time of the first planned request's slot.
    pub at_us: u64,
    /// End of the last planned request's slot.
    pub until_us: u64,
    /// Planned reads.
    pub reads: u64,
    /// Planned writes, the repeated ones included.
    pub writes: u64,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `POST /api/todos`: the title is the unique value of the operation.
    Create,
    /// `PUT /api/todos/{id}`: each todo gets at most one update in a run.
    Update,
    /// `GET /api/todos/{id}`.
    Read,
    /// `GET /api/todos?limit=…`.
    List,
}

impl Action {
    /// Whether the operation changes something.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Update)
    }
}

/// An operation was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The unique title it writes.
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
}

/// How an operation ended on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Got {
    /// A whole HTTP answer.
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

/// An operation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// One health probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Name of the process asked; the same as in [`ProcessStart`].
    pub process: String,
    /// Path asked, such as `/livez`.
    pub path: String,
    /// When it was meant to be sent.
    pub planned_us: u64,
    /// When the answer was there, or the probe gave up.
    pub at_us: u64,
    /// HTTP status; absent without an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One commit tried straight on the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// When the connection was begun.
    pub sent_us: u64,
    /// When it committed or failed.
    pub at_us: u64,
    /// Whether it committed.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A fault began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultStart {
    /// Number of the fault in this run.
    pub id: u32,
    /// Its name, such as `db-kill`.
    pub fault: String,
    /// When it took hold.
    pub at_us: u64,
    /// True where no database session can be answered while the fault lasts, so that every answer in
    /// that time must have come from somewhere else.
    #[serde(default)]
    pub database_gone: bool,
    /// What was seen on the victim's side that proves it bit; may come with the end instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// A fault was healed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEnd {
    /// Number of the fault in this run.
    pub id: u32,
    /// When healing began (the database may need longer to answer; the canary tells).
    pub at_us: u64,
    /// What was seen on the victim's side that proves it bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// What part a process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A replica of the service.
    Server,
    /// The proxy in front.
    Proxy,
    /// A PostgreSQL node.
    Database,
}

/// A process of the stack listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStart {
    /// Its name in this run, such as `server-1`.
    pub process: String,
    /// Its part.
    pub role: Role,
    /// When it said that it listens.
    pub at_us: u64,
    /// Process number.
    pub pid: u32,
}

/// A process of the stack is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessExit {
    /// Its name in this run.
    pub process: String,
    /// Its part.
    pub role: Role,
    /// When it was seen to be gone, or when the signal was sent for a planned one.
    pub at_us: u64,
    /// Whether the run meant it to go.
    pub planned: bool,
    /// Exit code or signal, in words.
    #[serde(default)]
    pub how: String,
}

/// Depth of one server's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Name of the server.
    pub process: String,
    /// When it was read.
    pub at_us: u64,
    /// Entries not yet applied.
    pub entries: u64,
}

/// What a server said about one write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteStatus {
    /// The idempotency key.
    pub key: String,
    /// When it answered.
    pub at_us: u64,
    /// `pending`, `applied`, `superseded`, `rejected`, `unknown`; `absent` for a 404.
    pub status: String,
    /// The server that answered.
    #[serde(default)]
    pub process: String,
    /// Why, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One row of the table `todos` after the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRow {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its version.
    pub version: i64,
    /// Its mark.
    pub done: bool,
}

/// The final rows are complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRows {
    /// When they were read.
    pub at_us: u64,
    /// How many there were; guards against a history that was cut.
    pub rows: u64,
}

/// How much of the machine was used by programs that are no part of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Beginning of the span that was measured.
    pub from_us: u64,
    /// Its end.
    pub at_us: u64,
    /// The share of all processors' time that others used in it, 0 to 1.
    pub others: f64,
}

/// What one server held at a moment; taken again and again where the run has [`Bounds`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Name of the server.
    pub process: String,
    /// When it was looked at.
    pub at_us: u64,
    /// Its resident memory.
    pub memory_bytes: u64,
    /// Entries not yet applied; absent where it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_entries: Option<u64>,
    /// What the files of its journal take on disk.
    pub journal_bytes: u64,
}

/// A text with a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at_us: u64,
    /// What.
    pub text: String,
}
