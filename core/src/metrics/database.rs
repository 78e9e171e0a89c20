//! What the database path records. Compiled with it.
//!
//! What every successful call tells is counted in `handles`; what tells of trouble is looked up when it happens.

use std::time::Duration;

use super::handles::{Handles, Operation, handles};
use crate::attempts;

/// A read ended with a fresh answer. `operation` comes from the code of the service.
#[inline]
pub(crate) fn fresh_read(operation: &'static str, took: Duration) {
    if !kept(operation).is_some_and(|kept| kept.answered_fresh(took)) {
        tell_call(operation, "fresh", "none", took);
        cache_request("fresh");
    }
}

/// One call ended in another way than that of [`fresh_read`]. `outcome` and `class` come from closed sets, `operation`
/// from the code of the service.
#[inline]
pub(crate) fn db_call(operation: &'static str, outcome: &'static str, class: &'static str, took: Duration) {
    let counted =
        (outcome, class) == ("committed", "none") && kept(operation).is_some_and(|kept| kept.committed(took));
    if !counted {
        tell_call(operation, outcome, class, took);
    }
}

#[inline]
fn kept(operation: &'static str) -> Option<&'static Operation> {
    handles().and_then(|handles| handles.operation(operation))
}

#[cold]
fn tell_call(operation: &'static str, outcome: &'static str, class: &'static str, took: Duration) {
    metrics::histogram!("ridethrough_db_call_seconds", "operation" => operation).record(took.as_secs_f64());
    metrics::counter!("ridethrough_db_calls_total", "operation" => operation, "outcome" => outcome, "class" => class)
        .increment(1);
}

#[inline]
pub(crate) fn db_attempt() {
    attempts::made();
    if !handles().is_some_and(Handles::attempted) {
        metrics::counter!("ridethrough_db_attempts_total").increment(1);
    }
}

/// The service went on in a transaction that had failed: its first error was hidden.
pub(crate) fn overlooked_error() {
    metrics::counter!("ridethrough_db_overlooked_errors_total").increment(1);
}

pub(crate) fn connect_attempt(outcome: &'static str) {
    metrics::counter!("ridethrough_connect_attempts_total", "outcome" => outcome).increment(1);
}

/// A read ended with something else than a fresh answer; those are counted by [`fresh_read`].
pub(crate) fn cache_request(result: &'static str) {
    metrics::counter!("ridethrough_cache_requests_total", "result" => result).increment(1);
}

pub(crate) fn stale_age(age: Duration) {
    metrics::histogram!("ridethrough_cache_age_seconds").record(age.as_secs_f64());
}

pub(crate) fn listening(is_heard: bool) {
    metrics::gauge!("ridethrough_listening").set(if is_heard { 1.0 } else { 0.0 });
}

pub(crate) fn journal_replayed(outcome: &'static str) {
    metrics::counter!("ridethrough_journal_replayed_total", "outcome" => outcome).increment(1);
}

pub(crate) fn outcomes_removed(rows: u64) {
    metrics::counter!("ridethrough_outcomes_removed_total").increment(rows);
}

pub(crate) fn writes_lost(writes: u64) {
    metrics::counter!("ridethrough_lost_writes_total").increment(writes);
}

pub(crate) fn gauge(name: &'static str, value: f64) {
    metrics::gauge!(name).set(value);
}

pub(crate) fn pool_connections(state: &'static str, value: f64) {
    metrics::gauge!("ridethrough_pool_connections", "state" => state).set(value);
}

pub(crate) fn journal_set_aside(state: &'static str, entries: f64) {
    metrics::gauge!("ridethrough_journal_set_aside", "state" => state).set(entries);
}
