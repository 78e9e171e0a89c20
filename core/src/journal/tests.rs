//! What the journal promises, tried on disks that fail, lose power and lie about nothing. Codec and scan are tried
//! with random bytes too. No test sleeps, and none needs PostgreSQL.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

mod aside;
mod codec;
mod crash;
mod damage;
mod inspect;
mod mutated;
mod oracle;
mod order;
mod promises;
mod stuck;

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
        version: 1,
        ordering_key: String::new(),
        retried: false,
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
        let mut waiting: Vec<_> =
            entries.iter().map(|entry| Box::pin(journal.append(entry.clone()))).collect();
        let mut early: Vec<Option<Result<Appended, AppendError>>> = Vec::new();
        std::future::poll_fn(|context| {
            for append in &mut waiting {
                early.push(match append.as_mut().poll(context) {
                    Poll::Ready(answer) => Some(answer),
                    Poll::Pending => None,
                });
            }
            Poll::Ready(())
        })
        .await;
        writer.turn(Duration::ZERO);
        let mut answers = Vec::new();
        for (append, early) in waiting.into_iter().zip(early) {
            answers.push(match early {
                Some(answer) => answer,
                None => append.await,
            });
        }
        answers
    })
}

pub(super) fn one(journal: &Journal, writer: &mut JournalWriter, key: &str) -> Result<u64, AppendError> {
    together(journal, writer, &[entry(key, &format!("payload of {key}"))]).remove(0).map(|done| done.sequence)
}

pub(super) fn pending(journal: &Journal) -> Vec<Entry> {
    journal.batch(usize::MAX, u64::MAX, &|_| false).unwrap()
}

pub(super) fn settle_through(journal: &Journal, through: u64) {
    journal.settled(&(1..=through).collect::<Vec<u64>>());
}

pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Waits for the future while the writer takes its turns.
pub(super) fn driven<T>(writer: &mut JournalWriter, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    now(std::future::poll_fn(|context| {
        loop {
            if let Poll::Ready(answer) = future.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            writer.turn(Duration::ZERO);
        }
    }))
}
