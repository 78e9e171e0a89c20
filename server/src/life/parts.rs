//! The thread of the journal's writer, watched: where it ends before it should, liveness fails. The other parts are tasks.

use std::{thread, time::Duration};

use ridethrough::{drain::Draining, journal::JournalWriter, vitals::Vitals};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// The thread of the journal's writer, which blocks on the disk and so has no place on the runtime.
pub(super) struct WriterThread {
    watcher: JoinHandle<()>,
}

impl WriterThread {
    /// Runs the writer until the journal is closed.
    pub(super) fn start(writer: JournalWriter, vitals: &Vitals, draining: Draining) -> std::io::Result<Self> {
        let (ending, ended) = oneshot::channel();
        thread::Builder::new().name("journal".into()).spawn(move || {
            writer.run();
            // Not reached by a panic: the channel then closes without a word.
            let _ = ending.send(());
        })?;
        let part = async move {
            let orderly = ended.await.is_ok();
            assert!(orderly, "the journal's writer panicked");
        };
        Ok(Self { watcher: tokio::spawn(vitals.watch("journal writer", part, draining)) })
    }

    /// Waits for its end, `limit` at the most; false where it goes on.
    pub(super) async fn ended(&mut self, limit: Duration) -> bool {
        timeout(limit, &mut self.watcher).await.is_ok()
    }
}
