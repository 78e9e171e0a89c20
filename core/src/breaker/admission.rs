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
    breaker: B,
    word: Word,
    lease: Option<u64>,
    deadline: Option<Deadline>,
    is_reported: bool,
}

impl<B: Deref<Target = Breaker>> Admission<B> {
    #[inline]
    pub(super) fn new(breaker: B, word: Word, lease: Option<u64>) -> Self {
        Self { breaker, word, lease, deadline: None, is_reported: false }
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
        self.is_reported = true;
        self.breaker.record(self.word, self.lease, result, false, now);
    }

    /// Reports how the call ended at `now`, and that it `took` so long: a success may have been a slow one.
    #[inline]
    pub fn record_timed(mut self, result: CallResult, took: Duration, now: Instant) {
        self.is_reported = true;
        let is_slow = self.breaker.is_slow(took);
        self.breaker.record(self.word, self.lease, result, is_slow, now);
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
        if !self.is_reported && (self.lease.is_some() || self.deadline.is_some()) {
            // Without a borrow of the admission, which would have to be in memory for it.
            dropped(&self.breaker, self.word, self.lease, self.deadline);
        }
    }
}

/// The one place where time is read here: a drop has no argument.
#[cold]
#[inline(never)]
fn dropped(breaker: &Breaker, word: Word, lease: Option<u64>, deadline: Option<Deadline>) {
    let now = Instant::now();
    let is_late = deadline.is_some_and(|deadline| deadline.is_past(now));
    let result = if is_late { CallResult::Failure } else { CallResult::Neutral };
    breaker.record(word, lease, result, false, now);
}
