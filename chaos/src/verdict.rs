//! The verdict on a run: plain data with a versioned schema, written to `verdict.json`. How it is reached
//! stands in `checker`, how it is shown in `report`.

use serde::{Deserialize, Serialize};

/// The schema of `verdict.json`. It rises when a reader of the old one would misread the new one.
pub const SCHEMA: u32 = 1;

/// What a run says about the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every promise was examined and kept.
    Held,
    /// A promise was broken; the checks hold the proof.
    Violated,
    /// Nothing broken was seen, but the run cannot vouch for it: a fault did not bite, or the load was thin.
    Inconclusive,
    /// The harness failed; the run says nothing about the service.
    HarnessError,
}

impl Outcome {
    /// The exit code of a command that ends with this outcome: 0, 1, 2, 3 in the order above.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Violated => 1,
            Self::Inconclusive => 2,
            Self::HarnessError => 3,
        }
    }

    /// The outcome as a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Violated => "violated",
            Self::Inconclusive => "inconclusive",
            Self::HarnessError => "harness error",
        }
    }
}

/// The verdict on one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The result.
    pub outcome: Outcome,
    /// Why, in one sentence.
    pub reason: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The seed of the run.
    pub seed: u64,
    /// Wall time of the start, RFC 3339; empty where unknown.
    pub started: String,
    /// How long the run took until its last look, in microseconds; absent where the history does not tell.
    #[serde(default)]
    pub took_us: Option<u64>,
    /// The command that runs the same schedule again; empty where unknown.
    pub rerun: String,
    /// Every check, in the order of its name.
    pub checks: Vec<Check>,
    /// What was counted and measured.
    pub numbers: Numbers,
}

impl Verdict {
    /// The verdict where nothing could be judged.
    #[must_use]
    pub fn unjudged(reason: &str) -> Self {
        Self {
            schema: SCHEMA,
            outcome: Outcome::HarnessError,
            reason: reason.to_owned(),
            scenario: String::new(),
            seed: 0,
            started: String::new(),
            took_us: None,
            rerun: String::new(),
            checks: Vec::new(),
            numbers: Numbers::default(),
        }
    }

    /// The check with this name.
    #[must_use]
    pub fn check(&self, id: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.id == id)
    }
}

/// What kind of promise a check guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Nothing false was told and nothing was lost: a broken one counts whatever else happened.
    Safety,
    /// Answers came, and came in time.
    Liveness,
    /// The run itself was fit to prove something.
    Honesty,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Examined, and true.
    Held,
    /// Examined, and false.
    Violated,
    /// The history does not hold what is needed to tell.
    NotMeasured,
}

/// One invariant and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its short name, such as `W1`.
    pub id: String,
    /// Its promise, in words.
    pub title: String,
    /// Its kind.
    pub class: Class,
    /// How it ended.
    pub state: State,
    /// Whether the verdict waits for it: left unmeasured, it makes the run inconclusive.
    #[serde(default)]
    pub required: bool,
    /// How many things were examined.
    pub examined: u64,
    /// How many of them broke it.
    pub violations: u64,
    /// What was measured, and against which limit, in words.
    pub measured: String,
    /// The first few violations, in full.
    pub witnesses: Vec<Witness>,
}

/// The proof of one violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// What is wrong, in one sentence.
    pub summary: String,
    /// The lines of the history that show it.
    pub lines: Vec<String>,
    /// The times that contradict each other, for a picture; empty where the lines say it all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<Span>,
}

/// Two times that belong together: an operation from its beginning to its end, or a value from the first answer that
/// vouches for it to the last beginning of one. The second time may then lie before the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Whose times they are.
    pub label: String,
    /// The first time, in microseconds of the run.
    pub from_us: u64,
    /// What happened then.
    pub from: String,
    /// The second time; absent where it never came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_us: Option<u64>,
    /// What happened then.
    pub until: String,
}

/// What became of requests of one kind. The fields after `planned` sum to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bands {
    /// Planned requests.
    pub planned: u64,
    /// Reads answered and called fresh.
    pub fresh: u64,
    /// Reads answered and labelled stale.
    pub stale: u64,
    /// Writes acknowledged as committed.
    pub committed: u64,
    /// Writes acknowledged as journaled.
    pub journaled: u64,
    /// The proxy's own answer, because no server answered.
    pub fallback: u64,
    /// No connection, or cut.
    pub refused: u64,
    /// Any other error status.
    pub error: u64,
    /// No answer by the deadline.
    pub no_answer: u64,
    /// Never sent.
    pub never_sent: u64,
    /// An answer with a value that cannot be right.
    pub wrong: u64,
}

impl Bands {
    /// Requests whose user got what was asked for, labelled where it was stale or only journaled.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.fresh + self.stale + self.committed + self.journaled
    }

    /// All others.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.planned.saturating_sub(self.good())
    }
}

/// Latency of requests of one kind in one phase, counted from the planned time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// `before`, `during` or `after` the database was away.
    pub phase: String,
    /// `reads` or `writes`.
    pub kind: String,
    /// How many requests.
    pub n: u64,
    /// Median in microseconds.
    pub p50_us: u64,
    /// 99th percentile in microseconds; of fewer than 1,000 requests it is coarse.
    pub p99_us: u64,
    /// Largest in microseconds.
    pub max_us: u64,
}

/// A time in which the database was away, as the canary saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// The fault behind it.
    pub fault: String,
    /// When the fault took hold.
    pub from_us: u64,
    /// When the canary committed again; absent where it never did.
    pub until_us: Option<u64>,
}

/// What was counted and measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Times in which the database was away.
    pub outages: Vec<Outage>,
    /// What became of the reads.
    pub reads: Bands,
    /// What became of the writes, repeated ones included.
    pub writes: Bands,
    /// Writes acknowledged, each counted once however often it was sent; the warm-up included.
    pub acknowledged: u64,
    /// Acknowledged writes that are not in the database.
    pub lost: u64,
    /// Writes that took effect more than once.
    pub doubled: u64,
    /// Rows that nobody may have written.
    pub phantom: u64,
    /// Journaled updates that gave way to a later committed one, as the contract allows.
    pub superseded: u64,
    /// Acknowledged writes still in a journal when the rows were read.
    pub pending: u64,
    /// Writes whose end no answer told.
    pub unknown: u64,
    /// How many of those a server could account for afterwards.
    pub unknown_resolved: u64,
    /// Writes sent a second time with the same key.
    pub repeated: u64,
    /// Requests sent again by the client because a kept connection had been closed.
    pub resent: u64,
    /// Largest age that a stale answer advertised, in seconds.
    pub oldest_stale_seconds: u64,
    /// Fresh answers from the database that did not hold an update journaled elsewhere yet.
    pub fresh_before_replay: u64,
    /// Latency by phase and kind.
    pub latency: Vec<Latency>,
    /// From the canary's first commit to the first fresh answer, in microseconds.
    pub first_fresh_us: Option<u64>,
    /// From the canary's first commit to the first write acknowledged as committed, in microseconds.
    pub first_committed_us: Option<u64>,
    /// Liveness probes counted.
    pub live_probes: u64,
    /// The slowest of their answers, from the intended time, in microseconds.
    pub live_worst_us: u64,
    /// How late the load generator itself was, 99th percentile, in microseconds.
    pub sender_late_p99_us: u64,
}
