//! Errors for programs: `application/problem+json` (RFC 9457).
//!
//! A problem is built from a closed catalogue of types; text of a driver, SQL, host names and paths have no way in,
//! because the detail is a `&'static str` or written by the service itself.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

use super::Body;
use crate::error::Error;

/// Whole seconds for `Retry-After`: rounded up, at least 1, so that nobody comes back too early.
#[must_use]
pub fn retry_after_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// One problem document.
#[derive(Debug, Clone)]
#[must_use = "a problem that is not answered helps nobody"]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

/// 503: the database is away or busy, and there is nothing else to answer with. Of the error only the wait is told.
impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "what was asked for cannot be had now");
        problem.retry_after(error.retry_after().unwrap_or(Duration::from_secs(1)))
    }
}

impl Problem {
    /// A problem whose type is `/problems/{slug}`; `title` is the same for all of its type.
    pub fn new(status: StatusCode, slug: &'static str, title: &'static str) -> Self {
        Self { status, slug, title, detail: None, retry_after: None, members: Map::new() }
    }

    /// What is wrong with this very request, in words for its sender.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// When asking again is worth while: header and member `retry_after`.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// One more member, such as `outcome`.
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The status it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The title.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let mut document = self.members;
        document.insert("type".into(), format!("/problems/{}", self.slug).into());
        document.insert("title".into(), self.title.into());
        document.insert("status".into(), self.status.as_u16().into());
        if let Some(detail) = self.detail {
            document.insert("detail".into(), detail.into_owned().into());
        }
        let retry_after = self.retry_after.map(retry_after_seconds);
        if let Some(seconds) = retry_after {
            document.insert("retry_after".into(), seconds.into());
        }
        let mut response = Response::new(Body::new(Bytes::from(Value::Object(document).to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn seconds_are_rounded_up_and_never_zero() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_500, 60)] {
            assert_eq!(retry_after_seconds(Duration::from_millis(milliseconds)), seconds);
        }
    }

    #[tokio::test]
    async fn of_an_error_only_the_wait_is_told() {
        let error = Error::NotJournaled { reason: "fenced", permanent: false };
        let response = Problem::from(&error).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains("fenced"));
        let error = Error::rejected(crate::error::RejectReason::Overloaded, Duration::from_millis(2_500));
        let response = Problem::from(&error).into_response();
        assert_eq!(
            (response.status(), response.headers()[header::RETRY_AFTER].as_bytes()),
            (StatusCode::SERVICE_UNAVAILABLE, &b"3"[..])
        );
    }

    #[tokio::test]
    async fn the_document_has_the_members_of_the_rfc() {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database-away", "the database is away")
            .detail("nothing is cached for this page")
            .retry_after(Duration::from_millis(1_500))
            .member("outcome", "rejected");
        let response = problem.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["type"], "/problems/database-away");
        assert_eq!(document["status"], 503);
        assert_eq!(document["retry_after"], 2);
        assert_eq!(document["outcome"], "rejected");
    }
}
