//! The gate between direct writes and journaled ones: what is acknowledged first takes effect first.
//!
//! Without it a direct write still in progress could be undone by the replay of one that was journaled, and acknowledged,
//! before it. So whoever journals first closes the gate to new direct writes, and acknowledges only when those in
//! progress have ended; replay waits for them too. It knows nothing of what the writes do.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

#[derive(Debug, Default)]
pub(super) struct Gate {
    count: Mutex<Count>,
    fell: Notify,
}

#[derive(Debug, Default)]
struct Count {
    direct: usize,
    diverting: usize,
}

/// A direct write in progress.
#[derive(Debug)]
#[must_use = "the write counts as over once this is dropped"]
pub(super) struct Direct<'a>(&'a Gate);

/// A write that is being journaled; while there is one, no direct write begins.
#[derive(Debug)]
#[must_use = "direct writes begin again once this is dropped"]
pub(super) struct Diverting<'a>(&'a Gate);

impl Gate {
    /// Lets a direct write begin, unless one is being journaled.
    pub(super) fn direct(&self) -> Option<Direct<'_>> {
        let mut count = self.count();
        if count.diverting > 0 {
            return None;
        }
        count.direct += 1;
        Some(Direct(self))
    }

    /// Keeps new direct writes out until dropped.
    pub(super) fn divert(&self) -> Diverting<'_> {
        self.count().diverting += 1;
        Diverting(self)
    }

    /// Whether a write is being journaled, so that a direct one should not try again.
    pub(super) fn is_diverting(&self) -> bool {
        self.count().diverting > 0
    }

    /// Waits until no direct write is in progress; `false` where that takes longer than `until`.
    pub(super) async fn direct_writes_ended(&self, until: Instant) -> bool {
        let ended = async {
            loop {
                let fell = self.fell.notified();
                if self.count().direct == 0 {
                    return;
                }
                fell.await;
            }
        };
        timeout_at(until, ended).await.is_ok()
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        self.0.count().direct -= 1;
        self.0.fell.notify_waiters();
    }
}

impl Drop for Diverting<'_> {
    fn drop(&mut self) {
        self.0.count().diverting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_journaled_write_waits_for_direct_ones_and_lets_no_new_one_begin() {
        let gate = Gate::default();
        let direct = gate.direct().unwrap();
        let diverting = gate.divert();
        assert!(gate.direct().is_none());
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(!gate.direct_writes_ended(soon).await);
        drop(direct);
        assert!(gate.direct_writes_ended(Instant::now() + Duration::from_secs(1)).await);
        drop(diverting);
        assert!(gate.direct().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_are_journaled_do_not_wait_for_each_other() {
        let gate = Gate::default();
        let _both = (gate.divert(), gate.divert());
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(gate.direct_writes_ended(soon).await);
    }
}
