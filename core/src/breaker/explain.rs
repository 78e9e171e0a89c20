//! Why a breaker is as it is, for people: in a log line, an error page, `/debug/state`.
//!
//! It is a snapshot; nothing here changes anything.

use std::{borrow::Cow, fmt, time::Duration};

use tokio::time::Instant;

use super::{BreakerState, Forced, TripReason};

/// What had been counted when the breaker last opened, or what is counted now while it is closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Successes within the window, slow ones among them.
    pub successes: u64,
    /// Failures within the window.
    pub failures: u64,
    /// Slow successes within the window.
    pub slow: u64,
    /// Failures since the last success.
    pub consecutive_failures: u32,
}

impl Counts {
    /// Successes and failures.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.successes.saturating_add(self.failures)
    }

    pub(super) fn ratio_of(&self, part: u64) -> f64 {
        match self.samples() {
            0 => 0.0,
            samples => part as f64 / samples as f64,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failures, slow, consecutive_failures, .. } = self;
        write!(f, "{failures} of {} calls failed, {slow} were slow, ", self.samples())?;
        write!(f, "{consecutive_failures} failures in a row")
    }
}

/// Everything a person asks about a rejection. Its `Display` is one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// Which breaker.
    pub circuit: Cow<'static, str>,
    /// Its state.
    pub state: BreakerState,
    /// The position it is held in by an operator, if it is.
    pub forced: Option<Forced>,
    /// Why and when it left the closed state, where it is not closed.
    pub opened: Option<(TripReason, Instant)>,
    /// How long that is ago.
    pub open_for: Option<Duration>,
    /// Time to the next trial; zero where calls flow.
    pub retry_after: Duration,
    /// Trials in progress at once that are allowed now, while half-open.
    pub ramp: Option<u32>,
    /// What led to it.
    pub evidence: Counts,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the breaker {} is {}", self.circuit, self.state.as_str())?;
        if self.forced.is_some() {
            f.write_str(" by an operator's order")?;
        } else if let Some((reason, _)) = self.opened {
            write!(f, " after {reason}")?;
        }
        if let Some(open_for) = self.open_for {
            write!(f, ", left the closed state {:.1} s ago", open_for.as_secs_f64())?;
        }
        if !self.retry_after.is_zero() {
            write!(f, ", next trial in {:.1} s", self.retry_after.as_secs_f64())?;
        }
        if let Some(ramp @ 1..) = self.ramp {
            write!(f, ", {ramp} calls at once allowed")?;
        }
        write!(f, ": {}", self.evidence)
    }
}
