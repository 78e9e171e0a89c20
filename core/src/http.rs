//! Feature `http`: the probes and problem+json as small tower services, for any HTTP server to mount, and the trace
//! context of a request.
//!
//! Nothing here knows the database; it renders what `health` decided and what an error says of itself.

mod probes;
mod problem;
mod trace;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

pub use self::{
    probes::{HealthReport, Probes, Verbosity},
    problem::{Problem, retry_after_seconds},
    trace::TraceContext,
};

/// The body type of the answers made here.
pub type Body = http_body_util::Full<Bytes>;

/// An answer that is a JSON document.
#[must_use]
pub fn json(status: StatusCode, document: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Body::new(document.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
