//! A primary and its standby, both known to the library: the primary dies under load, the standby is promoted, the old
//! primary comes back. Nothing that was acknowledged is lost or doubled, and nothing is written to the old one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ridethrough::{
    DbConfig, Deadline,
    cache::{CacheKey, Freshness, StaleReason},
    db::{Query, Read, Source, Statements, WriteError, Written},
    error::ErrorClass,
};
use ridethrough_chaos::{Cluster, RunFolder};
use ridethrough_tests::until;
use tokio::time::{Instant, sleep};

use crate::service::{Service, as_service, database, effects_of, standby_of};

const LIMIT: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(2);
const WRITERS: usize = 4;
/// Slower than the journal is replayed on a busy machine: who writes faster than that sees no commit while a backlog is
/// left, because a write goes behind it.
const WRITE_EVERY: Duration = Duration::from_millis(25);

/// Asks whoever the bound allows, and is never answered from memory.
#[derive(Clone)]
struct Anybody(Option<Duration>);

impl Query for Anybody {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "anybody"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared(format_args!("anybody:{}", fastrand::u64(..)))
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        let row = statements.row("SELECT pg_is_in_recovery()::text", &[]).await?;
        Ok(row.map(|row| Bytes::from(row.get::<_, String>(0))))
    }

    fn max_staleness(&self) -> Option<Duration> {
        self.0
    }
}

struct Pair {
    folder: RunFolder,
    primary: Cluster,
    standby: Cluster,
}

impl Pair {
    async fn start() -> Self {
        let (folder, primary) = database(&[]).await;
        let standby = standby_of(&primary).await;
        Self { folder, primary, standby }
    }

    /// From here on no COMMIT is answered before the standby has it.
    async fn synchronous(&self) {
        let admin = self.primary.connect(LIMIT).await.expect("the primary answers");
        admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.expect("it can be set");
        admin.batch_execute("SELECT pg_reload_conf()").await.expect("settings can be read again");
        admin.batch_execute("CHECKPOINT").await.expect("it can be asked");
        let sql = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
        let is_sync = async || admin.query_opt(sql, &[]).await.expect("it answers").map(|_| ());
        until("the standby is synchronous", LIMIT, is_sync).await;
    }

    fn config(&self) -> DbConfig {
        let direct = format!("127.0.0.1:{}", self.primary.port());
        let both = format!("{direct},127.0.0.1:{}", self.standby.port());
        DbConfig { url: self.primary.url().replace(&direct, &both), ..DbConfig::default() }
    }
}

async fn read(service: &Service, bound: Option<Duration>) -> Result<Read<Bytes>, ridethrough::Error> {
    service.db.read(&Anybody(bound), Deadline::after(Instant::now(), DEADLINE)).await
}

fn is_from_primary(read: &Read<Bytes>) -> bool {
    read.source() == Source::Primary
        && read.clone().into_fresh().is_ok_and(|value| value.as_deref() == Some(b"false"))
}

/// What a writer was told about one key, and when it began.
type Told = (String, Instant, Result<Written, WriteError>);

fn writers(service: &Arc<Service>) -> Vec<tokio::task::JoinHandle<Vec<Told>>> {
    let writer = |writer| {
        let service = Arc::clone(service);
        tokio::spawn(async move {
            let mut told = Vec::new();
            while !service.has_ended() {
                let (key, began) = (format!("pair-{writer}-{}", told.len()), Instant::now());
                let written = service.put(&key, DEADLINE).await;
                told.push((key, began, written));
                sleep(WRITE_EVERY).await;
            }
            told
        })
    };
    (0..WRITERS).map(writer).collect()
}

/// While no host takes writes, the standby answers reads, and says so.
async fn standby_serves(service: &Service) {
    let answers = async || read(service, None).await.ok();
    let answered = until("the standby answers", LIMIT, answers).await;
    assert!(matches!(answered.source(), Source::Standby { host: 1, .. }), "{answered:?}");
    assert!(
        matches!(answered.freshness(), Freshness::Stale { reason: StaleReason::Standby, .. }),
        "{answered:?}"
    );
    assert_eq!(answered.into_parts().0.as_deref(), Some(&b"true"[..]));
    let bounded = read(service, Some(Duration::from_secs(60))).await.expect("it is within the bound");
    let Source::Standby { host: 1, lag } = bounded.source() else { panic!("{bounded:?}") };
    assert!(lag <= Duration::from_secs(60), "{lag:?}");
    let strict = read(service, Some(Duration::ZERO)).await;
    assert!(strict.is_err(), "only the primary will do, and there is none: {strict:?}");
    let narrow = read(service, Some(Duration::from_micros(1))).await;
    assert!(narrow.is_err(), "no standby is that near: {narrow:?}");
}

async fn all_effects(client: &tokio_postgres::Client) -> i64 {
    client.query_one("SELECT count(*) FROM effects", &[]).await.expect("it answers").get(0)
}

fn fenced(service: &Service, host: usize) -> Option<String> {
    let state = service.db.state(Instant::now());
    let reason = state.get("hosts")?.get(host)?.get("fenced")?;
    reason.as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_primary_takes_nothing_with_it_and_is_not_written_to_when_it_returns() {
    let pair = Pair::start().await;
    pair.synchronous().await;
    let service = Arc::new(Service::start(pair.config()).await);
    for bound in [None, Some(Duration::ZERO), Some(LIMIT)] {
        let answered = read(&service, bound).await.expect("the primary answers");
        assert!(is_from_primary(&answered), "{answered:?}");
    }
    let writing = writers(&service);
    sleep(Duration::from_millis(700)).await;
    pair.primary.kill().await.expect("a running primary can be killed");
    let killed = Instant::now();
    standby_serves(&service).await;
    // A promotion that comes at once leaves no write anything to wait for.
    service.has_backlog().await;
    let asked = Instant::now();
    pair.standby.promote().await.expect("it is promoted");
    let promoted = Instant::now();
    let committed = async || {
        let key = format!("after-{}", fastrand::u64(..));
        matches!(service.put(&key, DEADLINE).await, Ok(Written::Committed { .. })).then_some(())
    };
    until("writes are committed again", LIMIT, committed).await;
    let back = promoted.elapsed();
    let answered = read(&service, Some(Duration::ZERO)).await.expect("there is a primary again");
    assert!(is_from_primary(&answered), "{answered:?}");

    // The old one returns as what it was: a primary that takes writes, if anybody sends it one.
    pair.primary.start_again().await.expect("it starts again");
    let old = pair.primary.connect(LIMIT).await.expect("the old primary answers");
    let before = all_effects(&old).await;
    until("the old primary is fenced", LIMIT, async || fenced(&service, 0)).await;
    sleep(Duration::from_secs(1)).await;
    service.end();
    let mut told = Vec::new();
    for writer in writing {
        told.extend(writer.await.expect("a writer does not panic"));
    }
    service.has_settled().await;
    assert_eq!(all_effects(&old).await, before, "written to the old primary");
    let new = as_service(&pair.standby.url()).await;
    let counts = judge(&service, &new, &old, promoted, &told).await;
    crate::say(&format!(
        "pair: {} writes: {counts:?}; promotion took {:?}, committed again {back:?} after it, {:?} after the loss; \
         old primary fenced as {:?}",
        told.len(),
        promoted - asked,
        promoted + back - killed,
        fenced(&service, 0)
    ));
    assert!(counts.committed > 0 && counts.accepted > 0);
    drop(pair.folder);
}

#[derive(Debug, Default)]
struct Counts {
    committed: usize,
    accepted: usize,
    refused: usize,
    unknown: usize,
}

/// Each key on the new primary against what its writer was told; none that was begun after the promotion on the old one.
async fn judge(
    service: &Service,
    new: &tokio_postgres::Client,
    old: &tokio_postgres::Client,
    promoted: Instant,
    told: &[Told],
) -> Counts {
    let mut counts = Counts::default();
    for (key, began, written) in told {
        let found = effects_of(new, key).await;
        match written {
            Ok(Written::Journaled { .. }) => {
                counts.accepted += 1;
                assert_eq!(found, 1, "{key}: accepted");
            }
            Ok(_) => {
                counts.committed += 1;
                assert_eq!(found, 1, "{key}: committed");
            }
            Err(WriteError::Unknown(_)) => {
                counts.unknown += 1;
                assert!(found <= 1, "{key}: doubled");
                assert!(service.put(key, DEADLINE).await.is_ok(), "{key}");
                assert_eq!(effects_of(new, key).await, 1, "{key}: resolved under its key");
            }
            Err(_) => {
                counts.refused += 1;
                assert_eq!(found, 0, "{key}: refused");
            }
        }
        if *began > promoted {
            assert_eq!(effects_of(old, key).await, 0, "{key}: on the old primary");
        }
    }
    counts
}

/// A managed failover often begins with a primary that goes on living and takes no more writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_primary_says_25006_and_writes_go_where_the_promotion_was() {
    let pair = Pair::start().await;
    let mut config = pair.config();
    config.write.attempts = 1;
    // So that a write finds out, and not the prober.
    config.probe.every = Duration::from_secs(2);
    let service = Service::start(config).await;
    assert!(matches!(service.put("before", DEADLINE).await, Ok(Written::Committed { .. })));
    let admin = pair.primary.connect(LIMIT).await.expect("the primary answers");
    admin.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.expect("it can be set");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("settings can be read again");
    let set = async || {
        let row = admin.query_one("SELECT current_setting('default_transaction_read_only')", &[]).await;
        (row.expect("it answers").get::<_, String>(0) == "on").then_some(())
    };
    until("the setting holds", LIMIT, set).await;
    let work = async move |statements: &Statements<'_>| {
        statements.run("INSERT INTO effects (key) VALUES ('nowhere')", &[]).await?;
        Ok::<_, ridethrough::db::ApplyError>(())
    };
    let options = ridethrough::db::TransactionOptions::new("effect");
    let refused = service.db.transaction(options, Deadline::after(Instant::now(), DEADLINE), work).await;
    let error = refused.error().expect("it takes no writes");
    assert_eq!((error.code(), error.class()), (Some("25006"), ErrorClass::Failover), "{error}");
    let during = service.put("during", DEADLINE).await;
    assert!(matches!(during, Ok(Written::Journaled { .. })), "{during:?}");
    pair.standby.promote().await.expect("it is promoted");
    service.has_settled().await;
    let new = as_service(&pair.standby.url()).await;
    let old = as_service(&pair.primary.url()).await;
    assert_eq!((effects_of(&new, "before").await, effects_of(&new, "during").await), (1, 1));
    assert_eq!(effects_of(&old, "during").await, 0);
    assert_eq!(effects_of(&new, "nowhere").await + effects_of(&old, "nowhere").await, 0);
}

/// A migration was begun at a standby, because that stood first in the URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_no_service_gets_the_primary_wherever_it_stands_and_a_standby_for_want_of_one() {
    let pair = Pair::start().await;
    let both = pair.config().url;
    let [one, other] = [&pair.primary, &pair.standby].map(|host| format!("127.0.0.1:{}", host.port()));
    let turned = both.replace(&format!("{one},{other}"), &format!("{other},{one}"));
    assert_ne!(turned, both);
    let answers_at_standby = async |url: &str| {
        let config = DbConfig { url: url.to_owned(), ..DbConfig::default() };
        let client = config.connect(LIMIT).expect("the URL is sound").await.expect("a host answers");
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.expect("it answers");
        row.get::<_, bool>(0)
    };
    assert_eq!((answers_at_standby(&both).await, answers_at_standby(&turned).await), (false, false));
    pair.primary.kill().await.expect("it can be killed");
    assert_eq!((answers_at_standby(&both).await, answers_at_standby(&turned).await), (true, true));
}
