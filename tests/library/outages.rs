//! A database that goes away under load, seen from the network: how often it is asked for while it is away and when it is
//! back, and how long callers wait when packets vanish.

use std::{sync::Arc, time::Duration};

use ridethrough::{DbConfig, health::DatabasePart};
use ridethrough_tests::{until, wire};
use tokio::time::{Instant, sleep};

use crate::service::{Service, database};

/// Connections, and callers that want one at any time.
const POOL: usize = 40;
/// What a caller asks: too long for a lane, so that each caller keeps a connection of the pool busy.
const QUESTION: &str = "SELECT 'x' FROM pg_sleep(0.05)";
/// How many connections of the pool there are: the prober asks other questions.
const IN_POOL: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FROM pg_sleep(%' AND pid <> pg_backend_pid()";
/// On a machine that does much else, making that many takes its time.
const FILLED_LIMIT: Duration = Duration::from_secs(60);
const AWAY: Duration = Duration::from_secs(3);
/// Calls that were under way when the database went may still dial until the breaker has opened.
const NOTICED: Duration = Duration::from_millis(500);
const BIN: Duration = Duration::from_millis(50);
/// The prober asks on its own, twice in a row where its session is old.
const PROBES: usize = 2;

fn most_within(arrivals: &[Instant], window: Duration) -> usize {
    let count = |(index, first): (usize, &Instant)| {
        arrivals.get(index..).unwrap_or_default().iter().take_while(|at| **at < *first + window).count()
    };
    arrivals.iter().enumerate().map(count).max().unwrap_or_default()
}

fn callers(service: &Arc<Service>, count: usize, limit: Duration) -> Vec<tokio::task::JoinHandle<Duration>> {
    let caller = |_| {
        let service = Arc::clone(service);
        tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            loop {
                let began = Instant::now();
                let answer = service.text(QUESTION, limit).await;
                slowest = slowest.max(began.elapsed());
                if service.has_ended() {
                    return slowest;
                }
                if answer.is_err() {
                    // A caller that is refused comes again, but not at once.
                    sleep(Duration::from_millis(20)).await;
                }
            }
        })
    };
    (0..count).map(caller).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_is_no_storm_of_connections() {
    /// Longer than a dial takes on a busy machine.
    const CALL: Duration = Duration::from_secs(3);
    let (_folder, cluster) = database(&[]).await;
    let wire = wire::to(cluster.port()).await;
    let url = wire.through(&cluster.url()).expect("the URL leads to the cluster");
    let mut config = DbConfig { url, ..DbConfig::default() };
    // All callers at once, however slow the machine is.
    (config.bulkhead.permits, config.bulkhead.adaptive) = (POOL, false);
    config.read.attempt = CALL;
    let service = Arc::new(Service::start(config).await);
    let callers = callers(&service, POOL, CALL);
    let admin = cluster.connect(CALL).await.expect("the database answers");
    let filled = async || {
        let count: i64 = admin.query_one(IN_POOL, &[]).await.expect("it answers").get(0);
        (usize::try_from(count) == Ok(POOL)).then_some(())
    };
    until("all connections are made", FILLED_LIMIT, filled).await;
    cluster.kill().await.expect("a running database can be killed");
    let gone = Instant::now();
    sleep(AWAY).await;
    let starting = Instant::now();
    cluster.start_again().await.expect("it starts again");
    let back = Instant::now();
    service.sees_database(AWAY * 3).await;
    sleep(AWAY).await;
    service.end();
    for caller in callers {
        caller.await.expect("a caller does not panic");
    }
    let between = |from: Instant, to: Instant| -> Vec<Instant> {
        wire.arrivals().into_iter().filter(|at| (from..to).contains(at)).collect()
    };
    let noticing = between(gone, gone + NOTICED).len();
    let away = between(gone + NOTICED, starting);
    let after = between(back, Instant::now());
    let (second, bin) = (most_within(&after, Duration::from_secs(1)), most_within(&after, BIN));
    crate::say(&format!(
        "connections asked for: {noticing} in the first {NOTICED:?}, then {} in {:?} away (at most {} in 100 ms); \
         after the return {} in all, at most {second} in a second and {bin} in {BIN:?}",
        away.len(),
        starting - gone - NOTICED,
        most_within(&away, Duration::from_millis(100)),
        after.len(),
    ));
    assert!(most_within(&away, Duration::from_millis(100)) <= PROBES, "more than one per step while away");
    assert!(second <= POOL + PROBES, "{second} in one second");
    assert!(bin * 10 <= (POOL + PROBES) * 3, "{bin} in {BIN:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vanishing_packets_open_the_breaker_within_a_deadline_and_nobody_waits_longer() {
    const DEADLINE: Duration = Duration::from_secs(1);
    /// What a busy machine adds; the figure itself is printed.
    const SLACK: Duration = Duration::from_secs(1);
    let (_folder, cluster) = database(&[]).await;
    let wire = wire::to(cluster.port()).await;
    let url = wire.through(&cluster.url()).expect("the URL leads to the cluster");
    let config = DbConfig { url, ..DbConfig::default() };
    let service = Arc::new(Service::start(config).await);
    let callers = callers(&service, 8, DEADLINE);
    sleep(Duration::from_millis(500)).await;
    let hole = wire.black_hole();
    let vanished = Instant::now();
    let tripped = async || (service.db.parts(Instant::now()).0 != DatabasePart::Up).then_some(());
    until("the breaker opens", DEADLINE + SLACK, tripped).await;
    let opened = vanished.elapsed();
    sleep(Duration::from_secs(2)).await;
    let written = service.put("meanwhile", DEADLINE).await;
    assert!(matches!(written, Ok(ridethrough::db::Written::Journaled { .. })), "{written:?}");
    drop(hole);
    let mended = Instant::now();
    let fresh = async || service.text("SELECT 'x'", DEADLINE).await.ok().map(|_| ());
    until("answers again", Duration::from_secs(10), fresh).await;
    let answered = mended.elapsed();
    service.has_settled().await;
    service.end();
    let mut slowest = Duration::ZERO;
    for caller in callers {
        slowest = slowest.max(caller.await.expect("a caller does not panic"));
    }
    crate::say(&format!(
        "packets vanished: open after {opened:?}, slowest caller {slowest:?} of {DEADLINE:?}, answers {answered:?} after"
    ));
    assert!(opened <= DEADLINE + SLACK, "{opened:?}");
    assert!(slowest <= DEADLINE + SLACK, "{slowest:?}");
}
