//! What the proxy records. Labels come from closed sets; handles of the busy metrics are kept.
//!
//! It records; the exporter is installed by `main`.

mod catalogue;

use std::{sync::OnceLock, time::Duration};

use http::{Method, StatusCode};
use metrics::{Counter, Histogram};
use ridethrough::metrics::{describe_each, start_at_zero};

use self::catalogue::CATALOGUE;
use crate::{health::CheckState, ladder::Rung};

const RUNGS: [Rung; Rung::ALL.len()] = Rung::ALL;
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counters that every request touches.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    responses: [OnceLock<Counter>; RUNGS.len()],
    requests: [[OnceLock<Counter>; CLASSES.len()]; METHODS.len()],
    seconds: [OnceLock<Histogram>; RUNGS.len()],
}

/// A closed set: anybody can send any method.
pub(crate) fn method_label(method: &Method) -> &'static str {
    METHODS.iter().find(|name| **name == method.as_str()).unwrap_or(&"other")
}

impl Meters {
    /// Counts one answered request.
    pub(crate) fn answered(&self, method: &Method, status: StatusCode, rung: Rung, took: Duration) {
        let name = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from((status.as_u16() / 100).clamp(1, 5) - 1);
        if let Some(counter) = self.requests.get(name).and_then(|classes| classes.get(class)) {
            let labels = (METHODS.get(name).copied(), CLASSES.get(class).copied());
            if let (Some(method), Some(status)) = labels {
                let made = || metrics::counter!("ridethrough_http_requests_total", "method" => method, "status" => status);
                counter.get_or_init(made).increment(1);
            }
        }
        let place = RUNGS.iter().position(|other| *other == rung).unwrap_or_default();
        if let (Some(responses), Some(seconds)) = (self.responses.get(place), self.seconds.get(place)) {
            let name = rung.as_str();
            let made = || metrics::counter!("ridethrough_proxy_responses_total", "route" => "default", "rung" => name);
            responses.get_or_init(made).increment(1);
            let made = || metrics::histogram!("ridethrough_http_request_seconds", "rung" => name);
            seconds.get_or_init(made).record(took.as_secs_f64());
        }
    }
}

/// Counts one attempt at a backend by how it went.
pub(crate) fn attempt(backend: &'static str, result: &'static str) {
    metrics::counter!("ridethrough_proxy_upstream_attempts_total", "backend" => backend, "result" => result)
        .increment(1);
}

/// Shows what the checks say of a backend.
pub(crate) fn backend_state(backend: &'static str, state: CheckState) {
    let value = match state {
        CheckState::Unknown => 0.5,
        CheckState::Up => 1.0,
        CheckState::Down => 0.0,
    };
    metrics::gauge!("ridethrough_proxy_backend_state", "backend" => backend).set(value);
}

/// Tells the installed recorder the help texts, and shows it what is known beforehand.
pub(crate) fn describe() {
    describe_each(CATALOGUE);
    start_at_zero(CATALOGUE);
}
