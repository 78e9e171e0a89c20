//! The gate between direct writes and journaled ones: what is acknowledged first for one ordering key takes effect first.
//!
//! Without it a direct write still in progress could be undone by the replay of one that was journaled, and acknowledged,
//! before it. So whoever journals first closes the gate to new direct writes of the same ordering key, and acknowledges
//! only when those in progress have ended; replay leaves a key alone while one is in progress. Other keys go on. It knows
//! nothing of what the writes do.
//!
//! It remembers only keys that somebody is writing now, so the calls in progress bound it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

#[derive(Debug, Default)]
pub(super) struct Gate {
    counts: Mutex<HashMap<String, Count>>,
    fell: Notify,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    direct: usize,
    diverting: usize,
}

/// A direct write in progress.
#[derive(Debug)]
#[must_use = "the write counts as over once this is dropped"]
pub(super) struct Direct<'a> {
    gate: &'a Gate,
    ordering_key: &'a str,
}

/// A write that is being journaled; while there is one, no direct write of its ordering key begins.
#[derive(Debug)]
#[must_use = "direct writes begin again once this is dropped"]
pub(super) struct Diverting<'a> {
    gate: &'a Gate,
    ordering_key: &'a str,
}

impl Gate {
    /// Lets a direct write begin, unless one of its ordering key is being journaled.
    pub(super) fn direct<'a>(&'a self, ordering_key: &'a str) -> Option<Direct<'a>> {
        let mut counts = self.counts();
        match counts.get_mut(ordering_key) {
            Some(count) if count.diverting > 0 => return None,
            Some(count) => count.direct += 1,
            None => {
                counts.insert(ordering_key.to_owned(), Count { direct: 1, diverting: 0 });
            }
        }
        Some(Direct { gate: self, ordering_key })
    }

    /// Keeps new direct writes of the ordering key out until dropped.
    pub(super) fn divert<'a>(&'a self, ordering_key: &'a str) -> Diverting<'a> {
        self.counts().entry(ordering_key.to_owned()).or_default().diverting += 1;
        Diverting { gate: self, ordering_key }
    }

    /// Whether a write of the ordering key is being journaled, so that a direct one should not try again.
    pub(super) fn is_diverting(&self, ordering_key: &str) -> bool {
        self.count(ordering_key).diverting > 0
    }

    /// Whether a direct write of the ordering key is in progress.
    pub(super) fn is_direct(&self, ordering_key: &str) -> bool {
        self.count(ordering_key).direct > 0
    }

    /// Waits until no direct write of the ordering key is in progress; `false` where that takes longer than `until`.
    pub(super) async fn direct_writes_ended(&self, ordering_key: &str, until: Instant) -> bool {
        let ended = async {
            loop {
                let fell = self.fell.notified();
                if !self.is_direct(ordering_key) {
                    return;
                }
                fell.await;
            }
        };
        timeout_at(until, ended).await.is_ok()
    }

    fn count(&self, ordering_key: &str) -> Count {
        self.counts().get(ordering_key).copied().unwrap_or_default()
    }

    fn leave(&self, ordering_key: &str, change: impl FnOnce(&mut Count)) {
        let mut counts = self.counts();
        let Some(count) = counts.get_mut(ordering_key) else { return };
        change(count);
        if *count == Count::default() {
            counts.remove(ordering_key);
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.ordering_key, |count| count.direct -= 1);
        self.gate.fell.notify_waiters();
    }
}

impl Drop for Diverting<'_> {
    fn drop(&mut self) {
        self.gate.leave(self.ordering_key, |count| count.diverting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_journaled_write_waits_for_direct_ones_and_lets_no_new_one_begin() {
        let gate = Gate::default();
        let direct = gate.direct("a").unwrap();
        let diverting = gate.divert("a");
        assert!(gate.direct("a").is_none());
        assert!(!gate.direct_writes_ended("a", soon()).await);
        drop(direct);
        assert!(gate.direct_writes_ended("a", soon()).await);
        drop(diverting);
        assert!(gate.direct("a").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_are_journaled_do_not_wait_for_each_other() {
        let gate = Gate::default();
        let _both = (gate.divert("a"), gate.divert("a"));
        assert!(gate.direct_writes_ended("a", soon()).await);
    }

    /// One journaled write kept all direct writes of the replica out, and while they wrote on the backlog only grew.
    #[tokio::test(start_paused = true)]
    async fn other_ordering_keys_go_on() {
        let gate = Gate::default();
        let _diverting = gate.divert("a");
        let direct = gate.direct("b").unwrap();
        assert!(gate.direct_writes_ended("a", soon()).await);
        assert!(gate.is_direct("b") && !gate.is_direct("a") && !gate.is_diverting("b"));
        drop(direct);
    }

    #[test]
    fn keys_that_nobody_writes_are_forgotten() {
        let gate = Gate::default();
        let held: Vec<_> = (0..10).map(|_| (gate.direct("a"), gate.direct("b"))).collect();
        let diverting = gate.divert("c");
        assert_eq!(gate.counts().len(), 3);
        drop((held, diverting));
        assert!(gate.counts().is_empty());
    }
}
