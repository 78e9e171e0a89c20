//! Failover with a dialled loss window, the ledger of what was lost, and the return of the old primary.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ridethrough_chaos::Cluster;
use ridethrough_chaos::cluster::{Losses, Options, Pair};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use crate::{LIMIT, folder, say, session, start};

type Acknowledged = Arc<Mutex<Vec<(u64, Instant)>>>;

/// Inserts numbers until the session is gone, and notes when each was acknowledged.
async fn write_on(client: Client, acknowledged: Acknowledged) {
    for number in 1_u64.. {
        let inserted = client
            .execute("INSERT INTO ledger VALUES ($1)", &[&i64::try_from(number).expect("it is small")])
            .await;
        match inserted {
            Ok(_) => acknowledged.lock().expect("nobody panicked").push((number, Instant::now())),
            Err(_) => return,
        }
    }
}

async fn numbers(cluster: &Cluster) -> BTreeSet<u64> {
    let client = session(&cluster.url()).await;
    let rows = client.query("SELECT number FROM ledger", &[]).await.expect("the ledger can be read");
    rows.iter().map(|row| u64::try_from(row.get::<_, i64>(0)).expect("it was positive")).collect()
}

/// A pair, and what was acknowledged up to its failover.
async fn fail_over_under_load(
    unshipped: Duration,
) -> (Pair, ridethrough_chaos::cluster::Window, Vec<(u64, Instant)>) {
    let folder = folder();
    let began = Instant::now();
    let primary = start(&folder, Options::default()).await;
    let pair = Pair::of(&primary).await.unwrap_or_else(|error| panic!("failed to {error}"));
    say(&format!("primary and standby after {} ms", began.elapsed().as_millis()));
    let client = session(&primary.url()).await;
    client.batch_execute("CREATE TABLE ledger (number bigint)").await.expect("a table can be made");
    let acknowledged = Acknowledged::default();
    let writer = tokio::spawn(write_on(client, Arc::clone(&acknowledged)));
    let under_load = async {
        while acknowledged.lock().expect("nobody panicked").len() < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, under_load).await.expect("writes are acknowledged");

    let began = Instant::now();
    let window = pair.fail_over(unshipped).await.unwrap_or_else(|error| panic!("failed to {error}"));
    say(&format!("{} (in {} ms)", window.witness(), began.elapsed().as_millis()));
    timeout(LIMIT, writer).await.expect("the writer's session ends").expect("it does not panic");
    let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("nobody panicked"));
    (pair, window, acknowledged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_what_was_acknowledged_while_nothing_was_shipped_and_no_more() {
    let (pair, window, acknowledged) = fail_over_under_load(Duration::from_millis(300)).await;

    assert!(window.bytes() > 0 && window.timeline == 2, "{}", window.witness());
    let time = window.until - window.from;
    assert!(time >= Duration::from_millis(300), "nothing was shipped for that long: {time:?}");
    let new = numbers(pair.standby()).await;
    let losses = Losses::count(&window, acknowledged.clone(), &new, None);
    say(&format!("{} kept, {} lost inside the window", losses.kept, losses.inside.len()));
    assert!(losses.kept > 0 && !losses.inside.is_empty(), "{losses:?}");
    assert!(losses.outside.is_empty(), "{losses:?}: the window is wide enough for what was lost");

    // The old primary comes back, and has what the new one has not: so it was the failover that lost it.
    let split = pair.return_old_primary().await.unwrap_or_else(|error| panic!("failed to {error}"));
    assert!(split.witness().is_some());
    let old = numbers(pair.primary()).await;
    assert_eq!(Losses::count(&window, acknowledged, &new, Some(&old)), losses);
    for cluster in [pair.primary(), pair.standby()] {
        let client = session(&cluster.url()).await;
        client.execute("INSERT INTO ledger VALUES (0)", &[]).await.expect("both take writes");
    }
    drop(split);
    let gone = async {
        while pair.primary().pid().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, gone).await.expect("the guard ends the old primary");
    assert!(pair.standby().pid().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_without_a_window_loses_nothing() {
    let (pair, window, acknowledged) = fail_over_under_load(Duration::ZERO).await;

    assert_eq!(window.bytes(), 0, "{}", window.witness());
    let losses = Losses::count(&window, acknowledged.clone(), &numbers(pair.standby()).await, None);
    assert_eq!(losses, Losses { kept: acknowledged.len(), ..Losses::default() });
    assert!(acknowledged.len() >= 20, "there was something to lose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_is_given_up_midway_leaves_the_pair_as_it_was() {
    let folder = folder();
    let primary = start(&folder, Options::default()).await;
    let pair = Pair::of(&primary).await.unwrap_or_else(|error| panic!("failed to {error}"));
    let given_up = timeout(Duration::from_millis(300), pair.fail_over(LIMIT)).await;
    assert!(given_up.is_err());

    let client = session(&primary.url()).await;
    client.batch_execute("CREATE TABLE after (number bigint)").await.expect("the primary takes writes");
    let position = primary.flushed().await.expect("it tells");
    let shipped = async {
        while pair.standby().received().await.expect("it tells") < position {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, shipped).await.expect("WAL is shipped again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_fails_over_once() {
    let options = Options { guardian: Some(crate::guardian()), ..Options::default() };
    let seen = ridethrough_chaos::cluster::failover::probe(&options).await;
    say(&seen.unwrap_or_else(|error| panic!("failed to {error}")));
}
