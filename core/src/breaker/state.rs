//! The words of the breaker: its states, why it opens, how a call ended, what a rejected caller gets.
//!
//! Values only; which of them holds is decided in `machine`.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::RETRY_AFTER_MIN;
use crate::sliding::{epoch, nanos_between};

/// What the breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls flow.
    Closed,
    /// Calls are rejected.
    Open,
    /// A few calls, the trials, are let through to see.
    HalfOpen,
}

impl BreakerState {
    /// The word used in metrics, logs and `/debug/state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A position that a person holds the breaker in, whatever calls and probes report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forced {
    /// Reject every call.
    Open,
    /// Admit every call and count nothing.
    Closed,
}

/// Why the breaker last opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TripReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of failures.
    FailureRatio,
    /// Too large a share of slow successes.
    SlowCalls,
    /// The background probe found nobody there.
    Probe,
    /// A trial failed, or its lease ran out.
    Trial,
    /// A person forced it open.
    Forced,
    /// It began without proof that anybody is there, and has none yet.
    Unproven,
}

impl TripReason {
    /// The words used in logs and `/debug/state`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive failures",
            Self::FailureRatio => "failure ratio",
            Self::SlowCalls => "slow calls",
            Self::Probe => "failed probe",
            Self::Trial => "failed trial",
            Self::Forced => "an operator's order",
            Self::Unproven => "a start without proof",
        }
    }
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How one admitted call ended, as the breaker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// A living other side answered, be it with a statement error.
    Success,
    /// Nobody there, or no answer in time.
    Failure,
    /// Says nothing about the other side: the caller went away, or it was overload.
    Neutral,
}

/// A call that was not let through, and when it is worth asking again. [`Breaker::explain`](super::Breaker::explain) says more.
///
/// It is made far more often than its times are asked for, so it only notes what they follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the breaker is open after {reason}")]
pub struct BreakerOpen {
    /// Why it opened.
    pub reason: TripReason,
    pub(super) asked_at: Instant,
    /// Nanoseconds since the epoch of the process' ticks.
    pub(super) since: u64,
    pub(super) until: u64,
}

impl BreakerOpen {
    /// When it opened.
    #[must_use]
    pub fn since(&self) -> Instant {
        epoch(self.asked_at) + Duration::from_nanos(self.since)
    }

    /// Time to the next trial from when the call was refused; never zero.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let left = self.until.saturating_sub(nanos_between(epoch(self.asked_at), self.asked_at));
        Duration::from_nanos(left).max(RETRY_AFTER_MIN)
    }
}
