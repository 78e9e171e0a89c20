//! How many writes of the load were acknowledged so far, and when: for what is to happen at the nth of them.
//! The history keeps each; nothing is judged by these numbers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// More than this many nobody waits for.
const COUNTED_MAX: usize = 100_000;

/// The times of acknowledgements. Cheap to clone; all clones share.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Mutex<Times>>);

#[derive(Debug, Default)]
struct Times {
    committed: Vec<Instant>,
    journaled: Vec<Instant>,
}

impl Counts {
    /// When this many were acknowledged as committed; `None` while they are fewer.
    #[must_use]
    pub fn committed_at(&self, count: u64) -> Option<Instant> {
        nth(&self.lock().committed, count)
    }

    /// When this many were acknowledged from a journal; `None` while they are fewer.
    #[must_use]
    pub fn journaled_at(&self, count: u64) -> Option<Instant> {
        nth(&self.lock().journaled, count)
    }

    pub(crate) fn committed(&self) {
        add(&mut self.lock().committed);
    }

    pub(crate) fn journaled(&self) {
        add(&mut self.lock().journaled);
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(times: &mut Vec<Instant>) {
    if times.len() < COUNTED_MAX {
        times.push(Instant::now());
    }
}

fn nth(times: &[Instant], count: u64) -> Option<Instant> {
    times.get(usize::try_from(count.checked_sub(1)?).ok()?).copied()
}
