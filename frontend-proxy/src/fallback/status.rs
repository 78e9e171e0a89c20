//! The small address at which pages ask whether the service is back. No request to it ever reaches a backend.
//!
//! It reads the question and writes the answer; what is true is told by the caller, and slots are `slots`' business.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use ridethrough::http::{Problem, retry_after_seconds};
use serde_json::json;

use super::slots::Waiter;

/// Who asks. Whoever does not say it well is a waiter in its first round.
pub(super) fn waiter(query: Option<&str>, random: &mut fastrand::Rng) -> Waiter {
    let value = |name: &str| {
        query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let token = value("waiter").and_then(|token| u64::from_str_radix(token, 16).ok());
    let round = value("round").and_then(|round| round.parse().ok()).unwrap_or(1);
    Waiter { token: token.unwrap_or_else(|| random.u64(..)), round }
}

/// The answer: whether a backend is there, and when to ask again where none is.
pub(super) fn answer(method: &Method, wait: Option<Duration>) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "the method is not allowed")
            .detail("use GET");
        let mut response = problem.into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let milliseconds = wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let document = json!({ "available": wait.is_none(), "wait_ms": milliseconds });
    let mut response = ridethrough::http::json(StatusCode::OK, document.to_string());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(wait) = wait {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds(wait)));
    }
    response
}
