//! The bulkhead: a bound on calls in progress, with a bounded queue in front.
//!
//! It does not know what the calls do, and it never refuses for any reason but lack of room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::deadline::Deadline;

/// The bounds of one bulkhead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct BulkheadConfig {
    /// Calls in progress at the most, 1 or more. Default 32.
    pub permits: usize,
    /// Calls that may wait for a permit. Default 256; a longer queue only makes answers that nobody waits for.
    pub queue: usize,
    /// How long a call may wait for a permit. Default 500 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub wait: Duration,
}

impl Default for BulkheadConfig {
    fn default() -> Self {
        Self { permits: 32, queue: 256, wait: Duration::from_millis(500) }
    }
}

/// Why a call got no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BulkheadFull {
    /// The queue had no place left; refused at once.
    #[error("the queue for a permit is full")]
    Queue,
    /// No permit came free within the wait or the deadline.
    #[error("no permit came free in time")]
    Wait,
}

/// Bounded concurrency with a bounded queue.
#[derive(Debug)]
pub struct Bulkhead {
    config: BulkheadConfig,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to be in progress; gives its place back when dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place away at once"]
pub struct Permit {
    _place: OwnedSemaphorePermit,
}

/// A place in the queue, given back also when the waiting future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bulkhead {
    /// A bulkhead with all its permits free.
    #[must_use]
    pub fn new(config: BulkheadConfig) -> Self {
        let permits = Arc::new(Semaphore::new(config.permits.max(1)));
        Self { config, permits, waiting: AtomicUsize::new(0) }
    }

    /// Waits for a permit, first come first served, no longer than the wait and the deadline allow.
    ///
    /// # Errors
    /// [`BulkheadFull::Queue`] at once where too many wait already; [`BulkheadFull::Wait`] where none came free.
    ///
    /// # Cancel safety
    /// A dropped call leaves the queue and takes no permit.
    pub async fn acquire(&self, deadline: Deadline) -> Result<Permit, BulkheadFull> {
        if let Ok(place) = self.permits.clone().try_acquire_owned() {
            return Ok(Permit { _place: place });
        }
        let _waiting = self.queue_up()?;
        let until = deadline.capped(Instant::now(), self.config.wait).instant();
        match timeout_at(until, self.permits.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Permit { _place: place }),
            Ok(Err(_)) | Err(_) => Err(BulkheadFull::Wait),
        }
    }

    /// Calls in progress now. For metrics.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.config.permits.max(1).saturating_sub(self.permits.available_permits())
    }

    /// Calls waiting now. For metrics.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn queue_up(&self) -> Result<Waiting<'_>, BulkheadFull> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Waiting(&self.waiting);
        if before >= self.config.queue { Err(BulkheadFull::Queue) } else { Ok(place) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulkhead(permits: usize, queue: usize) -> Bulkhead {
        Bulkhead::new(BulkheadConfig { permits, queue, wait: Duration::from_secs(1) })
    }

    fn soon() -> Deadline {
        Deadline::after(Instant::now(), Duration::from_secs(5))
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_bulkhead_refuses_after_the_wait() {
        let bulkhead = bulkhead(1, 1);
        let _held = bulkhead.acquire(soon()).await.unwrap();
        let started = Instant::now();
        assert_eq!(bulkhead.acquire(soon()).await.unwrap_err(), BulkheadFull::Wait);
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        assert_eq!(bulkhead.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once() {
        let bulkhead = bulkhead(1, 0);
        let _held = bulkhead.acquire(soon()).await.unwrap();
        let started = Instant::now();
        assert_eq!(bulkhead.acquire(soon()).await.unwrap_err(), BulkheadFull::Queue);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_the_wait_first() {
        let bulkhead = bulkhead(1, 1);
        let _held = bulkhead.acquire(soon()).await.unwrap();
        let started = Instant::now();
        let deadline = Deadline::after(started, Duration::from_millis(10));
        assert_eq!(bulkhead.acquire(deadline).await.unwrap_err(), BulkheadFull::Wait);
        assert_eq!(started.elapsed(), Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_waiter_leaves_the_queue() {
        let bulkhead = bulkhead(1, 1);
        let held = bulkhead.acquire(soon()).await.unwrap();
        let waiter = tokio::time::timeout(Duration::from_millis(5), bulkhead.acquire(soon())).await;
        assert!(waiter.is_err());
        assert_eq!(bulkhead.queued(), 0);
        drop(held);
        assert_eq!(bulkhead.in_use(), 0);
        assert!(bulkhead.acquire(soon()).await.is_ok());
    }
}
