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
    /// T3: whether a fault takes the database away from everybody, so that the canary must see it go and come.
    /// Default true.
    pub outage_expected: bool,
    /// Invariants that must have been measured for this run to be held, beside those that every run must measure.
    /// Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Checks that every run must measure and this one need not, because the service gives no means for it. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waived: Vec<String>,
    /// X3: what users must have got at least once, as the bands are called: `fresh`, `stale`, `committed`, `journaled`,
    /// `fallback`. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<String>,
    /// W6: largest share of writes without a told end among the intended ones. Default none: W6 is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_share_max: Option<f64>,
    /// W7: what may be lost by a failover, as a time before it. Default 0: nothing, as with a journal that keeps its
    /// entries until they are replicated.
    #[serde(skip_serializing_if = "is_zero")]
    pub loss_window_ms: u64,
    /// S1: the greatest age that an answer may have, on top of `stale_slack_ms`. Default none: S1 is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stale_ms: Option<u64>,
    /// L3: most changes of readiness of one replica within any ten seconds. Default none: they are only held against
    /// real changes of state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_changes_max: Option<u32>,
    /// T1: after a fault that takes the database away, the first answer that does not need it must come this soon.
    /// Default 1,000.
    pub detect_ms: u64,
    /// T2: no request may be open this long after its planned time. Default none: the deadline of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_deadline_ms: Option<u64>,
    /// T4: a steady state must begin this long after the canary commits. Default 10,000.
    pub steady_ms: u64,
    /// H1: while the database is away, the shortest pause of one replica between two attempts to connect. Default none:
    /// H1 is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_pause_ms: Option<u64>,
    /// H2: connections that one replica may hold. Default none: H2 is not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_max: Option<u64>,
    /// H3: by how much statements per second may exceed the baseline in the five seconds after the return. Default 2.
    pub statements_factor: f64,
    /// H5: most attempts at the servers for one request of a user. Default 1.1.
    pub attempts_per_request_max: f64,
    /// E3: by which share memory, descriptors and tasks may exceed the baseline once all is quiet. Default none: E3 is
    /// not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_growth_max: Option<f64>,
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
            outage_expected: true,
            required: Vec::new(),
            waived: Vec::new(),
            outcomes: Vec::new(),
            unknown_share_max: None,
            loss_window_ms: 0,
            max_stale_ms: None,
            ready_changes_max: None,
            detect_ms: 1_000,
            request_deadline_ms: None,
            steady_ms: 10_000,
            connect_pause_ms: None,
            pool_max: None,
            statements_factor: 2.0,
            attempts_per_request_max: 1.1,
            quiet_growth_max: None,
            bounds: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
