//! Features `service` and `postgres`: how a process on a [`Db`] is. Its life, its parts, and what follows for probes, mode
//! and gauges. Everything is answered from memory; what follows from what is the table in [`health`](crate::health).
//!
//! It starts and ends nothing: it is told, and remembers.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    db::Db,
    drain::Draining,
    health::{
        CachePart, DatabasePart, Health, JournalPart, Life, Parts, ReadyPolicy, SchemaPart, Steady, decide,
    },
    http::{HealthReport, Probes, Verbosity},
    mode::{Mode, ModeBoard},
    sabotage::{self, Bug},
    service::Watchdog,
};

/// Quick enough that mode and gauges are never far behind, slow enough to cost nothing.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// The health of one process. It begins as starting, without a database path to ask.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use ridethrough::{Db, db::Background, drain::Drain, health::{Life, ReadyPolicy}, http::Verbosity};
/// use ridethrough::vitals::{self, Vitals};
///
/// # fn example(db: Db, background: Background) {
/// let vitals = Arc::new(Vitals::new(ReadyPolicy::default()));
/// let probes = vitals.probes(env!("CARGO_PKG_VERSION"), Verbosity::Brief);
/// // Probes are answered from now on; then comes what takes time, and at last:
/// vitals.attach(db);
/// let (drain, draining) = Drain::new();
/// for (name, part) in background.parts(&draining) {
///     tokio::spawn(vitals.watch(name, part, draining.clone()));
/// }
/// tokio::spawn(vitals::keep_shown(Arc::clone(&vitals)));
/// vitals.turn(Life::Running);
/// # }
/// ```
pub struct Vitals {
    /// Is told of parts that died, and makes liveness fail then.
    pub watchdog: Arc<Watchdog>,
    policy: Mutex<ReadyPolicy>,
    life: Mutex<Life>,
    was_ready: AtomicBool,
    steady: Mutex<Steady>,
    /// Missing until the journal is recovered.
    db: OnceLock<Db>,
    board: ModeBoard,
    /// When the mode shown now began.
    since: Mutex<(Mode, SystemTime)>,
}

impl Vitals {
    /// A process that is starting.
    #[must_use]
    pub fn new(policy: ReadyPolicy) -> Self {
        Self {
            watchdog: Arc::new(Watchdog::new(Instant::now())),
            policy: Mutex::new(policy),
            life: Mutex::new(Life::Starting),
            was_ready: AtomicBool::new(false),
            steady: Mutex::new(Steady::new()),
            db: OnceLock::new(),
            board: ModeBoard::new(),
            since: Mutex::new((Mode::Starting, SystemTime::now())),
        }
    }

    /// From now on there is a database path to ask.
    pub fn attach(&self, db: Db) {
        let _ = self.db.set(db);
    }

    /// The process goes on to the next stage of its life.
    pub fn turn(&self, life: Life) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// Another policy is in force from now on.
    pub fn set_policy(&self, policy: ReadyPolicy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
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
        let mut health = decide(&parts, &self.policy.lock().unwrap_or_else(PoisonError::into_inner));
        // A drain is no flapping: whoever is asked to stop is not ready at once.
        if parts.life == Life::Running {
            let mut steady = self.steady.lock().unwrap_or_else(PoisonError::into_inner);
            health.ready = steady.look(health.ready, now);
        }
        if health.ready {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        (parts, health)
    }

    /// The probes of this process. `release` is the program's version.
    pub fn probes(self: &Arc<Self>, release: &'static str, verbosity: Verbosity) -> Probes {
        let vitals = Arc::clone(self);
        Probes::new(release, verbosity, move || vitals.report())
    }

    /// What the probes render.
    #[must_use]
    pub fn report(&self) -> HealthReport {
        let now = Instant::now();
        let (parts, mut health) = self.health(now);
        let is_up = parts.database == DatabasePart::Up;
        health.live &= is_up || !sabotage::planted(Bug::LivenessAsksDatabase);
        health.ready &= is_up || !sabotage::planted(Bug::ReadinessAsksDatabase);
        let mut checks = parts.codes().to_vec();
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

    /// The document of `/debug/state`. `release` is the program's version.
    #[must_use]
    pub fn state(&self, release: &str) -> Value {
        let now = Instant::now();
        let (parts, health) = self.health(now);
        let mut state = self.db.get().map_or_else(|| json!({}), |db| db.state(now));
        if let Some(members) = state.as_object_mut() {
            members.insert("release".into(), release.into());
            members.insert("mode".into(), health.mode.as_str().into());
            members.insert("ready".into(), health.ready.into());
            members.insert("life".into(), parts.life.as_str().into());
            members.insert("was_ready".into(), self.was_ready.load(Ordering::Relaxed).into());
        }
        state
    }

    /// Shows the mode on the board and publishes the gauges of the database path; the admin port knows the others.
    fn show(&self, now: Instant) {
        let (parts, health) = self.health(now);
        {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            if since.0 != health.mode {
                *since = (health.mode, SystemTime::now());
            }
        }
        let reason = parts.codes().map(|(part, code)| format!("{part}={code}")).join(" ");
        self.board.show(health.mode, &reason);
        if let Some(db) = self.db.get() {
            db.publish_gauges(now);
        }
    }

    /// `part`, watched: where it ends before the drain was requested, or by a panic, liveness fails from then on.
    ///
    /// # Cancel safety
    /// Dropped before the drain was requested, it counts as dead.
    pub fn watch<P: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        part: P,
        draining: Draining,
    ) -> impl Future<Output = ()> + Send + use<P> {
        let end = End { name, watchdog: Arc::clone(&self.watchdog), draining };
        async move {
            let _end = end;
            part.await;
        }
    }
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vitals").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The end of a watched part, whichever way it comes.
struct End {
    name: &'static str,
    watchdog: Arc<Watchdog>,
    draining: Draining,
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.draining.is_requested() {
            self.watchdog.part_died(self.name);
        }
    }
}

/// Tells the watchdog that the runtime makes progress, and shows what is, on a timer. For `main` to spawn on the runtime
/// that serves; it ends with the process.
///
/// # Cancel safety
/// Dropping it stops the beats, which is what liveness is about.
pub async fn keep_shown(vitals: Arc<Vitals>) {
    let mut every = tokio::time::interval(SHOW_EVERY);
    loop {
        every.tick().await;
        let now = Instant::now();
        vitals.watchdog.beat(now);
        vitals.show(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;

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
        assert_eq!(vitals.state("1.2.3")["life"], "broken");
    }

    #[tokio::test]
    async fn a_part_may_end_in_the_drain_but_neither_before_nor_by_a_panic() {
        let (drain, draining) = Drain::new();
        let live = |vitals: &Vitals| vitals.report().health.live;
        let early = Vitals::new(ReadyPolicy::default());
        early.watch("part", async {}, draining.clone()).await;
        assert!(!live(&early));
        drain.begin();
        let orderly = Vitals::new(ReadyPolicy::default());
        orderly.watch("part", async {}, draining.clone()).await;
        assert!(live(&orderly));
        let panicking = orderly.watch("part", async { panic!("planted") }, draining);
        tokio::spawn(panicking).await.unwrap_err();
        assert!(!live(&orderly));
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_shows_how_it_is_is_alive() {
        let vitals = Arc::new(Vitals::new(ReadyPolicy::default()));
        let shown = tokio::spawn(keep_shown(Arc::clone(&vitals)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(vitals.report().health.live);
        shown.abort();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!vitals.report().health.live);
    }

    #[test]
    fn the_mode_knows_since_when() {
        let vitals = Vitals::new(ReadyPolicy::default());
        vitals.show(Instant::now());
        let since = vitals.report().since;
        assert_eq!(vitals.report().since, since);
    }
}
