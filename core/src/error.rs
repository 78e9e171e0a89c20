//! What went wrong with a call, said so that the caller can decide: stage, phase, class, and when to come back.
//!
//! Which PostgreSQL error gets which class is the table in `db/classify`; this file only holds the words.

use std::{fmt, time::Duration};

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
    /// The schema has not been seen yet, or is not ours.
    SchemaUnusable,
    /// Nothing is left of the deadline.
    DeadlinePassed,
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
    #[error("PostgreSQL failed ({stage}, {class}{}): {source}", Code(code.as_deref()))]
    Database {
        /// Where.
        stage: Stage,
        /// What the server may have seen.
        phase: Phase,
        /// What may be done about it.
        class: ErrorClass,
        /// The SQLSTATE, where the server spoke.
        code: Option<String>,
        /// The driver's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The journal did not take the write.
    #[error("failed to journal the write: {reason}")]
    NotJournaled {
        /// From the closed set of [`AppendError::reason`](crate::journal::AppendError::reason).
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

impl Error {
    /// What may be done about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Rejected { reason: RejectReason::Overloaded, .. } => ErrorClass::Overload,
            Self::Rejected { .. } => ErrorClass::Transient,
            Self::Timeout { phase: Phase::Sent | Phase::CommitSent, .. } => ErrorClass::Unknown,
            Self::Timeout { .. } => ErrorClass::Transient,
            Self::Database { class, .. } => *class,
            Self::NotJournaled { permanent: true, .. } => ErrorClass::Permanent,
            Self::NotJournaled { .. } => ErrorClass::Overload,
        }
    }

    /// Where the call was.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Rejected { reason: RejectReason::Overloaded | RejectReason::DeadlinePassed, .. } => {
                Stage::Bulkhead
            }
            Self::Rejected { .. } => Stage::Breaker,
            Self::NotJournaled { .. } => Stage::Journal,
            Self::Timeout { stage, .. } | Self::Database { stage, .. } => *stage,
        }
    }

    /// What the server may have seen of the call.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Rejected { .. } | Self::NotJournaled { .. } => Phase::NotSent,
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
            Self::Timeout { .. } | Self::Database { .. } | Self::NotJournaled { .. } => None,
        }
    }

    /// The SQLSTATE, where the server spoke.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Database { code, .. } => code.as_deref(),
            Self::Rejected { .. } | Self::Timeout { .. } | Self::NotJournaled { .. } => None,
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
            Self::SchemaUnusable => "the schema has not been checked yet or is not ours",
            Self::DeadlinePassed => "nothing is left of the deadline",
        })
    }
}
