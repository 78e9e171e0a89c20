//! What the database path records. Compiled with it.

use std::time::Duration;

pub(crate) fn db_call(operation: &'static str, outcome: &'static str, class: &'static str, took: Duration) {
    metrics::counter!("ridethrough_db_calls_total", "operation" => operation, "outcome" => outcome, "class" => class)
        .increment(1);
    metrics::histogram!("ridethrough_db_call_seconds", "operation" => operation).record(took.as_secs_f64());
}

pub(crate) fn db_attempt() {
    metrics::counter!("ridethrough_db_attempts_total").increment(1);
}

pub(crate) fn connect_attempt(outcome: &'static str) {
    metrics::counter!("ridethrough_connect_attempts_total", "outcome" => outcome).increment(1);
}

pub(crate) fn cache_request(result: &'static str) {
    metrics::counter!("ridethrough_cache_requests_total", "result" => result).increment(1);
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
