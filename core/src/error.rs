//! What went wrong with a call, said so that the caller can decide: stage, phase, class, and when to come back.
//!
//! Which PostgreSQL error gets which class is the table in `db/classify`; this file only holds the words.
//!
//! Defaults, metrics and what not to do: `docs/patterns/outcome-and-ambiguous-commit.md`.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// Where a call was when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a permit of the bulkhead.
    Bulkhead,
    /// Asking the breaker.
    Breaker,
    /// Getting a connection.
    Connect,
    /// Running statements.
    Query,
    /// Waiting for the answer to COMMIT.
    Commit,
    /// Appending to the journal.
    Journal,
}

/// How much of the call the server may have seen. Decides what may be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Provably nothing was sent.
    NotSent,
    /// An autocommit statement was sent and not answered.
    Sent,
    /// Within a transaction whose COMMIT was not sent: it is rolled back.
    InTransaction,
    /// COMMIT was sent and not answered.
    CommitSent,
}

/// What an error lets the caller do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// Had no effect and may work soon.
    Transient,
    /// May have had its effect. Must not be tried again without an idempotency key.
    Unknown,
    /// Will fail every time.
    Permanent,
    /// The server has no room; come back later.
    Overload,
    /// Lost a race with another transaction; the whole transaction may be tried again.
    Contention,
    /// The host takes no writes; another one may.
    Failover,
    /// Our own picture of the schema is out of date; works when done anew.
    Heal,
}

/// Why a call was refused without asking the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// The breaker is open.
    BreakerOpen,
    /// No permit: too many calls in progress.
    Overloaded,
    /// No permit, and while it was waited for, no call in progress was answered: the database is rather away than busy.
    Unanswered,
    /// The schema has not been seen yet, or is not ours.
    SchemaUnusable,
    /// Nothing is left of the deadline.
    DeadlinePassed,
    /// What there is here is older than what its reader has seen.
    BehindSession,
}

/// What is known about a refusal beyond its reason. Plain words and instants: a refusal allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// The state of whoever refused, such as `open`.
    pub state: &'static str,
    /// Since when it has been in that state, where that is known.
    pub since: Option<Instant>,
    /// What led to it, such as `consecutive failures`.
    pub because: &'static str,
}

/// A refusal explained: reason, state, since when, evidence, and when to come back. Its text is one line.
///
/// ```
/// use std::time::Duration;
/// use ridethrough::error::{Error, ErrorClass, RejectReason};
///
/// let error = Error::rejected(RejectReason::Overloaded, Duration::from_millis(300));
/// assert_eq!((error.class(), error.is_rejection()), (ErrorClass::Overload, true));
/// assert!(error.explain().expect("it is a refusal").to_string().ends_with("ask again in 300 ms"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// Why it was refused.
    pub reason: RejectReason,
    /// When asking again is worth while.
    pub retry_after: Duration,
    /// State, since, and what led to it, where whoever refused has told.
    pub evidence: Option<Evidence>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused because {}", self.reason)?;
        if let Some(Evidence { state, since, because }) = self.evidence {
            write!(f, ": {state}")?;
            if let Some(since) = since {
                write!(f, " for {} ms", since.elapsed().as_millis())?;
            }
            write!(f, " after {because}")?;
        }
        write!(f, "; ask again in {} ms", self.retry_after.as_millis())
    }
}

/// How bad the server thought it was; read from the field of its message that is not translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A notice or warning; the session goes on.
    Notice,
    /// The statement failed; the session goes on.
    Error,
    /// The session ended.
    Fatal,
    /// All sessions ended.
    Panic,
}

impl Severity {
    /// The word of PostgreSQL for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "NOTICE",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
        }
    }

    /// Whether the session is over, whatever the code says.
    #[must_use]
    pub fn ends_session(self) -> bool {
        matches!(self, Self::Fatal | Self::Panic)
    }
}

/// What a server said last on a connection that then ended. A driver reports only "closed" to the next user of the
/// connection; this is the cause behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWords {
    /// The SQLSTATE.
    pub code: String,
    /// How bad it was.
    pub severity: Severity,
    /// When it was heard.
    pub at: SystemTime,
    /// The host that said it: its place in the URL, from 0.
    pub host: usize,
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
        let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let (code, severity, host) = (&self.code, self.severity.as_str(), self.host);
        write!(f, "{severity} {code} at {hours:02}:{minutes:02}:{seconds:02} UTC on host {host}")
    }
}

/// A failed call of the database path.
///
/// Its text is for logs of the operator; it may hold words of the server and never belongs into an answer to a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Refused at once; the database was not asked.
    #[error("refused without asking the database: {reason}")]
    Rejected {
        /// Why.
        reason: RejectReason,
        /// When asking again is worth while.
        retry_after: Duration,
        /// What whoever refused could tell about it.
        evidence: Option<Evidence>,
    },
    /// No answer in time.
    #[error("no answer from PostgreSQL within {} ms ({stage})", limit.as_millis())]
    Timeout {
        /// Where it waited.
        stage: Stage,
        /// What the server may have seen.
        phase: Phase,
        /// How long it was willing to wait.
        limit: Duration,
    },
    /// PostgreSQL, or the connection to it, failed.
    #[error("PostgreSQL failed ({stage}, {class}{}{}): {source}", Code(code.as_deref()), Cause(cause.as_ref()))]
    Database {
        /// Where.
        stage: Stage,
        /// What the server may have seen.
        phase: Phase,
        /// What may be done about it.
        class: ErrorClass,
        /// The SQLSTATE, where the server spoke.
        code: Option<String>,
        /// What the connection heard last, where the driver only knows that it ended.
        cause: Option<LastWords>,
        /// The driver's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The service itself ended its transaction; it was rolled back.
    #[error("the transaction was given up by the service: {source}")]
    GivenUp {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The journal did not take the write.
    #[error("failed to journal the write: {reason}")]
    NotJournaled {
        /// From the closed set of [`AppendError::reason`](crate::journal::AppendError::reason), or `fenced`: another
        /// process owns the journal now.
        reason: &'static str,
        /// Whether it never will, because the write is larger than the journal takes.
        permanent: bool,
    },
}

struct Code<'a>(Option<&'a str>);

impl fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |code| write!(f, ", SQLSTATE {code}"))
    }
}

struct Cause<'a>(Option<&'a LastWords>);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |cause| write!(f, ", after {cause}"))
    }
}

impl Error {
    /// A refusal of which nothing more is known.
    #[must_use]
    pub fn rejected(reason: RejectReason, retry_after: Duration) -> Self {
        Self::Rejected { reason, retry_after, evidence: None }
    }

    /// The refusal explained; `None` where it was none.
    #[must_use]
    pub fn explain(&self) -> Option<Explanation> {
        match *self {
            Self::Rejected { reason, retry_after, evidence } => {
                Some(Explanation { reason, retry_after, evidence })
            }
            _ => None,
        }
    }

    /// What the server said last before the connection ended, where that was heard.
    #[must_use]
    pub fn cause(&self) -> Option<&LastWords> {
        match self {
            Self::Database { cause, .. } => cause.as_ref(),
            _ => None,
        }
    }

    /// What may be done about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Rejected { reason: RejectReason::Overloaded, .. } => ErrorClass::Overload,
            Self::Rejected { .. } => ErrorClass::Transient,
            Self::Timeout { phase: Phase::Sent | Phase::CommitSent, .. } => ErrorClass::Unknown,
            Self::Timeout { .. } => ErrorClass::Transient,
            Self::Database { class, .. } => *class,
            Self::NotJournaled { permanent: true, .. } | Self::GivenUp { .. } => ErrorClass::Permanent,
            Self::NotJournaled { .. } => ErrorClass::Overload,
        }
    }

    /// Where the call was.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Rejected {
                reason: RejectReason::Overloaded | RejectReason::Unanswered | RejectReason::DeadlinePassed,
                ..
            } => Stage::Bulkhead,
            Self::Rejected { reason: RejectReason::BehindSession, .. } => Stage::Query,
            Self::Rejected { .. } => Stage::Breaker,
            Self::NotJournaled { .. } => Stage::Journal,
            Self::GivenUp { .. } => Stage::Query,
            Self::Timeout { stage, .. } | Self::Database { stage, .. } => *stage,
        }
    }

    /// What the server may have seen of the call.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Rejected { .. } | Self::NotJournaled { .. } => Phase::NotSent,
            Self::GivenUp { .. } => Phase::InTransaction,
            Self::Timeout { phase, .. } | Self::Database { phase, .. } => *phase,
        }
    }

    /// Whether it was refused without asking the database.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    /// When asking again is worth while, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. } => Some(*retry_after),
            Self::Timeout { .. }
            | Self::Database { .. }
            | Self::NotJournaled { .. }
            | Self::GivenUp { .. } => None,
        }
    }

    /// The SQLSTATE, where the server spoke.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Database { code, .. } => code.as_deref(),
            _ => None,
        }
    }
}

impl Stage {
    /// The word used in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bulkhead => "bulkhead",
            Self::Breaker => "breaker",
            Self::Connect => "connect",
            Self::Query => "query",
            Self::Commit => "commit",
            Self::Journal => "journal",
        }
    }
}

impl ErrorClass {
    /// The word used in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Unknown => "unknown",
            Self::Permanent => "permanent",
            Self::Overload => "overload",
            Self::Contention => "contention",
            Self::Failover => "failover",
            Self::Heal => "heal",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BreakerOpen => "the breaker is open",
            Self::Overloaded => "too many calls are in progress",
            Self::Unanswered => "no call in progress is answered",
            Self::SchemaUnusable => "the schema has not been checked yet or is not ours",
            Self::DeadlinePassed => "nothing is left of the deadline",
            Self::BehindSession => "only older answers than its reader has seen are to be had",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_tells_what_the_server_said_last() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3_600 + 3 * 60 + 4);
        let cause = LastWords { code: "57P01".to_owned(), severity: Severity::Fatal, at, host: 1 };
        let error = Error::Database {
            stage: Stage::Query,
            phase: Phase::InTransaction,
            class: ErrorClass::Transient,
            code: None,
            cause: Some(cause),
            source: "connection closed".into(),
        };
        let text = error.to_string();
        assert!(text.contains("after FATAL 57P01 at 12:03:04 UTC on host 1): connection closed"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_explains_itself_in_one_line() {
        let evidence =
            Evidence { state: "open", since: Some(Instant::now()), because: "consecutive failures" };
        tokio::time::advance(Duration::from_millis(250)).await;
        let retry_after = Duration::from_millis(800);
        let reason = RejectReason::BreakerOpen;
        let error = Error::Rejected { reason, retry_after, evidence: Some(evidence) };
        assert_eq!(
            error.explain().unwrap().to_string(),
            "refused because the breaker is open: open for 250 ms after consecutive failures; ask again in 800 ms"
        );
        assert!(Error::rejected(reason, retry_after).explain().is_some());
        assert!(Error::GivenUp { source: "no".into() }.explain().is_none());
    }
}
