//! The settings of a breaker: when it trips, and how it comes back. Numbers only.

use std::time::Duration;

/// When to trip, and how to come back.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct BreakerConfig {
    /// Failures in a row that trip. Default 3.
    pub consecutive_failures: u32,
    /// Share of failures within the window that trips, 0.0 to 1.0. Default 0.5.
    pub failure_ratio: f64,
    /// Results the window must hold before the ratio counts. Default 10, which a small service reaches too.
    pub samples_min: u32,
    /// Length of the window. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub window: Duration,
    /// How long it stays open where there is no background probe. Default 1 s, doubled by each failed trial.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub open: Duration,
    /// No open interval is longer than this. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub open_max: Duration,
    /// Trials in progress at once while half-open. Default 1.
    pub trials: u32,
    /// A trial that reports nothing for this long has failed. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub trial_lease: Duration,
    /// Trials that must succeed to close. Default 2.
    pub successes_to_close: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            failure_ratio: 0.5,
            samples_min: 10,
            window: Duration::from_secs(10),
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(10),
            trials: 1,
            trial_lease: Duration::from_secs(5),
            successes_to_close: 2,
        }
    }
}
