//! What the database path records. Compiled with it.
//!
//! What every successful call touches goes through kept handles; what tells of trouble is looked up when it happens.

use std::time::Duration;

use super::handles::handles;

/// One call ended. `outcome` and `class` come from closed sets, `operation` from the code of the service.
#[inline]
pub(crate) fn db_call(operation: &'static str, outcome: &'static str, class: &'static str, took: Duration) {
    if let Some(kept) = handles().and_then(|handles| handles.operation(operation)) {
        kept.took(took);
        match (outcome, class) {
            ("fresh", "none") => kept.fresh.increment(1),
            ("committed", "none") => kept.committed.increment(1),
            _ => count_call(operation, outcome, class),
        }
    } else {
        metrics::histogram!("ridethrough_db_call_seconds", "operation" => operation)
            .record(took.as_secs_f64());
        count_call(operation, outcome, class);
    }
}

#[cold]
fn count_call(operation: &'static str, outcome: &'static str, class: &'static str) {
    metrics::counter!("ridethrough_db_calls_total", "operation" => operation, "outcome" => outcome, "class" => class)
        .increment(1);
}

/// Hands the times of calls to the recorder. On a timer; what nobody publishes arrives in lots.
pub(crate) fn publish_times() {
    if let Some(handles) = handles() {
        handles.publish_times();
    }
}

#[inline]
pub(crate) fn db_attempt() {
    match handles().and_then(|handles| handles.attempts()) {
        Some(attempts) => attempts.increment(1),
        None => metrics::counter!("ridethrough_db_attempts_total").increment(1),
    }
}

/// The service went on in a transaction that had failed: its first error was hidden.
pub(crate) fn overlooked_error() {
    metrics::counter!("ridethrough_db_overlooked_errors_total").increment(1);
}

pub(crate) fn connect_attempt(outcome: &'static str) {
    metrics::counter!("ridethrough_connect_attempts_total", "outcome" => outcome).increment(1);
}

#[inline]
pub(crate) fn cache_request(result: &'static str) {
    let fresh = || handles().and_then(|handles| handles.cache_fresh());
    match (result == "fresh").then(fresh).flatten() {
        Some(fresh) => fresh.increment(1),
        None => metrics::counter!("ridethrough_cache_requests_total", "result" => result).increment(1),
    }
}

pub(crate) fn stale_age(age: Duration) {
    metrics::histogram!("ridethrough_cache_age_seconds").record(age.as_secs_f64());
}

pub(crate) fn journal_replayed(outcome: &'static str) {
    metrics::counter!("ridethrough_journal_replayed_total", "outcome" => outcome).increment(1);
}

pub(crate) fn gauge(name: &'static str, value: f64) {
    metrics::gauge!(name).set(value);
}

pub(crate) fn pool_connections(state: &'static str, value: f64) {
    metrics::gauge!("ridethrough_pool_connections", "state" => state).set(value);
}
