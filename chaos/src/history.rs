//! The history of a run: every kind of line in `history.jsonl`, and nothing else.
//!
//! This module knows no other module. It does not judge (`checker`), does not send (`workload`), and does
//! not break anything (`nemesis`). Times are microseconds since the start of the run on one monotonic
//! clock: `planned_us` is when something was meant to happen, `sent_us` when it left, `at_us` when it
//! ended (or, for a line without a beginning, when it happened).
//!
//! Lines may stand a little out of order, because many tasks write them; readers go by the times and by
//! the operation numbers. Unknown fields are ignored, so that an older reader reads a newer file of the
//! same format; an unknown `type` or a newer `format` is an error. A file that does not begin with a
//! header of ours is taken for the operations of another tool (`foreign`).

use serde::{Deserialize, Serialize};

pub mod database;
pub mod export;
pub mod file;
pub mod foreign;
pub mod observed;
pub mod operation;
pub mod recorder;
pub mod settings;

pub use crate::history::database::{
    Counter, FinalRow, FinalRows, LedgerRow, LedgerRows, LossReport, Promotion,
};
pub use crate::history::export::{Format, export};
pub use crate::history::file::{HistoryError, read};
pub use crate::history::observed::{
    Canary, Count, Counted, Fill, Journal, Machine, Probe, ReadinessDue, Sabotage, ServerState, Usage,
    WriteStatus,
};
pub use crate::history::operation::{Action, Completion, Got, Invoke, Todo};
pub use crate::history::recorder::{RecordError, Recorder, Writer};
pub use crate::history::settings::{Bounds, Limits, Plan};

/// The format of the lines below. It rises when an old reader would misread a new file.
pub const FORMAT: u32 = 1;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The first line: what was run, and by which limits it is judged.
    Run(Box<Run>),
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
    /// One effect on a register or list, as read from the database at the end.
    LedgerRow(LedgerRow),
    /// The ledger rows above are all there were.
    LedgerRows(LedgerRows),
    /// What the database counted for one object.
    Counter(Counter),
    /// A standby became primary.
    Promotion(Promotion),
    /// What a server itself calls lost.
    LossReport(LossReport),
    /// The harness itself could not do its work; the run says nothing about the service.
    HarnessError(Note),
    /// How much of the machine other programs used.
    Machine(Machine),
    /// What one server held in memory and on disk.
    Usage(Usage),
    /// What one server said about itself.
    ServerState(ServerState),
    /// What the table of health demands of a replica from now on.
    ReadinessDue(ReadinessDue),
    /// So many connects, statements, requests or attempts in a span of time.
    Count(Count),
    /// One read at the database that filled a cache.
    Fill(Fill),
    /// What became of a bug planted on purpose.
    Sabotage(Sabotage),
    /// A remark for a reader; no check looks at it.
    Note(Note),
}

/// The first line of a history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// True for operations and nothing else, such as another tool writes down: then only what can be judged from
    /// operations is, and a run without faults proves what it proves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
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

/// A fault began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultStart {
    /// Number of the fault in this run.
    pub id: u32,
    /// Its name, such as `db-kill`.
    pub fault: String,
    /// When it took hold.
    pub at_us: u64,
    /// When it was begun to be put on: from then on nothing counts as the time before. Absent where nobody noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_us: Option<u64>,
    /// True where no database session can be answered while the fault lasts, so that every answer in
    /// that time must have come from somewhere else.
    #[serde(default)]
    pub database_gone: bool,
    /// True where the servers reach no database while the fault lasts, though others, the canary among them, do.
    #[serde(default)]
    pub way_gone: bool,
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

/// A text with a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at_us: u64,
    /// What.
    pub text: String,
}
