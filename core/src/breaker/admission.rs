//! An admitted call, and what its end tells the breaker: a result, or that it was dropped.
//!
//! It judges nothing; `Breaker` does the counting.

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Breaker, CallResult, word::Word};
use crate::deadline::Deadline;

/// An admitted call. Report how it ended with [`Admission::record`].
///
/// Dropping it instead, as a cancelled future does, says nothing about the other side and frees its trial; but where
/// [`Admission::until`] set a deadline and it has passed, the call hung until nobody waited any more, and that is a
/// failure.
#[derive(Debug)]
#[must_use = "an admission that is dropped at once tells the breaker nothing"]
pub struct Admission<B: Deref<Target = Breaker> = Arc<Breaker>> {
    /// Taken out by the report.
    breaker: Option<B>,
    word: Word,
    lease: Option<u32>,
    deadline: Option<Deadline>,
}

impl<B: Deref<Target = Breaker>> Admission<B> {
    #[inline]
    pub(super) fn new(breaker: B, word: Word, lease: Option<u32>) -> Self {
        Self { breaker: Some(breaker), word, lease, deadline: None }
    }

    /// Marks until when the call is waited for: dropped after that, it counts as a failure.
    #[inline]
    pub fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Reports how the call ended at `now`.
    // Inlined always, so that the admission need not be written to memory only to be read there.
    #[inline(always)]
    pub fn record(mut self, result: CallResult, now: Instant) {
        if let Some(breaker) = self.breaker.take() {
            let Self { word, lease, .. } = self;
            drop(self);
            breaker.record(word, lease, result, false, now);
        }
    }

    /// Reports how the call ended at `now`, and that it `took` so long: a success may have been a slow one.
    #[inline]
    pub fn record_timed(mut self, result: CallResult, took: Duration, now: Instant) {
        if let Some(breaker) = self.breaker.take() {
            breaker.record(self.word, self.lease, result, breaker.is_slow(took), now);
        }
    }

    /// Whether this call is a trial, admitted to see how the other side is.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.lease.is_some()
    }
}

impl<B: Deref<Target = Breaker>> Drop for Admission<B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(breaker) = &self.breaker
            && (self.lease.is_some() || self.deadline.is_some())
        {
            // Without a borrow of the admission, which would have to be in memory for it.
            dropped(breaker, self.word, self.lease, self.deadline);
        }
    }
}

/// The one place where time is read here: a drop has no argument.
#[cold]
#[inline(never)]
fn dropped(breaker: &Breaker, word: Word, lease: Option<u32>, deadline: Option<Deadline>) {
    let now = Instant::now();
    let is_late = deadline.is_some_and(|deadline| deadline.is_past(now));
    let result = if is_late { CallResult::Failure } else { CallResult::Neutral };
    breaker.record(word, lease, result, false, now);
}
