//! How long reads and writes may take and how often they try: the settings that can change while calls are under way. A call
//! takes what it finds when it looks; nothing is locked for it.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::{
    Db,
    config::{ConfigInvalid, DbConfig, ReadConfig, WriteConfig},
};

/// What is in force for reads and for writes.
#[derive(Debug)]
pub(super) struct Timing {
    pub(super) read: Times,
    pub(super) write: Times,
}

/// What is in force for one of them. Durations are kept in microseconds; the configuration's bounds keep them in range.
#[derive(Debug)]
pub(super) struct Times {
    deadline: AtomicU64,
    attempt: AtomicU64,
    attempts: AtomicU32,
}

impl Timing {
    pub(super) fn new(read: &ReadConfig, write: &WriteConfig) -> Self {
        let timing = Self { read: Times::default(), write: Times::default() };
        timing.set(read, write);
        timing
    }

    fn set(&self, read: &ReadConfig, write: &WriteConfig) {
        self.read.set(read.deadline, read.attempt, read.attempts);
        self.write.set(write.deadline, write.attempt, write.attempts);
    }
}

impl Times {
    /// For a whole call.
    fn deadline(&self) -> Duration {
        Duration::from_micros(self.deadline.load(Ordering::Relaxed))
    }

    /// For one attempt.
    #[inline]
    pub(super) fn attempt(&self) -> Duration {
        Duration::from_micros(self.attempt.load(Ordering::Relaxed))
    }

    /// Attempts at the most.
    #[inline]
    pub(super) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    fn set(&self, deadline: Duration, attempt: Duration, attempts: u32) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.deadline.store(micros(deadline), Ordering::Relaxed);
        self.attempt.store(micros(attempt), Ordering::Relaxed);
        self.attempts.store(attempts, Ordering::Relaxed);
    }
}

impl Default for Times {
    fn default() -> Self {
        Self { deadline: AtomicU64::new(0), attempt: AtomicU64::new(0), attempts: AtomicU32::new(0) }
    }
}

impl Db {
    /// What a service may give to a read ([`ReadConfig::deadline`]), as it is now.
    #[must_use]
    pub fn read_deadline(&self) -> Duration {
        self.0.timing.read.deadline()
    }

    /// What a service may give to a write ([`WriteConfig::deadline`]), as it is now.
    #[must_use]
    pub fn write_deadline(&self) -> Duration {
        self.0.timing.write.deadline()
    }

    /// Puts other deadlines, times of an attempt and numbers of attempts in force, for calls from now on. What else is in
    /// `read` and `write` stays as it was: it needs a new `Db`.
    ///
    /// # Errors
    /// Names the first field that cannot be used, beside the settings that stay; then nothing has changed.
    pub fn set_timing(&self, read: &ReadConfig, write: &WriteConfig) -> Result<(), ConfigInvalid> {
        let config = DbConfig { read: read.clone(), write: write.clone(), ..self.0.config.clone() };
        config.validate()?;
        self.0.timing.set(read, write);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_in_force_to_the_microsecond() {
        let (mut read, write) = (ReadConfig::default(), WriteConfig::default());
        let timing = Timing::new(&read, &write);
        assert_eq!((timing.read.deadline(), timing.write.deadline()), (read.deadline, write.deadline));
        (read.deadline, read.attempt, read.attempts) =
            (Duration::from_micros(1_234_567), Duration::from_secs(86_400), 7);
        timing.set(&read, &write);
        assert_eq!((timing.read.deadline(), timing.read.attempt()), (read.deadline, read.attempt));
        assert_eq!((timing.read.attempts(), timing.write.attempts()), (7, write.attempts));
    }
}
