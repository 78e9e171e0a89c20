//! Two replicas on one database: what one of them changes must not be served as fresh by the other, also where the notice of
//! it was missed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ridethrough::{
    DbConfig,
    cache::{CacheKey, ReadPolicy, Tags, Usable},
    db::{Applied, ApplyError, BoxFuture, Command, Commands, Pooler, Statements, Written},
};
use ridethrough_chaos::Cluster;
use ridethrough_chaos::pgwire::Proxy;
use ridethrough_tests::{pooler::PgBouncer, until, wire};
use tokio::time::Instant;

use crate::service::{Put, Service, as_service, database, standby_of};

const LIMIT: Duration = Duration::from_secs(10);
const POLICY: ReadPolicy = ReadPolicy {
    fresh_for: Duration::from_secs(3_600),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::MAX,
    negative_for: Duration::ZERO,
};

/// As [`Put`], with the key of the write as the tag of what it changes.
struct Tagged;

impl Commands for Tagged {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Put.apply(statements, command, replayed)
    }

    fn tags(&self, command: &Command) -> Tags {
        Tags::of([command.key.clone()])
    }
}

fn config(url: String) -> DbConfig {
    DbConfig { url, notices: true, ..DbConfig::default() }
}

async fn replica(url: String) -> Service {
    Service::start_with(config(url), Arc::new(Tagged)).await
}

/// A replica whose way to the database can be cut.
async fn cuttable(cluster: &Cluster) -> (Service, Proxy) {
    let wire = wire::to(cluster.port()).await;
    let url = wire.through(&cluster.url()).expect("the URL leads to the cluster");
    (replica(url).await, wire)
}

/// Keeps an answer that is made of `tag`, as if it had just been asked for.
fn keep(service: &Service, tag: &'static str) {
    let now = Instant::now();
    let fill = service.db.cache().fill(now, now);
    fill.put_tagged(&CacheKey::shared(tag), Bytes::from_static(b"kept"), || Tags::of([tag]));
}

fn usable(service: &Service, tag: &str) -> Option<Usable> {
    let cached = service.db.cache().peek(&CacheKey::shared(tag), Instant::now());
    cached.map(|cached| cached.usable(&POLICY))
}

async fn becomes(service: &Service, tag: &'static str, wanted: Usable) {
    let is = async || (usable(service, tag) == Some(wanted)).then_some(());
    until(&format!("{tag} is {wanted:?}"), LIMIT, is).await;
}

/// Waits until changes are heard: only then is a new answer fresh.
async fn listens(service: &Service) {
    let fresh = async || {
        keep(service, "listening?");
        (usable(service, "listening?") == Some(Usable::Fresh)).then_some(())
    };
    until("changes are heard", LIMIT, fresh).await;
}

async fn writes(service: &Service, key: &str) {
    let written = service.put(key, LIMIT).await;
    assert!(matches!(written, Ok(Written::Committed { .. })), "{written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_changes_is_not_fresh_at_another() {
    let (_folder, cluster) = database(&[]).await;
    let (one, other) = (replica(cluster.url()).await, replica(cluster.url()).await);
    listens(&one).await;
    listens(&other).await;
    for service in [&one, &other] {
        keep(service, "changed");
        keep(service, "it's; another -- \\");
    }
    writes(&one, "changed").await;
    assert_eq!(usable(&one, "changed"), Some(Usable::IfError), "its own change counts at once");
    becomes(&other, "changed", Usable::IfError).await;
    assert_eq!(usable(&other, "it's; another -- \\"), Some(Usable::Fresh), "the rest stays");
    writes(&one, "it's; another -- \\").await;
    becomes(&other, "it's; another -- \\", Usable::IfError).await;
    keep(&other, "changed");
    assert_eq!(usable(&other, "changed"), Some(Usable::Fresh), "asked for anew");
}

/// A connection was lost, a change was committed meanwhile, the connection came back, and the kept answer from before was
/// served as fresh for as long as its time ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_before_a_gap_is_not_fresh_after_it() {
    let (_folder, cluster) = database(&[]).await;
    let one = replica(cluster.url()).await;
    let (other, wire) = cuttable(&cluster).await;
    listens(&other).await;
    keep(&other, "changed");
    keep(&other, "unchanged");
    assert_eq!(usable(&other, "changed"), Some(Usable::Fresh));
    let cut_off = wire.shut();
    becomes(&other, "unchanged", Usable::IfError).await;
    keep(&other, "in the gap");
    assert_eq!(
        usable(&other, "in the gap"),
        Some(Usable::IfError),
        "nothing is fresh while nothing is heard"
    );
    writes(&one, "changed").await;
    drop(cut_off);
    listens(&other).await;
    for tag in ["changed", "unchanged", "in the gap"] {
        assert_eq!(usable(&other, tag), Some(Usable::IfError), "{tag}");
    }
}

/// Whoever goes on listening to a server that is no primary any more hears nothing, and takes what it keeps for fresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_changes_are_heard_from_the_new_primary_and_what_was_kept_before_is_not_fresh() {
    let (folder, cluster) = database(&[]).await;
    let standby = standby_of(&cluster).await;
    let direct = format!("127.0.0.1:{}", cluster.port());
    let both = cluster.url().replace(&direct, &format!("{direct},127.0.0.1:{}", standby.port()));
    let (one, other) = (replica(both.clone()).await, replica(both).await);
    listens(&other).await;
    keep(&other, "changed");
    keep(&other, "unchanged");
    assert_eq!(usable(&other, "unchanged"), Some(Usable::Fresh));
    cluster.kill().await.expect("a running primary can be killed");
    becomes(&other, "unchanged", Usable::IfError).await;
    keep(&other, "in the gap");
    assert_eq!(usable(&other, "in the gap"), Some(Usable::IfError));
    standby.promote().await.expect("it is promoted");
    let committed = async || {
        let written = one.put("changed", LIMIT).await;
        matches!(written, Ok(Written::Committed { .. })).then_some(())
    };
    until("writes are committed again", LIMIT, committed).await;
    listens(&other).await;
    for tag in ["changed", "unchanged", "in the gap"] {
        assert_eq!(usable(&other, tag), Some(Usable::IfError), "{tag}");
    }
    keep(&other, "after");
    keep(&other, "another");
    writes(&one, "after").await;
    becomes(&other, "after", Usable::IfError).await;
    assert_eq!(usable(&other, "another"), Some(Usable::Fresh), "the rest stays");
    // The server that listened first is back as it was, and nobody hears what it says.
    cluster.start_again().await.expect("it starts again");
    let old = as_service(&cluster.url()).await;
    for _ in 0..20 {
        let told = "SELECT pg_notify('ridethrough_changes', '1 somebody another')";
        old.batch_execute(told).await.expect("it answers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(usable(&other, "another"), Some(Usable::Fresh), "it was heard");
    drop(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_out_of_the_journal_is_told_when_it_is_applied() {
    let (_folder, cluster) = database(&[]).await;
    let (one, wire) = cuttable(&cluster).await;
    let other = replica(cluster.url()).await;
    listens(&other).await;
    let cut_off = wire.shut();
    let written = one.put("journaled", LIMIT).await;
    assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
    keep(&other, "journaled");
    assert_eq!(usable(&other, "journaled"), Some(Usable::Fresh), "nothing was committed");
    drop(cut_off);
    becomes(&other, "journaled", Usable::IfError).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_changes_are_told_and_not_listened_for() {
    let (folder, cluster) = database(&[]).await;
    let Some(pooler) = PgBouncer::before(&cluster.url(), &folder, 2).await else {
        return crate::say("skipped: pgbouncer is not installed");
    };
    let mut pooled = config(pooler.url().to_owned());
    pooled.pool.pooler = Pooler::PgBouncer;
    let pooled = Service::start_with(pooled, Arc::new(Tagged)).await;
    let direct = replica(cluster.url()).await;
    listens(&direct).await;
    keep(&direct, "pooled");
    keep(&pooled, "direct");
    writes(&pooled, "pooled").await;
    becomes(&direct, "pooled", Usable::IfError).await;
    writes(&direct, "direct").await;
    assert_eq!(usable(&pooled, "direct"), Some(Usable::Fresh), "its time alone decides");
}
