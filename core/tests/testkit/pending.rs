//! Accepted writes in sight of readers: from the moment of their acceptance until the database has them, through recovery
//! and over a restart, without a moment in which they are gone.

use ridethrough::{
    cache::{CacheConfig, Freshness, StaleReason, Tags},
    db::{Base, Connecting, Db, NotKnown, Overlay, PendingWrites, Promise, Source},
    drain::Drain,
    health::SchemaPart,
    journal::{Aside, JournalConfig, NewEntry},
    testkit::journal_in_memory,
};

use super::path::*;

/// A shop in which an order is a line on a list.
#[derive(Debug)]
struct Lines;

fn promise_of(command: &Command) -> String {
    format!("order of {}", String::from_utf8_lossy(&command.payload))
}

impl Commands for Lines {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Shop.apply(statements, command, replayed)
    }

    fn tags(&self, _command: &Command) -> Tags {
        Tags::of(["lines"])
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        Some(Arc::new(promise_of(command)))
    }
}

/// All lines, with a `+` where anything waits.
#[derive(Debug, Clone)]
struct AllLines;

impl Query for AllLines {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "lines"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared("lines")
    }

    fn tags(&self) -> Tags {
        Tags::of(["lines"])
    }

    fn overlay(&self, base: Base<'_, Bytes>, pending: &PendingWrites) -> Overlay<Bytes> {
        let Base::Known(Some(known), _) = base else { return Overlay::Unchanged };
        let mut lines = String::from_utf8_lossy(known).into_owned();
        for write in pending.iter() {
            let line = write.promise::<String>().expect("a line");
            // A write that is settled must give way to an answer that has it already.
            if !(write.is_settled() && lines.contains(line)) {
                lines.push('+');
                lines.push_str(line);
            }
        }
        Overlay::Becomes(Some(lines.into()))
    }

    async fn fetch<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Option<Bytes>, Error> {
        let rows = statements.rows("SELECT title FROM todos", &[]).await?;
        Ok(rows.first().map(|row| Bytes::copy_from_slice(row.get::<_, &str>(0).as_bytes())))
    }
}

struct Line {
    path: Path,
}

impl Line {
    async fn new() -> Self {
        let server = todos();
        let shop = TestDb::start(&server, DbConfig::default(), Arc::new(Lines)).await.unwrap();
        seen(&shop.db).await;
        Self { path: Path { server, shop } }
    }

    async fn read(&self) -> Read<Bytes> {
        self.path.shop.db.read(&AllLines, within(2)).await.unwrap()
    }
}

async fn seen(db: &Db) {
    let mut database = db.database();
    let up = database.wait_for(|part| *part == ridethrough::health::DatabasePart::Up);
    timeout(Duration::from_secs(10), up).await.expect("the prober finds the server").unwrap();
}

fn text(read: &Read<Bytes>) -> String {
    String::from_utf8_lossy(&read.clone().into_parts().0.unwrap_or_default()).into_owned()
}

/// What a reader saw of an accepted write vanished between its replay and the next answer of the database.
#[tokio::test(start_paused = true)]
async fn an_accepted_write_is_in_sight_until_the_database_has_it() {
    let line = Line::new().await;
    let before = line.read().await;
    assert_eq!(before.freshness(), Freshness::Fresh);
    line.path.server.outage();
    let written = line.path.write("k").await;
    assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
    let during = line.read().await;
    assert_eq!(text(&during), format!("{}+order of milk", text(&before)));
    assert!(matches!(during.freshness(), Freshness::Stale { .. }), "{during:?}");
    line.path.server.recover();
    let mut reads = 0;
    while line.path.shop.journal().backlog().entries > 0 {
        let read = line.read().await;
        assert!(text(&read).ends_with("+order of milk") || read.freshness() == Freshness::Fresh, "{read:?}");
        reads += 1;
        assert!(reads < 100_000, "the journal is not replayed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(line.path.orders(), 1);
    // The fake server's list does not grow: the answer is from after the write, and nothing is laid over it.
    let after = line.read().await;
    assert_eq!(
        (text(&after), after.freshness(), after.source()),
        (text(&before), Freshness::Fresh, Source::Primary)
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(line.read().await.freshness(), Freshness::Fresh);
    line.path.server.outage();
    let again = line.read().await;
    assert!(matches!(again.freshness(), Freshness::Stale { .. }), "{again:?}");
    assert_eq!(text(&again), text(&before), "kept from after the write");
}

/// The process was restarted in the outage, and what it had accepted was not shown any more until the database was back.
#[tokio::test(start_paused = true)]
async fn what_waits_in_the_journal_is_in_sight_after_a_restart() {
    let server = todos();
    let kept = journal_in_memory(JournalConfig::new("in-memory")).unwrap();
    let config = || {
        let mut config = DbConfig { url: "postgres://app:app@memory/app".to_owned(), ..DbConfig::default() };
        config.pool.connector = Connecting::through(Arc::new(server.clone()));
        config
    };
    let open = || Db::new(config(), CacheConfig::default(), kept.journal.clone(), Arc::new(Lines)).unwrap();
    server.outage();
    let (first, _parts) = open();
    first.set_schema(SchemaPart::Ok);
    let written = first.write(order("k"), within(4)).await;
    assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
    drop((first, _parts));
    let (second, parts) = open();
    second.set_schema(SchemaPart::Ok);
    assert_eq!(second.pending_under("k").unwrap().promise::<String>().unwrap(), "order of milk");
    let (_drain, draining) = Drain::new();
    tokio::spawn(parts.prober.run(draining.clone()));
    tokio::spawn(parts.reaper.run(draining));
    server.recover();
    seen(&second).await;
    let read = second.read(&AllLines, within(2)).await.unwrap();
    assert!(text(&read).ends_with("+order of milk"), "{read:?}");
    assert!(matches!(read.freshness(), Freshness::Stale { reason: StaleReason::Pending, .. }), "{read:?}");
    assert_eq!(read.source(), Source::Primary);
}

/// The lines of a program that does not know orders yet.
#[derive(Debug)]
struct Older;

impl Commands for Older {
    fn apply<'c>(
        &'c self,
        _statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        unreachable!("it does not know the command")
    }

    fn knows(&self, _command: &Command) -> Result<(), NotKnown> {
        Err(NotKnown::Name)
    }
}

/// Lines of a program that does not know the one key yet.
#[derive(Debug)]
struct AllBut(&'static str);

impl Commands for AllBut {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Shop.apply(statements, command, replayed)
    }

    fn knows(&self, command: &Command) -> Result<(), NotKnown> {
        if command.key == self.0 { Err(NotKnown::Version) } else { Ok(()) }
    }

    fn tags(&self, command: &Command) -> Tags {
        Lines.tags(command)
    }

    fn promise(&self, command: &Command) -> Option<Promise> {
        Lines.promise(command)
    }
}

/// A write was accepted by a newer program, held by an older one, and the newer one was started again in an outage: its
/// author did not see it, because what was held is given back to replay, and that waits for the database.
#[tokio::test(start_paused = true)]
async fn what_was_held_for_this_program_is_in_sight_after_a_restart_in_an_outage() {
    let server = todos();
    let kept = journal_in_memory(JournalConfig::new("in-memory")).unwrap();
    let entry = |key: &str| {
        let order = order(key);
        NewEntry {
            key: order.key,
            kind: order.name,
            fingerprint: order.fingerprint,
            accepted_at: order.accepted_at,
            payload: order.payload,
            version: order.version,
            ordering_key: order.ordering_key,
            retried: false,
        }
    };
    let held = kept.journal.append(entry("held")).await.unwrap();
    kept.journal.append(entry("behind")).await.unwrap();
    let why = Aside::Held { reason: NotKnown::Name.to_string() };
    kept.journal.set_aside(&[held.sequence], why).await.unwrap();
    server.outage();
    let open = |commands: Arc<dyn Commands>| {
        let mut config = DbConfig { url: "postgres://app:app@memory/app".to_owned(), ..DbConfig::default() };
        config.pool.connector = Connecting::through(Arc::new(server.clone()));
        Db::new(config, CacheConfig::default(), kept.journal.clone(), commands).unwrap()
    };
    let (older, _parts) = open(Arc::new(Older));
    assert!(older.pending_under("held").is_none(), "nobody here can tell what it will be");
    assert_eq!(kept.journal.backlog().entries, 1, "it is still held");
    // Its own write, which came after, was shown when it was accepted, and was out of sight after a restart.
    let (older, _parts) = open(Arc::new(AllBut("held")));
    assert!(older.pending_under("held").is_none(), "nobody here can tell what it will be");
    assert_eq!(older.pending_under("behind").unwrap().promise::<String>().unwrap(), "order of milk");

    let (newer, _parts) = open(Arc::new(Lines));
    for key in ["held", "behind"] {
        assert_eq!(newer.pending_under(key).unwrap().promise::<String>().unwrap(), "order of milk");
    }
    let pending = newer.pending(&Tags::of(["lines"]));
    assert_eq!(pending.iter().map(|write| write.key()).collect::<Vec<_>>(), ["held", "behind"]);
}

/// A notice of another replica over the whole path: the fake server tells, the cache doubts.
#[tokio::test(start_paused = true)]
async fn a_notice_makes_kept_answers_doubtful_and_a_lost_session_makes_all_of_them() {
    use ridethrough::cache::{ReadPolicy, Usable};

    let policy = ReadPolicy { fresh_for: Duration::from_secs(3_600), ..ReadPolicy::default() };
    let server = todos();
    let config = DbConfig { notices: true, ..DbConfig::default() };
    let shop = TestDb::start(&server, config, Arc::new(Lines)).await.unwrap();
    seen(&shop.db).await;
    let cache = shop.db.cache();
    let keep = |tag: &'static str| {
        let now = Instant::now();
        let answer = Bytes::from_static(b"kept");
        cache.fill(now, now).put_tagged(&CacheKey::shared(tag), answer, || Tags::of([tag]));
    };
    let usable = |tag: &str| cache.peek(&CacheKey::shared(tag), Instant::now()).unwrap().usable(&policy);
    let soon = async |tag: &'static str, wanted: Usable, again: bool| {
        for _ in 0..1_000 {
            if again {
                keep(tag);
            }
            if usable(tag) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{tag} does not become {wanted:?}");
    };
    soon("a", Usable::Fresh, true).await;
    keep("b");
    // A question that is sent at the very moment in which the notice arrives sees the change.
    tokio::time::sleep(Duration::from_millis(1)).await;
    server.notify("ridethrough_changes", "1 another a");
    soon("a", Usable::IfError, false).await;
    assert_eq!(usable("b"), Usable::Fresh);
    server.notify("elsewhere", "1 another b");
    server.notify("ridethrough_changes", "9 what is this");
    soon("b", Usable::IfError, false).await;
    keep("a");
    tokio::time::sleep(Duration::from_millis(1)).await;
    server.terminate_all("57P01");
    soon("a", Usable::IfError, false).await;
    soon("b", Usable::Fresh, true).await;
    assert_eq!(usable("a"), Usable::IfError, "from before the gap");
    assert!(server.unanswered().is_empty(), "{:?}", server.unanswered());
}
