//! The read cache: the last good answers, kept so that a read can still be answered while the database is away.
//!
//! It stores encoded answers with the time they were true. It never decides to serve one (that is `db`), never talks to
//! the database, and is bounded by weight. While the database is there every read goes to it; nothing is served from
//! here unlabelled.
//!
//! Defaults, metrics and what not to do: `docs/patterns/degraded-reads.md`.

mod freshness;

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

pub use self::freshness::{Freshness, StaleReason};

/// The bounds of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct CacheConfig {
    /// Weight of all keys and answers in bytes. Default 64 MiB.
    pub bytes_max: u64,
    /// Answers older than this are expired and not served. Default 24 h: in an outage an old answer that says how old
    /// it is helps more than none.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub stale_max: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { bytes_max: 64 * 1024 * 1024, stale_max: Duration::from_secs(24 * 3600) }
    }
}

/// An answer that can be stored: to bytes and back.
pub trait Cacheable: Sized {
    /// The bytes to store.
    fn encode(&self) -> Bytes;
    /// The answer again, or `None` where the bytes are not one.
    fn decode(bytes: &Bytes) -> Option<Self>;
}

/// An answer that is bytes already, such as a rendered JSON document, is stored without a copy.
impl Cacheable for Bytes {
    fn encode(&self) -> Bytes {
        self.clone()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        Some(bytes.clone())
    }
}

/// Any serde type as a cacheable answer, stored as JSON.
#[cfg(feature = "serde")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json<T>(pub T);

#[cfg(feature = "serde")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Cacheable for Json<T> {
    fn encode(&self) -> Bytes {
        // A type that cannot be written as JSON is stored as nothing and so never served.
        serde_json::to_vec(&self.0).unwrap_or_default().into()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Json)
    }
}

#[derive(Debug, Clone)]
struct Entry {
    /// `None` marks what is known to be gone: it keeps older answers out and is served to nobody.
    value: Option<Bytes>,
    /// When the question was sent whose answer this is: the answer was true then or later, so an age counted from here
    /// is never too low.
    as_of: Instant,
    /// Answers to questions sent before this instant may be older than this entry and are not let in.
    barrier: Instant,
}

/// An answer that says again what was known this much earlier is not stored: a busy key would be written anew all the
/// time, to say that its answer is a moment younger.
const AGAIN: Duration = Duration::from_millis(500);

impl Entry {
    /// Whether it has this answer already, known at about the same time.
    fn says_the_same(&self, value: Option<&Bytes>, as_of: Instant) -> bool {
        value.is_some()
            && self.value.as_ref() == value
            && as_of.checked_duration_since(self.as_of).is_some_and(|later| later < AGAIN)
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<String, Entry> for ByBytes {
    fn weight(&self, key: &String, entry: &Entry) -> u64 {
        // About what an entry costs besides its bytes.
        const OVERHEAD: u64 = 128;
        key.len() as u64 + entry.value.as_ref().map_or(0, Bytes::len) as u64 + OVERHEAD
    }
}

/// What the cache knows of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The encoded answer.
    pub value: Bytes,
    /// Time since it was known to be true.
    pub age: Duration,
}

/// Encoded answers by key. Shared by reference; asking it waits for nothing.
#[derive(Debug)]
pub struct ReadCache {
    config: CacheConfig,
    entries: Cache<String, Entry, ByBytes>,
    /// When the newest entry was true, to a tenth of a second: older than `stale_max`, and everything is expired. Milliseconds since
    /// the first entry, and one more; 0 for none. Read before it is written, because every answer passes here.
    newest: AtomicU64,
    first: OnceLock<Instant>,
}

impl ReadCache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: CacheConfig) -> Self {
        // The estimate only sizes the tables; typical answers are about this large.
        const TYPICAL_BYTES: u64 = 512;
        let estimate = usize::try_from(config.bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX);
        let entries = Cache::with_weighter(estimate.clamp(16, 1 << 20), config.bytes_max, ByBytes);
        Self { config, entries, newest: AtomicU64::new(0), first: OnceLock::new() }
    }

    /// The last known answer for `key` at `now`, unless it is expired.
    #[must_use]
    pub fn peek(&self, key: &str, now: Instant) -> Option<Cached> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.as_of);
        let value = entry.value.filter(|_| age <= self.config.stale_max)?;
        Some(Cached { value, age })
    }

    /// Lets answers in to questions that were sent at `as_of`.
    #[must_use]
    pub fn fill(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill { cache: self, as_of, now, source: Source::Answer }
    }

    /// Lets in what an own write made true that was sent at `as_of` and answered at `now`: whatever was asked before
    /// `now` may not have seen it and is kept out.
    #[must_use]
    pub fn fill_by_write(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill { cache: self, as_of, now, source: Source::OwnWrite }
    }

    /// Lets in nothing: whatever is put or removed through it is forgotten. For news of unknown age, such as a write that
    /// turns out to have been applied some time ago.
    #[must_use]
    pub fn forget_by_write(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill { cache: self, as_of, now, source: Source::OldWrite }
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

    fn note_newest(&self, as_of: Instant) {
        /// Noted this exactly, so that the answers of a busy moment do not all write to one place.
        const STEP: u64 = 100;
        let first = *self.first.get_or_init(|| as_of);
        let after = u64::try_from(as_of.saturating_duration_since(first).as_millis()).unwrap_or(u64::MAX - 1);
        if self.newest.load(Ordering::Relaxed) <= after.saturating_sub(STEP) {
            self.newest.fetch_max(after + 1, Ordering::Relaxed);
        }
    }

    /// Entries and their weight in bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.entries.len(), self.entries.weight())
    }
}

/// The way into the cache, with the time stamps in its hands.
#[derive(Debug, Clone, Copy)]
pub struct CacheFill<'a> {
    cache: &'a ReadCache,
    as_of: Instant,
    now: Instant,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Answer,
    OwnWrite,
    OldWrite,
}

impl CacheFill<'_> {
    /// Stores an answer, unless the cache knows a newer one.
    pub fn put(&self, key: &str, value: Bytes) {
        let value = Some(value).filter(|_| self.source != Source::OldWrite);
        let stored = value.is_some();
        self.insert(key, value);
        if stored {
            self.cache.note_newest(self.as_of);
        }
    }

    /// Forgets an answer that is not true any more, and keeps older answers from bringing it back.
    pub fn remove(&self, key: &str) {
        self.insert(key, None);
    }

    fn insert(&self, key: &str, value: Option<Bytes>) {
        let own_write = self.source != Source::Answer;
        // Between this look and the insert another answer may slip in; it is about as new, and labelled with its own age.
        let known = self.cache.entries.peek(key);
        if !own_write && known.as_ref().is_some_and(|known| known.says_the_same(value.as_ref(), self.as_of)) {
            return;
        }
        if own_write || known.is_none_or(|known| self.as_of >= known.barrier) {
            let barrier = if own_write { self.now } else { self.as_of };
            self.cache.entries.insert(key.to_owned(), Entry { value, as_of: self.as_of, barrier });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache() -> ReadCache {
        ReadCache::new(CacheConfig { bytes_max: 10_000, stale_max: SECOND * 60 })
    }

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn age_counts_from_the_question_not_from_the_answer() {
        let (cache, asked) = (cache(), Instant::now());
        cache.fill(asked, asked + SECOND).put("a", value("1"));
        assert_eq!(cache.peek("a", asked + SECOND * 3).unwrap().age, SECOND * 3);
    }

    #[test]
    fn expired_answers_are_not_served() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put("a", value("1"));
        assert!(cache.peek("a", now + SECOND * 60).is_some());
        assert!(cache.peek("a", now + SECOND * 61).is_none());
        assert!(cache.is_warm(now + SECOND * 60) && !cache.is_warm(now + SECOND * 61));
    }

    #[test]
    fn a_slow_old_answer_does_not_replace_a_newer_one() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now + SECOND, now + SECOND).put("a", value("new"));
        cache.fill(now, now + SECOND * 2).put("a", value("old"));
        assert_eq!(cache.peek("a", now + SECOND * 2).unwrap().value, "new");
    }

    /// A read was sent while a write of the same key was under way, saw the row as it was before, and came back later
    /// than the write: its answer must not undo the write in the cache.
    #[test]
    fn a_read_sent_before_a_write_was_answered_does_not_undo_it() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill_by_write(now, now + SECOND * 2).put("a", value("written"));
        cache.fill(now + SECOND, now + SECOND * 3).put("a", value("before"));
        assert_eq!(cache.peek("a", now + SECOND * 3).unwrap().value, "written");
        cache.fill(now + SECOND * 2, now + SECOND * 3).put("a", value("after"));
        assert_eq!(cache.peek("a", now + SECOND * 3).unwrap().value, "after");
    }

    /// A list was asked for, one of its items was deleted, and then the list's answer came and brought the item back.
    #[test]
    fn a_read_sent_before_a_removal_was_answered_does_not_undo_it() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put("a", value("here"));
        cache.fill_by_write(now, now + SECOND * 2).remove("a");
        cache.fill(now + SECOND, now + SECOND * 3).put("a", value("before"));
        assert!(cache.peek("a", now + SECOND * 3).is_none());
        cache.fill(now + SECOND * 3, now + SECOND * 3).put("a", value("anew"));
        assert!(cache.peek("a", now + SECOND * 3).is_some());
    }

    /// A busy key was written anew with every answer, which was most of what a read cost.
    #[test]
    fn the_same_answer_a_moment_later_changes_nothing_but_a_later_one_makes_it_younger() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put("a", value("1"));
        cache.fill(now + AGAIN / 2, now + AGAIN).put("a", value("1"));
        assert_eq!(cache.peek("a", now + SECOND).unwrap().age, SECOND);
        cache.fill(now + AGAIN, now + AGAIN).put("a", value("1"));
        assert_eq!(cache.peek("a", now + SECOND).unwrap().age, SECOND - AGAIN);
        cache.fill(now + AGAIN + AGAIN / 2, now + SECOND).put("a", value("2"));
        assert_eq!(cache.peek("a", now + SECOND).unwrap().value, "2");
    }

    /// Replay found that a write had been applied long ago and put its document into the cache as if it were true now.
    #[test]
    fn news_of_unknown_age_only_forgets() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put("a", value("newer"));
        cache.forget_by_write(now, now + SECOND).put("a", value("older"));
        assert!(cache.peek("a", now + SECOND).is_none());
    }

    #[test]
    fn weight_stays_within_its_bound() {
        let (cache, now) = (cache(), Instant::now());
        for key in 0..1_000 {
            cache.fill(now, now).put(&format!("key {key}"), Bytes::from(vec![b'x'; 500]));
        }
        assert!(cache.size().1 <= 10_000);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn json_answers_survive_the_round_trip_and_garbage_is_no_answer() {
        let answer = Json(vec![1, 2, 3]);
        assert_eq!(Json::decode(&answer.encode()), Some(answer));
        assert_eq!(Json::<Vec<i32>>::decode(&value("{")), None);
    }
}
