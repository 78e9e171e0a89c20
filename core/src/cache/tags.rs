//! Which kept answers may still be called fresh: what has been changed since, by tag, and since when changes of others are
//! heard of at all.
//!
//! It knows no answers and removes none: one that is not current is still good for an outage, labelled. It is bounded: with
//! more tags than it holds, everything counts as changed.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::entry::Tags;

/// Tags whose last change is remembered. Some megabytes at the most, and more than change while an answer is fresh.
const TAGS_MAX: usize = 10_000;

/// The last changes, by tag.
#[derive(Debug)]
pub(super) struct Changes {
    born: Instant,
    /// No answer to a question sent before this is current. Like all times here in nanoseconds since
    /// `born`, and one more.
    floor: AtomicU64,
    /// The latest of all changes: answers to later questions are current without a look at the table.
    latest: AtomicU64,
    /// Changes of others are not heard of now, though they should be.
    is_deaf: AtomicBool,
    by_tag: RwLock<HashMap<Box<str>, u64>>,
}

impl Changes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            born: now,
            floor: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            is_deaf: AtomicBool::new(false),
            by_tag: RwLock::default(),
        }
    }

    /// What is made of one of the tags was changed before `at`.
    pub(super) fn note(&self, tags: &Tags, at: Instant) {
        if tags.is_everything() {
            return self.note_all(at);
        }
        let at = self.number(at);
        let mut by_tag = self.by_tag.write().unwrap_or_else(PoisonError::into_inner);
        for tag in tags.names() {
            if let Some(known) = by_tag.get_mut(tag) {
                *known = at.max(*known);
            } else if by_tag.len() < TAGS_MAX {
                by_tag.insert(tag.into(), at);
            } else {
                by_tag.clear();
                // Among what is forgotten here may be a later change.
                self.floor.fetch_max(at.max(self.latest.load(Ordering::Acquire)), Ordering::AcqRel);
            }
            // Inside the lock: whoever meets this later finds the tag in the table.
            self.latest.fetch_max(at, Ordering::AcqRel);
        }
    }

    /// Anything may have been changed before `at`.
    pub(super) fn note_all(&self, at: Instant) {
        let at = self.number(at);
        let mut by_tag = self.by_tag.write().unwrap_or_else(PoisonError::into_inner);
        by_tag.retain(|_, changed| *changed > at);
        self.floor.fetch_max(at, Ordering::AcqRel);
        self.latest.fetch_max(at, Ordering::AcqRel);
    }

    /// From now on changes of others pass unheard: nothing is current until [`hears`](Self::hears).
    #[cfg(any(test, feature = "postgres"))]
    pub(super) fn goes_deaf(&self) {
        self.is_deaf.store(true, Ordering::Release);
    }

    /// Changes from `at` on are heard of; those before it may have been missed.
    #[cfg(any(test, feature = "postgres"))]
    pub(super) fn hears(&self, at: Instant) {
        self.note_all(at);
        self.is_deaf.store(false, Ordering::Release);
    }

    /// Whether nothing is known to have changed what was asked for at `as_of` and is made of these tags.
    #[inline]
    pub(super) fn is_current(&self, tags: &Tags, as_of: Instant) -> bool {
        if self.is_deaf.load(Ordering::Acquire) {
            return false;
        }
        let latest = self.latest.load(Ordering::Acquire);
        latest == 0 || self.is_current_after(latest, tags, as_of)
    }

    fn is_current_after(&self, latest: u64, tags: &Tags, as_of: Instant) -> bool {
        // What is older than everything here is before any change.
        let as_of = as_of.checked_duration_since(self.born).map_or(0, |_| self.number(as_of));
        if as_of >= latest {
            return true;
        }
        if as_of < self.floor.load(Ordering::Acquire) || tags.is_everything() {
            return false;
        }
        let by_tag = self.by_tag.read().unwrap_or_else(PoisonError::into_inner);
        tags.names().all(|tag| by_tag.get(tag).is_none_or(|changed| as_of >= *changed))
    }

    /// The instant as a number; 0 is before all of them.
    fn number(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.born).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX - 1).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tags(name: &str) -> Tags {
        Tags::of([name])
    }

    #[test]
    fn a_change_ends_the_freshness_of_earlier_answers_with_its_tag() {
        let now = Instant::now();
        let changes = Changes::new(now);
        assert!(changes.is_current(&tags("a"), now));
        changes.note(&tags("a"), now + SECOND);
        assert!(!changes.is_current(&tags("a"), now));
        assert!(!changes.is_current(&Tags::of(["b", "a"]), now));
        assert!(!changes.is_current(&Tags::everything(), now), "it is made of that, too");
        assert!(changes.is_current(&tags("b"), now) && changes.is_current(&Tags::none(), now));
        assert!(
            changes.is_current(&tags("a"), now + SECOND),
            "the question was sent after the change was told"
        );
    }

    #[test]
    fn a_change_of_everything_ends_the_freshness_of_all_earlier_answers() {
        let now = Instant::now();
        let changes = Changes::new(now);
        changes.note(&Tags::everything(), now + SECOND);
        assert!(!changes.is_current(&tags("a"), now) && !changes.is_current(&Tags::none(), now));
        assert!(changes.is_current(&tags("a"), now + SECOND));
    }

    #[test]
    fn what_is_changed_twice_was_changed_at_the_later_time_whatever_the_order() {
        let now = Instant::now();
        let changes = Changes::new(now);
        changes.note(&tags("a"), now + SECOND * 2);
        changes.note(&tags("a"), now + SECOND);
        assert!(!changes.is_current(&tags("a"), now + SECOND));
    }

    /// A connection was lost and made again, and what others had changed in between was served as fresh.
    #[test]
    fn nothing_from_before_the_end_of_a_gap_is_current() {
        let now = Instant::now();
        let changes = Changes::new(now);
        changes.goes_deaf();
        assert!(!changes.is_current(&tags("a"), now) && !changes.is_current(&Tags::none(), now + SECOND));
        changes.hears(now + SECOND * 2);
        assert!(!changes.is_current(&tags("a"), now) && !changes.is_current(&Tags::none(), now + SECOND));
        assert!(changes.is_current(&tags("a"), now + SECOND * 2));
    }

    #[test]
    fn answers_from_before_the_start_are_current_only_where_nothing_was_changed() {
        let now = Instant::now();
        let changes = Changes::new(now + SECOND);
        assert!(changes.is_current(&tags("a"), now));
        changes.note_all(now + SECOND);
        assert!(!changes.is_current(&tags("a"), now) && changes.is_current(&tags("a"), now + SECOND));
    }

    /// Two changes were told at the same time; the earlier one needed room, and the later one was forgotten.
    #[test]
    fn a_later_change_is_not_forgotten_where_an_earlier_one_needs_room() {
        let now = Instant::now();
        let changes = Changes::new(now);
        changes.note(&tags("later"), now + SECOND * 3);
        for number in 0..TAGS_MAX {
            changes.note(&tags(&number.to_string()), now + SECOND);
        }
        assert!(!changes.is_current(&tags("later"), now + SECOND * 2));
        assert!(changes.is_current(&tags("later"), now + SECOND * 3));
    }

    #[test]
    fn with_more_tags_than_it_holds_everything_counts_as_changed() {
        let now = Instant::now();
        let changes = Changes::new(now);
        for number in 0..TAGS_MAX {
            changes.note(&tags(&number.to_string()), now + SECOND);
        }
        assert!(changes.is_current(&tags("other"), now));
        changes.note(&tags("one more"), now + SECOND);
        assert!(!changes.is_current(&tags("other"), now));
        assert!(changes.is_current(&tags("one more"), now + SECOND));
        assert_eq!(changes.by_tag.read().unwrap().len(), 0);
    }
}
