//! What each trouble is called: status, error token of RFC 9209, problem type, status of gRPC. One table.
//!
//! The words for people are in `texts`.

use http::StatusCode;

use super::{Failure, Trouble};
use crate::{
    backend::NoBackend,
    target::Refusal,
    upstream::{AttemptError, DialError},
};

/// The parts of an answer that do not depend on its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) status: StatusCode,
    pub(super) slug: &'static str,
    /// The same for all problems of this type.
    pub(super) title: &'static str,
    pub(super) detail: &'static str,
    /// The error token of RFC 9209.
    pub(super) error: &'static str,
    /// Whether the connection cannot be used after it.
    pub(super) closes: bool,
}

pub(super) fn describe(trouble: Trouble) -> Described {
    match trouble {
        Trouble::Failed(failure, _) => describe_failure(failure),
        Trouble::Refused(refusal) => describe_refusal(refusal),
    }
}

/// The code of gRPC for it: UNAVAILABLE (14) for what may be tried again, as the gateways' table of gRPC has it.
pub(super) fn grpc_status(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Failed(Failure::Attempt(AttemptError::TimedOut { by_caller: true, .. }), _) => "4",
        Trouble::Failed(..) => "14",
        Trouble::Refused(Refusal::BodyTooLarge) => "8",
        Trouble::Refused(Refusal::Hidden | Refusal::Method) => "12",
        Trouble::Refused(_) => "13",
    }
}

/// The error token of RFC 9209 for a failure.
pub(crate) fn error_token(failure: Failure) -> &'static str {
    describe_failure(failure).error
}

/// Nobody could be asked: 503. Asked, and no connection or no whole answer: 502. Our time ran out: 504.
fn describe_failure(failure: Failure) -> Described {
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    const BAD_GATEWAY: StatusCode = StatusCode::BAD_GATEWAY;
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
            AttemptError::Dial(DialError::Refused) => (BAD_GATEWAY, "connection_refused", AWAY),
            AttemptError::Dial(DialError::Unroutable) => (BAD_GATEWAY, "destination_ip_unroutable", AWAY),
            AttemptError::Dial(DialError::Name) => (BAD_GATEWAY, "dns_error", AWAY),
            AttemptError::Dial(DialError::Failed) => (UNAVAILABLE, "destination_unavailable", AWAY),
            AttemptError::Dial(DialError::TimedOut) => {
                (StatusCode::GATEWAY_TIMEOUT, "connection_timeout", LATE)
            }
            AttemptError::TimedOut { .. } | AttemptError::Silent { .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", LATE)
            }
            AttemptError::Closed { .. } => (BAD_GATEWAY, "connection_terminated", BROKEN),
            AttemptError::Invalid | AttemptError::Upload(_) | AttemptError::UploadIdle => {
                (BAD_GATEWAY, "http_protocol_error", BROKEN)
            }
        },
    };
    Described { status, slug, title, detail, error, closes: false }
}

fn describe_refusal(refusal: Refusal) -> Described {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
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
        Refusal::TooManyFields => {
            (LARGE, WRONG, "head-too-large", "the request has too many fields", "send fewer of them")
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
        Refusal::OnlyIfCached => (
            StatusCode::GATEWAY_TIMEOUT,
            DENIED,
            "not-kept",
            "no kept answer is there",
            "ask without only-if-cached",
        ),
        Refusal::BodyTooLarge | Refusal::BodyTooSlow | Refusal::BodyBroken => {
            return describe_body_refusal(refusal);
        }
    };
    let closes = !matches!(refusal, Refusal::Hidden | Refusal::OnlyIfCached);
    Described { status, slug, title, detail, error, closes }
}

fn describe_body_refusal(refusal: Refusal) -> Described {
    let (status, slug, title, detail) = match refusal {
        Refusal::BodyTooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "the request is too large", "send less")
        }
        Refusal::BodyTooSlow => {
            (StatusCode::REQUEST_TIMEOUT, "body-too-slow", "the request took too long", "send it again")
        }
        _ => (
            StatusCode::BAD_REQUEST,
            "body-broken",
            "the request could not be read",
            "its body broke off or is not well framed",
        ),
    };
    Described { status, slug, title, detail, error: "http_request_error", closes: true }
}
