//! What one user sees at two replicas of one database: never an older state than he saw or wrote at the other one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ridethrough::{
    Deadline,
    cache::{CacheKey, Freshness, ReadPolicy, StaleReason},
    db::{DbConfig, Query, Read, Statements, UserSession},
    error::{Error as PathError, RejectReason},
    testkit::TestDb,
};
use tokio::time::sleep;

use super::{kit::*, path::Shop};

const SECOND: Duration = Duration::from_secs(1);
/// What the database answers once the thing is gone.
const GONE: u64 = 0;

/// One thing, whose answer is its version.
#[derive(Clone, Default)]
struct Thing(ReadPolicy);

impl Query for Thing {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "thing"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("thing")
    }

    fn policy(&self) -> ReadPolicy {
        ReadPolicy { negative_for: SECOND * 600, ..self.0 }
    }

    fn version(&self, answer: &Bytes) -> Option<u64> {
        std::str::from_utf8(answer).ok()?.parse().ok()
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let row = statements.row("SELECT version FROM things", &[]).await?;
        row.map(|row| row.try_get::<_, String>(0).map(Bytes::from)).transpose()
    }
}

/// Two replicas, and what the database holds.
struct Replicas {
    server: FakePostgres,
    version: Arc<AtomicU64>,
    one: TestDb,
    two: TestDb,
}

impl Replicas {
    async fn start() -> Self {
        let version = Arc::new(AtomicU64::new(1));
        let shown = Arc::clone(&version);
        let answer = move |_: &ridethrough::testkit::Call<'_>| match shown.load(Ordering::SeqCst) {
            GONE => vec![],
            version => vec![(version.to_string(),)],
        };
        let server = FakePostgres::builder()
            .schema("CREATE TABLE things (version text)")
            .on("SELECT version FROM things", Reply::computed(["version"], answer))
            .start();
        let start = || TestDb::start(&server, DbConfig::default(), Arc::new(Shop));
        let (one, two) = (start().await.unwrap(), start().await.unwrap());
        sleep(SECOND).await;
        Self { server, version, one, two }
    }

    fn becomes(&self, version: u64) {
        self.version.store(version, Ordering::SeqCst);
    }

    async fn outage(&self) {
        self.server.outage();
        sleep(SECOND * 2).await;
    }
}

/// Reads with what the client carries from one replica to the other.
async fn read(at: &TestDb, token: &mut String, query: &Thing) -> Result<Read<Bytes>, PathError> {
    let mut session = UserSession::from_token(token);
    let read = at.db.read_in(&mut session, query, Deadline::after(Instant::now(), SECOND * 2)).await;
    *token = session.to_token();
    read
}

fn version(read: Result<Read<Bytes>, PathError>) -> Option<String> {
    let value = read.unwrap().into_parts().0?;
    Some(String::from_utf8_lossy(&value).into_owned())
}

fn is_refused(read: &Result<Read<Bytes>, PathError>) -> bool {
    matches!(read, Err(PathError::Rejected { reason: RejectReason::BehindSession, .. }))
}

/// A user saw his change at one replica; in an outage the next request went to the other one, which showed what had been
/// before it.
#[tokio::test(start_paused = true)]
async fn nobody_is_shown_an_older_state_at_another_replica() {
    let replicas = Replicas::start().await;
    let (mut his, mut others) = (String::new(), String::new());
    let thing = Thing::default();
    assert_eq!(version(read(&replicas.two, &mut others, &thing).await).unwrap(), "1");
    replicas.becomes(2);
    assert_eq!(version(read(&replicas.one, &mut his, &thing).await).unwrap(), "2");
    replicas.outage().await;
    let refused = read(&replicas.two, &mut his, &thing).await;
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(version(read(&replicas.one, &mut his, &thing).await).unwrap(), "2", "a refusal loses nothing");
    assert_eq!(
        version(read(&replicas.two, &mut others, &thing).await).unwrap(),
        "1",
        "who saw no more is served"
    );
    replicas.server.recover();
    sleep(SECOND * 10).await;
    let read = read(&replicas.two, &mut his, &thing).await;
    assert_eq!((read.as_ref().unwrap().freshness(), version(read)), (Freshness::Fresh, Some("2".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_does_not_come_back_at_another_replica() {
    let replicas = Replicas::start().await;
    let (mut his, thing) = (String::new(), Thing::default());
    assert_eq!(version(read(&replicas.two, &mut his, &thing).await).unwrap(), "1");
    replicas.becomes(GONE);
    assert_eq!(version(read(&replicas.one, &mut his, &thing).await), None);
    replicas.outage().await;
    let refused = read(&replicas.two, &mut his, &thing).await;
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(version(read(&replicas.one, &mut his, &thing).await), None);
}

/// The other way round: one replica remembers that there was nothing yet.
#[tokio::test(start_paused = true)]
async fn what_was_made_does_not_vanish_at_another_replica() {
    let replicas = Replicas::start().await;
    let (mut his, thing) = (String::new(), Thing::default());
    replicas.becomes(GONE);
    assert_eq!(version(read(&replicas.two, &mut his, &thing).await), None);
    replicas.becomes(1);
    assert_eq!(version(read(&replicas.one, &mut his, &thing).await).unwrap(), "1");
    replicas.outage().await;
    let refused = read(&replicas.two, &mut his, &thing).await;
    assert!(is_refused(&refused), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn where_what_is_kept_is_too_old_for_a_user_the_database_is_asked() {
    let replicas = Replicas::start().await;
    let (mut his, mut others) = (String::new(), String::new());
    let thing = Thing(ReadPolicy { fresh_for: SECOND * 60, ..ReadPolicy::default() });
    version(read(&replicas.two, &mut others, &thing).await);
    replicas.becomes(2);
    version(read(&replicas.one, &mut his, &thing).await);
    let kept = read(&replicas.two, &mut others, &thing).await.unwrap();
    assert!(matches!(kept.freshness(), Freshness::Stale { reason: StaleReason::Kept, .. }), "{kept:?}");
    let asked = read(&replicas.two, &mut his, &thing).await.unwrap();
    assert_eq!((asked.freshness(), version(Ok(asked))), (Freshness::Fresh, Some("2".to_owned())));
}
