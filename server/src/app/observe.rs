//! The outermost layer: identity of a request, one log line, its span, two metrics. It changes nothing about the answer but its
//! headers, and logs nothing that a user wrote.

use std::borrow::Cow;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ridethrough::{
    attempts::Attempts,
    http::{Probes, TraceContext},
    metrics::{describe_each, start_at_zero},
};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field::Empty};
use uuid::Uuid;

use crate::{error::OUTCOME, identity::Principal, meters::CATALOGUE, routes::FRESHNESS, traces};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_CHARACTERS_MAX: usize = 128;

const REQUESTS: &str = "ridethrough_http_requests_total";
const SECONDS: &str = "ridethrough_http_request_seconds";
/// The route of what matched none.
const NO_ROUTE: &str = "none";
/// Logged where a client left before its answer; no such status is ever sent.
const CLIENT_LEFT: u16 = 499;

/// Tells the recorder of the service's metrics, and shows it what is known beforehand.
pub(crate) fn describe_metrics() {
    describe_each(CATALOGUE);
    start_at_zero(CATALOGUE);
}

pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let request_id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let (method, route) = (method_label(request.method()), route.map_or(Cow::Borrowed(NO_ROUTE), Cow::Owned));
    // Probes come every second from everywhere: they belong to nobody's trace, and no line is written on their way.
    let is_probe = Probes::PATHS.contains(&&*route);
    let span = if is_probe { Span::none() } else { span(method, &route) };
    let context = traces::joined(&span, TraceContext::of(request.headers()));
    let mut line = Line {
        started: Instant::now(),
        request_id: request_id.clone(),
        trace_id: context.trace_id(),
        method,
        route,
        status: CLIENT_LEFT,
        outcome: None,
        freshness: None,
        attempts: Attempts::default(),
        principal: None,
        span: span.clone(),
    };
    let marks = if is_probe {
        Span::none()
    } else {
        let request_id = request_id.to_str().unwrap_or_default();
        tracing::info_span!("request", request_id, trace_id = line.trace_id)
    };
    let answering = line.attempts.counted(next.run(request));
    let mut response = answering.instrument(marks).instrument(span).await;
    line.status = response.status().as_u16();
    line.outcome = response.headers().get(OUTCOME).cloned();
    line.principal = response.extensions().get().copied();
    line.freshness = response.headers().get(FRESHNESS).cloned();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id);
    context.insert_into(headers);
    // That is the sender's own, and nothing for him.
    headers.remove("tracestate");
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The span of a request. At the level debug stands what is for traces, at the level info what marks the lines of the log.
fn span(method: &str, route: &str) -> Span {
    tracing::debug_span!(
        "http",
        otel.kind = "server",
        otel.name = format_args!("{method} {route}"),
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
    )
}

/// What is known of one request; written when dropped, so that a client that leaves is not left out.
struct Line {
    started: Instant,
    request_id: HeaderValue,
    trace_id: String,
    method: &'static str,
    route: Cow<'static, str>,
    status: u16,
    outcome: Option<HeaderValue>,
    freshness: Option<HeaderValue>,
    /// Against the database.
    attempts: Attempts,
    /// Its id, which names nobody.
    principal: Option<Principal>,
    /// Of the whole request.
    span: Span,
}

impl Drop for Line {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        self.span.record("http.response.status_code", self.status);
        if self.status >= 500 {
            self.span.record("otel.status_code", "ERROR");
        }
        let labels = [
            ("method", Cow::Borrowed(self.method)),
            ("route", self.route.clone()),
            ("status", self.status.to_string().into()),
        ];
        metrics::counter!(REQUESTS, &labels).increment(1);
        metrics::histogram!(SECONDS, "route" => self.route.clone()).record(took.as_secs_f64());
        macro_rules! write_at {
            ($level:ident) => {
                tracing::$level!(
                    request_id = text(&self.request_id),
                    trace_id = self.trace_id,
                    method = self.method,
                    route = self.route.as_ref(),
                    status = self.status,
                    outcome = self.outcome.as_ref().map(text),
                    freshness = self.freshness.as_ref().map(text),
                    attempts = self.attempts.count(),
                    principal = self.principal.filter(|one| !one.is_everybody()).map(tracing::field::display),
                    duration_ms = took.as_secs_f64() * 1e3,
                    "request"
                )
            };
        }
        // Probes come every second from everywhere and say nothing new.
        if Probes::PATHS.contains(&self.route.as_ref()) {
            write_at!(debug);
        } else {
            write_at!(info);
        }
    }
}

/// A closed set: anybody can send any method.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// The sender's request id where it is one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let valid = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_CHARACTERS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(REQUEST_ID).filter(valid).cloned();
    given.unwrap_or_else(|| made(&Uuid::new_v4().to_string()))
}

fn made(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("an id made here is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_identities_are_taken_over() {
        let given = |name: HeaderName, text: &str| {
            HeaderMap::from_iter([(name, HeaderValue::from_bytes(text.as_bytes()).unwrap())])
        };
        let id = |text: &str| request_id(&given(REQUEST_ID, text));
        assert_eq!(id("abc-1"), "abc-1");
        for unsound in ["", "two words", "\u{e4}", &"x".repeat(129)] {
            assert_ne!(id(unsound).as_bytes(), unsound.as_bytes());
        }
    }
}
