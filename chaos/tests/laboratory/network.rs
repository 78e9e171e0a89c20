//! Packets that are lost without a word, and a disk that is really full: in namespaces of our own, as any user.

use std::time::Duration;

use ridethrough_chaos::cluster::Options;
use ridethrough_chaos::namespace::{SmallDisk, Way, Wire};
use ridethrough_chaos::{Cluster, RunFolder};
use tokio::time::{Instant, timeout};

use crate::room::inside;
use crate::{LIMIT, folder, say, session, start};

/// Our own deadline for a query.
const DEADLINE: Duration = Duration::from_millis(700);

async fn behind_a_wire() -> (RunFolder, Wire, Cluster) {
    let folder = folder();
    let wire = Wire::lay(&folder).unwrap_or_else(|error| panic!("failed to {error}"));
    let place = wire.place().unwrap_or_else(|error| panic!("failed to {error}"));
    let cluster = start(&folder, Options { place, ..Options::default() }).await;
    (folder, wire, cluster)
}

#[test]
fn a_query_hangs_while_packets_are_lost_and_is_answered_when_they_arrive_again() {
    inside("network::a_query_hangs_while_packets_are_lost_and_is_answered_when_they_arrive_again", async {
        let (_folder, wire, cluster) = behind_a_wire().await;
        let client = session(&cluster.url()).await;
        for way in [Way::ToDatabase, Way::FromDatabase, Way::Both] {
            let lost = wire.cut(way).expect("it can be cut");
            let mut query = Box::pin(client.query_one("SELECT 1", &[]));
            assert!(timeout(DEADLINE, &mut query).await.is_err(), "nothing comes, {way}: no row, no error");
            assert!(!client.is_closed(), "TCP is patient, {way}");
            let new = timeout(DEADLINE, tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls)).await;
            assert!(new.is_err(), "a new connection is neither taken nor refused, {way}");
            let witness = lost.witness().expect("TCP has missed something");
            assert!(wire.cut(Way::Both).is_err(), "a second fault would be healed by the first");
            drop(lost);
            let began = Instant::now();
            timeout(LIMIT, query).await.expect("it goes on").expect("and is answered");
            say(&format!("{witness}; answered {} ms after", began.elapsed().as_millis()));
        }
    });
}

#[test]
fn a_forgotten_session_is_silent_while_a_new_one_works() {
    inside("network::a_forgotten_session_is_silent_while_a_new_one_works", async {
        let (_folder, wire, cluster) = behind_a_wire().await;
        let old = session(&cluster.url()).await;
        let lost = wire.forget_sessions().expect("it can be done");
        let hung = timeout(DEADLINE, old.query_one("SELECT 1", &[])).await;
        assert!(hung.is_err() && !old.is_closed(), "half-open: {hung:?}");
        let new = session(&cluster.url()).await;
        timeout(LIMIT, new.query_one("SELECT 1", &[])).await.expect("in time").expect("it works");
        assert!(lost.witness().is_some());
        drop(lost);
        timeout(LIMIT, new.query_one("SELECT 1", &[])).await.expect("in time").expect("it goes on");
    });
}

#[test]
fn a_full_disk_of_the_wal_is_a_panic_and_over_when_there_is_room() {
    inside("network::a_full_disk_of_the_wal_is_a_panic_and_over_when_there_is_room", async {
        let folder = folder();
        let disk = SmallDisk::for_postgresql(&folder, "wal", 24 * 1024 * 1024)
            .unwrap_or_else(|error| panic!("failed to {error}"));
        let options = Options { wal_above: Some(disk.path().to_owned()), ..Options::default() };
        let cluster = start(&folder, options).await;
        let client = session(&cluster.url()).await;
        client.batch_execute("CREATE TABLE held (filler text)").await.expect("a table can be made");
        let full = disk.fill().expect("it can be filled");
        assert_eq!(disk.available().expect("it tells"), 0);
        let fill = "INSERT INTO held SELECT repeat('x', 1000) FROM generate_series(1, 8000)";
        let error =
            timeout(LIMIT, client.execute(fill, &[])).await.expect("it ends").expect_err("no room for WAL");
        let log = std::fs::read_to_string(cluster.log()).unwrap_or_default();
        assert!(log.contains("PANIC") && log.contains("No space left on device"), "{error}: {log}");
        drop(full);
        cluster.revive().await.unwrap_or_else(|error| panic!("failed to {error}"));
        let client = session(&cluster.url()).await;
        client.execute(fill, &[]).await.expect("there is room again");
        cluster.stop().await.expect("it stops");
        drop(cluster);
        drop(disk);
    });
}

/// A silent session is neither idle nor running a statement, so no timeout of PostgreSQL ends it; its keepalives do.
#[test]
fn postgresql_s_keepalives_end_a_session_whose_client_was_forgotten() {
    inside("network::postgresql_s_keepalives_end_a_session_whose_client_was_forgotten", async {
        let (_folder, wire, cluster) = behind_a_wire().await;
        let old = session(&cluster.url()).await;
        let keepalives =
            "SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 2";
        old.batch_execute(keepalives).await.expect("they can be set");
        old.batch_execute("CREATE TABLE held (number bigint)").await.expect("a table can be made");
        old.batch_execute("BEGIN; LOCK TABLE held").await.expect("it locks");
        let lost = wire.forget_sessions().expect("it can be done");
        let began = Instant::now();
        let new = session(&cluster.url()).await;
        let locked = new.batch_execute("BEGIN; LOCK TABLE held NOWAIT");
        let locked = timeout(LIMIT, locked).await.expect("in time").expect_err("the old session lives on");
        assert_eq!(locked.code().map(|code| code.code()), Some("55P03"), "{locked}");
        new.batch_execute("ROLLBACK").await.expect("it can be left");
        let free = async { new.batch_execute("BEGIN; LOCK TABLE held; COMMIT").await };
        timeout(LIMIT, free).await.expect("the old session is ended").expect("and its lock is free");
        say(&format!("the lock of a forgotten session was free after {} ms", began.elapsed().as_millis()));
        assert!(!old.is_closed(), "its client knows nothing");
        drop(lost);
    });
}
