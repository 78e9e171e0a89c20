//! The way into the cache: which answers are let in, and which come too late. It looks nothing up for readers.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    CacheKey, ReadCache, Tags,
    entry::{AGAIN, Entry, Known},
};

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
    /// What nobody asked for is stored only where there is room to spare.
    is_unasked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Answer,
    OwnWrite,
    OldWrite,
}

impl<'a> CacheFill<'a> {
    pub(super) fn new(cache: &'a ReadCache, as_of: Instant, now: Instant, source: Source) -> Self {
        Self { cache, as_of, now, source, standby: None, again: AGAIN, is_unasked: false }
    }
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

    /// Nobody asked for these, and a backlog of them would push out what somebody did: where nothing is kept under a key, and
    /// more than a quarter of the cache is taken, only older answers are kept out.
    #[cfg(feature = "postgres")]
    pub(crate) fn unasked(self) -> Self {
        Self { is_unasked: true, ..self }
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
    /// [`ReadPolicy::negative_for`](crate::cache::ReadPolicy::negative_for).
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
        let comes_too_late = || match &before {
            Some(before) => before.may_be_newer_than(self.as_of),
            None => self.cache.ended.is_after(key, self.as_of),
        };
        if !own_write && comes_too_late() {
            return;
        }
        if before.is_none() && self.is_unasked && !self.cache.has_room_to_spare() {
            return self.cache.ended.note(key, self.now);
        }
        let tags = tags.or_else(|| before.map(|before| before.tags.clone())).unwrap_or_default();
        let barrier = if own_write { self.now } else { self.as_of };
        let servable = known != Known::Forgotten;
        let entry = Entry::new(known.on_its_own(), tags, self.as_of, barrier, self.standby);
        entry.show_until(self.now);
        self.cache.store(key.clone(), entry);
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
