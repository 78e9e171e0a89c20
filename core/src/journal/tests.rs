//! What the journal promises, tried on disks that fail, lose power and lie about nothing. Codec and scan are tried
//! with random bytes too. No test sleeps, and none needs PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

mod codec;
mod crash;
mod damage;
mod promises;

use super::disk::memory::MemoryDisk;
use super::{
    AppendError, Appended, Entry, Journal, JournalConfig, JournalWriter, NewEntry, Recovery, record,
};

pub(super) fn entry(key: &str, payload: &str) -> NewEntry {
    NewEntry {
        key: key.to_owned(),
        kind: "todo.create".to_owned(),
        fingerprint: [u8::try_from(payload.len() % 256).unwrap(); 32],
        accepted_at: record::time(1_795_000_000_123_456),
        payload: payload.to_owned().into(),
    }
}

pub(super) fn open(disk: &MemoryDisk) -> (Journal, JournalWriter, Recovery) {
    open_with(disk, |_| {})
}

pub(super) fn open_with(
    disk: &MemoryDisk,
    change: impl FnOnce(&mut JournalConfig),
) -> (Journal, JournalWriter, Recovery) {
    let mut config = JournalConfig::new("/nowhere/journal");
    config.segment_bytes = 4096;
    change(&mut config);
    Journal::open_on(config, Arc::new(disk.clone())).unwrap()
}

/// Polls the appends once each, in order, then lets the writer run one turn, then collects the answers.
pub(super) fn together(
    journal: &Journal,
    writer: &mut JournalWriter,
    entries: &[NewEntry],
) -> Vec<Result<Appended, AppendError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut waiting = Vec::new();
        for entry in entries {
            let journal = journal.clone();
            let entry = entry.clone();
            waiting.push(tokio::spawn(async move { journal.append(entry).await }));
        }
        // The runtime has one thread, so after this every append has been polled.
        tokio::task::yield_now().await;
        writer.turn(Duration::ZERO);
        let mut answers = Vec::new();
        for task in waiting {
            answers.push(task.await.unwrap());
        }
        answers
    })
}

pub(super) fn one(journal: &Journal, writer: &mut JournalWriter, key: &str) -> Result<u64, AppendError> {
    together(journal, writer, &[entry(key, &format!("payload of {key}"))]).remove(0).map(|done| done.sequence)
}

pub(super) fn pending(journal: &Journal) -> Vec<Entry> {
    journal.batch(usize::MAX, u64::MAX).unwrap()
}
