//! What goes wrong with a request, as status, problem document and outcome. How a problem looks to a person is the
//! business of `app`; nothing of a driver, a host or a path can get in here, because every text is our own.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ridethrough::{
    db::{Refusal, WriteError},
    error::{Error, ErrorClass, RejectReason, Stage},
    http::Problem,
};

use crate::{
    problems::{self, Kind},
    todo,
};

/// What became of a write, for a program.
pub(crate) const OUTCOME: HeaderName = HeaderName::from_static("ridethrough-outcome");

/// The value of [`OUTCOME`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    Journaled,
    Rejected,
    Unknown,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Journaled => "journaled",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn insert_into(self, headers: &mut HeaderMap) {
        headers.insert(OUTCOME, HeaderValue::from_static(self.as_str()));
    }
}

/// A request that was not answered as its sender wished.
#[derive(Debug, Clone)]
#[must_use = "trouble that is not answered helps nobody"]
pub(crate) struct Trouble {
    pub(crate) kind: &'static Kind,
    pub(crate) detail: Option<Cow<'static, str>>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) outcome: Option<Outcome>,
    /// What the sender must show, for `WWW-Authenticate`.
    challenge: Option<&'static str>,
}

impl Trouble {
    pub(crate) fn new(kind: &'static Kind) -> Self {
        Self { kind, detail: None, retry_after: None, outcome: None, challenge: None }
    }

    pub(crate) fn detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    pub(crate) fn outcome(self, outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), ..self }
    }

    /// The same in answer to a write: without another outcome it had no effect.
    pub(crate) fn of_a_write(self) -> Self {
        Self { outcome: self.outcome.or(Some(Outcome::Rejected)), ..self }
    }

    /// A part of the request cannot be understood.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(&problems::BAD_REQUEST).detail(detail)
    }

    /// The request is understood, and makes no valid todo.
    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(&problems::INVALID_TODO).detail(detail)
    }

    pub(crate) fn is_invalid(&self) -> bool {
        *self.kind == problems::INVALID_TODO
    }

    pub(crate) fn no_such_todo() -> Self {
        Self::new(&problems::NO_SUCH_TODO)
    }

    pub(crate) fn version_mismatch() -> Self {
        Self::new(&problems::VERSION_MISMATCH)
            .detail("read it again, decide again, and send the version you have read")
    }

    pub(crate) fn is_version_mismatch(&self) -> bool {
        *self.kind == problems::VERSION_MISMATCH
    }

    /// A version mismatch for a person, who never saw a version.
    pub(crate) fn changed_meanwhile() -> Self {
        Self::new(&problems::CHANGED_MEANWHILE).detail(
            "nothing was changed now; go back to the list, where you see the item as it is, and decide again",
        )
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(&problems::NO_SUCH_PATH)
    }

    /// It is not known whose the request is; `was_shown` where it showed something that is worth nothing.
    pub(crate) fn sign_in_needed(was_shown: bool) -> Self {
        let challenge = match was_shown {
            true => "Bearer realm=\"ridethrough\", error=\"invalid_token\"",
            false => "Bearer realm=\"ridethrough\"",
        };
        let detail = match was_shown {
            true => "the token that was sent is not known, or no longer",
            false => "send a token in the header Authorization, after the word Bearer",
        };
        Self { challenge: Some(challenge), ..Self::new(&problems::SIGN_IN_NEEDED).detail(detail) }
    }

    /// Whether a person could help it by signing in; then, whether something was shown already.
    pub(crate) fn wants_sign_in(&self) -> Option<bool> {
        let was_shown = self.challenge.is_some_and(|challenge| challenge.contains("error"));
        (*self.kind == problems::SIGN_IN_NEEDED).then_some(was_shown)
    }

    pub(crate) fn internal() -> Self {
        Self::new(&problems::INTERNAL).detail("it was logged under the request id of this answer")
    }

    /// A read, or the question for a write's status, that got no answer. `wait` is for errors that do not know better.
    pub(crate) fn of_read(error: &Error, wait: Duration) -> Self {
        if is_internal(error) {
            tracing::error!(
                code = error.code(),
                stage = error.stage().as_str(),
                "the database refused a statement"
            );
            return Self::internal();
        }
        Self { retry_after: Some(error.retry_after().unwrap_or(wait)), ..unavailable(error) }
    }

    /// A write that was not acknowledged.
    pub(crate) fn of_write(error: &WriteError, wait: Duration) -> Self {
        match error {
            WriteError::Refused(refusal) => Self::of_refusal(refusal).of_a_write(),
            WriteError::KeyReused => Self::key_reused(),
            WriteError::Unknown(_) => Self {
                retry_after: Some(wait),
                ..Self::new(&problems::OUTCOME_UNKNOWN)
                    .detail(
                        "send the same request again with the same Idempotency-Key, which is safe and finds out, or ask \
                         /api/writes/{key}",
                    )
                    .outcome(Outcome::Unknown)
            },
            WriteError::Rejected(error) => Self::of_rejected_write(error, wait),
            _ => Self::internal().outcome(Outcome::Unknown),
        }
    }

    /// Neither the database nor the journal took it.
    fn of_rejected_write(error: &Error, wait: Duration) -> Self {
        let trouble = Self::of_read(error, wait);
        let kind = if *trouble.kind == problems::DATABASE_AWAY {
            &problems::WRITE_NOT_ACCEPTED
        } else {
            trouble.kind
        };
        Self { kind, ..trouble }.of_a_write()
    }

    pub(crate) fn key_reused() -> Self {
        Self::new(&problems::KEY_REUSED)
            .detail("use a new key for each new write, and an old one only to repeat the very same request")
            .outcome(Outcome::Rejected)
    }

    pub(crate) fn is_key_reused(&self) -> bool {
        *self.kind == problems::KEY_REUSED
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        match refusal.code.as_str() {
            todo::NOT_FOUND => Self::no_such_todo(),
            todo::VERSION_MISMATCH => Self::version_mismatch(),
            _ => Self::new(&problems::REFUSED),
        }
    }

    /// A repeated write that had been journaled and came too late.
    pub(crate) fn superseded() -> Self {
        Self::new(&problems::SUPERSEDED)
            .detail("the write was accepted while the database was away, and the todo was changed elsewhere meanwhile")
            .outcome(Outcome::Rejected)
    }
}

/// The database answered and said no to a statement of ours: asking again would not help.
fn is_internal(error: &Error) -> bool {
    error.class() == ErrorClass::Permanent && matches!(error.stage(), Stage::Query | Stage::Commit)
}

fn unavailable(error: &Error) -> Trouble {
    Trouble::new(match error {
        Error::Rejected { reason: RejectReason::Overloaded, .. }
        | Error::Database { class: ErrorClass::Overload, .. } => &problems::OVERLOADED,
        Error::Rejected { reason: RejectReason::DeadlinePassed, .. } | Error::Timeout { .. } => {
            &problems::TOO_SLOW
        }
        Error::Rejected { reason: RejectReason::BehindSession, .. } => &problems::OLDER_THAN_SEEN,
        Error::Database { class: ErrorClass::Contention, .. } => &problems::BUSY,
        _ => &problems::DATABASE_AWAY,
    })
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut problem = Problem::new(self.kind.status, self.kind.slug, self.kind.title);
        if let Some(detail) = self.detail.clone() {
            problem = problem.detail(detail);
        }
        if let Some(wait) = self.retry_after {
            problem = problem.retry_after(wait);
        }
        if let Some(outcome) = self.outcome {
            problem = problem.member("outcome", outcome.as_str());
        }
        let mut response = problem.into_response().map(Body::new);
        if let Some(outcome) = self.outcome {
            outcome.insert_into(response.headers_mut());
        }
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        // For the layer that makes a page of it where a person asked.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use ridethrough::error::Phase;

    use super::*;

    const WAIT: Duration = Duration::from_millis(1_500);

    fn database(stage: Stage, class: ErrorClass) -> Error {
        Error::Database {
            stage,
            phase: Phase::InTransaction,
            class,
            code: Some("42P01".to_owned()),
            cause: None,
            source: "relation canary does not exist".into(),
        }
    }

    fn rejected(reason: RejectReason) -> Error {
        Error::rejected(reason, Duration::from_secs(7))
    }

    #[test]
    fn what_passes_is_a_503_that_says_when_to_come_back() {
        let timeout = Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit: WAIT };
        let cases = [
            (rejected(RejectReason::BreakerOpen), "database-away", "7"),
            (rejected(RejectReason::Overloaded), "overloaded", "7"),
            (timeout, "too-slow", "2"),
            (database(Stage::Connect, ErrorClass::Permanent), "database-away", "2"),
            (database(Stage::Query, ErrorClass::Transient), "database-away", "2"),
        ];
        for (error, slug, seconds) in cases {
            let trouble = Trouble::of_read(&error, WAIT);
            assert_eq!(
                (trouble.kind.status, trouble.kind.slug),
                (StatusCode::SERVICE_UNAVAILABLE, slug),
                "{error}"
            );
            assert_eq!(trouble.into_response().headers()["retry-after"], seconds, "{error}");
        }
    }

    #[test]
    fn a_statement_that_can_never_work_is_a_fault_of_ours() {
        let trouble = Trouble::of_read(&database(Stage::Query, ErrorClass::Permanent), WAIT);
        assert_eq!(trouble.kind.status, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn every_failed_write_says_what_became_of_it() {
        let cases = [
            (WriteError::Refused(Refusal::new(todo::NOT_FOUND)), 404, "rejected"),
            (WriteError::Refused(Refusal::new(todo::VERSION_MISMATCH)), 412, "rejected"),
            (WriteError::Refused(Refusal::new("unknown-command")), 409, "rejected"),
            (WriteError::KeyReused, 422, "rejected"),
            (WriteError::Rejected(rejected(RejectReason::BreakerOpen)), 503, "rejected"),
            (WriteError::Unknown(database(Stage::Commit, ErrorClass::Unknown)), 503, "unknown"),
        ];
        for (error, status, outcome) in cases {
            let response = Trouble::of_write(&error, WAIT).into_response();
            assert_eq!(response.status().as_u16(), status, "{error}");
            assert_eq!(response.headers()[OUTCOME], outcome, "{error}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503, "{error}");
        }
    }
}
