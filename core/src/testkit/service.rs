//! The whole database path over a fake server, with its background parts running. It adds no behaviour of its own.

use std::{io, sync::Arc};

use tokio::task::JoinHandle;

use super::{FakePostgres, journal::TestJournal, journal_in_memory};
use crate::{
    cache::CacheConfig,
    db::{BoxFuture, BoxStream, Commands, Connecting, Connector, Db, DbConfig, HostAddress},
    drain::Drain,
    health::SchemaPart,
    journal::{JournalConfig, Store},
};

/// A [`Db`] on a [`FakePostgres`], with a journal in memory and its background parts spawned; they end when it is dropped.
///
/// No socket is involved, so that the clock can be paused.
#[derive(Debug)]
pub struct TestDb {
    /// The database path.
    pub db: Db,
    store: Box<dyn Store>,
    /// Writes what the store takes, where that needs a task.
    _writer: Option<TestJournal>,
    parts: Vec<JoinHandle<()>>,
    _drain: Drain,
}

impl TestDb {
    /// Builds it around `server` with the settings of `config`, whose `url` is replaced. The schema counts as checked.
    ///
    /// # Errors
    /// `InvalidInput` where a setting cannot be used.
    ///
    /// # Cancel safety
    /// It does not wait.
    pub async fn start(
        server: &FakePostgres,
        config: DbConfig,
        commands: Arc<dyn Commands>,
    ) -> io::Result<Self> {
        // The folder is a name only: nothing of this journal is on disk.
        let kept =
            journal_in_memory(JournalConfig::new("in-memory")).map_err(|error| invalid(error.into()))?;
        Self::start_on_journal(server, config, commands, kept)
    }

    /// As [`start`](Self::start), on a store that the test fills and breaks, such as a [`MemoryStore`](super::MemoryStore).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_on(
        server: &FakePostgres,
        config: DbConfig,
        commands: Arc<dyn Commands>,
        store: impl Store + Clone,
    ) -> io::Result<Self> {
        Self::start_with(server, config, commands, store, None)
    }

    /// As [`start`](Self::start), on a journal that somebody made already.
    pub(super) fn start_on_journal(
        server: &FakePostgres,
        config: DbConfig,
        commands: Arc<dyn Commands>,
        kept: TestJournal,
    ) -> io::Result<Self> {
        Self::start_with(server, config, commands, kept.journal.clone(), Some(kept))
    }

    fn start_with(
        server: &FakePostgres,
        config: DbConfig,
        commands: Arc<dyn Commands>,
        store: impl Store + Clone,
        writer: Option<TestJournal>,
    ) -> io::Result<Self> {
        let url = "postgres://app:app@memory/app".to_owned();
        let mut config = DbConfig { url, ..config };
        config.pool.connector = Connecting::through(Arc::new(server.clone()));
        let (db, background) = Db::new(config, CacheConfig::default(), store.clone(), commands)
            .map_err(|error| invalid(error.into()))?;
        db.set_schema(SchemaPart::Ok);
        let (drain, draining) = Drain::new();
        let parts = vec![
            tokio::spawn(background.prober.run(draining.clone())),
            tokio::spawn(background.replay.run(draining.clone())),
            tokio::spawn(background.reaper.run(draining.clone())),
            tokio::spawn(background.refresher.run(draining.clone())),
            tokio::spawn(background.listener.run(draining.clone())),
            tokio::spawn(background.keeper.run(draining)),
        ];
        Ok(Self { db, store: Box::new(store), parts, _writer: writer, _drain: drain })
    }

    /// The journal, or another store, that accepts writes during an outage.
    #[must_use]
    pub fn journal(&self) -> &dyn Store {
        self.store.as_ref()
    }
}

fn invalid(error: Box<dyn std::error::Error + Send + Sync>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Every connection of a database path is one to the fake server, whatever its URL says.
impl Connector for FakePostgres {
    fn connect<'a>(&'a self, _host: &'a HostAddress) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move { Ok(Box::new(self.dial()?) as BoxStream) })
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        for part in &self.parts {
            part.abort();
        }
    }
}
