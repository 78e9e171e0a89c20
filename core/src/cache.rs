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
mod freshness;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod key;
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
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

#[cfg(feature = "serde")]
pub use self::answer::Json;
#[cfg(feature = "postgres")]
pub use self::carried::SnapshotConfig;
#[cfg(feature = "postgres")]
pub(crate) use self::single_flight::Flights;
pub use self::{
    answer::Cacheable,
    entry::Tags,
    freshness::{Freshness, StaleReason},
    key::{CacheKey, Principal},
    policy::{ReadPolicy, Usable},
};
use self::{
    entry::{AGAIN, Entry, Known},
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
    /// Weight of all keys and answers in bytes. Default 64 MiB.
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

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<CacheKey, Arc<Entry>> for ByBytes {
    fn weight(&self, key: &CacheKey, entry: &Arc<Entry>) -> u64 {
        // About what an entry costs besides its bytes.
        const OVERHEAD: u64 = 192;
        (key.as_bytes().len() + entry.weight()) as u64 + OVERHEAD
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
    entries: Cache<CacheKey, Arc<Entry>, ByBytes>,
    /// When the newest entry was true, to a tenth of a second: older than `stale_max`, and everything is expired.
    /// Milliseconds since `first`, and one more; 0 for none. Read before it is written, because every answer passes here.
    newest: AtomicU64,
    changes: Changes,
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
        // The estimate only sizes the tables; typical answers are about this large.
        const TYPICAL_BYTES: u64 = 512;
        let estimate = usize::try_from(config.bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX);
        let entries = Cache::with_weighter(estimate.clamp(16, 1 << 20), config.bytes_max, ByBytes);
        let changes = Changes::new(Instant::now());
        let storing = std::array::from_fn(|_| Mutex::default());
        Self { config, entries, newest: AtomicU64::new(0), changes, first: OnceLock::new(), storing }
    }

    /// What was last known of `key` at `now`, unless it is expired.
    #[inline]
    pub fn peek(&self, key: &CacheKey, now: Instant) -> Option<Cached> {
        self.find(key, now).filter(|cached| !cached.expired)
    }

    /// The same, expired or not.
    #[inline]
    pub(crate) fn find(&self, key: &CacheKey, now: Instant) -> Option<Cached> {
        self.known(key, now).filter(|cached| cached.entry.known != Known::Forgotten)
    }

    /// The same, also where all that is known is that an answer is not true any more.
    #[inline]
    fn known(&self, key: &CacheKey, now: Instant) -> Option<Cached> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.as_of());
        let (expired, doubtful) = (age > self.config.stale_max, self.is_doubtful(&entry));
        Some(Cached { entry, age, expired, doubtful })
    }

    /// Lets answers in to questions that were sent at `as_of`.
    #[must_use]
    pub fn fill(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill { cache: self, as_of, now, source: Source::Answer, standby: None, again: AGAIN }
    }

    /// Lets in what an own write made true that was sent at `as_of` and answered at `now`: whatever was asked before
    /// `now` may not have seen it and is kept out.
    #[must_use]
    pub fn fill_by_write(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill { cache: self, as_of, now, source: Source::OwnWrite, standby: None, again: AGAIN }
    }

    /// Lets in nothing: whatever is put or removed through it is forgotten. For news of unknown age, such as a write that
    /// turns out to have been applied some time ago.
    #[must_use]
    pub fn forget_by_write(&self, as_of: Instant, now: Instant) -> CacheFill<'_> {
        CacheFill { cache: self, as_of, now, source: Source::OldWrite, standby: None, again: AGAIN }
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

    /// Differs where what is kept does.
    #[cfg(feature = "postgres")]
    pub(crate) fn revision(&self) -> (u64, usize, u64) {
        (self.newest.load(Ordering::Relaxed), self.entries.len(), self.entries.weight())
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
        self.entries.insert(key, Arc::new(Entry::new(known, tags, as_of, as_of, None)));
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
    /// Which standby answered, where one did.
    standby: Option<usize>,
    /// The same answer this much later is not stored.
    again: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Answer,
    OwnWrite,
    OldWrite,
}

impl CacheFill<'_> {
    /// The answers come from this standby.
    #[cfg(feature = "postgres")]
    pub(crate) fn by_standby(self, standby: Option<usize>) -> Self {
        Self { standby, ..self }
    }

    /// Also makes an answer younger that is the same as a moment ago: for answers that are served by their age.
    #[cfg(feature = "postgres")]
    pub(crate) fn at_any_age(self) -> Self {
        Self { again: Duration::ZERO, ..self }
    }

    /// Stores an answer, unless the cache knows a newer one. It has the tags that the answer before it had.
    pub fn put(&self, key: &CacheKey, value: Bytes) {
        self.insert(key, Known::Answer(value), None::<fn() -> Tags>);
    }

    /// Stores an answer with these tags, which are asked for only where it is stored.
    pub fn put_tagged(&self, key: &CacheKey, value: Bytes, tags: impl FnOnce() -> Tags) {
        self.insert(key, Known::Answer(value), Some(tags));
    }

    /// Stores that there is no such thing, unless the cache knows something newer. How long that is good for is said by
    /// [`ReadPolicy::negative_for`].
    pub fn put_nothing(&self, key: &CacheKey, tags: impl FnOnce() -> Tags) {
        self.insert(key, Known::Nothing, Some(tags));
    }

    /// Forgets an answer that is not true any more, and keeps older answers from bringing it back.
    pub fn remove(&self, key: &CacheKey) {
        self.insert(key, Known::Forgotten, None::<fn() -> Tags>);
    }

    fn insert(&self, key: &CacheKey, known: Known, tags: Option<impl FnOnce() -> Tags>) {
        let known = if self.source == Source::OldWrite { Known::Forgotten } else { known };
        let own_write = self.source != Source::Answer;
        let before = self.cache.entries.get(key).filter(|_| !own_write);
        // Most answers end here, without the lock.
        if before.as_ref().is_some_and(|before| self.is_of_no_use(before, &known)) {
            return;
        }
        // The service's own code; it may want something of the cache itself.
        let tags = tags.map(|tags| tags());
        if before.is_some_and(|before| self.makes_younger(&before, &known, tags.as_ref())) {
            return self.cache.note_newest(self.as_of);
        }
        // Until it is stored no other answer comes between: an own write there would be undone.
        let _storing = self.cache.storing(key);
        let before = self.cache.entries.get(key);
        if before.as_ref().is_some_and(|before| !own_write && before.may_be_newer_than(self.as_of)) {
            return;
        }
        let tags = tags.or_else(|| before.map(|before| before.tags.clone())).unwrap_or_default();
        let barrier = if own_write { self.now } else { self.as_of };
        let servable = known != Known::Forgotten;
        let entry = Entry::new(known, tags, self.as_of, barrier, self.standby);
        entry.show_until(self.now);
        self.cache.entries.insert(key.clone(), Arc::new(entry));
        if servable {
            self.cache.note_newest(self.as_of);
        }
    }

    /// Whether an answer says nothing that is not known from `before`.
    fn is_of_no_use(&self, before: &Entry, known: &Known) -> bool {
        if before.may_be_newer_than(self.as_of) {
            return true;
        }
        let same = before.says_the_same(known, self.standby)
            && before.is_as_young(self.as_of, self.again)
            && !self.cache.is_doubtful(before);
        if same {
            before.show_until(self.now);
        }
        same
    }

    /// Whether an answer is what is kept, only known later: then that is noted in its place.
    fn makes_younger(&self, before: &Entry, known: &Known, tags: Option<&Tags>) -> bool {
        let same = before.says_the_same(known, self.standby) && tags.is_none_or(|tags| *tags == before.tags);
        if same {
            before.show_until(self.now);
            before.confirm(self.as_of);
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache() -> ReadCache {
        ReadCache::new(CacheConfig { bytes_max: 10_000, stale_max: SECOND * 60, ..CacheConfig::default() })
    }

    fn a() -> CacheKey {
        CacheKey::shared("a")
    }

    fn text(cached: Option<Cached>) -> Option<Bytes> {
        cached.and_then(|cached| cached.value().cloned())
    }

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn age_counts_from_the_question_not_from_the_answer() {
        let (cache, asked) = (cache(), Instant::now());
        cache.fill(asked, asked + SECOND).put(&a(), value("1"));
        assert_eq!(cache.peek(&a(), asked + SECOND * 3).unwrap().age(), SECOND * 3);
    }

    #[test]
    fn expired_answers_are_not_served() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&a(), value("1"));
        assert!(cache.peek(&a(), now + SECOND * 60).is_some());
        assert!(cache.peek(&a(), now + SECOND * 61).is_none());
        assert!(cache.is_warm(now + SECOND * 60) && !cache.is_warm(now + SECOND * 61));
    }

    #[test]
    fn a_slow_old_answer_does_not_replace_a_newer_one() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now + SECOND, now + SECOND).put(&a(), value("new"));
        cache.fill(now, now + SECOND * 2).put(&a(), value("old"));
        assert_eq!(text(cache.peek(&a(), now + SECOND * 2)).unwrap(), "new");
    }

    /// A read was sent while a write of the same key was under way, saw the row as it was before, and came back later
    /// than the write: its answer must not undo the write in the cache.
    #[test]
    fn a_read_sent_before_a_write_was_answered_does_not_undo_it() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill_by_write(now, now + SECOND * 2).put(&a(), value("written"));
        cache.fill(now + SECOND, now + SECOND * 3).put(&a(), value("before"));
        assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "written");
        cache.fill(now + SECOND * 2, now + SECOND * 3).put(&a(), value("after"));
        assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "after");
    }

    /// Between the look at what was known and the storing of a read's older answer an own write came, and was undone.
    #[test]
    fn a_write_that_comes_while_an_older_answer_is_being_stored_is_not_undone() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now + SECOND * 2).put_tagged(&a(), value("before"), || {
            cache.fill_by_write(now + SECOND, now + SECOND * 2).put(&a(), value("written"));
            Tags::none()
        });
        assert_eq!(text(cache.peek(&a(), now + SECOND * 3)).unwrap(), "written");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn what_is_gone_goes_before_what_a_standby_may_still_have() {
        let (cache, now) = (cache(), Instant::now());
        let is_gone = |lag| cache.is_gone_before(&a(), 1, now + SECOND * 5, SECOND * lag);
        assert!(!is_gone(9), "nothing is known");
        cache.fill(now, now).put(&a(), value("here"));
        assert!(!is_gone(9), "there is a copy to show");
        cache.fill_by_write(now, now + SECOND).remove(&a());
        assert!(!is_gone(4) && is_gone(5) && is_gone(9));
        cache.fill(now + SECOND * 2, now + SECOND * 2).put_nothing(&a(), Tags::none);
        assert!(!is_gone(2) && is_gone(4));
    }

    /// A list was asked for, one of its items was deleted, and then the list's answer came and brought the item back.
    #[test]
    fn a_read_sent_before_a_removal_was_answered_does_not_undo_it() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&a(), value("here"));
        cache.fill_by_write(now, now + SECOND * 2).remove(&a());
        cache.fill(now + SECOND, now + SECOND * 3).put(&a(), value("before"));
        assert!(cache.peek(&a(), now + SECOND * 3).is_none());
        cache.fill(now + SECOND * 3, now + SECOND * 3).put(&a(), value("anew"));
        assert!(cache.peek(&a(), now + SECOND * 3).is_some());
    }

    /// A busy key was written anew with every answer, which was most of what a read cost.
    #[test]
    fn the_same_answer_a_moment_later_changes_nothing_but_a_later_one_makes_it_younger() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&a(), value("1"));
        cache.fill(now + AGAIN / 2, now + AGAIN).put(&a(), value("1"));
        assert_eq!(cache.peek(&a(), now + SECOND).unwrap().age(), SECOND);
        cache.fill(now + AGAIN, now + AGAIN).put(&a(), value("1"));
        assert_eq!(cache.peek(&a(), now + SECOND).unwrap().age(), SECOND - AGAIN);
        cache.fill(now + AGAIN + AGAIN / 2, now + SECOND).put(&a(), value("2"));
        assert_eq!(text(cache.peek(&a(), now + SECOND)).unwrap(), "2");
    }

    /// An answer that is only made younger, in its place, must keep out what a new one would have kept out.
    #[test]
    fn what_was_said_again_keeps_out_answers_to_earlier_questions() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&a(), value("1"));
        cache.fill(now + AGAIN * 2, now + AGAIN * 2).put(&a(), value("1"));
        cache.fill(now + AGAIN, now + AGAIN * 3).put(&a(), value("2"));
        let cached = cache.peek(&a(), now + AGAIN * 3).unwrap();
        assert_eq!((text(Some(cached.clone())).unwrap(), cached.age()), (value("1"), AGAIN));
    }

    /// A list fills in its items without tags; the item's own query says the same and knows them.
    #[cfg(feature = "postgres")]
    #[test]
    fn the_tags_that_come_with_the_same_answer_are_kept() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&a(), value("1"));
        cache.fill(now + AGAIN, now + AGAIN).put_tagged(&a(), value("1"), || Tags::of(["t"]));
        let (_, entry) = cache.kept().next().unwrap();
        assert_eq!((&entry.known, &entry.tags), (&Known::Answer(value("1")), &Tags::of(["t"])));
    }

    /// Replay found that a write had been applied long ago and put its document into the cache as if it were true now.
    #[test]
    fn news_of_unknown_age_only_forgets() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&a(), value("newer"));
        cache.forget_by_write(now, now + SECOND).put(&a(), value("older"));
        assert!(cache.peek(&a(), now + SECOND).is_none());
    }

    #[test]
    fn weight_stays_within_its_bound() {
        let (cache, now) = (cache(), Instant::now());
        for key in 0..1_000 {
            cache
                .fill(now, now)
                .put(&CacheKey::shared(format_args!("key {key}")), Bytes::from(vec![b'x'; 500]));
        }
        assert!(cache.size().1 <= 10_000);
    }

    #[test]
    fn what_was_asked_before_the_doubt_only_helps_in_an_outage_and_what_was_asked_after_it_is_fresh() {
        let policy = ReadPolicy { fresh_for: SECOND * 10, ..ReadPolicy::default() };
        let (cache, now) = (cache(), Instant::now());
        let usable = |at| cache.peek(&a(), at).map(|cached| cached.usable(&policy));
        cache.fill(now, now).put(&a(), value("1"));
        assert_eq!(usable(now + SECOND), Some(Usable::Fresh));
        cache.doubt_before(now + SECOND);
        assert_eq!(usable(now + SECOND), Some(Usable::IfError));
        cache.doubt_before(now);
        assert_eq!(usable(now + SECOND), Some(Usable::IfError), "an older doubt takes nothing back");
        cache.fill(now + SECOND, now + SECOND).put(&a(), value("1"));
        assert_eq!(usable(now + SECOND), Some(Usable::Fresh));
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn what_comes_back_after_a_restart_has_its_age_and_is_never_fresh() {
        let (before, now) = (cache(), Instant::now());
        before.fill(now, now).put_tagged(&a(), value("1"), || Tags::of(["t"]));
        before.fill(now, now).put_nothing(&CacheKey::shared("b"), Tags::none);
        before.fill(now, now).remove(&CacheKey::shared("c"));
        let (after, later) = (cache(), now + SECOND * 1_000);
        for (key, entry) in before.kept() {
            after.restore(key, entry.known.clone(), entry.tags.clone(), SECOND * 50, later);
        }
        assert_eq!(after.size().0, 2);
        let policy =
            ReadPolicy { fresh_for: SECOND * 60, negative_for: SECOND * 60, ..ReadPolicy::default() };
        for key in [a(), CacheKey::shared("b")] {
            let cached = after.peek(&key, later).unwrap();
            assert_eq!((cached.age(), cached.usable(&policy)), (SECOND * 50, Usable::IfError));
        }
        assert!(after.is_warm(later + SECOND * 10) && !after.is_warm(later + SECOND * 11));
        after.restore(a(), Known::Answer(value("0")), Tags::none(), SECOND, later);
        assert_eq!(text(after.peek(&a(), later)).unwrap(), "1", "what is known stays");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_write_without_tags_leaves_those_that_the_answer_had() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put_tagged(&a(), value("1"), || Tags::of(["t"]));
        cache.fill_by_write(now, now + SECOND).put(&a(), value("2"));
        let (_, entry) = cache.kept().next().unwrap();
        assert_eq!((&entry.known, &entry.tags), (&Known::Answer(value("2")), &Tags::of(["t"])));
    }

    /// What one key shows to who asks again and again, whoever answers: the primary, standbys that are behind by less than
    /// they are thought to be, or the cache, with own writes and those of others in between.
    #[cfg(feature = "postgres")]
    #[test]
    fn a_later_read_never_shows_an_older_state() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..300 {
            let (cache, start) = (ReadCache::new(CacheConfig::default()), Instant::now());
            let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
            // When each version was committed, and how far each standby has come.
            let (mut versions, mut replayed) = (vec![0_u64], [0_u64; 2]);
            let version_at = |versions: &[u64], time| versions.partition_point(|commit| *commit <= time);
            let (mut now, mut shown) = (100_000_u64, 0_usize);
            for step in 0..80 {
                let (asked, seen) = (now + random.u64(0..700), random.u64(0..300));
                now = asked + seen + random.u64(0..300);
                if random.u8(0..3) == 0 {
                    versions.push(asked.max(*versions.last().unwrap()));
                }
                let put = |fill: CacheFill<'_>, version: usize| {
                    fill.put(&a(), Bytes::from(version.to_string()));
                    version
                };
                let kept = || cache.peek(&a(), at(asked));
                let read = |cached: Cached| {
                    std::str::from_utf8(cached.value().unwrap()).unwrap().parse::<usize>().unwrap()
                };
                let what = random.u8(0..6);
                let shows = match what {
                    0 => put(cache.fill(at(asked), at(now)), version_at(&versions, asked + seen)),
                    1 => {
                        versions.push((asked + seen).max(*versions.last().unwrap()));
                        put(cache.fill_by_write(at(asked), at(now)), versions.len())
                    }
                    2 => kept().map_or(shown, read),
                    _ => {
                        let host = random.usize(0..2);
                        let (lag, behind) = (random.u64(300..4_000), random.u64(0..300));
                        let replay = &mut replayed[host];
                        *replay = (*replay).max(asked.saturating_sub(lag) + behind.min(lag));
                        let lag = Duration::from_millis(lag);
                        match kept().filter(|kept| kept.goes_before(host, at(asked), lag)) {
                            Some(kept) => read(kept),
                            None => put(
                                cache.fill(at(asked) - lag, at(now)).by_standby(Some(host)),
                                version_at(&versions, *replay),
                            ),
                        }
                    }
                };
                assert!(
                    shows >= shown,
                    "{shown} then {shows} by {what}: round {round}, step {step}, seed {seed}"
                );
                shown = shows;
            }
        }
    }
}
