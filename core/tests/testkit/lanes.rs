//! Short reads over shared connections, through all of the database path.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use ridethrough::{
    Deadline,
    cache::{CacheKey, Cacheable, Freshness},
    db::{Applied, ApplyError, BoxFuture, Command, Commands, DbConfig, PoolConfig, Query, Statements},
    testkit::TestDb,
};
use tokio::time::sleep;

use super::kit::*;

/// Asks for the row with the number; 13 is the slow one.
#[derive(Clone)]
struct Title(i64);

impl Query for Title {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        if self.0 == 13 { "slow" } else { "title" }
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared(format_args!("title {}", self.0))
    }

    fn is_short(&self) -> bool {
        true
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let sql = if self.0 == 13 { "SELECT slow" } else { "SELECT title FROM todos WHERE id = $1" };
        let row = match self.0 {
            13 => statements.row(sql, &[]).await?,
            id => statements.row(sql, &[&id]).await?,
        };
        row.map(|row| row.try_get::<_, String>(0).map(Bytes::from)).transpose()
    }
}

struct Nothing;

impl Commands for Nothing {
    fn apply<'c>(
        &'c self,
        _: &'c Statements<'c>,
        _: &'c Command,
        _: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async { Ok(Applied::Done(Bytes::new())) })
    }
}

fn server() -> FakePostgres {
    let title = |call: &ridethrough::testkit::Call<'_>| vec![(format!("todo {}", call.integer(1).unwrap()),)];
    FakePostgres::builder()
        .schema("CREATE TABLE todos (id bigint, title text)")
        .on("SELECT title FROM todos", Reply::computed(["title"], title))
        .on("SELECT slow", Reply::rows(["title"], [("slow",)]))
        .start()
}

async fn start(server: &FakePostgres, lanes: usize) -> TestDb {
    let pool = PoolConfig { lanes, ..PoolConfig::default() };
    let kit =
        TestDb::start(server, DbConfig { pool, ..DbConfig::default() }, Arc::new(Nothing)).await.unwrap();
    for id in [1, 2, 3, 4, 5, 13, 13, 13, 13, 13] {
        assert_eq!(read(&kit, id).await.0, answer(id));
    }
    sleep(Duration::from_secs(1)).await;
    kit
}

fn answer(id: i64) -> Bytes {
    if id == 13 { Bytes::from_static(b"slow") } else { Bytes::from(format!("todo {id}")) }
}

/// The answer, whether it is fresh, and how long it took.
async fn read(kit: &TestDb, id: i64) -> (Bytes, bool, Duration) {
    let asked = Instant::now();
    let read = kit.db.read(&Title(id), Deadline::after(asked, Duration::from_secs(2))).await.unwrap();
    let (value, freshness, _) = read.into_parts();
    (value.unwrap(), freshness == Freshness::Fresh, asked.elapsed())
}

async fn read_many(kit: &TestDb, ids: impl Iterator<Item = i64>) -> Vec<(Bytes, bool, Duration)> {
    futures_util::future::join_all(ids.map(|id| read(kit, id))).await
}

#[tokio::test(start_paused = true)]
async fn questions_share_a_connection_and_each_gets_its_own_answer() {
    let server = server();
    let kit = start(&server, 1).await;
    let before = server.counts().connections;
    let ids = || 20..50;
    let answers = read_many(&kit, ids()).await;
    for (id, (value, fresh, _)) in ids().zip(answers) {
        assert!(fresh && value == answer(id), "{id}: {value:?}");
    }
    assert_eq!(server.counts().connections, before, "nobody dialled for thirty at once");
    let kit = start(&server, 0).await;
    let before = server.counts().connections;
    read_many(&kit, ids()).await;
    assert!(server.counts().connections > before + 10, "without lanes each has one of its own");
}

#[tokio::test(start_paused = true)]
async fn the_gauges_tell_of_lanes_and_of_the_questions_on_them() {
    let server = server();
    let kit = start(&server, 2).await;
    let gauges = || {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || kit.db.publish_gauges(Instant::now()));
        let text = recorder.handle().render();
        ["ridethrough_lanes_open ", "ridethrough_lanes_in_use "].map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name}is not in\n{text}")).to_owned()
        })
    };
    assert_eq!(gauges(), ["2", "0"]);
    let (_, during) = tokio::join!(read_many(&kit, 20..30), async { gauges() });
    assert_eq!(during, ["2", "10"]);
    assert_eq!(gauges(), ["2", "0"]);
}

/// A statement that was always short met a lock, and all behind it waited for it to the end of their attempts.
#[tokio::test(start_paused = true)]
async fn a_slow_statement_keeps_its_neighbours_waiting_for_a_moment_only() {
    let server = server();
    let kit = start(&server, 1).await;
    server.fault(At::statement("SELECT slow"), Fault::Delay(Duration::from_millis(600)));
    let answers = read_many(&kit, [13].into_iter().chain(1..6)).await;
    for (value, fresh, took) in &answers {
        assert!(*fresh && *took < Duration::from_millis(100), "{value:?} {fresh} {took:?}");
    }
    assert_eq!(server.counts().cancels, 0, "a cancel could hit a neighbour");
    sleep(Duration::from_secs(2)).await;
    assert!(read_many(&kit, 1..30).await.iter().all(|(_, fresh, _)| *fresh));
}

/// The connection breaks with many questions on it: each is asked again, and the database does not count as away.
#[tokio::test(start_paused = true)]
async fn the_loss_of_a_lane_is_no_outage() {
    let server = server();
    let kit = start(&server, 1).await;
    server.fault(At::statement("SELECT title"), Fault::Reset);
    let ids = || (0..20).map(|id| 1 + id % 5);
    let answers = read_many(&kit, ids()).await;
    let fresh = answers.iter().filter(|(_, fresh, _)| *fresh).count();
    assert!(fresh >= 5, "the budget for retries lets {fresh} be asked again, the others get what is kept");
    assert_eq!(server.faults_waiting(), 0);
    assert!(read(&kit, 1).await.1, "no circuit is open");
    sleep(Duration::from_secs(1)).await;
    assert!(read_many(&kit, ids()).await.iter().all(|(_, fresh, _)| *fresh));
}

/// After a change of the schema each lane's prepared statements are made anew.
#[tokio::test(start_paused = true)]
async fn an_outdated_plan_heals_on_a_lane() {
    let server = server();
    let kit = start(&server, 1).await;
    server.fault(At::statement("SELECT title"), Fault::StalePlan);
    assert!(read(&kit, 1).await.1);
    assert_eq!(server.faults_waiting(), 0);
}

/// Packets vanish: nobody waits longer than the deadline, and the circuit opens within one, though the silence of a lane
/// is one failure only.
#[tokio::test(start_paused = true)]
async fn a_black_hole_opens_the_circuit_within_one_deadline() {
    let server = server();
    let kit = start(&server, 2).await;
    server.silence();
    let began = Instant::now();
    let answers = read_many(&kit, (0..40).map(|id| 1 + id % 5)).await;
    assert!(answers.iter().all(|(_, fresh, took)| !fresh && *took <= Duration::from_millis(2_100)));
    sleep(Duration::from_secs(2).saturating_sub(began.elapsed())).await;
    let (_, fresh, took) = read(&kit, 1).await;
    assert!(!fresh && took < Duration::from_millis(10), "the circuit is closed: {took:?}");
}

/// What is served in an outage is what lanes answered before.
#[tokio::test(start_paused = true)]
async fn answers_of_a_lane_are_kept_for_an_outage() {
    let server = server();
    let kit = start(&server, 2).await;
    assert!(read(&kit, 77).await.1);
    let kept = kit.db.cache().peek(&CacheKey::shared("title 77"), Instant::now()).unwrap();
    assert_eq!(kept.value().and_then(Bytes::decode), Some(answer(77)));
    server.outage();
    assert_eq!(read(&kit, 77).await.0, answer(77));
}
