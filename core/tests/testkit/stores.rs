//! The database path over the store that is nothing but memory: what its callers are told when it is full, or nearly, or
//! fails, and what becomes of their writes.

use ridethrough::{
    db::{WriteState, WriteStatus},
    journal::{JournalConfig, JournalHealth, NewEntry, Store},
    testkit::MemoryStore,
};

use super::path::*;

const STUCK: &str = "INSERT INTO missing (item) VALUES ($1)";

/// Orders, of which cancellations matter, and those of what is missing do not go through.
struct Desk;

impl Commands for Desk {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let sql = if command.name == "order.missing" { STUCK } else { ORDER };
            statements.run(sql, &[&command.key]).await?;
            Ok(Applied::Done(Bytes::from_static(b"ordered")))
        })
    }

    fn is_important(&self, name: &str) -> bool {
        name == "order.cancel"
    }
}

fn named(name: &str, key: &str) -> Command {
    Command { name: name.to_owned(), ordering_key: key.to_owned(), ..order(key) }
}

async fn open(server: &FakePostgres, store: &MemoryStore) -> TestDb {
    TestDb::start_on(server, Path::quiet(), Arc::new(Desk), store.clone()).unwrap()
}

async fn write(desk: &TestDb, name: &str, key: &str) -> Result<Written, WriteError> {
    desk.db.write(named(name, key), within(4)).await
}

async fn emptied(store: &MemoryStore) {
    let emptying = async {
        while store.backlog().entries > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), emptying).await.expect("it is replayed");
}

#[tokio::test(start_paused = true)]
async fn what_it_takes_in_an_outage_is_applied_once_and_in_order() {
    let (server, store) = (todos(), MemoryStore::default());
    server.outage();
    let desk = TestDb::start_on(&server, DbConfig::default(), Arc::new(Desk), store.clone()).unwrap();
    for key in ["a", "b", "c"] {
        let one_thing = Command { ordering_key: "thing".to_owned(), ..named("order.place", key) };
        let written = desk.db.write(one_thing, within(4)).await;
        assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
    }
    let pending = desk.db.write_status("b", within(1)).await.unwrap();
    let waits = WriteStatus { state: WriteState::Pending, answer: None, reason: None };
    assert_eq!((pending, desk.journal().backlog().entries), (Some(waits), 3));
    server.recover();
    emptied(&store).await;
    assert_eq!(
        (server.committed_keys(), server.committed(ORDER)),
        (vec!["a".into(), "b".into(), "c".into()], 3)
    );
    assert_eq!(server.unanswered(), Vec::<String>::new());
}

/// Once a long outage had filled the journal, what mattered most was refused like all else.
#[tokio::test(start_paused = true)]
async fn the_reserve_is_for_what_matters() {
    let config = JournalConfig { entries_max: 10, reserve_percent: 50, ..JournalConfig::new("memory") };
    let (server, store) = (todos(), MemoryStore::new(config));
    server.outage();
    let desk = open(&server, &store).await;
    for key in ["1", "2", "3", "4", "5"] {
        let written = write(&desk, "order.place", key).await;
        assert!(matches!(written, Ok(Written::Journaled { .. })), "{key}: {written:?}");
    }
    assert_eq!(store.health(), JournalHealth::Reserved);
    let refused = write(&desk, "order.place", "6").await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    let again = write(&desk, "order.place", "5").await;
    assert!(matches!(again, Ok(Written::Journaled { repeated: true, .. })), "{again:?}");
    for key in ["7", "8", "9", "10", "11"] {
        let written = write(&desk, "order.cancel", key).await;
        assert!(matches!(written, Ok(Written::Journaled { .. })), "{key}: {written:?}");
    }
    assert_eq!(store.health(), JournalHealth::Full);
    let refused = write(&desk, "order.cancel", "12").await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    server.recover();
    assert_eq!(store.backlog().entries, 10, "nothing that was accepted made room");
}

/// Nobody knew what had become of it, because the journal was for others by then.
#[tokio::test(start_paused = true)]
async fn the_reserve_is_for_a_write_whose_commit_was_not_answered() {
    let config = JournalConfig { entries_max: 10, reserve_percent: 90, ..JournalConfig::new("memory") };
    let (server, store) = (todos(), MemoryStore::new(config));
    server.on("INSERT INTO missing", Reply::error("42P01"));
    let desk = open(&server, &store).await;
    let mut database = desk.db.database();
    database.wait_for(|part| *part == ridethrough::health::DatabasePart::Up).await.unwrap();
    let Command { key, name, version, ordering_key, payload, fingerprint, accepted_at } =
        named("order.missing", "stuck");
    let retried = false;
    let stuck =
        NewEntry { key, kind: name, fingerprint, accepted_at, payload, version, ordering_key, retried };
    store.append(stuck).await.unwrap();
    assert_eq!(store.health(), JournalHealth::Reserved);
    server.fault(At::AfterCommit, Fault::Reset);
    for looking_it_up in ["SELECT CASE WHEN", "SELECT fingerprint", "SELECT pg_terminate_backend"] {
        server.fault_always(At::statement(looking_it_up), Fault::Reset);
    }
    let written = write(&desk, "order.place", "doubtful").await;
    assert!(matches!(written, Ok(Written::Journaled { .. })), "{written:?}");
    server.outage();
    let ordinary = write(&desk, "order.place", "ordinary").await;
    assert!(matches!(ordinary, Err(WriteError::Rejected(_))), "{ordinary:?}");
}

#[tokio::test(start_paused = true)]
async fn without_room_a_write_is_refused_and_says_so() {
    let (server, store) = (todos(), MemoryStore::default());
    server.outage();
    let desk = open(&server, &store).await;
    store.set_full(true);
    let refused = write(&desk, "order.place", "k").await;
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    assert_eq!(store.backlog().entries, 0);
    store.set_full(false);
    let written = write(&desk, "order.place", "k").await;
    assert!(matches!(written, Ok(Written::Journaled { repeated: false, .. })), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn where_it_fails_nobody_knows_until_the_database_tells() {
    for kept in [true, false] {
        let (server, store) = (todos(), MemoryStore::default());
        server.outage();
        let desk = TestDb::start_on(&server, DbConfig::default(), Arc::new(Desk), store.clone()).unwrap();
        store.fail_next_append(kept);
        let unknown = write(&desk, "order.place", "k").await;
        assert!(matches!(unknown, Err(WriteError::Unknown(_))), "{kept}: {unknown:?}");
        let refused = write(&desk, "order.place", "later").await;
        assert!(matches!(refused, Err(WriteError::Rejected(_))), "{kept}: {refused:?}");
        server.recover();
        emptied(&store).await;
        assert_eq!(server.committed(ORDER), usize::from(kept), "{kept}");
        let deadline = async {
            while !matches!(write(&desk, "order.place", "k").await, Ok(Written::Committed { .. })) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(60), deadline).await.expect("the same key finds out");
        assert_eq!(server.committed(ORDER), 1, "{kept}");
    }
}
