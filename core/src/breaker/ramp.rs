//! The way back: how many trials may be in progress while half-open. 1, 2, 4 and so on; each step is earned.
//!
//! It holds leases and counts successes. Whether a failure opens the breaker again is decided in `machine`.

use std::time::Duration;

use tokio::time::Instant;

use super::{BreakerConfig, machine::later};

#[derive(Debug)]
pub(super) struct Ramp {
    /// Trials in progress at once that this step allows.
    allowed: u32,
    successes_in_step: u32,
    successes: u32,
    leases: Vec<(u32, Instant)>,
    next_lease: u32,
}

impl Ramp {
    pub(super) fn new(config: &BreakerConfig) -> Self {
        Self {
            allowed: config.trials.max(1),
            successes_in_step: 0,
            successes: 0,
            leases: Vec::new(),
            next_lease: 0,
        }
    }

    pub(super) fn allowed(&self) -> u32 {
        self.allowed
    }

    /// A lease for one more trial.
    ///
    /// # Errors
    /// Where the step is full: the time until the first lease would run out.
    pub(super) fn lease(&mut self, config: &BreakerConfig, now: Instant) -> Result<u32, Duration> {
        if self.leases.len() >= self.allowed as usize {
            let left = self.leases.iter().map(|(_, until)| until.saturating_duration_since(now));
            return Err(left.min().unwrap_or_default());
        }
        let lease = self.next_lease;
        self.next_lease = self.next_lease.wrapping_add(1);
        self.leases.push((lease, later(now, config.trial_lease)));
        Ok(lease)
    }

    pub(super) fn give_back(&mut self, lease: Option<u32>) {
        self.leases.retain(|(id, _)| Some(*id) != lease);
    }

    /// A trial whose lease ran out is a call that hangs: that is an answer too.
    pub(super) fn has_lost_a_lease(&self, now: Instant) -> bool {
        self.leases.iter().any(|(_, until)| now >= *until)
    }

    /// Counts a success of a trial, or of a probe, which is worth a whole step: a quiet service would never make the
    /// calls. Answers whether the top is reached and the breaker may close.
    pub(super) fn succeeded(&mut self, config: &BreakerConfig, by_probe: bool) -> bool {
        self.successes = self.successes.saturating_add(1);
        self.successes_in_step = self.successes_in_step.saturating_add(1);
        if !by_probe && self.successes_in_step < self.allowed {
            return false;
        }
        if self.allowed >= config.ramp_max {
            return self.successes >= config.successes_to_close;
        }
        self.allowed = self.allowed.saturating_mul(2).min(config.ramp_max);
        self.successes_in_step = 0;
        false
    }
}
