//! Every metric of the library: name, unit, labels, help. Nothing else names a metric.
//!
//! It records; who exports (Prometheus in our binaries) is the business of whoever installs a recorder.

#[cfg(feature = "postgres")]
mod database;
#[cfg(feature = "postgres")]
mod handles;
mod times;

use std::{borrow::Cow, time::Duration};

#[cfg(feature = "postgres")]
pub(crate) use self::database::*;
pub(crate) use self::times::Times;

/// Name, unit-bearing suffix and help text of every metric, for the exporter and the documentation.
pub const CATALOGUE: &[(&str, Kind, &str)] = &[
    (
        "ridethrough_db_calls_total",
        Kind::Counter,
        "Calls of the database path by operation, outcome and class.",
    ),
    (
        "ridethrough_db_call_seconds",
        Kind::Histogram,
        "Time of one call of the database path, retries included.",
    ),
    ("ridethrough_db_attempts_total", Kind::Counter, "Attempts made against PostgreSQL."),
    (
        "ridethrough_db_overlooked_errors_total",
        Kind::Counter,
        "Statements refused because an earlier error in their transaction was overlooked (25P02).",
    ),
    ("ridethrough_breaker_state", Kind::Gauge, "0 closed, 1 half-open, 2 open, by circuit."),
    ("ridethrough_breaker_transitions_total", Kind::Counter, "Breaker transitions by circuit and new state."),
    ("ridethrough_mode", Kind::Gauge, "1 for the mode the process is in, 0 for all others."),
    ("ridethrough_retry_budget_balance", Kind::Gauge, "Retries that could be made now."),
    ("ridethrough_bulkhead_in_use", Kind::Gauge, "Database permits in use."),
    ("ridethrough_bulkhead_limit", Kind::Gauge, "Database permits that there may be now."),
    ("ridethrough_bulkhead_queue", Kind::Gauge, "Calls waiting for a database permit."),
    (
        "ridethrough_pool_connections",
        Kind::Gauge,
        "Connections of the pools of all hosts by state; lanes are not among them.",
    ),
    ("ridethrough_lanes_open", Kind::Gauge, "Connections that short reads share, of all hosts."),
    ("ridethrough_lanes_in_use", Kind::Gauge, "Questions that are on their way on lanes."),
    ("ridethrough_connect_attempts_total", Kind::Counter, "Connection attempts by outcome."),
    (
        "ridethrough_cache_requests_total",
        Kind::Counter,
        "Reads by what they got: fresh or stale; or nothing, where what was kept had expired, or nothing was (miss).",
    ),
    ("ridethrough_cache_age_seconds", Kind::Histogram, "Age of the stale answers that were served."),
    (
        "ridethrough_listening",
        Kind::Gauge,
        "1 while changes of other replicas are heard, 0 while they are not.",
    ),
    ("ridethrough_journal_depth", Kind::Gauge, "Accepted writes that are not applied yet."),
    ("ridethrough_journal_bytes", Kind::Gauge, "Bytes of accepted writes that are not applied yet."),
    ("ridethrough_journal_oldest_seconds", Kind::Gauge, "Age of the oldest accepted write not applied yet."),
    (
        "ridethrough_journal_set_aside",
        Kind::Gauge,
        "Journal entries kept aside, by state: rejected, held, moved.",
    ),
    ("ridethrough_journal_append_seconds", Kind::Histogram, "Time from append to durable."),
    ("ridethrough_journal_replayed_total", Kind::Counter, "Journal entries replayed by outcome."),
    ("ridethrough_journal_rejected", Kind::Counter, "Appends to the journal that were refused, by reason."),
    ("ridethrough_journal_fenced", Kind::Gauge, "1 where another process owns this journal now."),
    ("ridethrough_outcomes_removed_total", Kind::Counter, "Outcomes of writes that were kept long enough."),
    (
        "ridethrough_writes_lost_total",
        Kind::Counter,
        "Committed writes of this process that a failover took back.",
    ),
    ("ridethrough_ready", Kind::Gauge, "1 where the readiness probe answers 200."),
];

/// What the benchmark of the whole path records, as the path does it.
#[cfg(feature = "postgres")]
#[doc(hidden)]
pub mod bench {
    use std::time::Duration;

    pub fn db_attempt() {
        super::db_attempt();
    }

    pub fn fresh_read(operation: &'static str, took: Duration) {
        super::fresh_read(operation, took);
    }
}

/// The sort of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution over fixed buckets, in seconds.
    Histogram,
}

/// Tells the installed recorder the help text of every metric. Call once after installing it, early or late.
///
/// From then on the database path keeps handles of this recorder, which makes recording several times cheaper.
pub fn describe() {
    #[cfg(feature = "postgres")]
    handles::note_described();
    for (name, kind, help) in CATALOGUE {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, metrics::Unit::Seconds, *help),
        }
    }
}

/// Tells the recorder of the calls that went well since the last time. [`Db::publish_gauges`](crate::db::Db::publish_gauges)
/// does it too, on its timer; called before the recorder is read, as our admin port does, whoever reads sees every call
/// that ended before. Calls of which nobody publishes anything arrive in lots of some hundred.
///
/// It concerns counters and times of calls that went well, and attempts; all else is told when it happens.
#[cfg(feature = "postgres")]
pub fn publish() {
    if let Some(handles) = handles::handles() {
        handles.publish();
    }
}

/// `level` is 0 closed, 1 half-open, 2 open.
pub(crate) fn breaker_state(circuit: Cow<'static, str>, level: f64) {
    metrics::gauge!("ridethrough_breaker_state", "circuit" => circuit).set(level);
}

pub(crate) fn breaker_transition(circuit: Cow<'static, str>, to: &'static str) {
    metrics::counter!("ridethrough_breaker_transitions_total", "circuit" => circuit, "to" => to).increment(1);
}

pub(crate) fn journal_append(took: Duration) {
    metrics::histogram!("ridethrough_journal_append_seconds").record(took.as_secs_f64());
}

pub(crate) fn journal_rejected(reason: &'static str) {
    metrics::counter!("ridethrough_journal_rejected", "reason" => reason).increment(1);
}

pub(crate) fn mode(mode: &'static str, is_now: bool) {
    metrics::gauge!("ridethrough_mode", "mode" => mode).set(if is_now { 1.0 } else { 0.0 });
}
