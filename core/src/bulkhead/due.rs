//! A thread's note of when the window under way must be judged: nearly every call then compares two instants and is done.
//!
//! It knows nothing of windows: the bulkhead says when one is due, and judges it.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

thread_local! {
    /// Which bulkhead this thread looked at last, and when it was due.
    static DUE: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
}

/// The name of one bulkhead in the notes of all threads.
#[derive(Debug)]
pub(super) struct Notes {
    id: u64,
}

impl Notes {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Relaxed) }
    }

    /// Whether it is due at `now`. `due_at` never goes back, so that what a thread noted is never too late.
    #[inline]
    pub(super) fn is_due(&self, now: Instant, due_at: impl FnOnce() -> Instant) -> bool {
        match DUE.get() {
            Some((id, at)) if id == self.id && now < at => false,
            _ => {
                let at = due_at();
                DUE.set(Some((self.id, at)));
                now >= at
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Two bulkheads in turn on one thread: neither is judged by the other's note.
    #[test]
    fn each_bulkhead_has_notes_of_its_own() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (one, other) = (Notes::new(), Notes::new());
        for _ in 0..2 {
            assert!(!one.is_due(now, || later));
            assert!(other.is_due(now, || now));
        }
        assert!(!one.is_due(now, || later) && one.is_due(later, || later));
    }

    #[test]
    fn what_was_noted_is_looked_up_again_only_when_it_is_over() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let notes = Notes::new();
        assert!(!notes.is_due(now, || later));
        assert!(!notes.is_due(now, || panic!("looked up again")));
        assert!(!notes.is_due(later, || later + Duration::from_secs(1)), "judged by an old note");
    }
}
