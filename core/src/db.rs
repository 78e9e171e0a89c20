//! The database path. START HERE: [`Db::read`] and [`Db::write`] are the whole of it, top to bottom.
//!
//! A read asks the primary and falls back to a standby that is not too far behind, or to the last good answer, labelled. A
//! write commits on the primary and falls back to the journal, from where it is applied once when the database is back.
//! The order of the guards is the design: deadline, schema, bulkhead, breaker, connection, statement. Each host has two
//! circuits, one for reads and one for writes.
//!
//! Nothing here spawns: [`Db::new`] returns the [`Background`] parts for `main` to run.
//!
//! The pages on it, with defaults, metrics and what not to do, are in `docs/patterns`.

mod alone;
mod asked;
mod background;
mod begin;
mod classify;
mod command;
mod config;
mod connector;
mod dial;
mod doubts;
mod fence;
mod gate;
mod guards;
mod hosts;
mod judge;
mod keeper;
mod kept;
mod keys;
mod lanes;
mod listen;
mod outcome;
mod overlay;
mod pool;
mod probe;
mod query;
mod reads;
mod reaper;
mod refresh;
#[cfg(feature = "serde")]
mod registry;
mod replay;
mod resolve;
mod route;
mod session;
mod state;
mod statements;
mod tables;
mod timing;
mod tls;
mod transact;
mod transaction;
mod user_session;
mod writes;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use tokio::{sync::watch, time::Instant};

/// The future type of [`Commands::apply`].
pub use futures_util::future::BoxFuture;

#[cfg(feature = "serde")]
pub use self::registry::{Registry, Typed, TypedCommand};
pub use self::{
    background::Background,
    begin::Isolation,
    command::{
        Applied, ApplyError, Command, Commands, NotKnown, Refusal, Settled, WriteError, WriteState,
        WriteStatus, Written,
    },
    config::{
        ConfigInvalid, DbConfig, Migrate, PoolConfig, Pooler, ProbeConfig, ReadConfig, Superuser, WriteConfig,
    },
    connector::{BoxStream, ByteStream, Connecting, Connector, HostAddress},
    judge::judge,
    keeper::Keeper,
    keys::{SCHEMA_SQL, to_microseconds},
    listen::Listener,
    outcome::{Outcome, Unresolved},
    overlay::{Base, Overlay, PendingWrite, PendingWrites, Promise},
    probe::Prober,
    query::{Query, Read, Source},
    reaper::Reaper,
    refresh::Refresher,
    replay::{LostWrites, Replay},
    statements::Statements,
    tls::Tls,
    transact::TransactionOptions,
    user_session::UserSession,
};
use self::{
    begin::Marking, classify::Circuit, doubts::Doubts, fence::Fence, gate::Gate, hosts::Hosts,
    listen::Telling, overlay::Overlays, refresh::Refreshes, replay::Losses, timing::Timing,
};
use crate::{
    budget::RetryBudget,
    bulkhead::Bulkhead,
    cache::{CacheConfig, CacheKey, Flights, Freshness, ReadCache},
    deadline::Deadline,
    error::{Error, RejectReason},
    health::{DatabasePart, SchemaPart},
    journal::Store,
    metrics,
};

/// About two minutes of a busy replica's writes: repetitions come soon or not at all.
const SETTLED_KEYS_MAX: usize = 10_000;

/// One PostgreSQL database with everything that lets a service ride through its absence. Clones share it.
#[derive(Clone)]
pub struct Db(Arc<Shared>);

struct Shared {
    config: DbConfig,
    timing: Timing,
    hosts: Hosts,
    bulkhead: Arc<Bulkhead>,
    budget: RetryBudget,
    cache: ReadCache,
    flights: Flights,
    refreshes: Refreshes,
    journal: Arc<dyn Store>,
    gate: Gate,
    fence: Fence,
    /// Fingerprints of the newest keys that this replica settled.
    settled_keys: Cache<String, [u8; 32]>,
    doubts: Doubts,
    losses: Losses,
    commands: Arc<dyn Commands>,
    database: watch::Sender<DatabasePart>,
    schema: watch::Sender<SchemaPart>,
    /// The schema is one to work with; beside the channel, because every call asks.
    schema_usable: AtomicBool,
    random: Mutex<fastrand::Rng>,
    replayed: AtomicU64,
    marking: Marking,
    telling: Telling,
    overlays: Overlays,
    /// Which database and role a cache snapshot belongs to.
    origin: u32,
}

impl Db {
    /// A database that has not been seen yet. Dials nothing: the service starts whether or not the database is there.
    ///
    /// What a cache snapshot and the journal hold from before is read here, which blocks for as long as the disk takes.
    ///
    /// With several hosts in the URL the prober finds the primary; the order does not matter.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use ridethrough::{cache::CacheConfig, db::{Commands, ConfigInvalid, Db, DbConfig}, journal::Journal};
    /// # fn example(journal: Journal, commands: Arc<dyn Commands>) -> Result<(), ConfigInvalid> {
    /// let url = "postgres://app@one:5432,two:5432/todos?sslmode=verify-full".to_owned();
    /// let config = DbConfig { url, ..DbConfig::default() };
    /// let (db, background) = Db::new(config, CacheConfig::default(), journal, commands)?;
    /// // `main` spawns `background.parts(&draining)`.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(
        mut config: DbConfig,
        cache: CacheConfig,
        journal: impl Store,
        commands: Arc<dyn Commands>,
    ) -> Result<(Self, Background), ConfigInvalid> {
        let target = config.validate()?;
        config.pool.tls = config.tls()?;
        let (reaping, reaper) = Reaper::new();
        let (refreshes, refreshing) = Refreshes::new();
        let now = Instant::now();
        let hosts = Hosts::new(&target, &config, &reaping, now);
        let shared = Shared {
            database: hosts.database().clone(),
            hosts,
            bulkhead: Bulkhead::new(config.bulkhead.clone(), now),
            budget: RetryBudget::new(config.budget.clone(), now),
            cache: ReadCache::new(cache),
            flights: Flights::default(),
            refreshes,
            journal: Arc::new(journal),
            gate: Gate::default(),
            fence: Fence::default(),
            settled_keys: Cache::new(SETTLED_KEYS_MAX),
            doubts: Doubts::default(),
            losses: Losses::default(),
            commands,
            schema: watch::Sender::new(SchemaPart::Unknown),
            schema_usable: AtomicBool::new(false),
            random: Mutex::new(fastrand::Rng::new()),
            replayed: AtomicU64::new(0),
            marking: Marking::default(),
            telling: Telling::new(config.notices),
            overlays: Overlays::default(),
            origin: keeper::origin(&target),
            timing: Timing::new(&config.read, &config.write),
            config,
        };
        keeper::load(&shared.cache, shared.origin);
        let db = Self(Arc::new(shared));
        db.recall_pending(now);
        metrics::start_at_zero(metrics::CATALOGUE);
        let background = Background {
            prober: Prober::new(db.clone()),
            replay: Replay::new(db.clone()),
            reaper,
            refresher: Refresher::new(db.clone(), refreshing),
            listener: Listener::new(db.clone()),
            keeper: Keeper::new(db.clone()),
        };
        Ok((db, background))
    }

    /// Answers `query` from the primary; or else from a standby that is not too far behind, or with the last good answer,
    /// both labelled stale. The result says who answered and how old the answer may be. Where the query's
    /// [policy](Query::policy) has kept answers served without asking, those come first, labelled too. Writes of this
    /// replica that wait in its journal are laid over it, where the query says how ([`Query::overlay`]).
    ///
    /// ```no_run
    /// # use ridethrough::{Deadline, Error, db::{Db, Query, Source}};
    /// # async fn example<Q: Query>(db: Db, question: Q, deadline: Deadline) -> Result<(), Error> {
    /// let read = db.read(&question, deadline).await?;
    /// match read.source() {
    ///     Source::Primary => println!("fresh"),
    ///     Source::Standby { host, lag } => println!("host {host} is at most {lag:?} behind"),
    ///     other => println!("kept from before: {other:?}, {:?}", read.freshness()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where neither is to be had: the database is away, or too slow for `deadline`, and nothing usable is cached.
    ///
    /// # Cancel safety
    /// A dropped read destroys its connection and changes nothing else.
    pub async fn read<Q: Query>(&self, query: &Q, deadline: Deadline) -> Result<Read<Q::Answer>, Error> {
        let started = Instant::now();
        if let Some(promised) = self.promised(query, started) {
            return Ok(promised);
        }
        let read = self.read_unchanged(query, deadline, started).await;
        self.overlaid(query, read, started)
    }

    /// The answer without what waits in the journal.
    async fn read_unchanged<Q: Query>(
        &self,
        query: &Q,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Read<Q::Answer>, Error> {
        let key = query.cache_key();
        if !self.schema_is_usable() && *self.0.schema.borrow() == SchemaPart::Mismatch {
            let retry_after = self.retry_after(started);
            return Err(Error::rejected(RejectReason::SchemaUnusable, retry_after));
        }
        // In a box, so that reads without it are no larger.
        if query.max_staleness() == Some(Duration::ZERO) {
            // Nobody else's answer will do.
        } else if query.policy().serves_unasked() {
            return Box::pin(self.read_kept(query, &key, deadline, started)).await;
        } else if self.0.cache.peek(&key, started).is_none() {
            return Box::pin(self.read_cold(query, &key, deadline, started)).await;
        }
        self.read_asking(query, &key, deadline, started).await
    }

    /// Asks, and falls back to what is kept.
    async fn read_asking<Q: Query>(
        &self,
        query: &Q,
        key: &CacheKey,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Read<Q::Answer>, Error> {
        match self.read_hosts(query, key, deadline, started).await {
            Ok((read, at)) => {
                let took = at.saturating_duration_since(started);
                if read.freshness() == Freshness::Fresh {
                    metrics::fresh_read(query.name(), took);
                } else {
                    metrics::db_call(query.name(), "stale", "none", took);
                    metrics::cache_request("stale");
                }
                Ok(read)
            }
            Err(error) => {
                let stale = self.stale(query, key, &error);
                let outcome = if stale.is_some() { "stale" } else { "failed" };
                metrics::db_call(query.name(), outcome, error.class().as_str(), started.elapsed());
                stale.ok_or(error)
            }
        }
    }

    /// Commits `command` in PostgreSQL, or else accepts it durably into the journal; once under its key either way.
    ///
    /// Spawn it rather than await it in a request handler: a client that departs must not drop a write half-way.
    ///
    /// ```no_run
    /// # use ridethrough::{Deadline, db::{Command, Db, WriteError, Written}};
    /// # async fn example(db: Db, order: Command, deadline: Deadline) {
    /// match db.write(order, deadline).await {
    ///     Ok(Written::Journaled { .. }) => println!("202: accepted on disk, applied when the database is back"),
    ///     Ok(written) => println!("201: {written:?}"),
    ///     Err(WriteError::Unknown(error)) => println!("the same key again finds out: {error}"),
    ///     Err(error) => println!("nothing happened: {error}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WriteError`] says whether the write had no effect or whether nobody knows.
    ///
    /// # Cancel safety
    /// A dropped write may or may not have its effect. The same command under the same key is safe and finds out.
    pub async fn write(&self, command: Command, deadline: Deadline) -> Result<Written, WriteError> {
        let started = Instant::now();
        let under_way = self.0.doubts.begin(&command.key);
        let written = self.write_unmeasured(&command, deadline).await;
        if !matches!(written, Err(WriteError::Unknown(_))) {
            under_way.ended();
        }
        let (outcome, class) = match &written {
            Ok(Written::Committed { .. } | Written::Superseded { .. }) => ("committed", "none"),
            Ok(Written::Journaled { .. }) => ("journaled", "none"),
            Err(WriteError::Refused(_) | WriteError::KeyReused) => ("refused", "permanent"),
            Err(WriteError::Rejected(error)) => ("rejected", error.class().as_str()),
            Err(WriteError::Unknown(error)) => ("unknown", error.class().as_str()),
        };
        metrics::db_call("write", outcome, class, started.elapsed());
        written
    }

    /// What became of `key`: pending in the journal, or settled in the database; [`WriteState::Unknown`] where it is neither
    /// and was seen here, by a call that is on its way or ended without finding out; `None` where it was never seen.
    ///
    /// # Errors
    /// Where the key is not in the journal and the database cannot be asked.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn write_status(&self, key: &str, deadline: Deadline) -> Result<Option<WriteStatus>, Error> {
        if self.0.journal.find(key).is_some() {
            return Ok(Some(WriteStatus { state: WriteState::Pending, answer: None, reason: None }));
        }
        // Before the question: a write that ends while it is asked is not overlooked.
        let is_in_doubt = self.0.doubts.holds(key, Instant::now());
        let look_up = keys::LookUp(key);
        let asked = self.asked(&look_up, deadline, self.0.timing.read.attempt());
        let known = asked.await.map_err(|failed| failed.error)?.map(|known| known.status);
        let unknown = WriteStatus { state: WriteState::Unknown, answer: None, reason: None };
        Ok(known.or_else(|| is_in_doubt.then_some(unknown)))
    }

    /// The read cache, for what the service itself wants to know or keep.
    #[must_use]
    pub fn cache(&self) -> &ReadCache {
        &self.0.cache
    }

    /// Says whether the schema is the service's. Until it is [`SchemaPart::Ok`] or [`SchemaPart::Pending`] the database
    /// is probed and not used.
    pub fn set_schema(&self, schema: SchemaPart) {
        let usable = matches!(schema, SchemaPart::Ok | SchemaPart::Pending);
        self.0.schema_usable.store(usable, Ordering::Release);
        self.0.schema.send_replace(schema);
    }

    fn schema_is_usable(&self) -> bool {
        self.0.schema_usable.load(Ordering::Acquire)
    }

    /// What the prober knows of the database, and its changes.
    #[must_use]
    pub fn database(&self) -> watch::Receiver<DatabasePart> {
        self.0.database.subscribe()
    }

    /// A connection outside of pool, bulkhead and breaker, for migrations: to the primary, or while there is none to a host
    /// that answers, never to a fenced one. It closes when the client is dropped.
    ///
    /// # Errors
    /// Where none can be made within `limit`.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub async fn connect(&self, limit: Duration) -> Result<tokio_postgres::Client, Error> {
        let hosts = &self.0.hosts;
        let chosen = hosts.primary().or_else(|| hosts.answering()).or_else(|| hosts.not_fenced());
        let Some(host) = chosen.and_then(|host| hosts.at(host)) else {
            return Err(self.nowhere(Circuit::Writes, Instant::now()).error);
        };
        let (client, _driver) = host.pool.dialler().dial(limit).await?;
        Ok(client)
    }

    /// When asking again is worth while: the breaker's next trial plus jitter, so that a crowd does not come at once.
    #[must_use]
    pub fn retry_after(&self, now: Instant) -> Duration {
        let hosts = &self.0.hosts;
        hosts.retry_after(Circuit::Reads, now).max(hosts.retry_after(Circuit::Writes, now)) + self.spread()
    }

    fn spread(&self) -> Duration {
        Duration::from_millis(self.random(|random| random.u64(200..2_000)))
    }

    fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.random.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("database", &*self.0.database.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
