//! How a guarded call failed: refused before it was made, or made and failed.

use std::time::Duration;

use crate::{breaker::BreakerOpen, bulkhead::BulkheadFull, error::ErrorClass};

/// A guarded call that gave no answer. `E` is the error of the call itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError<E> {
    /// Refused: the breaker is open. Nothing was done.
    #[error(transparent)]
    Open(BreakerOpen),
    /// Refused: too many calls are in progress. Nothing was done.
    #[error(transparent)]
    Full(BulkheadFull),
    /// Refused: what is left of the deadline is too little for an answer. Nothing was done.
    #[error("too little is left of the deadline")]
    DeadlinePassed,
    /// The call was made and no answer came in time; it may have had its effect.
    #[error("no answer within {} ms", limit.as_millis())]
    Timeout {
        /// How long the last attempt was given.
        limit: Duration,
    },
    /// The call was made and failed.
    #[error("the call failed: {source}")]
    Failed {
        /// The error of the last attempt.
        source: E,
        /// What the classifier made of it.
        class: Option<ErrorClass>,
    },
}

impl<E> GuardError<E> {
    /// Whether the call was refused without being made, not even once.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Open(_) | Self::Full(_) | Self::DeadlinePassed)
    }

    /// What may be done about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Open(_) | Self::DeadlinePassed => ErrorClass::Transient,
            Self::Full(_) => ErrorClass::Overload,
            Self::Timeout { .. } => ErrorClass::Unknown,
            Self::Failed { class, .. } => class.unwrap_or(ErrorClass::Unknown),
        }
    }

    /// When asking again is worth while, where that is known. Spread it before it is told to a crowd.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(open) => Some(open.retry_after()),
            Self::Full(_) | Self::DeadlinePassed | Self::Timeout { .. } | Self::Failed { .. } => None,
        }
    }

    /// The error of the call itself.
    #[must_use]
    pub fn into_inner(self) -> Option<E> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::Open(_) | Self::Full(_) | Self::DeadlinePassed | Self::Timeout { .. } => None,
        }
    }
}
