//! What is kept under a key: an answer, when it was true, and the tags by which a change finds it. It decides nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::memory::allocated;

/// Tags of one answer at the most.
const TAGS_MAX: usize = 8;
/// Bytes of one tag at the most: a few of them must fit into one notice of PostgreSQL.
const TAG_BYTES_MAX: usize = 128;

/// Of what an answer is made, in a few short words of the service's own, such as `todos` or `todo/17`: a change that
/// names one of them makes the answer doubtful.
///
/// Up to 8 tags of 1 to 128 bytes each. An answer with others counts as made of everything, so that any change makes it
/// doubtful: too much is asked anew then, and nothing is overlooked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags {
    names: Box<[Box<str>]>,
    everything: bool,
}

impl Tags {
    /// No tags: no notice of a change concerns the answer.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// These tags.
    #[must_use]
    pub fn of<T: Into<Box<str>>>(names: impl IntoIterator<Item = T>) -> Self {
        let names: Vec<Box<str>> = names.into_iter().map(Into::into).take(TAGS_MAX + 1).collect();
        let fit = names.iter().all(|name| (1..=TAG_BYTES_MAX).contains(&name.len()));
        if names.len() > TAGS_MAX || !fit {
            return Self::everything();
        }
        Self { names: names.into_boxed_slice(), everything: false }
    }

    /// Made of so much that any change concerns it.
    #[must_use]
    pub fn everything() -> Self {
        Self { names: Box::default(), everything: true }
    }

    /// The tags, one by one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Whether any change concerns the answer.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether there is no tag, and so no change that concerns the answer.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.names.is_empty() && !self.everything
    }

    pub(super) fn allocated_bytes(&self) -> usize {
        let names = self.names.iter().map(|name| allocated(name.len()));
        allocated(size_of_val(&*self.names)) + names.sum::<usize>()
    }
}

/// What is known of the thing asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// This answer.
    Answer(Bytes),
    /// That there is no such thing.
    Nothing,
    /// That what was known is not true any more. It keeps older answers out and is served to nobody.
    Forgotten,
}

impl Known {
    /// The same in memory of its own. An answer is often a small part of a message that came in one piece, or has room for
    /// more, and would keep all of that.
    pub(super) fn on_its_own(self) -> Self {
        match self {
            Self::Answer(answer) => Self::Answer(Bytes::copy_from_slice(&answer)),
            other => other,
        }
    }
}

/// What the cache holds under one key.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) known: Known,
    pub(crate) tags: Tags,
    /// When the question was sent that was first answered so.
    asked: Instant,
    /// Answers to questions sent before this instant may be older than this entry and are not let in.
    barrier: Instant,
    /// The standby that gave it, where one did.
    pub(super) standby: Option<usize>,
    /// Nanoseconds from `asked` to when the last question was sent that was answered the same.
    confirmed_for: AtomicU64,
    /// Nanoseconds from `asked` to when the last such answer came: what was shown may be as new as that.
    shown_for: AtomicU64,
}

/// An answer that says again what was known this much earlier changes nothing: a busy key would be written to all the
/// time, to say that its answer is a moment younger.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

impl Entry {
    pub(super) fn new(
        known: Known,
        tags: Tags,
        asked: Instant,
        barrier: Instant,
        standby: Option<usize>,
    ) -> Self {
        let (confirmed_for, shown_for) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { known, tags, asked, barrier, standby, confirmed_for, shown_for }
    }

    /// When the last question was sent whose answer this is: the answer was true then or later, so an age counted from
    /// here is never too low.
    #[inline]
    pub(crate) fn as_of(&self) -> Instant {
        match self.confirmed_for.load(Ordering::Relaxed) {
            0 => self.asked,
            confirmed_for => self.asked + Duration::from_nanos(confirmed_for),
        }
    }

    #[inline]
    pub(super) fn is_forgotten(&self) -> bool {
        matches!(self.known, Known::Forgotten)
    }

    /// Whether the answer to a question that was sent at `as_of` may be older than this.
    #[inline]
    pub(super) fn may_be_newer_than(&self, as_of: Instant) -> bool {
        as_of < self.barrier || as_of < self.as_of()
    }

    /// A question that was sent at `as_of` was answered the same: the entry is that much younger, in its place.
    pub(super) fn confirm(&self, as_of: Instant) {
        self.confirmed_for.fetch_max(self.after_asked(as_of), Ordering::Relaxed);
    }

    /// The same answer came again at `at`.
    #[inline]
    pub(super) fn show_until(&self, at: Instant) {
        self.shown_for.fetch_max(self.after_asked(at), Ordering::Relaxed);
    }

    /// The answer is no newer than this.
    #[cfg(feature = "postgres")]
    pub(super) fn shown_until(&self) -> Instant {
        self.asked + Duration::from_nanos(self.shown_for.load(Ordering::Relaxed))
    }

    /// Whether it was known less than `again` before `as_of`.
    #[inline]
    pub(super) fn is_as_young(&self, as_of: Instant, again: Duration) -> bool {
        as_of.checked_duration_since(self.as_of()).is_some_and(|later| later < again)
    }

    /// Whether it has this answer already.
    #[inline]
    pub(super) fn says_the_same(&self, known: &Known, standby: Option<usize>) -> bool {
        *known != Known::Forgotten && self.standby == standby && self.known == *known
    }

    fn after_asked(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.asked).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_do_not_fit_count_as_everything() {
        assert!(Tags::none().is_none() && Tags::of::<&str>([]).is_none());
        assert!(Tags::of(["a", "b"]).names().eq(["a", "b"]));
        let long = "x".repeat(TAG_BYTES_MAX + 1);
        for tags in [Tags::of([""]), Tags::of([long]), Tags::of(vec!["a"; TAGS_MAX + 1])] {
            assert!(tags.is_everything() && !tags.is_none(), "{tags:?}");
        }
        assert!(!Tags::of(vec!["a"; TAGS_MAX]).is_everything());
    }
}
