//! What each address does: decode, call the library, encode. Which layers stand around it is listed in `app`.

pub(crate) mod decode;
pub(crate) mod docs;
mod entity_tag;
pub(crate) mod form;
pub(crate) mod page;
pub(crate) mod sign_in;
pub(crate) mod submit;
pub(crate) mod todos;
pub(crate) mod writes;

use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ridethrough::{Deadline, cache::Freshness};
use tokio::time::Instant;

/// How fresh the answer to a read is.
pub(crate) const FRESHNESS: HeaderName = HeaderName::from_static("ridethrough-freshness");
/// The caller's remaining time in milliseconds, as Envoy tells it.
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The deadline of a request: `limit` from now, or sooner where its caller will have gone by then. Envoy writes 0 for "no
/// limit".
pub(crate) fn deadline(headers: &HeaderMap, limit: Duration) -> Deadline {
    let expected = headers.get(EXPECTED_TIMEOUT).and_then(|value| value.to_str().ok()?.parse().ok());
    let expected = expected.filter(|milliseconds| *milliseconds > 0);
    let limit = expected.map_or(limit, |milliseconds| limit.min(Duration::from_millis(milliseconds)));
    Deadline::after(Instant::now(), limit)
}

/// Says on an answer how fresh it is.
pub(crate) fn label(response: &mut Response, freshness: Freshness) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&freshness.to_string()) {
        headers.insert(FRESHNESS, value);
    }
    if let Some(age) = freshness.age_seconds() {
        headers.insert(header::AGE, HeaderValue::from(age));
    }
}

/// An answer of the interface: a JSON document that nobody on the way keeps.
pub(crate) fn json(status: http::StatusCode, document: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(document.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_less_time_shortens_the_deadline_and_never_lengthens_it() {
        let remaining = |text: &str| {
            let headers = HeaderMap::from_iter([(EXPECTED_TIMEOUT, HeaderValue::from_str(text).unwrap())]);
            deadline(&headers, Duration::from_secs(2)).remaining(Instant::now())
        };
        assert_eq!(remaining("250"), Duration::from_millis(250));
        assert_eq!(remaining("60000"), Duration::from_secs(2));
        assert_eq!(remaining("soon"), Duration::from_secs(2));
    }
}
