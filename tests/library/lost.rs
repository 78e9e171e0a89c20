//! A failover that takes back what its standby had not got: the library tells exactly which committed writes are gone.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ridethrough::{DbConfig, db::Written};
use ridethrough_chaos::cluster::Pair;
use ridethrough_tests::until;
use tokio::time::sleep;

use crate::service::{Service, as_service, database};

const LIMIT: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(2);
const WRITE_EVERY: Duration = Duration::from_millis(10);
/// So much is written, and received by the standby, before anything is held back.
const BEFORE: Duration = Duration::from_millis(500);

/// Writes on, and answers the keys of what was committed.
fn writer(service: &Arc<Service>) -> tokio::task::JoinHandle<BTreeSet<String>> {
    let service = Arc::clone(service);
    tokio::spawn(async move {
        let mut committed = BTreeSet::new();
        for number in 0.. {
            if service.has_ended() {
                break;
            }
            let key = format!("lost-{number}");
            if matches!(service.put(&key, DEADLINE).await, Ok(Written::Committed { .. })) {
                committed.insert(key);
            }
            sleep(WRITE_EVERY).await;
        }
        committed
    })
}

/// The keys of these that the table of keys does not have.
async fn missing(client: &tokio_postgres::Client, keys: &BTreeSet<String>) -> BTreeSet<String> {
    let rows = client.query("SELECT key FROM ridethrough_writes", &[]).await.expect("it answers");
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    keys.difference(&there).cloned().collect()
}

async fn fail_over(
    unshipped: Duration,
) -> (Arc<Service>, Pair, BTreeSet<String>, ridethrough_chaos::RunFolder) {
    let (folder, primary) = database(&[]).await;
    let pair = Pair::of(&primary).await.unwrap_or_else(|error| panic!("failed to {error}"));
    let service = Arc::new(Service::start(DbConfig { url: pair.url(), ..DbConfig::default() }).await);
    let writing = writer(&service);
    sleep(BEFORE).await;
    let window = pair.fail_over(unshipped).await.unwrap_or_else(|error| panic!("failed to {error}"));
    crate::say(&window.witness());
    let committed = async || {
        let key = format!("after-{}", fastrand::u64(..));
        matches!(service.put(&key, DEADLINE).await, Ok(Written::Committed { .. })).then_some(())
    };
    until("writes are committed again", LIMIT, committed).await;
    service.end();
    let committed = writing.await.expect("the writer does not panic");
    (service, pair, committed, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_took_back_is_told_key_by_key_and_can_be_done_again() {
    let (service, pair, committed, _folder) = fail_over(Duration::from_millis(300)).await;
    let new = as_service(&pair.standby().url()).await;
    let lost = missing(&new, &committed).await;
    assert!(!lost.is_empty() && lost.len() < committed.len(), "{} of {}", lost.len(), committed.len());
    let told = async || Some(service.db.lost_writes()).filter(|told| told.count > 0);
    let told = until("the losses are told", LIMIT, told).await;
    assert_eq!(told.keys.iter().cloned().collect::<BTreeSet<_>>(), lost);
    assert_eq!(told.count, lost.len() as u64, "each is counted once");
    // Under its own key, by whoever knows that it is right: nothing is doubled by that.
    let again = told.keys.first().expect("there is one");
    assert!(matches!(service.put(again, DEADLINE).await, Ok(Written::Committed { .. })));
    assert_eq!(crate::service::effects_of(&new, again).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_took_nothing_back_alarms_nobody() {
    let (service, pair, committed, _folder) = fail_over(Duration::ZERO).await;
    let new = as_service(&pair.standby().url()).await;
    assert!(missing(&new, &committed).await.is_empty() && !committed.is_empty());
    // Longer than the library waits before it looks.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(service.db.lost_writes().count, 0);
}
