//! What the tests of the whole database path share: a small shop over the fake server, and ways to look into it.

pub(crate) use std::sync::Arc;

pub(crate) use ridethrough::{
    Deadline,
    cache::CacheKey,
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, DbConfig, Outcome, Query, Read, Statements,
        TransactionOptions, WriteError, Written,
    },
    error::{Error as PathError, ErrorClass, Phase},
    testkit::TestDb,
};

pub(crate) use super::kit::*;

pub(crate) const ORDER: &str = "INSERT INTO orders (item) VALUES ($1)";

#[derive(Debug)]
pub(crate) struct Shop;

impl Commands for Shop {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let item = std::str::from_utf8(&command.payload).unwrap_or_default();
            statements.run(ORDER, &[&item]).await?;
            Ok(Applied::Done(Bytes::from_static(b"ordered")))
        })
    }
}

/// The titles of all things to do, under another key each time: no answer is found in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Titles;

impl Query for Titles {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "titles"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared(format_args!("titles-{}", fastrand::u64(..)))
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let rows = statements.rows("SELECT title FROM todos", &[]).await?;
        Ok(rows.first().map(|row| Bytes::copy_from_slice(row.get::<_, &str>(0).as_bytes())))
    }

    fn max_staleness(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

pub(crate) fn order(key: &str) -> Command {
    Command {
        key: key.to_owned(),
        name: "order.place".to_owned(),
        version: 1,
        ordering_key: String::new(),
        payload: Bytes::from_static(b"milk"),
        fingerprint: [1; 32],
        accepted_at: SystemTime::now(),
    }
}

pub(crate) fn within(seconds: u64) -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(seconds))
}

/// A database path over a fake server that its prober has seen, and that it then leaves alone.
pub(crate) struct Path {
    pub(crate) server: FakePostgres,
    pub(crate) shop: TestDb,
}

/// What a circuit has counted: successes, failures.
pub(crate) type Counted = (u64, u64);

impl Path {
    pub(crate) async fn new(config: DbConfig) -> Self {
        let server = todos();
        let shop = TestDb::start(&server, config, Arc::new(Shop)).await.unwrap();
        let mut database = shop.db.database();
        let up = database.wait_for(|part| *part == ridethrough::health::DatabasePart::Up);
        timeout(Duration::from_secs(10), up).await.expect("the prober finds the server").unwrap();
        Self { server, shop }
    }

    /// One that neither probes nor opens a circuit, so that what is seen comes from calls alone.
    pub(crate) fn quiet() -> DbConfig {
        let mut config = DbConfig::default();
        config.probe.every = Duration::from_secs(3_600);
        config.breaker.consecutive_failures = 1_000;
        config.breaker.samples_min = 1_000;
        config
    }

    /// As [`quiet`](Self::quiet), and nothing is tried twice.
    pub(crate) fn once() -> DbConfig {
        let mut config = Self::quiet();
        (config.budget.ratio, config.budget.floor_per_second) = (0.0, 0.0);
        config
    }

    pub(crate) async fn read(&self) -> Result<Read<Bytes>, PathError> {
        self.shop.db.read(&Titles, within(2)).await
    }

    pub(crate) async fn write(&self, key: &str) -> Result<Written, WriteError> {
        self.shop.db.write(order(key), within(4)).await
    }

    pub(crate) async fn transaction(&self, options: TransactionOptions) -> Outcome<u64> {
        let work = async |statements: &Statements<'_>| Ok(statements.run(ORDER, &[&"milk"]).await?);
        self.shop.db.transaction(options, within(4), work).await
    }

    /// How often an order stands in the database.
    pub(crate) fn orders(&self) -> usize {
        self.server.committed("INSERT INTO orders")
    }

    pub(crate) fn state(&self) -> serde_json::Value {
        self.shop.db.state(Instant::now())
    }

    /// What the circuits for reads and for writes counted.
    pub(crate) fn counted(&self) -> (Counted, Counted) {
        let host = &self.state()["hosts"][0];
        let of = |circuit: &str| {
            let number = |name| host[circuit][name].as_u64().unwrap();
            (number("successes"), number("failures"))
        };
        (of("reads"), of("writes"))
    }

    pub(crate) fn circuit(&self, circuit: &str) -> String {
        self.state()["hosts"][0][circuit]["state"].as_str().unwrap().to_owned()
    }

    pub(crate) fn number(&self, of: &str, name: &str) -> u64 {
        self.state()[of][name].as_u64().unwrap()
    }

    /// Waits until nobody holds a permit and every connection of the pool is idle: nothing leaked.
    pub(crate) async fn at_rest(&self, story: &str) {
        let rests = || {
            let (in_use, queued) = (self.number("bulkhead", "in_use"), self.number("bulkhead", "queued"));
            in_use + queued == 0 && self.number("pool", "connections") == self.number("pool", "idle")
        };
        let resting = async {
            while !rests() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let rested = timeout(Duration::from_secs(20), resting).await;
        assert!(rested.is_ok(), "{story}: something leaked: {}", self.state());
    }

    /// Waits until the journal is empty.
    pub(crate) async fn replayed(&self, story: &str) {
        let emptying = async {
            while self.shop.journal().backlog().entries > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(Duration::from_secs(60), emptying).await.is_ok(), "{story}: {}", self.state());
    }
}
