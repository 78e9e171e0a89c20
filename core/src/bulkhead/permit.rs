//! The permit: reports how its call ended, and gives its place back.
//!
//! What a report changes is decided in `limit`; who gets the place, in `queue`.

use std::{borrow::Borrow, sync::Arc};

use tokio::time::Instant;

use super::{Bulkhead, Ended, Priority};

/// The right to be in progress; gives its place back when dropped.
///
/// It borrows the bulkhead, which costs nothing, or owns a share of it and can then move to another task.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place away at once"]
pub struct Permit<B: Borrow<Arc<Bulkhead>> = Arc<Bulkhead>> {
    /// Taken out only by [`Permit::into_owned`] and [`Permit::finish`], which go on with it.
    pub(super) bulkhead: Option<B>,
    pub(super) priority: Priority,
    pub(super) is_counted: bool,
    pub(super) granted_at: Instant,
}

impl<B: Borrow<Arc<Bulkhead>>> Permit<B> {
    /// Says how the call ended at `now` and keeps the place: for a call whose connection is still busy.
    #[inline]
    pub fn report(&self, ended: Ended, now: Instant) {
        let Some(bulkhead) = self.bulkhead.as_ref().map(Borrow::borrow) else { return };
        if self.is_counted || ended == Ended::Overloaded {
            bulkhead.count(ended, self.granted_at, now);
        }
        if bulkhead.word.has_flag() && matches!(ended, Ended::Answered | Ended::Overloaded) {
            bulkhead.note_answer(now);
        }
    }

    /// Says how the call ended at `now` and gives the place back.
    // Inlined always, so that the permit need not be written to memory only to be read there.
    #[inline(always)]
    pub fn finish(self, ended: Ended, now: Instant) {
        self.report(ended, now);
        self.leave(|| now);
    }

    #[inline(always)]
    fn leave(mut self, now: impl FnOnce() -> Instant) {
        if let Some(bulkhead) = self.bulkhead.take() {
            bulkhead.borrow().leave(self.priority, now);
        }
    }

    /// Counts the time of the call from `now` on: for a place that was reserved before the call began.
    pub fn begin(&mut self, now: Instant) {
        self.granted_at = now;
    }

    /// When it was granted, or when its call began where [`Permit::begin`] said so.
    #[must_use]
    pub fn granted_at(&self) -> Instant {
        self.granted_at
    }
}

impl Permit<&Arc<Bulkhead>> {
    /// The same permit, able to move to another task.
    pub fn into_owned(mut self) -> Permit {
        let bulkhead = self.bulkhead.take().map(Arc::clone);
        Permit { bulkhead, priority: self.priority, is_counted: self.is_counted, granted_at: self.granted_at }
    }
}

impl<B: Borrow<Arc<Bulkhead>>> Drop for Permit<B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(bulkhead) = self.bulkhead.take() {
            bulkhead.borrow().leave(self.priority, Instant::now);
        }
    }
}
