//! Answers made here: what is said when no backend answers, and when a request is refused.
//!
//! One description of what went wrong, rendered as a page for people or as problem+json for programs. Nothing of the
//! request but its id goes into an answer, and nothing of the backends.

mod language;
mod page;
mod texts;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use ridethrough::http::{Problem, retry_after_seconds};

use self::{language::Language, page::Pages};
use crate::{
    backend::NoBackend,
    headers::X_REQUEST_ID,
    retry::Nature,
    target::Refusal,
    upstream::{AttemptError, DialError},
};

/// The field that says what became of a write.
pub(crate) const OUTCOME: &str = "ridethrough-outcome";
const PROXY_STATUS: &str = "proxy-status";

/// Why there is no answer of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No backend may be asked.
    NoBackend(NoBackend),
    /// An attempt failed, and it was the last.
    Attempt(AttemptError),
}

/// What went wrong, on whichever side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No backend answered; asking again after this is worth while.
    Failed(Failure, Duration),
    /// The request itself.
    Refused(Refusal),
}

/// What became of a write, as far as the proxy can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It never left: nothing was stored.
    Rejected,
    /// It left, and nobody said what became of it.
    Unknown,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// Makes the answers.
#[derive(Debug)]
pub(crate) struct Fallback {
    pages: Pages,
}

/// The request, as far as the answer depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) nature: Nature,
    /// Whether a backend can have acted on it.
    pub(crate) may_have_acted: bool,
}

impl Asked<'_> {
    fn outcome(&self) -> Option<Outcome> {
        let outcome = if self.may_have_acted { Outcome::Unknown } else { Outcome::Rejected };
        self.nature.is_write.then_some(outcome)
    }
}

impl Fallback {
    pub(crate) fn new() -> Self {
        Self { pages: Pages::new() }
    }

    /// The answer to a request that brought `trouble`. `random` spreads the time at which a page asks again.
    pub(crate) fn answer(
        &self,
        trouble: Trouble,
        asked: &Asked<'_>,
        random: &mut fastrand::Rng,
    ) -> Response<Full<Bytes>> {
        let described = describe(trouble);
        let outcome = asked.outcome();
        let mut response = match asks_for_page(asked.headers) {
            true => self.page(trouble, &described, asked, random),
            false => problem(trouble, &described, outcome).into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(PROXY_STATUS, proxy_status(described.error));
        if let Some(outcome) = outcome {
            headers.insert(OUTCOME, HeaderValue::from_static(outcome.as_str()));
        }
        if described.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if described.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        without_body_for_head(response, asked.method)
    }

    fn page(
        &self,
        trouble: Trouble,
        described: &Described,
        asked: &Asked<'_>,
        random: &mut fastrand::Rng,
    ) -> Response<Full<Bytes>> {
        let language = Language::of(asked.headers);
        let retry_after = match trouble {
            Trouble::Failed(_, wait) => Some(retry_after_seconds(wait)),
            Trouble::Refused(_) => None,
        };
        // Only a page that was merely looked at may be asked for again without asking the person.
        let refresh =
            retry_after.filter(|_| *asked.method == Method::GET).map(|seconds| seconds + random.u64(..=2));
        let html = self.pages.render(&page::Content {
            language,
            trouble,
            outcome: asked.outcome(),
            has_key: asked.nature.has_key,
            refresh,
            request_id: asked.headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()),
        });
        let mut response = Response::new(Full::new(Bytes::from(html)));
        *response.status_mut() = described.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Language"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::SECURITY_POLICY));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(seconds) = refresh {
            headers.insert(header::REFRESH, HeaderValue::from(seconds));
        }
        response
    }
}

/// How long a client should wait: until the next chance, plus a part that spreads the crowd. The longer an outage has
/// lasted, the longer it is likely to last and the wider the spread.
pub(crate) fn retry_after(next_chance: Duration, down_for: Duration, random: &mut fastrand::Rng) -> Duration {
    let spread = (down_for / 4).clamp(Duration::from_secs(2), Duration::from_secs(15));
    next_chance + spread.mul_f64(random.f64())
}

/// The parts of an answer that do not depend on its form.
struct Described {
    status: StatusCode,
    slug: &'static str,
    /// The same for all problems of this type.
    title: &'static str,
    detail: &'static str,
    /// The error token of RFC 9209.
    error: &'static str,
    /// Whether the connection cannot be used after it.
    closes: bool,
}

fn describe(trouble: Trouble) -> Described {
    match trouble {
        Trouble::Failed(failure, _) => describe_failure(failure),
        Trouble::Refused(refusal) => describe_refusal(refusal),
    }
}

fn describe_failure(failure: Failure) -> Described {
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    const AWAY: (&str, &str, &str) =
        ("service-away", "the service is away", "nobody answers behind this address at the moment");
    const LATE: (&str, &str, &str) =
        ("service-late", "the service did not answer in time", "it may be busy; the request was given up");
    const BROKEN: (&str, &str, &str) =
        ("service-broke-off", "the service broke off", "the connection ended without a whole answer");
    const FULL: (&str, &str, &str) =
        ("service-overloaded", "the service is overloaded", "it has as many requests as it can take");
    let (status, error, (slug, title, detail)) = match failure {
        Failure::NoBackend(NoBackend::Away) => (UNAVAILABLE, "destination_unavailable", AWAY),
        Failure::NoBackend(NoBackend::Full) => (UNAVAILABLE, "connection_limit_reached", FULL),
        Failure::Attempt(attempt) => match attempt {
            AttemptError::Dial(DialError::Refused) => (UNAVAILABLE, "connection_refused", AWAY),
            AttemptError::Dial(DialError::Unroutable) => (UNAVAILABLE, "destination_ip_unroutable", AWAY),
            AttemptError::Dial(DialError::Name) => (UNAVAILABLE, "dns_error", AWAY),
            AttemptError::Dial(DialError::Failed) => (UNAVAILABLE, "destination_unavailable", AWAY),
            AttemptError::Dial(DialError::TimedOut) => {
                (StatusCode::GATEWAY_TIMEOUT, "connection_timeout", LATE)
            }
            AttemptError::TimedOut { .. } | AttemptError::Silent { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", LATE)
            }
            AttemptError::Closed { .. } => (StatusCode::BAD_GATEWAY, "connection_terminated", BROKEN),
            AttemptError::Invalid | AttemptError::Upload(_) | AttemptError::UploadIdle => {
                (StatusCode::BAD_GATEWAY, "http_protocol_error", BROKEN)
            }
        },
    };
    Described { status, slug, title, detail, error, closes: false }
}

fn describe_refusal(refusal: Refusal) -> Described {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const WRONG: &str = "http_request_error";
    const DENIED: &str = "http_request_denied";
    let (status, error, slug, title, detail) = match refusal {
        Refusal::Method => (
            StatusCode::METHOD_NOT_ALLOWED,
            DENIED,
            "method",
            "the method is not allowed",
            "this is no tunnel",
        ),
        Refusal::Host => (BAD, WRONG, "host", "the host is not clear", "send one valid Host field"),
        Refusal::Target => {
            (BAD, WRONG, "target", "the target is not clear", "only http without a user name is served here")
        }
        Refusal::ControlCharacter => (
            BAD,
            WRONG,
            "control-character",
            "the path has control characters",
            "leave them out, encoded ones too",
        ),
        Refusal::TargetTooLong => {
            (StatusCode::URI_TOO_LONG, WRONG, "target-too-long", "the address is too long", "shorten it")
        }
        Refusal::ConnectionOption => (
            BAD,
            WRONG,
            "connection-option",
            "a connection option is not allowed",
            "name only hop-by-hop fields",
        ),
        Refusal::Loop => (
            StatusCode::LOOP_DETECTED,
            "proxy_loop_detected",
            "loop",
            "the request runs in a circle",
            "it has passed this proxy before",
        ),
        Refusal::Hidden => (
            StatusCode::NOT_FOUND,
            DENIED,
            "not-found",
            "there is nothing here",
            "this path is not served here",
        ),
        Refusal::BodyTooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, WRONG, "body-too-large", "the request is too large", "send less")
        }
        Refusal::BodyTooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            WRONG,
            "body-too-slow",
            "the request took too long",
            "send it again",
        ),
        Refusal::BodyBroken => (
            BAD,
            WRONG,
            "body-broken",
            "the request could not be read",
            "its body broke off or is not well framed",
        ),
    };
    let closes = !matches!(refusal, Refusal::Hidden);
    Described { status, slug, title, detail, error, closes }
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

fn proxy_status(error: &'static str) -> HeaderValue {
    let text = format!("ridethrough-proxy; error={error}");
    HeaderValue::from_str(&text).expect("tokens are visible characters")
}

/// An answer to HEAD has the fields of the answer to GET, its length included, and no body.
fn without_body_for_head(mut response: Response<Full<Bytes>>, method: &Method) -> Response<Full<Bytes>> {
    use http_body::Body as _;
    if *method == Method::HEAD {
        let length = response.body().size_hint().exact().unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Full::default();
    }
    response
}

/// Whether a person is looking: the browser navigates, or HTML is asked for by name and not less than JSON.
fn asks_for_page(headers: &HeaderMap) -> bool {
    if headers.get("sec-fetch-mode").is_some_and(|mode| mode != "navigate") {
        return false;
    }
    let weight =
        |wanted: &str| language::weight(headers, header::ACCEPT, |range| range.eq_ignore_ascii_case(wanted));
    let html = weight("text/html").max(weight("application/xhtml+xml"));
    html > 0 && html >= weight("application/json").max(weight("application/problem+json"))
}

#[cfg(test)]
mod tests;
