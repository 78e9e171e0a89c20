//! Accepted writes that are not applied yet, laid over what is read: whoever wrote sees what he wrote, though the database
//! does not know it. The service says what a write makes of an answer; which writes concern it is told by tags.
//!
//! A write is laid over every answer that was asked for before it was settled, so that an answer from before does not take
//! back what was shown already. It is memory only and bounded; the journal is what remembers, and what is forgotten here is
//! merely shown later.

use std::{
    any::Any,
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    Db, Query, Read, Source,
    command::{Command, Settled},
};
use crate::{
    cache::{Freshness, StaleReason, Tags},
    error::{Error, ErrorClass, Stage},
    metrics,
};

/// Laying this many writes over a list is still quick; an outage with more of them shows the rest when it is over. As many
/// again are remembered after they were settled.
const WRITES_MAX: usize = 10_000;
/// Bytes of the entries that are read from the journal at the start.
const RECALLED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The place of what concerns every answer; no tag is empty.
const EVERYTHING: &str = "";

/// What a write is to make true, in a type of the service's own.
pub type Promise = Arc<dyn Any + Send + Sync>;

/// A write that this replica accepted into its journal.
pub struct PendingWrite {
    key: String,
    promise: Promise,
    tags: Tags,
    since: Instant,
    /// Of one that may have had its effect before it was accepted: when it was begun. Others may have changed that since.
    doubt: Option<Instant>,
    /// Its place among all that were accepted.
    order: u64,
    is_settled: AtomicBool,
}

impl PendingWrite {
    /// Its idempotency key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What [`Commands::promise`](super::Commands::promise) made of it; `None` where that is of another type.
    #[must_use]
    pub fn promise<T: Any>(&self) -> Option<&T> {
        self.promise.downcast_ref()
    }

    /// Whether it is applied by now, though the answer it is laid over may be from before that: such a write must give way
    /// to an answer that knows as much.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// When it was accepted.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// Names and contents are the service's, and nothing for a log.
impl fmt::Debug for PendingWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingWrite").field("order", &self.order).finish_non_exhaustive()
    }
}

/// The writes that concern one answer, in the order in which they were accepted.
#[derive(Debug, Clone, Default)]
pub struct PendingWrites(Arc<VecDeque<Arc<PendingWrite>>>);

impl PendingWrites {
    /// All of them, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &PendingWrite> {
        self.0.iter().map(|write| &**write)
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&PendingWrite> {
        self.0.back().map(|write| &**write)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How old what they make of an answer may be: one that had its effect already shows what was true then.
    fn doubtful_for(&self, now: Instant) -> Duration {
        let begun = self.0.iter().filter_map(|write| write.doubt).min();
        begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun))
    }
}

/// What is known before pending writes are laid over it.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a, A> {
    /// Nothing: nobody was asked yet, or nobody could answer.
    Unknown,
    /// This answer; `None` where there is no such thing.
    Known(Option<&'a A>, Freshness),
}

/// What pending writes make of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay<A> {
    /// Nothing.
    Unchanged,
    /// This; `None` where there will be no such thing.
    Becomes(Option<A>),
}

/// The pending writes of a replica.
#[derive(Debug, Default)]
pub(super) struct Overlays {
    /// Nothing was ever noted: what a healthy replica finds without a lock.
    is_used: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    by_key: HashMap<String, Arc<PendingWrite>>,
    by_tag: HashMap<Box<str>, Concerning>,
    /// Those that were settled, oldest first, with the moment.
    settled: VecDeque<(Instant, Arc<PendingWrite>)>,
    next: u64,
}

/// The writes with one tag.
#[derive(Debug, Default)]
struct Concerning {
    /// Shared with readers: copied only where one of them is still looking.
    waiting: Arc<VecDeque<Arc<PendingWrite>>>,
    settled: VecDeque<(Instant, Arc<PendingWrite>)>,
}

impl Overlays {
    /// A write was accepted at `since`; where it may have had its effect before that, begun at `doubt`.
    pub(super) fn note(
        &self,
        key: &str,
        promise: Promise,
        tags: Tags,
        since: Instant,
        doubt: Option<Instant>,
    ) {
        let mut notes = self.notes();
        if notes.by_key.len() >= WRITES_MAX || notes.by_key.contains_key(key) {
            return;
        }
        notes.next += 1;
        let (order, is_settled) = (notes.next, AtomicBool::new(false));
        let key_of = key.to_owned();
        let write = PendingWrite { key: key_of, promise, tags, since, doubt, order, is_settled };
        let write = Arc::new(write);
        for place in places(&write.tags) {
            let concerning = notes.by_tag.entry(place.into()).or_default();
            Arc::make_mut(&mut concerning.waiting).push_back(Arc::clone(&write));
        }
        notes.by_key.insert(key.to_owned(), write);
        self.is_used.store(true, Ordering::Release);
    }

    /// The write under `key` came to its end at `now`.
    pub(super) fn settle(&self, key: &str, settled: &Settled, now: Instant) {
        if !self.is_used.load(Ordering::Acquire) {
            return;
        }
        let mut notes = self.notes();
        let Some(write) = notes.forget(key) else { return };
        // What was superseded or refused never became true: what was known before is right again.
        if !matches!(settled, Settled::Applied(_)) {
            return;
        }
        write.is_settled.store(true, Ordering::Release);
        for place in places(&write.tags) {
            notes.by_tag.entry(place.into()).or_default().settled.push_back((now, Arc::clone(&write)));
        }
        notes.settled.push_back((now, write));
        if notes.settled.len() > WRITES_MAX {
            notes.forget_oldest_settled();
        }
    }

    /// The journal was empty at `now`: what was accepted before is settled, also where that was not told.
    pub(super) fn journal_was_empty(&self, now: Instant) {
        if !self.is_used.load(Ordering::Acquire) {
            return;
        }
        let mut notes = self.notes();
        let before: Vec<String> =
            notes.by_key.iter().filter(|(_, write)| write.since < now).map(|(key, _)| key.clone()).collect();
        before.iter().for_each(|key| drop(notes.forget(key)));
    }

    /// The write that waits under `key`.
    fn find(&self, key: &str) -> Option<Arc<PendingWrite>> {
        self.notes().by_key.get(key).cloned()
    }

    /// What is to be laid over an answer that is made of `tags` and was asked for at `as_of`.
    fn concerning(&self, tags: &Tags, as_of: Instant) -> PendingWrites {
        if !self.is_used.load(Ordering::Acquire) || tags.is_none() {
            return PendingWrites::default();
        }
        let notes = self.notes();
        let asked: Vec<&Concerning> = if tags.is_everything() {
            notes.by_tag.values().collect()
        } else {
            tags.names().chain([EVERYTHING]).filter_map(|place| notes.by_tag.get(place)).collect()
        };
        let is_later =
            |concerning: &&Concerning| concerning.settled.back().is_some_and(|(at, _)| *at > as_of);
        match asked.as_slice() {
            [] => PendingWrites::default(),
            [only] if !is_later(only) => PendingWrites(Arc::clone(&only.waiting)),
            several => {
                let mut writes: Vec<Arc<PendingWrite>> = Vec::new();
                for concerning in several {
                    let later = concerning.settled.iter().rev().take_while(|(at, _)| *at > as_of);
                    writes.extend(later.map(|(_, write)| Arc::clone(write)));
                    writes.extend(concerning.waiting.iter().cloned());
                }
                writes.sort_unstable_by_key(|write| write.order);
                writes.dedup_by_key(|write| write.order);
                PendingWrites(Arc::new(writes.into()))
            }
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a write, or a question about it, is found.
fn places(tags: &Tags) -> impl Iterator<Item = &str> {
    let everything = tags.is_everything().then_some(EVERYTHING);
    tags.names().chain(everything)
}

impl Notes {
    /// Takes a waiting write out. Writes end about in the order in which they were accepted, so it is near the front.
    fn forget(&mut self, key: &str) -> Option<Arc<PendingWrite>> {
        let write = self.by_key.remove(key)?;
        for place in places(&write.tags) {
            let Entry::Occupied(mut found) = self.by_tag.entry(place.into()) else { continue };
            let waiting = Arc::make_mut(&mut found.get_mut().waiting);
            if let Some(at) = waiting.iter().position(|other| other.order == write.order) {
                waiting.remove(at);
            }
            if found.get().is_empty() {
                found.remove();
            }
        }
        Some(write)
    }

    fn forget_oldest_settled(&mut self) {
        let Some((_, write)) = self.settled.pop_front() else { return };
        for place in places(&write.tags) {
            let Entry::Occupied(mut found) = self.by_tag.entry(place.into()) else { continue };
            // In each place they are in the order in which they were settled, so it is the first one.
            let settled = &mut found.get_mut().settled;
            if settled.front().is_some_and(|(_, other)| other.order == write.order) {
                settled.pop_front();
            }
            if found.get().is_empty() {
                found.remove();
            }
        }
    }
}

impl Concerning {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.settled.is_empty()
    }
}

impl Db {
    /// The writes of this replica that wait in its journal and concern these tags.
    #[must_use]
    pub fn pending(&self, tags: &Tags) -> PendingWrites {
        // Nothing is settled later than now.
        self.0.overlays.concerning(tags, Instant::now())
    }

    /// The write of this replica that waits in its journal under `key`.
    #[must_use]
    pub fn pending_under(&self, key: &str) -> Option<Arc<PendingWrite>> {
        self.0.overlays.find(key)
    }

    fn was_settled_lately(&self, key: &str) -> bool {
        self.0.settled_keys.get(key).is_some()
    }

    /// Remembers a write that was accepted. Replay is quick, and it may be settled by now.
    pub(super) fn note_pending(&self, command: &Command, since: Instant, doubt: Option<Instant>) {
        let tags = self.0.commands.tags(command);
        let Some(promise) = self.0.commands.promise(command).filter(|_| !tags.is_none()) else { return };
        self.0.overlays.note(&command.key, promise, tags, since, doubt);
        // After the note, and `settle` comes after the key is known: whoever is later takes the note away.
        if self.was_settled_lately(&command.key) {
            self.0.overlays.notes().forget(&command.key);
        }
    }

    /// Remembers what waits in the journal from before the start: with what was held for this very program, and with what
    /// waits behind a write that it does not know.
    pub(super) fn recall_pending(&self, now: Instant) {
        // Replay looks again at what cannot be read now.
        let _ = super::replay::release_known(self, 0);
        let entries = match self.0.journal.waiting(WRITES_MAX, RECALLED_BYTES_MAX) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "accepted writes cannot be read; they are shown once they are applied");
                return;
            }
        };
        let wall = SystemTime::now();
        for entry in &entries {
            let command = super::replay::command(entry);
            // What this program does not know is told nobody.
            if self.0.commands.knows(&command).is_ok() {
                let age = wall.duration_since(entry.accepted_at).unwrap_or_default();
                // What was in doubt before the start is told nobody: its acceptance came within a request's time of it.
                self.note_pending(&command, now.checked_sub(age).unwrap_or(now), None);
            }
        }
    }

    /// Whether there may be something to lay over answers to this query: not where only the primary's own will do.
    fn is_overlaid<Q: Query>(&self, query: &Q) -> bool {
        self.0.overlays.is_used.load(Ordering::Acquire) && query.max_staleness() != Some(Duration::ZERO)
    }

    /// What is known without asking anybody: where pending writes alone say what the answer will be.
    pub(super) fn promised<Q: Query>(&self, query: &Q, now: Instant) -> Option<Read<Q::Answer>> {
        if !self.is_overlaid(query) {
            return None;
        }
        let pending = self.0.overlays.concerning(&query.tags(), now);
        if pending.is_empty() {
            return None;
        }
        let Overlay::Becomes(value) = query.overlay(Base::Unknown, &pending) else { return None };
        let read = promised(query, value, &pending, now)?;
        metrics::db_call(query.name(), "stale", "none", Duration::ZERO);
        metrics::cache_request("stale");
        Some(read)
    }

    /// The answer with the pending writes laid over it, at the moment it is handed out.
    pub(super) fn overlaid<Q: Query>(
        &self,
        query: &Q,
        read: Result<Read<Q::Answer>, Error>,
        started: Instant,
    ) -> Result<Read<Q::Answer>, Error> {
        if !self.is_overlaid(query) {
            return read;
        }
        // Nothing makes a wrong question right.
        let is_wrong =
            |error: &Error| error.class() == ErrorClass::Permanent && error.stage() == Stage::Query;
        if read.as_ref().is_err_and(is_wrong) {
            return read;
        }
        let now = Instant::now();
        let age = match read.as_ref().map(Read::source) {
            Ok(Source::Cache { age }) => age + now.saturating_duration_since(started),
            Ok(Source::Standby { lag, .. }) => lag + now.saturating_duration_since(started),
            _ => now.saturating_duration_since(started),
        };
        // An answer from before all that this clock knows is older than every write.
        let as_of = now.checked_sub(age).unwrap_or(started);
        let pending = self.0.overlays.concerning(&query.tags(), as_of);
        if pending.is_empty() {
            return read;
        }
        let least = pending.doubtful_for(now);
        let is_too_old = query.max_staleness().is_some_and(|bound| least > bound);
        if is_too_old && read.is_ok() {
            return read;
        }
        let base = match &read {
            Ok(read) => Base::Known(read.unlabelled(), read.freshness()),
            Err(_) => Base::Unknown,
        };
        match (query.overlay(base, &pending), read) {
            (Overlay::Unchanged, read) => read,
            (Overlay::Becomes(value), Err(error)) => promised(query, value, &pending, now).ok_or(error),
            (Overlay::Becomes(value), Ok(read)) => {
                let freshness = match read.freshness() {
                    Freshness::Fresh => Freshness::Stale { age: least, reason: StaleReason::Pending },
                    // How old the rest of it is says more.
                    Freshness::Stale { age, reason } => Freshness::Stale { age: age.max(least), reason },
                };
                Ok(Read::new(value, freshness, read.source()))
            }
        }
    }
}

/// An answer that is made of pending writes alone, if the read can do with its age: what the newest of them promises was
/// known when it was accepted, or begun where that is not the same, and others may have changed it since.
fn promised<Q: Query>(
    query: &Q,
    value: Option<Q::Answer>,
    pending: &PendingWrites,
    now: Instant,
) -> Option<Read<Q::Answer>> {
    let age = pending.last().map_or(Duration::ZERO, |write| now.saturating_duration_since(write.since));
    let age = age.max(pending.doubtful_for(now));
    let freshness = Freshness::Stale { age, reason: StaleReason::Pending };
    let is_within_bound = query.max_staleness().is_none_or(|bound| age <= bound);
    is_within_bound.then(|| Read::new(value, freshness, Source::Journal { age }))
}

#[cfg(test)]
mod tests;
