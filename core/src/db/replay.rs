//! Replay: the journal to PostgreSQL, in order for each ordering key, once per idempotency key. With what is below it the
//! only part that sees both sides.
//!
//! It decides when, how much and by how many batches at once; how a batch is settled is in `settle`. An entry leaves the
//! journal only when its key is settled in the database: applied, superseded, or recorded as rejected with its payload.
//! Whatever is in doubt is tried again; the key makes that harmless.
//!
//! The first batch asks for no permit: it has a connection that the pool has beyond those for permits, so that calls
//! cannot starve replay. All further ones ask for a permit of the lowest priority, of which there are 20 % at the most,
//! and while calls queue for permits there are none of them.

mod held;
mod losses;
mod pace;
mod retention;
mod running;
mod settle;
mod together;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{Instrument as _, Span, field::Empty};

pub use self::losses::LostWrites;
pub(super) use self::{held::release_known, losses::Losses};
use self::{
    pace::Pace,
    running::Running,
    settle::Report,
    together::{Item, OLDER_THAN_RETENTION, TOO_OLD},
};
use super::{
    Command, Db,
    fence::{Look, Take},
};
use crate::{
    backoff::Backoff,
    bulkhead::Priority,
    drain::Draining,
    error::{Error, RejectReason},
    health::{DatabasePart, SchemaPart},
    journal::{Aside, Entry},
};

/// Bytes of one batch.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Between looks at a journal or database that gave no sign of change.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// Between looks while direct writes of the very keys that wait are in progress.
const DIRECT_PAUSE: Duration = Duration::from_millis(10);
/// Between looks at the epoch while there is nothing to replay.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// And so many of them in a row; what still waits then is no direct write's doing.
const WAITS_MAX: u32 = 20;
/// Between looks at a journal that cannot be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(5);
/// Of the bulkhead's limit one batch for each so many permits.
const PERMITS_FOR_A_BATCH: usize = 5;
/// Ordering keys that are left alone for a while at once; where more fail it is not their fault.
const PAUSED_MAX: usize = 1_000;
/// An ordering key that failed counts its failures on within this time.
const PAUSED_REMEMBERED: Duration = Duration::from_secs(2);
/// Batches in which nothing went through, after which all of replay pauses.
const FUTILE_MAX: u32 = 3;
/// What is this much younger than the retention is still applied: clocks differ.
const RETENTION_MARGIN: Duration = Duration::from_secs(10 * 60);
/// After a failure of one ordering key, and of all.
const BACKOFF: fn() -> Backoff =
    || Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(1), ..Backoff::default() };

/// Applies journaled writes until the drain. Made by [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without replay journaled writes never reach the database"]
pub struct Replay {
    db: Db,
}

/// The ordering keys that no batch may take now.
#[derive(Debug, Clone, Default)]
struct Taken(Arc<Mutex<HashSet<String>>>);

/// The ordering keys that failed, with how often, and until when they are left alone.
type Paused = HashMap<String, (u32, Instant)>;

/// A batch on its way: whether it has a permit, its ordering keys, and what became of it.
type Batch<'r> = BoxFuture<'r, (bool, Vec<String>, Report)>;

/// What was found to do.
enum Found {
    Items(Vec<Item>),
    /// Entries of keys that are all taken, or none.
    Nothing,
    /// The journal cannot be read.
    Unreadable,
}

impl Replay {
    pub(super) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Replays whenever there is a backlog and a database, until the drain begins. Beside that it removes the outcomes of
    /// writes that were kept long enough, and finds out which writes a failover took back.
    ///
    /// # Cancel safety
    /// Dropping it at any moment is safe: the entries in progress stay in the journal and are settled once by their keys.
    pub async fn run(self, mut draining: Draining) {
        tokio::select! {
            () = self.run_on() => {}
            () = self.remove_old_outcomes() => {}
            () = self.db.look_for_losses() => {}
            () = draining.requested() => {}
        }
    }

    async fn run_on(&self) {
        let mut appended = self.db.0.journal.changed();
        let mut database = self.db.database();
        let mut schema = self.db.0.schema.subscribe();
        let (mut held_from, mut looked) = (Some(0), Instant::now());
        loop {
            if self.db.0.journal.backlog().entries == 0 {
                self.db.0.overlays.journal_was_empty(Instant::now());
            }
            if self.is_open() {
                held_from = self.release_known(held_from).await;
                if self.db.0.journal.backlog().entries > 0 && self.owns().await {
                    self.drain_backlog().await;
                }
            }
            // What is left is held, or has no database.
            if self.is_open() {
                self.look_at_epoch(&mut looked).await;
            }
            tokio::select! {
                _ = appended.changed() => {}
                _ = database.changed() => {}
                _ = schema.changed() => {}
                () = sleep(IDLE_PAUSE) => {}
            }
        }
    }

    async fn remove_old_outcomes(&self) {
        let mut pause = retention::FIRST;
        loop {
            sleep(pause).await;
            pause = if self.is_open() { retention::tend(&self.db).await } else { IDLE_PAUSE };
        }
    }

    /// Whether there is a database to replay to.
    fn is_open(&self) -> bool {
        *self.db.0.database.borrow() == DatabasePart::Up
            && matches!(*self.db.0.schema.borrow(), SchemaPart::Ok | SchemaPart::Pending)
            && !self.db.0.fence.is_lost()
    }

    /// Makes sure that this process has an epoch of the journal, before anything of it is replayed.
    async fn owns(&self) -> bool {
        let fence = &self.db.0.fence;
        let step = || self.db.random(|random| random.u32(..));
        if !fence.is_taken()
            && let Some(claim) = self.db.claim()
            && let Err(error) = self.db.ask_primary(&Take::new(claim, step())).await
        {
            tracing::debug!(code = error.code(), "the journal's epoch could not be taken");
        }
        fence.is_taken()
    }

    /// Looks now and then whether this process still has the epoch that it took, so that one that is the owner no more
    /// accepts nothing that nobody would apply.
    async fn look_at_epoch(&self, looked: &mut Instant) {
        if self.db.0.fence.is_taken()
            && looked.elapsed() >= LOOK_EVERY
            && let Some(claim) = self.db.claim()
        {
            *looked = Instant::now();
            // Where it fails, the next one tells.
            let _ = self.db.ask_primary(&Look(claim)).await;
        }
    }

    /// What could not be looked at when the process started. Answers where to go on.
    async fn release_known(&self, from: Option<u64>) -> Option<u64> {
        let (from, db) = (from?, self.db.clone());
        tokio::task::spawn_blocking(move || held::release_known(&db, from)).await.unwrap_or(Some(from))
    }

    fn may_go_on(&self) -> bool {
        self.is_open() && self.db.0.fence.is_taken()
    }

    /// Settles entries until none is left that can be settled, or the database is away again.
    async fn drain_backlog(&self) {
        let (taken, mut paused) = (Taken::default(), Paused::new());
        let mut running: Running<Batch<'_>> = Running::new();
        let (mut pace, mut free_running) = (Pace::default(), false);
        let (mut settled, mut futile, mut waits) = (0, 0u32, 0u32);
        let started = Instant::now();
        loop {
            let crowded = self.db.0.bulkhead.queued() > 0;
            let most = if crowded { 1 } else { self.batches_max() };
            let mut found = Found::Nothing;
            while self.may_go_on() && running.len() < most {
                paused.retain(|_, (_, until)| *until + PAUSED_REMEMBERED > Instant::now());
                found = running.beside(self.find(pace.entries(crowded), &taken, &paused)).await;
                let Found::Items(items) = found else { break };
                let keys = taken.add(&items);
                let with_permit = std::mem::replace(&mut free_running, true);
                running.push(self.batch(items, keys, with_permit));
                found = Found::Nothing;
            }
            let Some((with_permit, keys, report)) = running.next().await else {
                let empty = !self.may_go_on() || self.db.0.journal.backlog().entries == 0;
                // What is left stands behind something that is held.
                let held = matches!(found, Found::Nothing) && paused.is_empty() && waits >= WAITS_MAX;
                if empty || held {
                    break;
                }
                waits += 1;
                let unreadable = matches!(found, Found::Unreadable);
                sleep(if unreadable { UNREADABLE_PAUSE } else { DIRECT_PAUSE }).await;
                continue;
            };
            waits = 0;
            free_running &= with_permit;
            taken.remove(&keys);
            settled += report.settled;
            if let Some((entries, took)) = report.slowest {
                pace.took(entries, took);
            }
            futile = if report.settled > 0 || is_for_want_of_room(&report) { 0 } else { futile + 1 };
            let stopped = report.stopped.is_some() && !is_for_want_of_room(&report);
            self.pause_keys(&mut paused, &report);
            if stopped || futile >= FUTILE_MAX || paused.len() > PAUSED_MAX {
                self.say_pause(&report, futile);
                let pause = self.db.random(|random| BACKOFF().delay(futile.max(1), random));
                running.beside(sleep(pause)).await;
            } else if crowded {
                let took = report.slowest.map_or(Duration::ZERO, |(_, took)| took);
                running.beside(sleep(Pace::pause(took))).await;
            }
        }
        if settled > 0 {
            tracing::info!(entries = settled, took = ?started.elapsed(), "replayed journaled writes");
        }
    }

    fn batches_max(&self) -> usize {
        (self.db.0.bulkhead.limit() / PERMITS_FOR_A_BATCH).max(1)
    }

    fn batch(&self, items: Vec<Item>, keys: Vec<String>, with_permit: bool) -> Batch<'_> {
        // A trace of its own: the requests that it carries out were answered long ago.
        let span = tracing::debug_span!(parent: None, "replay", entries = items.len(), settled = Empty);
        let batch = async move {
            let priority = with_permit.then_some(Priority::Replay);
            let report = self.db.settle_batch(items, priority).await;
            Span::current().record("settled", report.settled);
            (with_permit, keys, report)
        };
        Box::pin(batch.instrument(span))
    }

    /// Leaves the ordering keys alone that did not go through: others need not wait for them.
    fn pause_keys(&self, paused: &mut Paused, report: &Report) {
        for (key, error) in &report.stuck {
            let failures = paused.get(key).map_or(1, |(failures, _)| failures.saturating_add(1));
            if failures == 1 {
                tracing::info!(
                    class = error.class().as_str(),
                    code = error.code(),
                    "replay leaves out an entry"
                );
            }
            let delay = self.db.random(|random| BACKOFF().delay(failures, random));
            paused.insert(key.clone(), (failures, Instant::now() + delay));
        }
    }

    fn say_pause(&self, report: &Report, futile: u32) {
        let error = report.stopped.as_ref().or_else(|| report.stuck.last().map(|(_, error)| error));
        if let Some(error) = error
            && futile <= 1
        {
            tracing::info!(class = error.class().as_str(), code = error.code(), "replay pauses");
        }
    }

    /// The oldest entries that can be applied now. What this program does not know is set aside.
    async fn find(&self, entries_max: usize, taken: &Taken, paused: &Paused) -> Found {
        let now = Instant::now();
        let paused: HashSet<String> =
            paused.iter().filter(|(_, (_, until))| *until > now).map(|(key, _)| key.clone()).collect();
        let (db, taken) = (self.db.clone(), taken.clone());
        let read = tokio::task::spawn_blocking(move || {
            // Direct writes that were begun before an entry was appended come before it; none begins after.
            let skip = |key: &str| taken.has(key) || paused.contains(key) || db.0.gate.is_direct(key);
            db.0.journal.batch(entries_max, BATCH_BYTES, &skip)
        });
        let entries = match read.await {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::error!(%error, "the journal cannot be read; journaled writes wait");
                return Found::Unreadable;
            }
            Err(_) => return Found::Unreadable,
        };
        let now = SystemTime::now();
        let items: Vec<Item> = entries.into_iter().map(|entry| self.item(entry, now)).collect();
        let items = self.hold_unknown(items).await;
        if items.is_empty() { Found::Nothing } else { Found::Items(items) }
    }

    fn item(&self, entry: Entry, now: SystemTime) -> Item {
        let too_old = if entry.retried { None } else { self.too_old(&entry, now) };
        let Entry { sequence, retried, .. } = entry;
        Item { sequence, retried, too_old, command: command(&entry) }
    }

    fn too_old(&self, entry: &Entry, now: SystemTime) -> Option<&'static str> {
        let age = now.duration_since(entry.accepted_at).unwrap_or_default();
        // A missing row of its key would prove nothing any more.
        if age + RETENTION_MARGIN >= self.db.0.config.write.retention {
            return Some(OLDER_THAN_RETENTION);
        }
        self.db.0.journal.max_age().is_some_and(|max_age| age >= max_age).then_some(TOO_OLD)
    }

    /// Sets aside what this program does not know, and leaves out what follows under the same ordering keys.
    async fn hold_unknown(&self, items: Vec<Item>) -> Vec<Item> {
        let mut held: HashSet<String> = HashSet::new();
        let mut begun: HashSet<String> = HashSet::new();
        let mut known = Vec::with_capacity(items.len());
        for item in items {
            if held.contains(&item.command.ordering_key) {
                continue;
            }
            let Err(reason) = self.db.0.commands.knows(&item.command) else {
                begun.insert(item.command.ordering_key.clone());
                known.push(item);
                continue;
            };
            // Held before what it follows is settled, it would be given back in front of that if that does not go through
            // now. The next batch begins with it.
            if begun.contains(&item.command.ordering_key) {
                held.insert(item.command.ordering_key);
                continue;
            }
            tracing::warn!(
                sequence = item.sequence,
                command = item.command.name,
                version = item.command.version,
                %reason,
                "a journaled write waits for a program that knows its command, and all that follow it for the same thing"
            );
            let why = Aside::Held { reason: reason.to_string() };
            if let Err(error) = self.db.0.journal.set_aside(&[item.sequence], why).await {
                tracing::error!(%error, "an unknown write cannot be set aside; it stays in the journal");
            }
            held.insert(item.command.ordering_key);
        }
        known
    }
}

impl Taken {
    fn add(&self, items: &[Item]) -> Vec<String> {
        let keys: HashSet<&String> = items.iter().map(|item| &item.command.ordering_key).collect();
        let keys: Vec<String> = keys.into_iter().cloned().collect();
        self.keys(|taken| taken.extend(keys.iter().cloned()));
        keys
    }

    fn remove(&self, keys: &[String]) {
        self.keys(|taken| keys.iter().for_each(|key| drop(taken.take(key))));
    }

    fn has(&self, key: &str) -> bool {
        self.keys(|taken| taken.contains(key))
    }

    fn keys<T>(&self, use_them: impl FnOnce(&mut HashSet<String>) -> T) -> T {
        use_them(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The command that an entry is.
pub(super) fn command(entry: &Entry) -> Command {
    Command {
        key: entry.key.clone(),
        name: entry.kind.clone(),
        version: entry.version,
        ordering_key: entry.ordering_key.clone(),
        payload: entry.payload.clone(),
        fingerprint: entry.fingerprint,
        accepted_at: entry.accepted_at,
    }
}

/// There was no permit for it, which is as it should be.
fn is_for_want_of_room(report: &Report) -> bool {
    use RejectReason::{Overloaded, Unanswered};
    matches!(report.stopped, Some(Error::Rejected { reason: Overloaded | Unanswered, .. }))
}
