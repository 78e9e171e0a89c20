//! The parts that run beside the requests, watched: one that ends before it should makes liveness fail.

use std::{sync::Arc, thread, time::Duration};

use ridethrough::{drain::Draining, journal::JournalWriter, service::Watchdog};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// Watches a task: it may end only once the drain was requested.
pub(super) fn watched(
    name: &'static str,
    task: JoinHandle<()>,
    watchdog: Arc<Watchdog>,
    draining: Draining,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let ended = task.await;
        if ended.is_err() || !draining.is_requested() {
            watchdog.part_died(name);
        }
    })
}

/// The thread of the journal's writer, which blocks on the disk and so has no place on the runtime.
pub(super) struct WriterThread {
    watcher: JoinHandle<()>,
}

impl WriterThread {
    /// Runs the writer until the journal is closed.
    pub(super) fn start(
        writer: JournalWriter,
        watchdog: Arc<Watchdog>,
        draining: Draining,
    ) -> std::io::Result<Self> {
        let (ending, ended) = oneshot::channel();
        thread::Builder::new().name("journal".into()).spawn(move || {
            writer.run();
            // Not reached by a panic: the channel then closes without a word.
            let _ = ending.send(());
        })?;
        let task = tokio::spawn(async move {
            let orderly = ended.await.is_ok();
            assert!(orderly, "the journal's writer panicked");
        });
        Ok(Self { watcher: watched("journal writer", task, watchdog, draining) })
    }

    /// Waits for its end, `limit` at the most; false where it goes on.
    pub(super) async fn ended(&mut self, limit: Duration) -> bool {
        timeout(limit, &mut self.watcher).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use ridethrough::drain::Drain;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_by_itself_fails_liveness() {
        let watchdog = Arc::new(Watchdog::new(Instant::now()));
        let (_drain, draining) = Drain::new();
        watched("part", tokio::spawn(async {}), Arc::clone(&watchdog), draining).await.unwrap();
        assert_eq!(watchdog.complaint(Instant::now()), Some("part"));
    }

    #[tokio::test]
    async fn a_part_may_end_in_the_drain_but_not_by_a_panic() {
        let watchdog = Arc::new(Watchdog::new(Instant::now()));
        let (drain, draining) = Drain::new();
        drain.begin();
        watched("part", tokio::spawn(async {}), Arc::clone(&watchdog), draining.clone()).await.unwrap();
        assert_eq!(watchdog.complaint(Instant::now()), None);
        let panicking = tokio::spawn(async { panic!("planted") });
        watched("part", panicking, Arc::clone(&watchdog), draining).await.unwrap();
        assert_eq!(watchdog.complaint(Instant::now()), Some("part"));
    }
}
