//! Answers for everything that is not a person: problem+json, placeholders, bare answers, gRPC, event streams.
//!
//! Each has the form that its reader can make something of. A page in the place of a script is worse than nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use ridethrough::http::{Problem, retry_after_seconds};

use super::{Outcome, Trouble, described, described::Described, kind::Kind};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How a server tells a client of gRPC when to try again (gRPC proposal A6).
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A longer one is not sent back.
const EVENT_ID_BYTES_MAX: usize = 256;

/// A quiet box with the dip of the page; grey, so that it fits light and dark surroundings.
const DRAWING: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 80" role="img" aria-label="image not available at the moment"><rect width="120" height="80" rx="4" fill="#8a94a3" fill-opacity=".16"/><path d="M24 34h16c6 0 6 18 12 18h6c6 0 6-18 12-18h26" fill="none" stroke="#7b8696" stroke-width="3" stroke-linecap="round"/></svg>
"##;

/// Nothing in a placeholder is run or loaded, also where somebody opens it by itself.
const DRAWING_POLICY: &str = "default-src 'none'";

/// The answer for a reader of `kind`, which is not [`Kind::Page`]: that one is `page`'s.
pub(super) fn answer(
    kind: Kind,
    trouble: Trouble,
    described: &Described,
    outcome: Option<Outcome>,
    asked: &HeaderMap,
) -> Response<Full<Bytes>> {
    match kind {
        Kind::Page | Kind::Data | Kind::WebSocket => problem(trouble, described, outcome).into_response(),
        Kind::Drawing => {
            let mut response = bare(trouble, described, Some("image/svg+xml"), DRAWING.into());
            let policy = HeaderValue::from_static(DRAWING_POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        }
        Kind::Style => bare(trouble, described, Some("text/css; charset=utf-8"), comment(described)),
        Kind::Script => bare(trouble, described, Some("text/javascript; charset=utf-8"), comment(described)),
        Kind::Opaque => bare(trouble, described, None, Bytes::new()),
        Kind::Grpc { is_web } => grpc(trouble, described, is_web),
        Kind::EventStream => match trouble {
            Trouble::Failed(_, wait) => events(described, wait, asked),
            // No repetition mends what is wrong with the request, so an `EventSource` may well give up.
            Trouble::Refused(_) => problem(trouble, described, outcome).into_response(),
        },
    }
}

fn problem(trouble: Trouble, described: &Described, outcome: Option<Outcome>) -> Problem {
    let mut problem =
        Problem::new(described.status, described.slug, described.title).detail(described.detail);
    if let Trouble::Failed(_, wait) = trouble {
        problem = problem.retry_after(wait);
    }
    if let Some(outcome) = outcome {
        problem = problem.member("outcome", outcome.as_str());
    }
    problem
}

/// An answer with nothing to read, or next to nothing.
fn bare(
    trouble: Trouble,
    described: &Described,
    content_type: Option<&'static str>,
    body: Bytes,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = described.status;
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Trouble::Failed(_, wait) = trouble {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds(wait)));
    }
    response
}

/// The same comment in style sheets and scripts.
fn comment(described: &Described) -> Bytes {
    Bytes::from(format!("/* {}: {} */\n", described.title, described.detail))
}

/// A call that ended before it began: status and message in the head, nothing after it ("Trailers-Only").
fn grpc(trouble: Trouble, described: &Described, is_web: bool) -> Response<Full<Bytes>> {
    let content_type = if is_web { "application/grpc-web+proto" } else { "application/grpc" };
    let mut response = bare(trouble, described, Some(content_type), Bytes::new());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.remove(header::RETRY_AFTER);
    headers.insert(GRPC_STATUS, HeaderValue::from_static(described::grpc_status(trouble)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(described.title));
    if let Trouble::Failed(_, wait) = trouble {
        headers.insert(GRPC_PUSHBACK, HeaderValue::from(milliseconds(wait)));
    }
    response
}

/// One event, then the end. An `EventSource` that gets another status than 200 never tries again; after this it comes
/// back when `retry` says. The event has a name of its own, so that a page that does not know it does not hear it,
/// and carries on the id that the client was at, which an event without one would take away.
fn events(described: &Described, wait: Duration, asked: &HeaderMap) -> Response<Full<Bytes>> {
    let id = asked
        .get(LAST_EVENT_ID)
        .and_then(|id| std::str::from_utf8(id.as_bytes()).ok())
        .filter(|id| id.len() <= EVENT_ID_BYTES_MAX && !id.chars().any(char::is_control));
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let data = serde_json::json!({
        "type": format!("/problems/{}", described.slug),
        "title": described.title,
        "retry_after": retry_after_seconds(wait),
    });
    let text = format!("retry: {}\n{id}event: ridethrough-unavailable\ndata: {data}\n\n", milliseconds(wait));
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
