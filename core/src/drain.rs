//! Drain: stop admitting, finish what is in progress, end in bounded time.
//!
//! It carries the request to drain to every part and counts work in flight; what each part does about it is its own
//! business.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Hurry,
}

/// The side that asks: held by `main`.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// The side that listens: one clone for each part.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<Phase>);

impl Drain {
    /// A drain that has not begun, and the receiver to clone for the parts.
    #[must_use]
    pub fn new() -> (Self, Draining) {
        let (sender, receiver) = watch::channel(Phase::Running);
        (Self(sender), Draining(receiver))
    }

    /// Asks every part to drain. Asking again changes nothing.
    pub fn begin(&self) {
        self.raise(Phase::Draining);
    }

    /// Asks every part to stop at once: nobody is willing to wait any longer.
    pub fn hurry(&self) {
        self.raise(Phase::Hurry);
    }

    fn raise(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let raised = *phase < to;
            *phase = (*phase).max(to);
            raised
        });
    }
}

impl Draining {
    /// Whether the drain has begun.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Waits until the drain begins. A dropped [`Drain`] counts as begun: its owner is gone.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at will.
    pub async fn requested(&mut self) {
        let _ = self.0.wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Waits until everybody should stop at once.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at will.
    pub async fn hurried(&mut self) {
        let _ = self.0.wait_for(|phase| *phase >= Phase::Hurry).await;
    }
}

/// Counts work in flight, so that a drain can wait for it.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    fell: Notify,
}

/// One piece of work in flight; ends when dropped.
#[derive(Debug)]
#[must_use = "the work counts as finished once this is dropped"]
pub struct Working(Arc<Count>);

impl InFlight {
    /// Counts one more until the guard is dropped.
    pub fn begin(&self) -> Working {
        self.0.now.fetch_add(1, Ordering::AcqRel);
        Working(Arc::clone(&self.0))
    }

    /// Pieces of work in flight now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.now.load(Ordering::Acquire)
    }

    /// Waits until nothing is in flight, for `limit` at the most; answers how much was left.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn finish(&self, limit: Duration) -> usize {
        let idle = async {
            loop {
                let fell = self.0.fell.notified();
                if self.count() == 0 {
                    return;
                }
                fell.await;
            }
        };
        let _ = timeout(limit, idle).await;
        self.count()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::AcqRel);
        self.0.fell.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_receiver_hears_of_the_drain_also_later_clones() {
        let (drain, mut draining) = Drain::new();
        assert!(!draining.is_requested());
        drain.begin();
        draining.requested().await;
        let mut late = draining.clone();
        late.requested().await;
        assert!(timeout(Duration::from_secs(1), late.hurried()).await.is_err());
        drain.hurry();
        drain.begin();
        late.hurried().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_owner_counts_as_a_drain() {
        let (drain, mut draining) = Drain::new();
        drop(drain);
        draining.requested().await;
    }

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_work_and_reports_what_was_left() {
        let in_flight = InFlight::default();
        let stuck = in_flight.begin();
        let quick = in_flight.begin();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(quick);
        });
        assert_eq!(in_flight.finish(Duration::from_secs(5)).await, 1);
        drop(stuck);
        assert_eq!(in_flight.finish(Duration::from_secs(5)).await, 0);
    }
}
