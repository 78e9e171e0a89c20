//! The watchdog behind `/livez`: has the main runtime made progress lately, and is every part still alive?
//!
//! It only remembers; it restarts nothing, because a restart is what the orchestrator does with the answer.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Without a beat of the main runtime for this long, a restart would help.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Often enough that a busy machine does not look dead.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// Remembers the last beat of the runtime and which parts died.
#[derive(Debug)]
pub struct Watchdog {
    start: Instant,
    last_beat_ms: AtomicU64,
    dead: Mutex<Option<&'static str>>,
}

impl Watchdog {
    /// A watchdog whose first beat is `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { start: now, last_beat_ms: AtomicU64::new(0), dead: Mutex::new(None) }
    }

    /// The runtime makes progress at `now`.
    pub fn beat(&self, now: Instant) {
        let since_start = now.saturating_duration_since(self.start).as_millis();
        self.last_beat_ms.store(u64::try_from(since_start).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A part ended that the process cannot work without. There is no way back.
    pub fn part_died(&self, part: &'static str) {
        tracing::error!(part, "a part of the process died; liveness fails from now on");
        *self.dead.lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
    }

    /// What is wrong at `now`, if a restart would help.
    #[must_use]
    pub fn complaint(&self, now: Instant) -> Option<&'static str> {
        let last_beat = self.start + Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        if now.saturating_duration_since(last_beat) > SILENCE_MAX {
            return Some("runtime");
        }
        *self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beats until dropped; spawn it on the main runtime.
    ///
    /// # Cancel safety
    /// Dropping it stops the beats, which is what liveness is about.
    pub async fn keep_beating(&self) {
        let mut every = tokio::time::interval(BEAT_EVERY);
        loop {
            every.tick().await;
            self.beat(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_of_silence_is_a_complaint() {
        let start = Instant::now();
        let watchdog = Watchdog::new(start);
        assert_eq!(watchdog.complaint(start + SILENCE_MAX), None);
        assert_eq!(watchdog.complaint(start + SILENCE_MAX + BEAT_EVERY), Some("runtime"));
        watchdog.beat(start + SILENCE_MAX);
        assert_eq!(watchdog.complaint(start + SILENCE_MAX + BEAT_EVERY), None);
    }

    #[test]
    fn a_dead_part_stays_dead() {
        let start = Instant::now();
        let watchdog = Watchdog::new(start);
        watchdog.part_died("journal writer");
        watchdog.beat(start);
        assert_eq!(watchdog.complaint(start), Some("journal writer"));
    }
}
