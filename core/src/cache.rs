//! The read cache: the last good answers, kept so that a read can still be answered while the database is away, and,
//! where a query's policy says so, without asking.
//!
//! It stores encoded answers with the time they were true and the tags by which a change finds them. It never decides to
//! serve one (that is `db`, by the query's [`ReadPolicy`]), never talks to the database, and is bounded by weight.
//! Nothing is served from here unlabelled.
//!
//! Defaults, metrics and what not to do: `docs/patterns/degraded-reads.md`.

mod answer;
#[cfg(feature = "postgres")]
mod carried;
mod entry;
mod fill;
mod freshness;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod late;
mod memory;
mod policy;
#[cfg(feature = "postgres")]
mod single_flight;
#[cfg(any(feature = "postgres", test, feature = "fuzzing"))]
mod snapshot;
mod tags;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::time::Instant;

#[cfg(feature = "serde")]
pub use self::answer::Json;
#[cfg(feature = "postgres")]
pub use self::carried::SnapshotConfig;
#[cfg(feature = "postgres")]
pub(crate) use self::single_flight::{Flight, Flights};
pub use self::{
    answer::Cacheable,
    entry::Tags,
    fill::CacheFill,
    freshness::{Freshness, StaleReason},
    key::{CacheKey, Principal},
    policy::{ReadPolicy, Usable},
};
use self::{
    entry::{Entry, Known},
    late::Ended,
    memory::ByMemory,
    tags::Changes,
};

/// The bounds of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct CacheConfig {
    /// Memory of all keys, answers and tables in bytes, as it is reckoned here; what the allocator adds is within a fifth of
    /// it. Beside it there are the tags that were changed lately, 2 MiB at the most. Default 64 MiB.
    pub bytes_max: u64,
    /// Answers older than this are expired and not served, whatever a query's policy says. Default 24 h: in an outage an old answer that says how old
    /// it is helps more than none.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub stale_max: Duration,
    /// How it is kept over a restart. Default not at all.
    #[cfg(feature = "postgres")]
    pub snapshot: SnapshotConfig,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024 * 1024,
            stale_max: Duration::from_secs(24 * 3600),
            #[cfg(feature = "postgres")]
            snapshot: SnapshotConfig::default(),
        }
    }
}

/// What the cache knows of one key.
#[derive(Debug, Clone)]
#[must_use = "what is kept is served with its age, or not at all"]
pub struct Cached {
    entry: Arc<Entry>,
    age: Duration,
    /// Older than the cache keeps answers.
    expired: bool,
    doubtful: bool,
}

impl Cached {
    /// The encoded answer; `None` where the answer was that there is no such thing.
    #[must_use]
    pub fn value(&self) -> Option<&Bytes> {
        match &self.entry.known {
            Known::Answer(answer) => Some(answer),
            Known::Nothing | Known::Forgotten => None,
        }
    }

    /// Time since it was known to be true.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Whether it is to be shown rather than what the standby `host`, at most `lag` behind, shows at `now`: it is as young
    /// as that would be, or something newer than that may have been shown already. Only from the very standby that
    /// gave it a later answer is surely no older.
    #[cfg(feature = "postgres")]
    pub(crate) fn goes_before(&self, host: usize, now: Instant, lag: Duration) -> bool {
        let seen_there = || self.entry.standby == Some(host);
        let seen_before = || now.checked_sub(lag).is_some_and(|as_of| self.entry.shown_until() <= as_of);
        self.age <= lag || !(seen_there() || seen_before())
    }

    /// What it may be used for.
    #[must_use]
    pub fn usable(&self, policy: &ReadPolicy) -> Usable {
        if self.expired {
            return Usable::Expired;
        }
        policy.usable(self.age, self.entry.known == Known::Nothing, self.doubtful)
    }
}

/// Encoded answers by key. Shared by reference; asking it waits for nothing.
#[derive(Debug)]
pub struct ReadCache {
    config: CacheConfig,
    /// Behind one count each, so that a hit copies neither tags nor bytes.
    entries: Cache<CacheKey, Arc<Entry>, ByMemory>,
    /// When the newest entry was true, to a tenth of a second: older than `stale_max`, and everything is expired.
    /// Milliseconds since `first`, and one more; 0 for none. Read before it is written, because every answer passes here.
    newest: AtomicU64,
    /// Entries that were stored since the start.
    stored: AtomicU64,
    changes: Changes,
    /// When own writes ended of which nothing was kept.
    ended: Ended,
    first: OnceLock<Instant>,
    /// Held while one of a key's answers is compared and stored; which one is for a key, is drawn from its last byte.
    storing: [Mutex<()>; STORING],
}

/// So many answers can be stored at once, more than threads that answer.
const STORING: usize = 64;

impl ReadCache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: CacheConfig) -> Self {
        let (entries, now) = (memory::table(config.bytes_max), Instant::now());
        let (changes, ended) = (Changes::new(now), Ended::new(now));
        let storing = std::array::from_fn(|_| Mutex::default());
        Self {
            config,
            entries,
            newest: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            changes,
            ended,
            first: OnceLock::new(),
            storing,
        }
    }

    /// What was last known of `key` at `now`, unless it is expired.
    #[inline]
    pub fn peek(&self, key: &CacheKey, now: Instant) -> Option<Cached> {
        let cached = self.known(key, now)?;
        let is_usable = !cached.expired && !cached.entry.is_forgotten();
        is_usable.then_some(cached)
    }

    /// The same, expired or not.
    #[cfg(feature = "postgres")]
    #[inline]
    pub(crate) fn find(&self, key: &CacheKey, now: Instant) -> Option<Cached> {
        self.known(key, now).filter(|cached| !cached.entry.is_forgotten())
    }

    /// The same, also where all that is known is that an answer is not true any more.
    #[inline]
    fn known(&self, key: &CacheKey, now: Instant) -> Option<Cached> {
        let entry = self.entries.get(key)?;
        let as_of = entry.as_of();
        let age = now.saturating_duration_since(as_of);
        let doubtful = !self.changes.is_current(&entry.tags, as_of);
        let expired = age > self.config.stale_max;
        Some(Cached { entry, age, expired, doubtful })
    }

    /// Lets answers in to questions that were sent at `as_of`.
    #[must_use]
    pub fn fill(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill::new(self, as_of, now, fill::Source::Answer)
    }

    /// Lets in what an own write made true that was sent at `as_of` and answered at `now`: whatever was asked before
    /// `now` may not have seen it and is kept out.
    #[must_use]
    pub fn fill_by_write(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill::new(self, as_of, now, fill::Source::OwnWrite)
    }

    /// Lets in nothing: whatever is put or removed through it is forgotten. For news of unknown age, such as a write that
    /// turns out to have been applied some time ago.
    #[must_use]
    pub fn forget_by_write(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill::new(self, as_of, now, fill::Source::OldWrite)
    }

    /// What is made of one of these was changed before `at`: answers from before only help where the database cannot be asked.
    pub fn changed(&self, tags: &Tags, at: Instant) {
        if !tags.is_none() {
            self.changes.note(tags, at);
        }
    }

    /// From now on whatever was asked before `at` only helps where the database cannot be asked: news of changes may have
    /// been missed until then.
    pub fn doubt_before(&self, at: Instant) {
        self.changes.note_all(at);
    }

    /// From now on news of changes are missed: no kept answer counts as fresh until [`hears`](Self::hears).
    #[cfg(feature = "postgres")]
    pub(crate) fn goes_deaf(&self) {
        self.changes.goes_deaf();
    }

    /// News of changes from `at` on arrive.
    #[cfg(feature = "postgres")]
    pub(crate) fn hears(&self, at: Instant) {
        self.changes.hears(at);
    }

    /// Whether the last that was known of `key` at `now` is that it is gone, and the standby `host`, at most `lag` behind,
    /// may still have it.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_gone_before(&self, key: &CacheKey, host: usize, now: Instant, lag: Duration) -> bool {
        self.known(key, now).is_some_and(|cached| {
            !matches!(cached.entry.known, Known::Answer(_)) && cached.goes_before(host, now, lag)
        })
    }

    fn storing(&self, key: &CacheKey) -> Option<MutexGuard<'_, ()>> {
        let place = usize::from(*key.as_bytes().last()?) % STORING;
        Some(self.storing.get(place)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[inline]
    fn is_doubtful(&self, entry: &Entry) -> bool {
        !self.changes.is_current(&entry.tags, entry.as_of())
    }

    /// Differs where what is kept does: at once for answers, to a tenth of a second for their ages.
    #[cfg(feature = "postgres")]
    pub(crate) fn revision(&self) -> (u64, u64) {
        (self.stored.load(Ordering::Relaxed), self.newest.load(Ordering::Relaxed))
    }

    fn store(&self, key: CacheKey, entry: Entry) {
        self.entries.insert(key, Arc::new(entry));
        // After it: whoever reads the number earlier comes again.
        self.stored.fetch_add(1, Ordering::Relaxed);
    }

    /// All that could be served now or later, to be carried over a restart. In no order; what is stored or leaves
    /// meanwhile may be among it or not.
    #[cfg(feature = "postgres")]
    pub(crate) fn kept(&self) -> impl Iterator<Item = (CacheKey, Arc<Entry>)> {
        self.entries.iter().filter(|(_, entry)| entry.known != Known::Forgotten)
    }

    /// Takes back what was kept before a restart, true `age` ago, unless something newer is known already. It is doubtful
    /// from the start: nobody listened for changes meanwhile.
    #[cfg(feature = "postgres")]
    pub(crate) fn restore(&self, key: CacheKey, known: Known, tags: Tags, age: Duration, now: Instant) {
        self.doubt_before(now);
        // Older than this clock can tell is expired for sure.
        let Some(as_of) = now.checked_sub(age) else { return };
        if age > self.config.stale_max || known == Known::Forgotten || self.entries.peek(&key).is_some() {
            return;
        }
        self.store(key, Entry::new(known, tags, as_of, as_of, None));
        self.note_newest(as_of);
    }

    /// Whether anything at all could be served at `now`.
    #[must_use]
    pub fn is_warm(&self, now: Instant) -> bool {
        let newest = self.newest.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis);
        let newest = newest.and_then(|after| self.first.get()?.checked_add(after));
        let usable =
            newest.is_some_and(|as_of| now.saturating_duration_since(as_of) <= self.config.stale_max);
        usable && !self.entries.is_empty()
    }

    /// From where times are counted: before anything that can be served, so that what comes back after a restart counts.
    fn first_before(&self, at: Instant) -> Instant {
        *self.first.get_or_init(|| at.checked_sub(self.config.stale_max).unwrap_or(at))
    }

    fn note_newest(&self, as_of: Instant) {
        /// Noted this exactly, so that the answers of a busy moment do not all write to one place.
        const STEP: u64 = 100;
        let first = self.first_before(as_of);
        let after = u64::try_from(as_of.saturating_duration_since(first).as_millis()).unwrap_or(u64::MAX - 1);
        if self.newest.load(Ordering::Relaxed) <= after.saturating_sub(STEP) {
            self.newest.fetch_max(after + 1, Ordering::Relaxed);
        }
    }

    /// Whether entries that nobody asked for find room without pushing out any that somebody did.
    fn has_room_to_spare(&self) -> bool {
        /// Of all room the share that such entries may fill, as a divisor.
        const SPARE: u64 = 4;
        self.entries.weight() < self.entries.capacity() / SPARE
    }

    /// Entries and the memory that they take, in bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.entries.len(), self.entries.weight())
    }
}

#[cfg(test)]
mod tests;
