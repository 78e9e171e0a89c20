//! How a transaction ended, as a type: nobody can take "not known" for success or for failure by accident.

use crate::error::Error;

/// How a transaction ended.
#[derive(Debug)]
#[must_use = "a transaction whose end nobody looks at may not have happened"]
pub enum Outcome<T> {
    /// It is in the database; the value is what the work answered.
    Committed(T),
    /// It had no effect and will have none.
    RolledBack(Error),
    /// Nobody knows yet: it may have its effect, now or in a moment.
    Unknown(Unresolved),
}

/// A transaction whose end could not be found out in time, with what is needed to ask again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unresolved {
    /// The transaction's identifier at the server, where one had been assigned. `pg_xact_status` tells what became of it
    /// while the server has neither crashed nor been replaced since.
    pub xid: Option<u64>,
    /// The idempotency key it carried, where it had one: the row under it is the truth.
    pub key: Option<String>,
    /// How the answer was lost.
    pub error: Error,
}

impl<T> Outcome<T> {
    /// The value where it committed.
    #[must_use]
    pub fn committed(self) -> Option<T> {
        match self {
            Self::Committed(value) => Some(value),
            Self::RolledBack(_) | Self::Unknown(_) => None,
        }
    }

    /// The error where it did not commit, or is not known to have.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Committed(_) => None,
            Self::RolledBack(error) | Self::Unknown(Unresolved { error, .. }) => Some(error),
        }
    }

    /// Whether nobody knows.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// The word used in metrics.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Committed(_) => "committed",
            Self::RolledBack(_) => "rejected",
            Self::Unknown(_) => "unknown",
        }
    }
}
