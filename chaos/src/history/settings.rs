//! What was planned and what counts as good enough: the two parts of a run's header that are settings.

use serde::{Deserialize, Serialize};

/// The plan of the load. All durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Requests per second of the open loop, without the repeated writes. Default 150.
    pub rate_per_second: u32,
    /// How long load is sent, from the first planned request to the last. Default 18,000.
    pub load_ms: u64,
    /// Time from the first planned request to the first fault. Default 4,000.
    pub baseline_ms: u64,
    /// Time from the beginning of the fault to its healing. Default 8,000.
    pub outage_ms: u64,
    /// Todos created and read on every server before the load. Default 400.
    pub warm_todos: u32,
    /// Share of reads among the planned requests, 0 to 1. Default 0.7.
    pub read_share: f64,
    /// Share of the writes that are sent a second time with the same key, 0 to 1. Default 0.05.
    pub repeat_share: f64,
    /// Deadline of one request, from its planned time. Default 5,000.
    pub deadline_ms: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rate_per_second: 150,
            load_ms: 18_000,
            baseline_ms: 4_000,
            outage_ms: 8_000,
            warm_todos: 400,
            read_share: 0.7,
            repeat_share: 0.05,
            deadline_ms: 5_000,
        }
    }
}

/// By which limits a run is judged. Safety (no loss, no duplicate, no wrong answer) has no limit to set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// E1: largest share of bad reads among the intended ones. Default 0.001.
    pub reads_bad_max: f64,
    /// E1: largest share of bad writes among the intended ones. Default 0.005.
    pub writes_bad_max: f64,
    /// L1: a liveness answer must be there this long after its intended time. Default 250.
    pub live_answer_ms: u64,
    /// T3: the first fresh answer must come this long after the canary commits. Default 2,000.
    pub recovery_ms: u64,
    /// S2: how much an advertised age may fall short of the true one. Default 50.
    pub stale_slack_ms: u64,
    /// X2: largest share of answers before the first fault that are neither fresh nor committed. Default 0.01.
    pub baseline_bad_max: f64,
    /// X2: smallest share of the planned requests that must have been sent. Default 0.8.
    pub sent_share_min: f64,
    /// X3: at least so many writes must have been acknowledged from the journal. Default 0.
    pub journaled_min: u64,
    /// X1: whether the scenario has a fault at all; a plain load run has none. Default true.
    pub fault_expected: bool,
    /// What a server may take while its journal fills, and how soon it is rid of it. Default none: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
}

/// The bounds of a server over a long outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// B1: memory that each waiting entry may take. Default 200 bytes, as the journal's page says.
    pub entry_memory_bytes: u64,
    /// B1: by how much memory may grow beside that. Default 64 MiB.
    pub memory_slack_bytes: u64,
    /// B2: what the journal may take on disk. Default 256 MiB and three segments of 16 MiB.
    pub journal_bytes_max: u64,
    /// T5: the rate at which a backlog goes; it may take one and a half times as long. Default 20,000.
    pub replay_per_second: f64,
    /// T6: by how much the 99th percentile may rise while the backlog goes. Default 2.
    pub drain_p99_factor: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            entry_memory_bytes: 200,
            memory_slack_bytes: 64 * MIB,
            journal_bytes_max: (256 + 3 * 16) * MIB,
            replay_per_second: 20_000.0,
            drain_p99_factor: 2.0,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads_bad_max: 0.001,
            writes_bad_max: 0.005,
            live_answer_ms: 250,
            recovery_ms: 2_000,
            stale_slack_ms: 50,
            baseline_bad_max: 0.01,
            sent_share_min: 0.8,
            journaled_min: 0,
            fault_expected: true,
            bounds: None,
        }
    }
}
