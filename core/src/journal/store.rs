//! What the database path needs of whatever keeps its writes, so that a local file is one way among others.
//! It holds no state and promises nothing that [`Journal`] does not.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;

use crate::journal::{
    AppendError, Appended, Aside, AsideCounts, AsideEntry, Backlog, Entry, Journal, JournalError,
    JournalHealth, NewEntry, Pending,
};

/// What the waiting methods of a [`Store`] return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store of accepted writes. [`Journal`] is the one for a machine's own disk, and its methods of the same names say what
/// each promises.
pub trait Store: Debug + Send + Sync + 'static {
    /// See [`Journal::id`].
    fn id(&self) -> [u8; 16];
    /// See [`Journal::append`].
    fn append(&self, entry: NewEntry) -> StoreFuture<'_, Result<Appended, AppendError>>;
    /// See [`Journal::find`].
    fn find(&self, key: &str) -> Option<Pending>;
    /// See [`Journal::is_waiting`].
    fn is_waiting(&self, ordering_key: &str) -> bool;
    /// See [`Journal::backlog`].
    fn backlog(&self) -> Backlog;
    /// See [`Journal::health`].
    fn health(&self) -> JournalHealth;
    /// See [`Journal::batch`]; it blocks.
    ///
    /// # Errors
    /// As there.
    fn batch(
        &self,
        entries_max: usize,
        bytes_max: u64,
        skip: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, JournalError>;
    /// See [`Journal::waiting`]; it blocks.
    ///
    /// # Errors
    /// As there.
    fn waiting(&self, entries_max: usize, bytes_max: u64) -> Result<Vec<Entry>, JournalError>;
    /// See [`Journal::settled`].
    fn settled(&self, sequences: &[u64]);
    /// See [`Journal::set_aside`].
    fn set_aside<'a>(&'a self, sequences: &'a [u64], why: Aside)
    -> StoreFuture<'a, Result<(), JournalError>>;
    /// See [`Journal::aside_counts`].
    fn aside_counts(&self) -> AsideCounts;
    /// See [`Journal::aside`]; it blocks.
    ///
    /// # Errors
    /// As there.
    fn aside(&self, from: u64, entries_max: usize) -> Result<Vec<AsideEntry>, JournalError>;
    /// See [`Journal::release`].
    fn release(&self, ordering_key: &str) -> u64;
    /// See [`Journal::max_age`].
    fn max_age(&self) -> Option<Duration>;
    /// See [`Journal::changed`].
    fn changed(&self) -> watch::Receiver<u64>;
}

impl Store for Journal {
    fn id(&self) -> [u8; 16] {
        Journal::id(self)
    }

    fn append(&self, entry: NewEntry) -> StoreFuture<'_, Result<Appended, AppendError>> {
        Box::pin(Journal::append(self, entry))
    }

    fn find(&self, key: &str) -> Option<Pending> {
        Journal::find(self, key)
    }

    fn is_waiting(&self, ordering_key: &str) -> bool {
        Journal::is_waiting(self, ordering_key)
    }

    fn backlog(&self) -> Backlog {
        Journal::backlog(self)
    }

    fn health(&self) -> JournalHealth {
        Journal::health(self)
    }

    fn batch(
        &self,
        entries_max: usize,
        bytes_max: u64,
        skip: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, JournalError> {
        Journal::batch(self, entries_max, bytes_max, skip)
    }

    fn waiting(&self, entries_max: usize, bytes_max: u64) -> Result<Vec<Entry>, JournalError> {
        Journal::waiting(self, entries_max, bytes_max)
    }

    fn settled(&self, sequences: &[u64]) {
        Journal::settled(self, sequences);
    }

    fn set_aside<'a>(
        &'a self,
        sequences: &'a [u64],
        why: Aside,
    ) -> StoreFuture<'a, Result<(), JournalError>> {
        Box::pin(Journal::set_aside(self, sequences, why))
    }

    fn aside_counts(&self) -> AsideCounts {
        Journal::aside_counts(self)
    }

    fn aside(&self, from: u64, entries_max: usize) -> Result<Vec<AsideEntry>, JournalError> {
        Journal::aside(self, from, entries_max)
    }

    fn release(&self, ordering_key: &str) -> u64 {
        Journal::release(self, ordering_key)
    }

    fn max_age(&self) -> Option<Duration> {
        Journal::max_age(self)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        Journal::changed(self)
    }
}
