//! A journal in memory for tests, whose writer is a task: on a paused clock a thread would come too late. It survives
//! nothing.

use std::time::Duration;

use tokio::{task::JoinHandle, time::sleep};

use crate::journal::{Journal, JournalConfig, JournalError, JournalWriter};

/// How often the writer looks for appends, in the time of the test; a sync on a slow disk. Less would only cost turns.
const TURN: Duration = Duration::from_millis(5);
/// Every so many turns it tidies up, which is about once a second, as its thread does it.
const TURNS_FOR_A_TIDY: u32 = 200;

/// A journal in memory. Its writer ends when this is dropped; appends are refused from then on.
#[derive(Debug)]
pub struct TestJournal {
    /// The journal.
    pub journal: Journal,
    writer: JoinHandle<()>,
}

/// A journal in memory with its writer running as a task. Must be called inside a tokio runtime.
///
/// # Errors
/// [`JournalError::Config`] where `config` cannot be used; its folder is never touched.
pub fn journal_in_memory(config: JournalConfig) -> Result<TestJournal, JournalError> {
    let (journal, writer) = Journal::open_in_memory(config)?;
    Ok(TestJournal::with_writer(journal, writer))
}

impl TestJournal {
    /// Spawns the writer.
    pub(super) fn with_writer(journal: Journal, mut writer: JournalWriter) -> Self {
        let writer = tokio::spawn(async move {
            let mut turns = 0_u32;
            while writer.turn(Duration::ZERO) {
                turns = (turns + 1) % TURNS_FOR_A_TIDY;
                if turns == 0 {
                    writer.housekeep();
                }
                sleep(TURN).await;
            }
        });
        Self { journal, writer }
    }
}

impl Drop for TestJournal {
    fn drop(&mut self) {
        self.journal.close();
        self.writer.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::journal::NewEntry;

    #[tokio::test(start_paused = true)]
    async fn what_is_appended_is_read_back_and_settled() {
        let kept = journal_in_memory(JournalConfig::new("/nowhere")).unwrap();
        let entry = |key: &str| NewEntry {
            key: key.to_owned(),
            kind: "order.create".to_owned(),
            fingerprint: [0; 32],
            accepted_at: SystemTime::now(),
            payload: Bytes::from_static(b"{}"),
            version: 1,
            ordering_key: String::new(),
            retried: false,
        };
        for (key, sequence) in [("a", 1), ("b", 2)] {
            assert_eq!(kept.journal.append(entry(key)).await.unwrap().sequence, sequence);
        }
        let entries = kept.journal.batch(10, u64::MAX, &|_| false).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        kept.journal.settled(&[1, 2]);
        assert_eq!(kept.journal.backlog().entries, 0);
    }
}
