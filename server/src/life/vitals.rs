//! How the process is: its life, its parts, and what follows for probes, mode and gauges. Everything is answered from
//! memory; what follows from what is the table in the library's `health`.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use ridethrough::{
    Db,
    health::{CachePart, DatabasePart, Health, JournalPart, Life, Parts, ReadyPolicy, SchemaPart, decide},
    http::HealthReport,
    mode::{Mode, ModeBoard},
    sabotage::{self, Bug},
    service::Watchdog,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Quick enough that mode and gauges are never far behind, slow enough to cost nothing.
const SHOW_EVERY: Duration = Duration::from_millis(100);
const READY: &str = "ridethrough_ready";

/// The health of this process.
pub(super) struct Vitals {
    pub(super) watchdog: Arc<Watchdog>,
    policy: ReadyPolicy,
    life: Mutex<Life>,
    was_ready: AtomicBool,
    /// Missing until the journal is recovered.
    db: OnceLock<Db>,
    board: ModeBoard,
    /// When the mode shown now began.
    since: Mutex<(Mode, SystemTime)>,
}

impl Vitals {
    pub(super) fn new(policy: ReadyPolicy) -> Self {
        Self {
            watchdog: Arc::new(Watchdog::new(Instant::now())),
            policy,
            life: Mutex::new(Life::Starting),
            was_ready: AtomicBool::new(false),
            db: OnceLock::new(),
            board: ModeBoard::new(),
            since: Mutex::new((Mode::Starting, SystemTime::now())),
        }
    }

    /// From now on there is a database path to ask.
    pub(super) fn attach(&self, db: Db) {
        let _ = self.db.set(db);
    }

    /// The process goes on to the next stage of its life.
    pub(super) fn turn(&self, life: Life) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }

    fn parts(&self, now: Instant) -> Parts {
        let unknown = (DatabasePart::Unknown, CachePart::Cold, JournalPart::Ok, SchemaPart::Unknown);
        let (database, cache, journal, schema) = self.db.get().map_or(unknown, |db| db.parts(now));
        let life = match self.watchdog.complaint(now) {
            Some(_) => Life::Broken,
            None => *self.life.lock().unwrap_or_else(PoisonError::into_inner),
        };
        Parts { life, was_ready: self.was_ready.load(Ordering::Relaxed), database, cache, journal, schema }
    }

    fn health(&self, now: Instant) -> (Parts, Health) {
        let parts = self.parts(now);
        let health = decide(&parts, &self.policy);
        if health.ready {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        (parts, health)
    }

    /// What the probes render.
    pub(super) fn report(&self) -> HealthReport {
        let now = Instant::now();
        let (parts, mut health) = self.health(now);
        let is_up = parts.database == DatabasePart::Up;
        health.live &= is_up || !sabotage::planted(Bug::LivenessAsksDatabase);
        health.ready &= is_up || !sabotage::planted(Bug::ReadinessAsksDatabase);
        let mut checks = codes(&parts).to_vec();
        checks.extend(self.watchdog.complaint(now).map(|part| ("dead", part)));
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let retry_after = self.db.get().map(|db| db.retry_after(now));
        HealthReport {
            health,
            since: if since.0 == health.mode { since.1 } else { SystemTime::now() },
            retry_after,
            checks,
        }
    }

    /// The document of `/debug/state`.
    pub(super) fn state(&self) -> Value {
        let now = Instant::now();
        let (parts, health) = self.health(now);
        let mut state = self.db.get().map_or_else(|| json!({}), |db| db.state(now));
        if let Some(members) = state.as_object_mut() {
            members.insert("release".into(), env!("CARGO_PKG_VERSION").into());
            members.insert("mode".into(), health.mode.as_str().into());
            members.insert("ready".into(), health.ready.into());
            members.insert("life".into(), life_code(parts.life).into());
            members.insert("was_ready".into(), self.was_ready.load(Ordering::Relaxed).into());
        }
        state
    }

    /// Shows the mode on the board and publishes the gauges.
    fn show(&self, now: Instant) {
        let (parts, health) = self.health(now);
        {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if since.0 != health.mode {
                *since = (health.mode, SystemTime::now());
            }
        }
        let reason = codes(&parts).map(|(part, code)| format!("{part}={code}")).join(" ");
        self.board.show(health.mode, &reason);
        metrics::gauge!(READY).set(if health.ready { 1.0 } else { 0.0 });
        if let Some(db) = self.db.get() {
            db.publish_gauges(now);
        }
    }
}

/// Shows what is, on a timer. Ends with the process.
pub(super) async fn keep_shown(vitals: Arc<Vitals>) {
    let mut every = tokio::time::interval(SHOW_EVERY);
    loop {
        every.tick().await;
        vitals.show(Instant::now());
    }
}

/// One word on each part, from closed lists.
fn codes(parts: &Parts) -> [(&'static str, &'static str); 4] {
    let database = match parts.database {
        DatabasePart::Unknown => "unknown",
        DatabasePart::Up => "up",
        DatabasePart::Slow => "slow",
        DatabasePart::ReadOnly => "read-only",
        DatabasePart::Standby => "standby",
        DatabasePart::Away => "away",
        DatabasePart::Refused => "refused",
    };
    let cache = match parts.cache {
        CachePart::Cold => "cold",
        CachePart::Warm => "warm",
    };
    let journal = match parts.journal {
        JournalPart::Ok => "ok",
        JournalPart::Backlog => "backlog",
        JournalPart::Full => "full",
        JournalPart::Failed => "failed",
        JournalPart::Blocked => "blocked",
    };
    let schema = match parts.schema {
        SchemaPart::Unknown => "unknown",
        SchemaPart::Ok => "ok",
        SchemaPart::Pending => "pending",
        SchemaPart::Mismatch => "mismatch",
    };
    [("database", database), ("cache", cache), ("journal", journal), ("schema", schema)]
}

fn life_code(life: Life) -> &'static str {
    match life {
        Life::Starting => "starting",
        Life::Running => "running",
        Life::Draining => "draining",
        Life::Broken => "broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_journal_is_recovered_it_is_alive_and_nothing_else() {
        let vitals = Vitals::new(ReadyPolicy::default());
        let health = vitals.report().health;
        assert_eq!(
            (health.live, health.started, health.ready, health.mode),
            (true, false, false, Mode::Starting)
        );
    }

    #[test]
    fn a_dead_part_is_named() {
        let vitals = Vitals::new(ReadyPolicy::default());
        vitals.turn(Life::Running);
        vitals.watchdog.part_died("replay");
        let report = vitals.report();
        assert!(!report.health.live && report.checks.contains(&("dead", "replay")));
        assert_eq!(vitals.state()["life"], "broken");
    }

    #[test]
    fn the_mode_knows_since_when() {
        let vitals = Vitals::new(ReadyPolicy::default());
        vitals.show(Instant::now());
        let since = vitals.report().since;
        assert_eq!(vitals.report().since, since);
    }
}
