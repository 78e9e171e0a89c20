//! A full disk and damaged data: how long writes keep away, in virtual time.

use ridethrough::db::{Source, Written};
use tokio::time::sleep;

use super::{
    hosts::{SECOND, Service, names},
    kit::*,
};

/// A server whose disk was full went on being written to by every call.
#[tokio::test(start_paused = true)]
async fn writes_keep_away_from_a_full_disk_until_it_has_room() {
    let server = FakePostgres::start();
    let service = Service::start("db", &names(&[("db", &server)]));
    sleep(SECOND).await;
    let full = Fault::Error("53100");
    server.fault(At::statement("INSERT INTO orders"), full.clone());
    server.fault(At::statement("CREATE TEMP TABLE"), full.clone());
    server.fault_nth(At::statement("CREATE TEMP TABLE"), 2, full);
    let state =
        |service: &Service| service.db.state(Instant::now())["hosts"][0]["writes"]["state"].to_string();
    assert!(matches!(service.write("a").await, Written::Journaled { .. }));
    for tenth in 0..10 {
        assert_eq!(state(&service), "\"open\"", "after {tenth} tenths of a second");
        sleep(SECOND / 10).await;
    }
    sleep(SECOND).await;
    assert_eq!(state(&service), "\"open\"", "there is still no room");
    assert_eq!(service.read().await, Some(Source::Primary), "reads go on");
    sleep(SECOND * 4).await;
    assert_eq!((state(&service), server.faults_waiting()), ("\"closed\"".to_owned(), 0));
}

/// Damage heals by no waiting, and so writes keep away for longer, also where a read found it.
#[tokio::test(start_paused = true)]
async fn writes_keep_away_from_damaged_data() {
    let server = FakePostgres::start();
    let service = Service::start("db", &names(&[("db", &server)]));
    sleep(SECOND).await;
    server.fault(At::statement("SELECT true"), Fault::Error("XX001"));
    assert_eq!(service.read().await, None);
    let state =
        |service: &Service| service.db.state(Instant::now())["hosts"][0]["writes"]["state"].to_string();
    sleep(SECOND * 29).await;
    assert_eq!(state(&service), "\"open\"");
    sleep(SECOND * 3).await;
    assert_eq!(state(&service), "\"closed\"");
}
