//! Sessions that were ended while nobody used them, and whole outages: what the caller is told of the cause, and how calls
//! and journal come back, in virtual time.

use ridethrough::error::RejectReason;

use super::path::*;

/// A database path with fewer permits than a crowd of callers needs.
async fn narrow() -> Arc<Path> {
    let mut config = DbConfig::default();
    (config.bulkhead.permits, config.bulkhead.permits_min) = (8, 8);
    Arc::new(Path::new(config).await)
}

/// What became of so many writes to different things, one every ten milliseconds.
async fn crowd(path: &Arc<Path>, count: usize) -> Vec<Result<Written, WriteError>> {
    let mut calls = Vec::new();
    for number in 0..count {
        let key = format!("k-{number}");
        let (path, command) = (Arc::clone(path), Command { ordering_key: key.clone(), ..order(&key) });
        calls.push(tokio::spawn(async move { path.shop.db.write(command, within(4)).await }));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut ends = Vec::new();
    for call in calls {
        ends.push(call.await.unwrap());
    }
    ends
}

/// A write waits for a permit for half a second, and an attempt for an answer for a whole one. So in a hang those who had
/// queued up behind the first calls were refused, before anything could tell that the database was away.
#[tokio::test(start_paused = true)]
async fn writes_that_queue_up_behind_the_first_calls_of_a_hang_are_journaled() {
    let path = narrow().await;
    assert!(crowd(&path, 20).await.iter().all(|end| matches!(end, Ok(Written::Committed { .. }))));
    path.server.silence();
    let told = crowd(&path, 150).await;
    let journaled = |end: &Result<Written, WriteError>| {
        matches!(end, Ok(Written::Journaled { .. } | Written::Committed { .. }))
    };
    assert_eq!(told.iter().find(|end| !journaled(end)).map(|end| format!("{end:?}")), None);
    path.server.recover();
    path.replayed("the end of the hang").await;
    assert_eq!(path.orders(), 150, "each once");
}

/// Answers that keep coming, however slowly, are a living server's: who finds no place is refused, and nothing is journaled.
#[tokio::test(start_paused = true)]
async fn writes_that_find_no_place_at_a_busy_database_are_refused() {
    let path = narrow().await;
    path.server.fault_always(At::statement("INSERT INTO orders"), Fault::Delay(Duration::from_millis(300)));
    let told = crowd(&path, 150).await;
    let (mut committed, mut refused) = (0, 0);
    for end in told {
        match end {
            Ok(Written::Committed { .. }) => committed += 1,
            Err(WriteError::Rejected(PathError::Rejected { reason: RejectReason::Overloaded, .. })) => {
                refused += 1
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(committed >= 50 && refused >= 30, "{committed} committed, {refused} refused");
    assert_eq!(path.orders(), committed);
}

/// Somebody locks a table. What waited for it was refused; and the time of each wait counted as that of a slow server's
/// answer, so that the limit fell to its floor, and most were refused who had not even asked.
#[tokio::test(start_paused = true)]
async fn writes_to_a_table_that_somebody_locked_are_journaled_and_cost_no_permits() {
    let path = Arc::new(Path::new(DbConfig::default()).await);
    let insert = || At::statement("INSERT INTO orders");
    path.server.fault_always(insert(), Fault::Delay(Duration::from_millis(800)));
    path.server.fault_always(insert(), Fault::Error("55P03"));
    let told = crowd(&path, 150).await;
    let refused = told.iter().find(|end| !matches!(end, Ok(Written::Journaled { .. })));
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!((path.number("bulkhead", "limit"), path.circuit("writes")), (32, "closed".to_owned()));
    path.server.recover();
    path.replayed("the release of the lock").await;
    assert_eq!(path.orders(), 150, "each once");
}

/// A write that had waited for a lock was refused, for whatever reason its next attempt was refused for.
#[tokio::test(start_paused = true)]
async fn a_retry_that_finds_no_place_is_journaled_for_what_made_it_necessary() {
    let mut config = DbConfig::default();
    (config.bulkhead.permits, config.bulkhead.permits_min, config.bulkhead.queue) = (1, 1, 0);
    let path = Arc::new(Path::new(config).await);
    path.server.fault(At::statement("INSERT INTO orders"), Fault::Error("55P03"));
    path.server.fault_always(At::statement("SELECT title"), Fault::Delay(Duration::from_millis(400)));
    let (writer, reader) = (Arc::clone(&path), Arc::clone(&path));
    let write = tokio::spawn(async move { writer.write("k").await });
    // Whoever comes next takes the only place as soon as it is free.
    let read = tokio::spawn(async move {
        while reader.read().await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    let told = write.await.unwrap();
    assert!(matches!(told, Ok(Written::Journaled { .. })), "{told:?}");
    read.await.unwrap();
    path.replayed("the release of the lock").await;
    assert_eq!(path.orders(), 1);
}

/// Journaled, such a write was tried again and again beside the calls that won, and its user read fresh answers without it at
/// the other replica.
#[tokio::test(start_paused = true)]
async fn a_race_that_is_lost_again_and_again_goes_back_to_the_caller() {
    let path = Path::new(DbConfig::default()).await;
    path.server.fault_always(At::statement("INSERT INTO orders"), Fault::Error("40001"));
    let told = path.write("k").await;
    assert!(told.is_err(), "{told:?}");
    assert_eq!(path.orders(), 0);
}

/// Ends all sessions and uses one of them after so many turns of the runtime, when more or less of it is known.
async fn ended(config: DbConfig, turns: usize) -> Path {
    let path = Path::new(config).await;
    path.read().await.unwrap();
    path.server.terminate_all("57P01");
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    path
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_ended_while_idle_says_why_and_costs_nobody_an_answer() {
    let mut recovered = 0;
    for turns in 0..12 {
        let path = ended(Path::once(), turns).await;
        if let Err(error) = path.read().await {
            let cause = error.cause().map(|cause| cause.code.clone());
            assert!(error.code() == Some("57P01") || cause.as_deref() == Some("57P01"), "{turns}: {error}");
            recovered += usize::from(cause.is_some());
        }
        assert!(ended(Path::quiet(), turns).await.read().await.is_ok(), "{turns}: a read is asked again");

        let path = ended(Path::quiet(), turns).await;
        let outcome = path.transaction(TransactionOptions::new("order")).await;
        match &outcome {
            Outcome::Committed(_) => assert_eq!(path.orders(), 1, "{turns}"),
            Outcome::RolledBack(error) => {
                assert_eq!(path.orders(), 0, "{turns}: {error}");
                // Had nothing been sent, it would have run on another session.
                assert_ne!(error.phase(), Phase::NotSent, "{turns}: {error}");
            }
            Outcome::Unknown(unresolved) => panic!("{turns}: {unresolved:?}"),
        }
        let path = ended(Path::quiet(), turns).await;
        assert!(path.write("k").await.is_ok(), "{turns}");
        path.replayed("ended").await;
        assert_eq!(path.orders(), 1, "{turns}");
    }
    assert!(recovered > 0, "no turn met a driver that knew only that the connection was closed");
}

/// Reads until one is answered; the time it took.
async fn until_fresh(path: &Path) -> Duration {
    let started = Instant::now();
    while path.read().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_outage_from_its_beginning_to_the_last_replayed_write() {
    let path = Path::new(DbConfig::default()).await;
    path.read().await.unwrap();
    path.server.outage();
    let lost = Instant::now();
    while path.circuit("reads") != "open" || path.circuit("writes") != "open" {
        let _ = path.read().await;
        assert!(lost.elapsed() < Duration::from_secs(2), "{}", path.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // While open: refused at once with a reason, and nothing is paid for it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let balance = |path: &Path| path.state()["retry_budget"].as_f64().unwrap();
    let before = balance(&path);
    let dialled = path.server.counts().connections;
    for _ in 0..50 {
        let asked = Instant::now();
        let refused = path.read().await.unwrap_err();
        assert!(refused.is_rejection() && refused.retry_after().is_some(), "{refused}");
        assert_eq!(asked.elapsed(), Duration::ZERO, "{refused}");
    }
    assert_eq!(path.state()["retry_budget_frozen"], true);
    assert!((balance(&path) - before).abs() < 1e-9, "{before} {}", balance(&path));
    for key in ["a", "b", "c"] {
        let told = path.write(key).await;
        assert!(matches!(told, Ok(Written::Journaled { .. })), "{told:?}");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(path.server.counts().connections, dialled, "nobody got through");

    path.server.recover();
    let fresh = until_fresh(&path).await;
    assert!(fresh <= Duration::from_millis(700), "one pause of the prober, and its confirmation: {fresh:?}");
    path.replayed("the end of the outage").await;
    assert_eq!((path.orders(), path.server.applied("order.place")), (3, 3));
    assert_eq!(path.server.committed_keys(), ["a", "b", "c"]);
    assert_eq!(path.state()["retry_budget_frozen"], false);
    let told = path.write("a").await;
    assert!(matches!(told, Ok(Written::Committed { repeated: true, .. })), "{told:?}");
    path.at_rest("after the outage").await;
}

/// No crowd comes back: as many at once as the ramp allows, and it doubles.
#[tokio::test(start_paused = true)]
async fn calls_come_back_one_two_four_at_a_time() {
    let mut config = DbConfig::default();
    config.breaker.ramp_max = 16;
    let path = Arc::new(Path::new(config).await);
    path.read().await.unwrap();
    path.server.outage();
    while path.circuit("reads") != "open" {
        let _ = path.read().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    path.server.recover();
    path.server.fault_always(At::statement("SELECT title"), Fault::Delay(Duration::from_millis(20)));
    let mut ramps = Vec::new();
    let callers: Vec<_> = (0..40)
        .map(|_| {
            let path = Arc::clone(&path);
            tokio::spawn(async move { until_fresh(&path).await })
        })
        .collect();
    while path.circuit("reads") != "closed" {
        let ramp = path.state()["hosts"][0]["reads"]["ramp"].as_u64().unwrap_or(0);
        if path.circuit("reads") == "half-open" && ramps.last() != Some(&ramp) {
            ramps.push(ramp);
        }
        let in_use = path.number("bulkhead", "in_use");
        assert!(ramp == 0 || in_use <= 2 * ramp.max(1) + 1, "{in_use} in progress, {ramp} allowed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for caller in callers {
        assert!(caller.await.unwrap() < Duration::from_secs(3));
    }
    assert!(ramps.windows(2).all(|pair| pair[1] > pair[0] && pair[1] <= 2 * pair[0].max(1)), "{ramps:?}");
    assert!(ramps.len() >= 3, "{ramps:?}");
}

/// A standby takes no writes and says so; when it is promoted the timeline moves on and writes go there.
#[tokio::test(start_paused = true)]
async fn a_host_that_becomes_a_standby_and_a_primary_again() {
    let path = Path::new(DbConfig::default()).await;
    let sighting = |name: &str| path.state()["hosts"][0][name].clone();
    assert_eq!((sighting("role"), sighting("timeline")), ("primary".into(), 1.into()));
    path.server.make_standby();
    let told = path.write("k").await;
    assert!(matches!(told, Ok(Written::Journaled { .. })), "{told:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((path.orders(), sighting("role")), (0, "standby".into()));
    path.server.promote();
    path.replayed("promoted").await;
    assert_eq!((path.orders(), sighting("timeline")), (1, 2.into()));
    assert!(path.server.unanswered().is_empty(), "{:?}", path.server.unanswered());
}
