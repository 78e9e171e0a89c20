//! What observers beside the users saw: probes, the canary, servers asked from outside, counts at a proxy.

use serde::{Deserialize, Serialize};

/// One health probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Name of the process asked; the same as in [`ProcessStart`](crate::history::ProcessStart).
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

/// What one server held at a moment; taken again and again over the run.
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
    /// Its open file descriptors; absent where the kernel did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fds: Option<u64>,
    /// Its tasks: those of the runtime where it reports them, else its threads. One kind throughout a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
}

/// What one server said about itself at a moment; asked again and again over the run. Nothing is judged by it, since
/// it is the word of the one who is judged: it is for the reader. What it did not say is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// Name of the server.
    pub process: String,
    /// When it answered.
    pub at_us: u64,
    /// Its breaker towards the database: `closed`, `open` or `half-open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Its mode, such as `normal` or `degraded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Whether it calls itself ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Connections to the database that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// How often it tried to open one since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_attempts: Option<u64>,
    /// Entries of its journal not yet applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_entries: Option<u64>,
}

/// What the table of health demands of one replica from now on, because the harness did something to this replica
/// alone. Without such a line a replica that was once ready has to stay ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessDue {
    /// Name of the server.
    pub process: String,
    /// From when.
    pub at_us: u64,
    /// Whether it may and must take traffic.
    pub ready: bool,
    /// What was done, such as `draining`, `fenced`, `cold start in an outage`.
    #[serde(default)]
    pub why: String,
}

/// What is counted in a [`Count`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Connections that a server tried to open to the database, successful or not, as the fault proxy saw them. In bins
    /// of 50 ms; a bin with none may be left out.
    Connects,
    /// Statements that a server sent to the database. In bins of at most a second.
    Statements,
    /// Requests that users sent to the proxy in front; or, of the process `postgresql`, the writes among them.
    Requests,
    /// Attempts that the proxy in front made at its servers for them, retries included; or, of the process `postgresql`,
    /// the transactions that tried to write for them.
    Attempts,
}

/// So many in a span of time. A span in which the observer looked and saw none may be left out only where the kind says
/// so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// What was counted.
    pub what: Counted,
    /// Whose: the server that connected or sent, or the proxy in front.
    pub process: String,
    /// Beginning of the span.
    pub from_us: u64,
    /// Its end.
    pub at_us: u64,
    /// How many.
    pub count: u64,
}

/// One read at the database that a replica made to fill its cache, as the fault proxy saw it. Recorded only where the
/// scenario asks many users for the same thing at once (H4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Name of the server.
    pub process: String,
    /// The same for two reads that ask for the same: statement and parameters.
    pub identity: String,
    /// When it was sent.
    pub from_us: u64,
    /// When its answer was there, or its connection ended.
    pub at_us: u64,
}

/// A bug planted into the service on purpose, and which invariants a run with it broke (X4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sabotage {
    /// Its name.
    pub bug: String,
    /// When its run ended.
    pub at_us: u64,
    /// The invariants of which at least one must break.
    pub expected: Vec<String>,
    /// Those that broke.
    pub broken: Vec<String>,
}
