//! Several hosts, moved names, refused credentials: the database path over more than one fake server, in virtual time.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use ridethrough::{
    Deadline,
    bulkhead::Priority,
    cache::{CacheConfig, CacheKey},
    db::{
        Applied, ApplyError, BoxFuture, BoxStream, Command, Commands, Connecting, Connector, Db, DbConfig,
        HostAddress, Outcome, Query, Source, Statements, TransactionOptions, Written,
    },
    drain::Drain,
    health::SchemaPart,
    journal::JournalConfig,
    testkit::{TestJournal, journal_in_memory},
};
use tokio::{task::JoinHandle, time::sleep};

use super::{kit::*, priorities::Report};

/// Leads each name to a server, which can change.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<String, FakePostgres>>);

impl Names {
    fn lead(&self, name: &str, server: &FakePostgres) {
        self.0.lock().unwrap().insert(name.to_owned(), server.clone());
    }
}

impl Connector for Names {
    fn connect<'a>(&'a self, host: &'a HostAddress) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            let HostAddress::Tcp { name, .. } = host else { return Err(io::ErrorKind::Unsupported.into()) };
            let server = self.0.lock().unwrap().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(server.dial()?) as BoxStream)
        })
    }
}

#[derive(Debug)]
struct Shop;

impl Commands for Shop {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            statements.run("INSERT INTO orders (item) VALUES ('milk')", &[]).await?;
            Ok(Applied::Done(Bytes::new()))
        })
    }
}

#[derive(Clone)]
struct Stock;

impl Query for Stock {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "stock"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("stock")
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        let row = statements.row("SELECT true", &[]).await?;
        Ok(row.map(|_| Bytes::from_static(b"much")))
    }
}

pub(super) struct Service {
    pub(super) db: Db,
    parts: Vec<JoinHandle<()>>,
    drain: Drain,
    _journal: TestJournal,
}

impl Service {
    pub(super) fn start(hosts: &str, names: &Arc<Names>) -> Self {
        Self::with(hosts, names, DbConfig::default())
    }

    pub(super) fn with(hosts: &str, names: &Arc<Names>, config: DbConfig) -> Self {
        let journal = journal_in_memory(JournalConfig::new("in-memory")).unwrap();
        let mut config = DbConfig { url: format!("postgres://app:app@{hosts}/app"), ..config };
        config.pool.connector = Connecting::through(names.clone());
        let (db, background) =
            Db::new(config, CacheConfig::default(), journal.journal.clone(), Arc::new(Shop)).unwrap();
        db.set_schema(SchemaPart::Ok);
        let (drain, draining) = Drain::new();
        let parts = vec![
            tokio::spawn(background.prober.run(draining.clone())),
            tokio::spawn(background.reaper.run(draining)),
        ];
        Self { db, parts, drain, _journal: journal }
    }

    pub(super) async fn write(&self, key: &str) -> Written {
        let command = Command {
            key: key.to_owned(),
            name: "order.place".to_owned(),
            version: 1,
            ordering_key: String::new(),
            payload: Bytes::new(),
            fingerprint: [1; 32],
            accepted_at: SystemTime::now(),
        };
        self.db.write(command, self.soon()).await.unwrap()
    }

    pub(super) async fn read(&self) -> Option<Source> {
        self.db.read(&Stock, self.soon()).await.ok().map(|read| read.source())
    }

    pub(super) fn soon(&self) -> Deadline {
        Deadline::after(Instant::now(), Duration::from_secs(4))
    }

    fn budget(&self) -> f64 {
        self.db.state(Instant::now())["retry_budget"].as_f64().unwrap()
    }

    fn host(&self, index: usize, field: &str) -> String {
        self.db.state(Instant::now())["hosts"][index][field].to_string()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.parts.iter().for_each(JoinHandle::abort);
    }
}

pub(super) fn names(pairs: &[(&str, &FakePostgres)]) -> Arc<Names> {
    let names = Arc::new(Names::default());
    pairs.iter().for_each(|(name, server)| names.lead(name, server));
    names
}

/// A primary that also tells the prober its timeline; what it tells a new session, the fake knows itself.
fn on_timeline(timeline: i32) -> FakePostgres {
    let names = ["recovers", "read_only", "system", "timeline", "position", "ago", "segment"];
    let row = ("f", "f", "7300000000000000001", timeline.to_string(), "100", None::<String>, "16777216");
    FakePostgres::builder().on("SELECT h.recovers", Reply::rows(names, [row])).start()
}

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The name of the only host moved to the promoted standby, while the old primary went on living for those that were
/// still connected to it. The prober saw a primary before and after, so the sessions of the pool were kept: they went on
/// writing to the old one, and those writes were lost when it was rewound.
#[tokio::test(start_paused = true)]
async fn a_name_that_moved_takes_no_write_to_the_old_primary() {
    let (old, new) = (on_timeline(1), on_timeline(2));
    new.promote();
    let names = names(&[("db", &old)]);
    let service = Service::start("db", &names);
    sleep(SECOND).await;
    assert!(matches!(service.write("before").await, Written::Committed { .. }));
    assert_eq!(service.host(0, "timeline"), "1");
    names.lead("db", &new);
    sleep(SECOND * 8).await;
    assert_eq!(service.host(0, "timeline"), "2", "the prober's own session was renewed meanwhile");
    for number in 0..5 {
        service.write(&format!("after-{number}")).await;
    }
    assert_eq!((old.committed_keys(), new.committed_keys().len()), (vec!["before".to_owned()], 5));
}

/// A name with two addresses led new sessions to a standby, whose answers were labelled as those of the primary.
#[tokio::test(start_paused = true)]
async fn a_new_session_that_leads_to_another_server_is_not_used() {
    let (primary, standby) = (FakePostgres::start(), FakePostgres::start());
    standby.make_standby();
    let names = names(&[("db", &primary)]);
    let service = Service::start("db", &names);
    sleep(SECOND).await;
    names.lead("db", &standby);
    let read = service.read().await;
    assert_ne!(read, Some(Source::Primary), "the first session of the pool is one to the standby");
    names.lead("db", &primary);
    sleep(SECOND).await;
    assert_eq!(service.read().await, Some(Source::Primary));
}

/// A standby with another password was dialled twice a second for ever: a line in its log each time, and a lock-out where
/// somebody counts them.
#[tokio::test(start_paused = true)]
async fn who_is_refused_asks_ever_more_rarely_and_comes_back_by_itself() {
    let (primary, refusing) = (FakePostgres::start(), FakePostgres::start());
    refusing.make_standby();
    refusing.refuse("28P01");
    let names = names(&[("one", &primary), ("two", &refusing)]);
    let service = Service::start("one,two", &names);
    sleep(SECOND * 90).await;
    let asked = refusing.counts().connections;
    assert!((5..30).contains(&asked), "{asked} attempts in 90 s");
    assert!(matches!(service.write("k").await, Written::Committed { .. }), "the other host is well");
    refusing.recover();
    sleep(SECOND * 31).await;
    assert_eq!(service.host(1, "role"), "\"standby\"");
}

/// A password was changed on the server and not here: the prober, which renews its session now and then, took that for an
/// outage and threw away the sessions on which everything had worked.
#[tokio::test(start_paused = true)]
async fn a_password_that_is_refused_to_new_sessions_leaves_the_old_ones_at_work() {
    let server = FakePostgres::start();
    let service = Service::start("db", &names(&[("db", &server)]));
    sleep(SECOND).await;
    assert!(matches!(service.write("before").await, Written::Committed { .. }));
    server.refuse("28P01");
    let before = server.counts().connections;
    for second in 0..30 {
        sleep(SECOND).await;
        let written = service.write(&format!("{second}")).await;
        assert!(matches!(written, Written::Committed { .. }), "after {second} s: {written:?}");
    }
    let asked = server.counts().connections - before;
    assert!((2..15).contains(&asked), "{asked} attempts in 30 s");
}

/// A server without room was asked for another session twice a second.
#[tokio::test(start_paused = true)]
async fn a_full_server_is_not_pressed() {
    let server = FakePostgres::start();
    let service = Service::start("db", &names(&[("db", &server)]));
    sleep(SECOND).await;
    assert_eq!(service.read().await, Some(Source::Primary));
    server.refuse("53300");
    let before = server.counts().connections;
    sleep(SECOND * 30).await;
    let asked = server.counts().connections - before;
    assert!((3..=8).contains(&asked), "{asked} attempts in 30 s");
    assert_eq!(service.read().await, Some(Source::Primary), "what exists goes on");
}

/// A caller who asked for a read-only transaction and wrote in it three times opened the circuit for all, and each time
/// every session of the pool was thrown away.
#[tokio::test(start_paused = true)]
async fn a_write_in_a_read_only_transaction_says_nothing_about_the_host() {
    let server = FakePostgres::start();
    let service = Service::start("db", &names(&[("db", &server)]));
    sleep(SECOND).await;
    let options = TransactionOptions { read_only: true, ..TransactionOptions::new("report") };
    for _ in 0..5 {
        server.fault(At::statement("INSERT INTO orders"), Fault::Error("25006"));
        let outcome = service
            .db
            .transaction(options, service.soon(), async |statements: &Statements<'_>| {
                statements.run("INSERT INTO orders (item) VALUES ('milk')", &[]).await?;
                Ok(())
            })
            .await;
        let Outcome::RolledBack(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.class(), ridethrough::error::ErrorClass::Permanent);
    }
    assert!(matches!(service.write("k").await, Written::Committed { .. }));
}

/// A look at a host that said nothing ran to its end before the drain was heard.
#[tokio::test(start_paused = true)]
async fn a_silent_host_does_not_hold_up_the_end() {
    let server = FakePostgres::start();
    server.silence();
    let mut service = Service::start("db", &names(&[("db", &server)]));
    sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    service.drain.begin();
    service.parts.remove(0).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

/// Its author deleted a thing, the primary went away, and a standby that was behind showed the thing again.
#[tokio::test(start_paused = true)]
async fn what_was_deleted_here_does_not_come_back_from_a_standby() {
    let (primary, standby) = (FakePostgres::start(), FakePostgres::start());
    standby.make_standby();
    let names = names(&[("one", &primary), ("two", &standby)]);
    let service = Service::start("one,two", &names);
    sleep(SECOND).await;
    assert_eq!(service.read().await, Some(Source::Primary));
    primary.outage();
    sleep(SECOND * 3).await;
    let now = Instant::now();
    service.db.cache().fill_by_write(now, now).remove(&Stock.cache_key());
    assert_eq!(service.read().await, None, "the standby was asked how far it is before the removal");
    sleep(SECOND * 3).await;
    assert!(matches!(service.read().await, Some(Source::Standby { .. })), "it has come further since");
}

/// With the primary away a standby cancels a read for the sake of its replay (40001). It was not asked again, because the
/// circuit that was looked at was that of the primary.
#[tokio::test(start_paused = true)]
async fn a_lone_standby_that_cancelled_a_read_is_asked_again() {
    let (primary, standby) = (FakePostgres::start(), FakePostgres::start());
    standby.make_standby();
    let names = names(&[("one", &primary), ("two", &standby)]);
    let service = Service::start("one,two", &names);
    sleep(SECOND).await;
    primary.outage();
    sleep(SECOND * 3).await;
    assert!(matches!(service.read().await, Some(Source::Standby { .. })));
    standby.fault(At::statement("SELECT true"), Fault::Error("40001"));
    let read = service.db.read(&Report(Priority::Interactive), service.soon()).await.unwrap();
    assert!(matches!(read.source(), Source::Standby { .. }), "{read:?}");
    assert_eq!(standby.faults_waiting(), 0);
}

/// Calls that were refused at once saved up retries that no traffic had earned.
#[tokio::test(start_paused = true)]
async fn only_a_call_that_was_made_earns_a_part_of_a_retry() {
    let server = FakePostgres::start();
    let mut config = DbConfig::default();
    config.budget.floor_per_second = 0.0;
    let service = Service::with("db", &names(&[("db", &server)]), config);
    sleep(SECOND).await;
    let before = service.budget();
    let options = TransactionOptions::new("t");
    for number in 0..10 {
        let now = Deadline::after(Instant::now(), Duration::ZERO);
        let command = Command {
            key: number.to_string(),
            name: "order.place".to_owned(),
            version: 1,
            ordering_key: String::new(),
            payload: Bytes::new(),
            fingerprint: [1; 32],
            accepted_at: SystemTime::now(),
        };
        assert!(service.db.read(&Stock, now).await.is_err());
        assert!(service.db.write(command, now).await.is_err());
        let outcome = service.db.transaction(options, now, async |_: &Statements<'_>| Ok(())).await;
        assert!(outcome.error().is_some_and(ridethrough::Error::is_rejection));
    }
    assert_eq!(service.budget(), before);
    for number in 0..10 {
        assert_eq!(service.read().await, Some(Source::Primary));
        service.write(&format!("k{number}")).await;
        let work = async |_: &Statements<'_>| Ok(());
        assert!(matches!(
            service.db.transaction(options, service.soon(), work).await,
            Outcome::Committed(())
        ));
    }
    let earned = service.budget() - before;
    assert!((5.9..6.1).contains(&earned), "{earned} retries for 30 calls");
}

/// Dial, question and proof had a limit each, and so a look could take many times as long as the settings say.
#[tokio::test(start_paused = true)]
async fn a_host_that_is_slow_at_each_step_of_a_look_is_slow_as_a_whole() {
    let server = FakePostgres::start();
    let slow = Fault::Delay(Duration::from_millis(700));
    server.fault_always(At::Connect, slow.clone());
    server.fault_always(At::statement("SELECT h.recovers"), slow);
    let service = Service::start("db", &names(&[("db", &server)]));
    sleep(SECOND * 10).await;
    assert_eq!(*service.db.database().borrow(), ridethrough::health::DatabasePart::Away);
}

/// One server under a name for writes and one for reads was taken for two primaries: the alarm of a second one, every
/// five minutes.
#[tokio::test(start_paused = true)]
async fn two_names_of_one_server_are_one_host() {
    let server = FakePostgres::start();
    let service = Service::start("rw,ro", &names(&[("rw", &server), ("ro", &server)]));
    sleep(SECOND).await;
    assert_eq!(
        (service.host(0, "role"), service.host(1, "role")),
        ("\"primary\"".into(), "\"alias\"".into())
    );
    assert!(matches!(service.write("k").await, Written::Committed { .. }));
    let other = FakePostgres::start();
    let service = Service::start("one,two", &names(&[("one", &server), ("two", &other)]));
    sleep(SECOND).await;
    let roles = [service.host(0, "role"), service.host(1, "role")];
    assert!(roles.contains(&"\"fenced\"".to_owned()), "two servers are two: {roles:?}");
}
