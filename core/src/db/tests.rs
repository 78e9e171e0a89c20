//! The database path against a port where nobody listens: what can be promised without any PostgreSQL.
//!
//! What needs a real one is in the end-to-end tests.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{writes::News, *};
use crate::{
    breaker::BreakerState,
    cache::{CacheKey, StaleReason, Tags},
    error::ErrorClass,
    health::JournalPart,
    journal::{Journal, JournalConfig},
};

/// Counts what it is told and applies nothing: no transaction is ever reached here.
#[derive(Default)]
struct Told {
    accepted: AtomicUsize,
}

impl Commands for Told {
    fn apply<'c>(
        &'c self,
        _statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        unreachable!("there is no database to apply anything to")
    }

    fn accepted(&self, _command: &Command) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Answer;

impl Query for Answer {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "answer"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("answer")
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        let row = statements.row("SELECT 'x'", &[]).await?;
        Ok(row.map(|row| Bytes::from(row.get::<_, String>(0))))
    }
}

/// Accepts connections and never says a word: a PostgreSQL that was stopped.
fn silent_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The state of the only host's two circuits, the worse one.
fn breaker(db: &Db) -> BreakerState {
    let states = [Circuit::Reads, Circuit::Writes]
        .map(|circuit| db.0.hosts.main_circuit(circuit).unwrap().state(Instant::now()));
    states.into_iter().find(|state| *state != BreakerState::Closed).unwrap_or(BreakerState::Closed)
}

struct Outage {
    db: Db,
    journal: Journal,
    told: Arc<Told>,
    writer: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Outage {
    /// A database whose port is refused, with a journal on a real disk.
    fn begin() -> Self {
        let (refusing, port) = silent_port();
        drop(refusing);
        Self::at(port)
    }

    fn at(port: u16) -> Self {
        Self::of_url(&format!("postgres://app:secret@127.0.0.1:{port}/todos"))
    }

    fn of_url(url: &str) -> Self {
        Self::with(DbConfig { url: url.to_owned(), ..DbConfig::default() })
    }

    /// The same as [`begin`](Self::begin) without sockets, for a paused clock: it does not wait for the kernel.
    fn in_memory() -> Self {
        let fake = session::fake::Fake::default();
        fake.is_away.store(true, Ordering::SeqCst);
        let mut config = DbConfig { url: "postgres://app@memory/todos".to_owned(), ..DbConfig::default() };
        config.pool.connector = Connecting::through(Arc::new(session::fake::ToFake(Arc::new(fake))));
        Self::with(config)
    }

    fn with(config: DbConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (journal, writer, _) = Journal::open(JournalConfig::new(folder.path())).unwrap();
        let writer = std::thread::spawn(move || writer.run());
        let told = Arc::new(Told::default());
        let commands: Arc<dyn Commands> = told.clone();
        let (db, _background) = Db::new(config, CacheConfig::default(), journal.clone(), commands).unwrap();
        db.set_schema(SchemaPart::Ok);
        Self { db, journal, told, writer: Some(writer), _folder: folder }
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.journal.close();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(5))
}

fn command(key: &str, fingerprint: u8) -> Command {
    Command {
        key: key.to_owned(),
        name: "answer.set".to_owned(),
        version: 1,
        ordering_key: String::new(),
        payload: Bytes::from_static(b"42"),
        fingerprint: [fingerprint; 32],
        accepted_at: SystemTime::now(),
    }
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test]
async fn a_write_in_an_outage_is_journaled_once_under_its_key() {
    let outage = Outage::begin();
    let first = is_send(outage.db.write(command("k", 1), soon())).await.unwrap();
    let Written::Journaled { sequence, repeated: false } = first else { panic!("{first:?}") };
    let again = outage.db.write(command("k", 1), soon()).await.unwrap();
    assert_eq!(again, Written::Journaled { sequence, repeated: true });
    assert_eq!(outage.told.accepted.load(Ordering::Relaxed), 1);
    let other = outage.db.write(command("k", 2), soon()).await;
    assert!(matches!(other, Err(WriteError::KeyReused)), "{other:?}");
    let status = outage.db.write_status("k", soon()).await.unwrap().unwrap();
    assert_eq!(status.state, WriteState::Pending);
}

#[tokio::test]
async fn fifty_at_once_under_one_key_are_one_entry() {
    let outage = Outage::begin();
    let writes: Vec<_> = (0..50)
        .map(|_| {
            let db = outage.db.clone();
            tokio::spawn(async move { db.write(command("k", 1), soon()).await })
        })
        .collect();
    for write in writes {
        assert!(matches!(write.await.unwrap().unwrap(), Written::Journaled { sequence: 1, .. }));
    }
    assert_eq!(outage.db.0.journal.backlog().entries, 1);
}

#[tokio::test]
async fn a_read_in_an_outage_gives_what_is_kept_and_says_so() {
    let outage = Outage::begin();
    let asked = Instant::now();
    let refused = is_send(outage.db.read(&Answer, soon())).await;
    assert!(refused.is_err());
    outage.db.cache().fill(asked, asked).put(&Answer.cache_key(), Bytes::from_static(b"41"));
    let read = outage.db.read(&Answer, soon()).await.unwrap();
    let (value, freshness, _) = read.into_parts();
    assert_eq!(value.unwrap(), "41");
    assert!(matches!(freshness, Freshness::Stale { reason: StaleReason::DatabaseAway, .. }));
}

/// The same question, for who cannot do with an old answer.
#[derive(Clone)]
struct Exact(Duration);

impl Query for Exact {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "exact"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("answer")
    }

    fn max_staleness(&self) -> Option<Duration> {
        Some(self.0)
    }

    fn tags(&self) -> Tags {
        Tags::of(["answer"])
    }

    fn overlay(&self, base: Base<'_, Bytes>, _pending: &PendingWrites) -> Overlay<Bytes> {
        match base {
            Base::Unknown => Overlay::Becomes(Some(Bytes::from_static(b"promised"))),
            Base::Known(..) => Overlay::Unchanged,
        }
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        Answer.fetch(statements).await
    }
}

/// As `Exact`, and pending writes make of every answer what they promise.
#[derive(Clone)]
struct Laid(Duration);

impl Query for Laid {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "laid"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("answer")
    }

    fn max_staleness(&self) -> Option<Duration> {
        Some(self.0)
    }

    fn tags(&self) -> Tags {
        Tags::of(["answer"])
    }

    fn overlay(&self, _base: Base<'_, Bytes>, _pending: &PendingWrites) -> Overlay<Bytes> {
        Overlay::Becomes(Some(Bytes::from_static(b"promised")))
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        Answer.fetch(statements).await
    }
}

#[tokio::test]
async fn a_read_with_a_bound_takes_no_older_answer_and_is_told_who_gave_it() {
    let outage = Outage::begin();
    let asked = Instant::now();
    outage.db.cache().fill(asked, asked).put(&Answer.cache_key(), Bytes::from_static(b"41"));
    assert!(outage.db.read(&Exact(Duration::ZERO), soon()).await.is_err());
    let read = outage.db.read(&Exact(Duration::from_secs(3_600)), soon()).await.unwrap();
    let (Source::Cache { age }, Freshness::Stale { age: labelled, .. }) = (read.source(), read.freshness())
    else {
        panic!("{read:?}")
    };
    assert_eq!(age, labelled);
}

/// What a write had promised an hour ago was given to a read that could do with ten seconds.
#[tokio::test]
async fn a_read_with_a_bound_takes_no_older_promise() {
    let outage = Outage::begin();
    let minute_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    outage.db.0.overlays.note("k", Arc::new(()), Tags::of(["answer"]), minute_ago, None);
    let read = outage.db.read(&Exact(Duration::from_secs(61)), soon()).await.unwrap();
    assert!(matches!(read.source(), Source::Journal { .. }), "{read:?}");
    assert!(outage.db.read(&Exact(Duration::from_secs(59)), soon()).await.is_err());
}

/// A write whose COMMIT was lost had its effect, another replica changed that again, and then it was journaled: readers were
/// shown the overwritten value, with an age counted from the acceptance.
#[tokio::test]
async fn what_may_have_been_true_long_ago_is_as_old_as_that() {
    let outage = Outage::begin();
    let now = Instant::now();
    let minute_ago = now.checked_sub(Duration::from_secs(60)).unwrap();
    outage.db.0.overlays.note("k", Arc::new(()), Tags::of(["answer"]), now, Some(minute_ago));
    let age_of = async || {
        let read = outage.db.read(&Laid(Duration::from_secs(3_600)), soon()).await.unwrap();
        let Freshness::Stale { age, .. } = read.freshness() else { panic!("{read:?}") };
        age
    };
    assert!(age_of().await >= Duration::from_secs(60), "of nothing but the promise");
    let asked = Instant::now();
    outage.db.cache().fill(asked, asked).put(&Answer.cache_key(), Bytes::from_static(b"41"));
    assert!(age_of().await >= Duration::from_secs(60), "laid over a younger copy");
    // The copy alone is younger than that.
    let read = outage.db.read(&Laid(Duration::from_secs(59)), soon()).await.unwrap();
    assert_eq!(read.into_parts().0.as_deref(), Some(b"41".as_slice()));
}

/// Several hosts are not asked before the prober knows which is which: a write could reach an old primary.
#[tokio::test]
async fn nothing_is_sent_to_several_hosts_before_their_roles_are_known() {
    let (listening, port) = silent_port();
    listening.set_nonblocking(true).unwrap();
    let outage = Outage::of_url(&format!("postgres://app@127.0.0.1:{port},127.0.0.1:{port}/todos"));
    let Err(Error::Rejected { reason, .. }) = outage.db.read(&Answer, soon()).await else {
        panic!("nobody should have been asked")
    };
    assert_eq!(reason, RejectReason::BreakerOpen);
    let written = outage.db.write(command("k", 1), soon()).await.unwrap();
    assert!(matches!(written, Written::Journaled { .. }), "{written:?}");
    assert!(listening.accept().is_err(), "nobody dialled");
}

/// Over sockets the paused clock ran ahead of the kernel's refusals, and after a fixed number of calls the breaker could be
/// half-open again: this failed more often than not.
#[tokio::test(start_paused = true)]
async fn the_breaker_opens_and_then_calls_are_refused_at_once_with_a_time_to_come_back() {
    let outage = Outage::in_memory();
    let mut refused = None;
    for _ in 0..50 {
        match outage.db.read(&Answer, soon()).await {
            Err(Error::Rejected { reason, retry_after, .. }) => {
                refused = Some((reason, retry_after));
                break;
            }
            // Nobody dials between two steps of the pool's backoff, and a call that did not dial says nothing. Longer
            // pauses than this could outlast the open interval, which is drawn at random.
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    let (reason, retry_after) = refused.expect("the breaker should be open");
    assert_eq!(reason, RejectReason::BreakerOpen);
    assert!(!retry_after.is_zero());
    assert_eq!(outage.db.parts(Instant::now()).2, JournalPart::Ok);
}

#[tokio::test]
async fn an_unchecked_schema_is_not_written_to() {
    let outage = Outage::begin();
    outage.db.set_schema(SchemaPart::Unknown);
    let written = outage.db.write(command("k", 1), soon()).await.unwrap();
    assert!(matches!(written, Written::Journaled { .. }));
    assert_eq!(breaker(&outage.db), BreakerState::Closed, "the database was not asked");
}

#[tokio::test]
async fn a_write_that_nobody_takes_says_that_it_had_no_effect() {
    let outage = Outage::begin();
    outage.journal.close();
    let refused = outage.db.write(command("k", 1), soon()).await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
}

/// A database that hung used up the whole deadline of a write, so that nothing was left for the journal: the caller was
/// told "unknown" though the write could have been accepted.
#[tokio::test]
async fn a_short_deadline_leaves_time_for_the_journal_when_the_database_hangs() {
    let (_listening, port) = silent_port();
    let outage = Outage::at(port);
    let deadline = Deadline::after(Instant::now(), Duration::from_millis(400));
    let written = outage.db.write(command("k", 1), deadline).await;
    assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_written_to_neither_now_nor_later() {
    let outage = Outage::begin();
    outage.db.set_schema(SchemaPart::Mismatch);
    let refused = outage.db.write(command("k", 1), soon()).await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    assert_eq!(outage.db.0.journal.backlog().entries, 0);
}

/// A few requests with next to no time left opened the breaker for everybody, and a write among them was accepted into
/// the journal after its caller had been told otherwise.
#[tokio::test]
async fn callers_in_a_hurry_do_not_open_the_breaker_for_others() {
    let (_listening, port) = silent_port();
    let outage = Outage::at(port);
    for milliseconds in [0, 1, 20, 20, 20, 20] {
        let deadline = Deadline::after(Instant::now(), Duration::from_millis(milliseconds));
        assert!(outage.db.read(&Answer, deadline).await.is_err());
    }
    assert_eq!(breaker(&outage.db), BreakerState::Closed);
    let refused = outage.db.write(command("k", 1), Deadline::after(Instant::now(), Duration::ZERO)).await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    assert_eq!(outage.db.0.journal.backlog().entries, 0);
}

/// Full, poisoned and too large all became "no answer from PostgreSQL", and a write that is too large for ever was
/// answered as if trying again could help.
#[tokio::test]
async fn a_write_that_is_too_large_for_the_journal_is_refused_for_good() {
    let outage = Outage::begin();
    outage.db.write(command("first", 1), soon()).await.unwrap();
    let large = Command { payload: Bytes::from(vec![b'x'; 2 * 1024 * 1024]), ..command("k", 1) };
    let refused = outage.db.write(large, soon()).await;
    let Err(WriteError::Rejected(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
}

/// In an outage a key of this replica was taken for another request: both were acknowledged, and the second vanished.
#[tokio::test]
async fn a_key_that_was_settled_here_is_not_taken_for_another_request_in_an_outage() {
    let outage = Outage::begin();
    outage.db.tell_settled(&command("k", 1), &Settled::Applied(Bytes::new()), News::Direct, Instant::now());
    let other = outage.db.write(command("k", 2), soon()).await;
    assert!(matches!(other, Err(WriteError::KeyReused)), "{other:?}");
    let same = outage.db.write(command("k", 1), soon()).await;
    assert!(matches!(same, Ok(Written::Journaled { .. })), "{same:?}");
}
