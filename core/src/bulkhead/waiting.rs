//! A place in the queue, for as long as somebody waits at it.
//!
//! Who gets which place, and when it is left with a permit, is decided in `queue`.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::{Bulkhead, BulkheadFull, Priority};

/// What a waiter is told.
pub(super) type Verdict = Result<(), BulkheadFull>;

/// A place in the queue, given back also when the waiting future is dropped, together with a permit granted meanwhile.
pub(super) struct Waiting<'a> {
    pub(super) bulkhead: &'a Arc<Bulkhead>,
    pub(super) priority: Priority,
    pub(super) id: u64,
    pub(super) verdict: oneshot::Receiver<Verdict>,
    /// The verdict was taken out: there is nothing left to give back.
    pub(super) is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // After the close no permit can arrive; one that arrived before is given back.
        self.verdict.close();
        if matches!(self.verdict.try_recv(), Ok(Ok(()))) {
            self.bulkhead.leave(self.priority, Instant::now);
        } else {
            let (mut queue, now) = (self.bulkhead.queue(), Instant::now());
            queue.remove(self.priority, self.id, now);
            self.bulkhead.hand_over(&mut queue, now);
        }
    }
}
