//! The smallest service on the library: one table, one command, one question. What the tests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ridethrough::{
    Db, DbConfig, Deadline, Error,
    cache::{CacheConfig, CacheKey},
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, Query, SCHEMA_SQL, Statements, WriteError, Written,
    },
    drain::Drain,
    health::{DatabasePart, SchemaPart},
    journal::{Journal, JournalConfig},
};
use ridethrough_chaos::{Cluster, RunFolder, cluster};
use ridethrough_tests::until;
use tokio::time::Instant;

/// The prober finds a living database at once.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// A small backlog is replayed in milliseconds.
const SETTLED_LIMIT: Duration = Duration::from_secs(30);

/// No key of its own on purpose: a second application must be able to show.
pub(crate) const EFFECTS: &str =
    "CREATE TABLE IF NOT EXISTS effects (id bigserial PRIMARY KEY, key text NOT NULL, value text)";

/// A private PostgreSQL in a folder of its own, with the tables of the service.
pub(crate) async fn database(settings: &[(&str, &str)]) -> (RunFolder, Cluster) {
    let folder = RunFolder::create(None).expect("a run folder can be made");
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = cluster::Options { settings, ..cluster::Options::default() };
    let cluster = Cluster::start_in(&folder, &options).await;
    let cluster = cluster.unwrap_or_else(|error| panic!("failed to {error}"));
    let client = as_service(&cluster.url()).await;
    client.batch_execute(&format!("{SCHEMA_SQL}{EFFECTS}")).await.expect("the tables can be made");
    (folder, cluster)
}

/// A standby that follows the database.
pub(crate) async fn standby_of(cluster: &Cluster) -> Cluster {
    cluster.standby("standby").await.unwrap_or_else(|error| panic!("failed to {error}"))
}

/// A plain connection with the rights of the service, past the library.
pub(crate) async fn as_service(url: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("the database answers");
    // Ends with the client.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// How often each key had its effect.
pub(crate) async fn effects_of(client: &tokio_postgres::Client, key: &str) -> i64 {
    let row = client.query_one("SELECT count(*) FROM effects WHERE key = $1", &[&key]).await;
    row.expect("the database answers").get(0)
}

/// Puts one row into `effects`.
pub(crate) struct Put;

impl Commands for Put {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let value = String::from_utf8_lossy(&command.payload).into_owned();
            statements
                .run("INSERT INTO effects (key, value) VALUES ($1, $2)", &[&command.key, &value])
                .await?;
            Ok(Applied::Done(Bytes::from(value)))
        })
    }
}

/// Any question of a test, asked through the library.
#[derive(Clone)]
pub(crate) enum Ask {
    /// One statement, prepared as the library does it; answers the first column of the first row, which is text.
    One(String),
    /// Statements in one message, which are one transaction.
    Several(String),
    /// How often a key had its effect: a statement with a parameter.
    Count(String),
}

impl Query for Ask {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "ask"
    }

    fn cache_key(&self) -> CacheKey {
        // Nothing is ever to be answered from memory here, so no two questions share a key.
        CacheKey::shared(format_args!("ask:{}", fastrand::u64(..)))
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        match self {
            Self::One(sql) => {
                let row = statements.row(sql, &[]).await?;
                row.map(|row| row.try_get::<_, String>(0).map(Bytes::from)).transpose()
            }
            Self::Several(sql) => statements.batch_execute(sql).await.map(|()| None),
            Self::Count(key) => {
                let row = statements.row("SELECT count(*) FROM effects WHERE key = $1", &[key]).await?;
                Ok(row.map(|row| Bytes::from(row.get::<_, i64>(0).to_string())))
            }
        }
    }
}

/// The service: the library with everything that runs beside it. Ends when it goes.
pub(crate) struct Service {
    pub(crate) db: Db,
    pub(crate) journal: Journal,
    drain: Drain,
    background: Vec<tokio::task::JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
    ended: AtomicBool,
    folder: tempfile::TempDir,
}

impl Service {
    /// Starts it and waits until the database is seen.
    pub(crate) async fn start(config: DbConfig) -> Self {
        Self::start_with(config, Arc::new(Put)).await
    }

    /// As [`Service::start`], with other commands.
    pub(crate) async fn start_with(config: DbConfig, commands: Arc<dyn Commands>) -> Self {
        let service = Self::unseen(config, commands);
        service.sees_database(READY_LIMIT).await;
        service
    }

    /// Starts it whether or not there is a database.
    pub(crate) fn unseen(config: DbConfig, commands: Arc<dyn Commands>) -> Self {
        Self::unseen_in(tempfile::tempdir().expect("a folder can be made"), config, commands)
    }

    /// As [`Service::unseen`], with a journal that is there already.
    pub(crate) fn unseen_in(
        folder: tempfile::TempDir,
        config: DbConfig,
        commands: Arc<dyn Commands>,
    ) -> Self {
        let journal = JournalConfig::new(folder.path());
        Self::unseen_with(folder, journal, config, commands)
    }

    /// As [`Service::unseen_in`], with settings of the journal, which is in the folder.
    pub(crate) fn unseen_with(
        folder: tempfile::TempDir,
        journal: JournalConfig,
        config: DbConfig,
        commands: Arc<dyn Commands>,
    ) -> Self {
        let (journal, writer, _) = Journal::open(journal).expect("the journal can be opened");
        let writer = std::thread::spawn(move || writer.run());
        let (db, background) = Db::new(config, CacheConfig::default(), journal.clone(), commands)
            .expect("the settings are good");
        let (drain, draining) = Drain::new();
        let background = background.parts(&draining).map(|(_, part)| tokio::spawn(part)).into();
        db.set_schema(SchemaPart::Ok);
        Self { db, journal, drain, background, writer: Some(writer), ended: AtomicBool::new(false), folder }
    }

    /// A copy of its journal as it is on the disk now.
    pub(crate) fn copied_journal(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a folder can be made");
        for file in std::fs::read_dir(self.folder.path()).expect("the journal's folder can be read") {
            let file = file.expect("the journal's folder can be read");
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a file can be copied");
        }
        copy
    }

    /// Waits until the prober has seen the database.
    pub(crate) async fn sees_database(&self, limit: Duration) {
        let seen = async || (*self.db.database().borrow() == DatabasePart::Up).then_some(());
        until("the database is seen", limit, seen).await;
    }

    /// Tells callers that go round in circles to stop.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether [`Service::end`] was called.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// One write under `key`.
    pub(crate) async fn put(&self, key: &str, limit: Duration) -> Result<Written, WriteError> {
        self.db.write(put(key), Deadline::after(Instant::now(), limit)).await
    }

    /// One read.
    pub(crate) async fn ask(&self, question: Ask, limit: Duration) -> Result<Option<Bytes>, Error> {
        let read = self.db.read(&question, Deadline::after(Instant::now(), limit)).await;
        read.map(|read| read.into_parts().0)
    }

    /// How often a key had its effect, as the library answers it.
    pub(crate) async fn count(&self, key: &str, limit: Duration) -> Result<String, Error> {
        let answer = self.ask(Ask::Count(key.to_owned()), limit).await?;
        Ok(String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned())
    }

    /// One statement of a read that answers text.
    pub(crate) async fn text(&self, sql: &str, limit: Duration) -> Result<String, Error> {
        let answer = self.ask(Ask::One(sql.to_owned()), limit).await?;
        Ok(String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned())
    }

    /// Waits until the journal is empty.
    pub(crate) async fn has_settled(&self) {
        let empty = async || (self.journal.backlog().entries == 0).then_some(());
        until("the journal is replayed", SETTLED_LIMIT, empty).await;
    }

    /// Waits until writes are journaled.
    pub(crate) async fn has_backlog(&self) {
        let some = async || (self.journal.backlog().entries > 0).then_some(());
        until("a write is journaled", SETTLED_LIMIT, some).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.drain.begin();
        for task in &self.background {
            task.abort();
        }
        self.journal.close();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The command that puts one row under `key`.
pub(crate) fn put(key: &str) -> Command {
    Command {
        key: key.to_owned(),
        name: "effect.put".to_owned(),
        version: 1,
        ordering_key: String::new(),
        payload: Bytes::from(format!("value of {key}")),
        fingerprint: [7; 32],
        accepted_at: ridethrough::db::to_microseconds(SystemTime::now()),
    }
}

/// Settings for tests in which a broken connection is the subject and not a sign of an outage: nothing opens the breaker.
pub(crate) fn never_opens(url: String) -> DbConfig {
    let mut config = DbConfig { url, ..DbConfig::default() };
    config.breaker.consecutive_failures = u32::MAX;
    config.breaker.samples_min = u32::MAX;
    config
}
