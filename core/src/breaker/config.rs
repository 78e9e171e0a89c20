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
    /// Results the window must hold before a ratio counts. Default 10, which a small service reaches too.
    pub samples_min: u32,
    /// Length of the window, which slides in tenths of it. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub window: Duration,
    /// A success that took at least this long counts as slow. Default none: nothing is slow.
    #[cfg_attr(feature = "serde", serde(with = "optional_duration"))]
    pub slow_call: Option<Duration>,
    /// Share of slow successes within the window that trips, 0.0 to 1.0. Default 0.8; without `slow_call` it is not
    /// looked at.
    pub slow_ratio: f64,
    /// How long it stays open where there is no background probe. Default 1 s, doubled by each failed trial.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub open: Duration,
    /// No open interval is longer than this, but for its jitter. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub open_max: Duration,
    /// Share by which an open interval is made longer or shorter at random, 0.0 to 1.0, so that instances that tripped
    /// together do not come back together. Default 0.5.
    pub jitter: f64,
    /// Trials in progress at once when it has just become half-open. Default 1.
    pub trials: u32,
    /// Trials in progress at once at the top of the ramp, which doubles from `trials`: 1, 2, 4 and so on. Default 32. A
    /// value not above `trials` means no ramp.
    pub ramp_max: u32,
    /// A trial that reports nothing for this long has failed. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub trial_lease: Duration,
    /// Successes, of trials or probes, without which it does not close, however short the ramp. Default 2.
    pub successes_to_close: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            failure_ratio: 0.5,
            samples_min: 10,
            window: Duration::from_secs(10),
            slow_call: None,
            slow_ratio: 0.8,
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(10),
            jitter: 0.5,
            trials: 1,
            ramp_max: 32,
            trial_lease: Duration::from_secs(5),
            successes_to_close: 2,
        }
    }
}

/// `duration_text` for a duration that may be missing.
#[cfg(feature = "serde")]
mod optional_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use crate::duration_text;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration_text::deserialize(deserializer).map(Some)
    }

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => duration_text::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}
