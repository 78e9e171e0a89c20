//! SIGHUP: the configuration is read as a start now would read it, and what can change while the process runs is put in
//! force: the log's filter, when it counts as ready, the times of reads and writes. The other keys that differ are told in
//! the log by name; they need a restart. Tokens are looked at by `identity`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ridethrough::{
    Db,
    db::{ReadConfig, WriteConfig},
    service::{LogLevels, changed_keys},
    vitals::Vitals,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::config::Config;

/// For the configuration, when it is read again: a disk that hangs must not keep signals waiting.
const READ_AGAIN_MAX: Duration = Duration::from_secs(5);

type Reading = dyn Fn() -> Result<Config, String> + Send + Sync;

/// What SIGHUP reads again.
pub(crate) struct Anew {
    /// The configuration as it would be at a start now; it reads a file.
    reading: Arc<Reading>,
    /// Which lines are written to the log.
    pub(super) levels: LogLevels,
    in_force: Arc<Mutex<Config>>,
}

impl Anew {
    /// Of a process that was started with `config`.
    pub(crate) fn new(
        config: Config,
        levels: LogLevels,
        reading: impl Fn() -> Result<Config, String> + Send + Sync + 'static,
    ) -> Self {
        Self { reading: Arc::new(reading), levels, in_force: Arc::new(Mutex::new(config)) }
    }

    /// Shows what is in force, without its secrets.
    pub(super) fn shown(&self) -> impl Fn() -> Value + Send + Sync + use<> {
        let in_force = Arc::clone(&self.in_force);
        move || in_force.lock().unwrap_or_else(PoisonError::into_inner).redacted()
    }

    /// Puts in force what can change while the process runs. What cannot be read changes nothing.
    pub(super) async fn read(&self, db: &Db, vitals: &Vitals) {
        let reading = Arc::clone(&self.reading);
        let reading = tokio::task::spawn_blocking(move || reading());
        let read = match timeout(READ_AGAIN_MAX, reading).await {
            Ok(Ok(read)) => read,
            _ => Err("it cannot be read".to_owned()),
        };
        if let Err(reason) = read.and_then(|read| self.put_in_force(&read, db, vitals)) {
            tracing::warn!(%reason, "the configuration cannot be used; what was read before stays in force");
        }
    }

    fn put_in_force(&self, read: &Config, db: &Db, vitals: &Vitals) -> Result<(), String> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let next = changeable(&in_force, read);
        // First of all, because it alone can still refuse.
        db.set_timing(&next.database.read, &next.database.write).map_err(|error| error.to_string())?;
        vitals.set_policy(next.ready);
        self.levels.reload(&next.log.filter).map_err(|error| error.to_string())?;
        let changed = changed_keys(&in_force.redacted(), &next.redacted());
        tracing::info!(changed = changed.join(" "), "the configuration was read again");
        let waiting = not_changed(&next, read);
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(" "), "these keys were changed too, and need a restart");
        }
        *in_force = next;
        Ok(())
    }
}

/// What is in force, with the keys of `read` that can change while the process runs.
fn changeable(in_force: &Config, read: &Config) -> Config {
    let mut next = in_force.clone();
    next.log.filter.clone_from(&read.log.filter);
    next.ready = read.ready;
    let (reads, writes) = (&mut next.database.read, &mut next.database.write);
    *reads = ReadConfig { standby_staleness: reads.standby_staleness, ..read.database.read.clone() };
    *writes = WriteConfig { retention: writes.retention, ..read.database.write.clone() };
    next
}

/// The keys that are otherwise in `read`. The URL is one of them although nobody is shown it.
fn not_changed(in_force: &Config, read: &Config) -> Vec<String> {
    let mut keys = changed_keys(&in_force.redacted(), &read.redacted());
    keys.retain(|key| !key.starts_with("database.target"));
    if in_force.database.url != read.database.url {
        keys.push("database.url".to_owned());
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let mut running = Config::default();
        running.database.url = "postgres://a:canary@localhost/d".to_owned();
        let mut read = running.clone();
        read.log.filter = "debug".to_owned();
        read.ready.require = ridethrough::health::Require::Writes;
        read.database.read.deadline = Duration::from_secs(9);
        read.database.write.attempts = 1;
        let next = changeable(&running, &read);
        assert_eq!(not_changed(&next, &read), Vec::<String>::new());
        assert_eq!(
            changed_keys(&running.redacted(), &next.redacted()),
            ["database.read.deadline", "database.write.attempts", "log.filter", "ready.require"]
        );
        read.database.url = "postgres://a:canary2@elsewhere/d".to_owned();
        read.database.write.retention = Duration::from_secs(7_200);
        read.limits.connections = 5;
        let next = changeable(&running, &read);
        let expected = ["database.write.retention", "limits.connections", "database.url"];
        assert_eq!(not_changed(&next, &read), expected);
        assert_eq!(next.database.url, running.database.url);
    }
}
