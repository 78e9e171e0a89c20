//! The database path of the library over the fake server.

use std::sync::Arc;

use ridethrough::{
    Deadline,
    db::{Applied, ApplyError, BoxFuture, Command, Commands, DbConfig, Statements, WriteState, Written},
    testkit::TestDb,
};

use super::kit::*;

#[derive(Debug)]
struct Shop;

impl Commands for Shop {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            let item = std::str::from_utf8(&command.payload).unwrap_or_default();
            statements.run("INSERT INTO orders (item) VALUES ($1)", &[&item]).await?;
            Ok(Applied::Done(Bytes::from_static(b"ordered")))
        })
    }
}

fn order(key: &str) -> Command {
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

async fn write(shop: &TestDb, key: &str) -> Written {
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(4));
    shop.db.write(order(key), deadline).await.unwrap()
}

async fn settled(shop: &TestDb, key: &str) {
    let waiting = async {
        loop {
            let deadline = Deadline::after(Instant::now(), Duration::from_secs(1));
            let status = shop.db.write_status(key, deadline).await;
            if status.is_ok_and(|known| known.is_some_and(|known| known.state == WriteState::Applied)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.expect("the write is never settled");
}

/// Whatever becomes of its COMMIT, an order is placed once.
#[tokio::test(start_paused = true)]
async fn an_order_is_placed_once_whatever_becomes_of_its_commit() {
    for (at, fault) in [
        (At::AfterCommit, Fault::Drop),
        (At::BeforeCommit, Fault::Drop),
        (At::BeforeCommit, Fault::Error("40001")),
        (At::AfterCommit, Fault::Fatal("57P01")),
        (At::statement("INSERT INTO orders"), Fault::Reset),
    ] {
        let server = FakePostgres::start();
        let shop = TestDb::start(&server, DbConfig::default(), Arc::new(Shop)).await.unwrap();
        server.fault(at.clone(), fault.clone());
        write(&shop, "k").await;
        settled(&shop, "k").await;
        assert_eq!(server.committed("INSERT INTO orders"), 1, "{at:?} {fault:?}");
        assert_eq!((server.applied("order.place"), server.faults_waiting()), (1, 0), "{at:?} {fault:?}");
        assert_eq!(server.unanswered(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_taken_in_an_outage_is_placed_when_it_ends() {
    let server = FakePostgres::start();
    server.outage();
    let shop = TestDb::start(&server, DbConfig::default(), Arc::new(Shop)).await.unwrap();
    assert!(matches!(write(&shop, "k").await, Written::Journaled { .. }));
    assert_eq!((shop.journal().backlog().entries, server.committed_keys().len()), (1, 0));
    server.recover();
    settled(&shop, "k").await;
    assert_eq!(server.committed("INSERT INTO orders"), 1);
}
