//! How fresh an answer is, in the type and in words, so that nobody can forget to label a stale one.

use std::{fmt, time::Duration};

/// Why an answer did not come from the database in this very call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// The database is away: the breaker is open, or the call failed.
    DatabaseAway,
    /// The database did not answer soon enough to wait for it.
    Slow,
    /// A standby answered, which may be behind the primary by the age.
    Standby,
    /// A journaled write of this replica is not applied yet; this is what it will give. For services that lay their
    /// waiting writes over what they read.
    Pending,
    /// It is young enough for the policy of its query, so that nobody was asked, or one asked for several.
    Kept,
    /// It is asked for anew while it is served.
    Revalidating,
}

impl StaleReason {
    /// The token used outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DatabaseAway => "database-away",
            Self::Slow => "slow",
            Self::Standby => "standby",
            Self::Pending => "pending",
            Self::Kept => "kept",
            Self::Revalidating => "revalidating",
        }
    }
}

/// Whether an answer is the database's or a kept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// From PostgreSQL, in this call.
    Fresh,
    /// A kept answer.
    Stale {
        /// Time since it was known to be true.
        age: Duration,
        /// Why it was served.
        reason: StaleReason,
    },
}

impl Freshness {
    /// Age in whole seconds, rounded up so that it is never understated; `None` where fresh.
    #[must_use]
    pub fn age_seconds(self) -> Option<u64> {
        match self {
            Self::Fresh => None,
            Self::Stale { age, .. } => Some(age.as_secs() + u64::from(age.subsec_nanos() > 0)),
        }
    }
}

/// The value of the header `Ridethrough-Freshness`.
impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.age_seconds()) {
            (Self::Stale { reason, .. }, Some(age)) => {
                write!(f, "stale; age={age}; reason={}", reason.as_str())
            }
            _ => f.write_str("fresh"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_rounded_up() {
        let stale = |milliseconds| Freshness::Stale {
            age: Duration::from_millis(milliseconds),
            reason: StaleReason::DatabaseAway,
        };
        assert_eq!(stale(1_001).to_string(), "stale; age=2; reason=database-away");
        assert_eq!(stale(2_000).to_string(), "stale; age=2; reason=database-away");
        assert_eq!(Freshness::Fresh.to_string(), "fresh");
    }
}
