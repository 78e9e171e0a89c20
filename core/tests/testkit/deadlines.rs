//! Time that runs out, in virtual time: who waits is released by the deadline, the permit stays taken until the session is
//! proven idle or destroyed, and COMMIT is never cancelled.

use super::path::*;

/// Timers fire on whole milliseconds.
const TICK: Duration = Duration::from_millis(1);

async fn warm() -> Path {
    let path = Path::new(Path::quiet()).await;
    path.read().await.unwrap();
    path
}

#[tokio::test(start_paused = true)]
async fn silence_at_any_message_releases_the_caller_by_its_deadline() {
    for at in [At::BeforeMessage, At::AfterMessage] {
        for (what, messages) in [("read", 6_u64), ("write", 16), ("transaction", 8)] {
            for nth in 1..=messages {
                let story = format!("{what} {at:?} {nth}");
                let path = warm().await;
                path.server.fault_nth(at.clone(), nth, Fault::Silence);
                let limit = Duration::from_millis(1_900);
                let (started, deadline) = (Instant::now(), Deadline::after(Instant::now(), limit));
                match what {
                    "read" => drop(path.shop.db.read(&Titles, deadline).await),
                    "write" => drop(path.shop.db.write(order("k"), deadline).await),
                    _ => {
                        let work =
                            async |statements: &Statements<'_>| Ok(statements.run(ORDER, &[&"milk"]).await?);
                        drop(
                            path.shop.db.transaction(TransactionOptions::new("order"), deadline, work).await,
                        );
                    }
                }
                assert!(started.elapsed() <= limit + TICK, "{story}: {:?}", started.elapsed());
                path.at_rest(&story).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_at_all_holds_nobody_longer_than_its_deadline() {
    let path = warm().await;
    path.server.silence();
    let started = Instant::now();
    let limits = [10, 100, 400, 1_500].map(Duration::from_millis);
    for limit in limits {
        let deadline = Deadline::after(Instant::now(), limit);
        let asked = Instant::now();
        path.shop.db.read(&Titles, deadline).await.unwrap_err();
        assert!(asked.elapsed() <= limit + TICK, "{limit:?}: {:?}", asked.elapsed());
        let deadline = Deadline::after(Instant::now(), limit);
        let asked = Instant::now();
        let _ = path.shop.db.write(order("k"), deadline).await;
        assert!(asked.elapsed() <= limit + TICK, "{limit:?}: {:?}", asked.elapsed());
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    path.server.recover();
    path.at_rest("after the silence").await;
    path.replayed("after the silence").await;
    assert!(path.read().await.is_ok());
}

/// The server still works for who went away, so the place in the bulkhead is not free yet.
#[tokio::test(start_paused = true)]
async fn the_permit_stays_taken_until_the_session_is_settled() {
    let path = warm().await;
    let before = path.server.counts().connections;
    path.server.fault(At::statement("SELECT title"), Fault::Silence);
    let soon = Deadline::after(Instant::now(), Duration::from_millis(100));
    let released = path.shop.db.read(&Titles, soon).await.unwrap_err();
    assert!(matches!(released, PathError::Timeout { .. }), "{released}");
    assert_eq!(path.number("bulkhead", "in_use"), 1);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(path.number("bulkhead", "in_use"), 1, "it cannot be proven idle");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(path.number("bulkhead", "in_use"), 0, "it was destroyed");
    assert_eq!(path.number("pool", "connections"), 0);
    assert!(path.server.counts().cancels > 0);
    path.read().await.unwrap();
    assert_eq!(path.server.counts().connections, before + 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_slow_is_cancelled_and_its_session_kept() {
    let path = warm().await;
    let before = path.server.counts().connections;
    path.server.fault(At::statement("SELECT title"), Fault::Delay(Duration::from_secs(60)));
    let soon = Deadline::after(Instant::now(), Duration::from_millis(100));
    path.shop.db.read(&Titles, soon).await.unwrap_err();
    let left = Instant::now();
    path.at_rest("a slow read").await;
    assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    path.read().await.unwrap();
    let counts = path.server.counts();
    assert_eq!((counts.cancels, counts.connections), (1, before), "cancelled, and used again");
}

/// The cancel request met the reaper's own question, or somebody else's came this way: one such error is swallowed.
#[tokio::test(start_paused = true)]
async fn a_stray_cancel_does_not_reach_the_next_user() {
    let path = warm().await;
    let before = path.server.counts().connections;
    path.server.fault(At::statement("SELECT title"), Fault::Delay(Duration::from_millis(105)));
    let soon = Deadline::after(Instant::now(), Duration::from_millis(100));
    path.shop.db.read(&Titles, soon).await.unwrap_err();
    path.server.fault(At::BeforeMessage, Fault::StrayCancel);
    path.at_rest("a stray cancel").await;
    assert_eq!(path.server.faults_waiting(), 0, "it met the reaper");
    path.read().await.unwrap();
    assert_eq!(path.server.counts().connections, before, "the session is used again");
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_never_cancelled() {
    for (delay, dropped) in [(300, true), (700, false), (60_000, false), (60_000, true)] {
        for at in [At::BeforeCommit, At::AfterCommit] {
            let story = format!("{at:?} {delay} ms, dropped {dropped}");
            let path = warm().await;
            path.server.fault(at.clone(), Fault::Delay(Duration::from_millis(delay)));
            let limit = Duration::from_millis(1_000);
            let work = async |statements: &Statements<'_>| Ok(statements.run(ORDER, &[&"milk"]).await?);
            let options = TransactionOptions::new("order");
            let call = path.shop.db.transaction(options, Deadline::after(Instant::now(), limit), work);
            let outcome = timeout(Duration::from_millis(if dropped { 100 } else { 5_000 }), call).await;
            match outcome {
                Ok(Outcome::Committed(_)) => assert_eq!(path.orders(), 1, "{story}"),
                Ok(Outcome::RolledBack(error)) => assert_eq!(path.orders(), 0, "{story}: {error}"),
                Ok(Outcome::Unknown(unresolved)) => panic!("{story}: {unresolved:?}"),
                Err(_) => assert!(dropped, "{story}"),
            }
            path.at_rest(&story).await;
            assert_eq!(path.server.counts().cancels, 0, "{story}");
            if dropped && delay < 1_000 {
                assert_eq!(path.orders(), 1, "{story}: it was on its way");
            }
        }
    }
}

/// A service that overlooks a failed statement: PostgreSQL would answer its COMMIT with ROLLBACK, and no error.
#[tokio::test(start_paused = true)]
async fn an_aborted_transaction_is_never_told_as_committed() {
    let path = warm().await;
    let work = async |statements: &Statements<'_>| {
        statements.run(ORDER, &[&"milk"]).await?;
        let overlooked = statements.rows("SELECT nothing FROM nowhere", &[]).await;
        assert!(overlooked.is_err());
        Ok(())
    };
    let outcome = path.shop.db.transaction(TransactionOptions::new("order"), within(2), work).await;
    let Outcome::RolledBack(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.code(), path.orders()), (Some("25P02"), 0));
    path.at_rest("aborted").await;
    assert!(path.read().await.is_ok());
}

/// COMMIT did the opposite and no error came. This was told as success, because the driver does not look at the tag.
#[tokio::test(start_paused = true)]
async fn a_commit_answered_by_rollback_is_never_success() {
    for replayable in [false, true] {
        let path = warm().await;
        path.server.fault(At::BeforeCommit, Fault::RollbackTag);
        let options = TransactionOptions { replayable, ..TransactionOptions::new("order") };
        let outcome = path.transaction(options).await;
        assert_eq!(matches!(outcome, Outcome::Committed(_)), replayable, "{outcome:?}");
        assert_eq!(path.orders(), usize::from(replayable));
        path.server.fault_always(At::BeforeCommit, Fault::RollbackTag);
        let outcome = path.transaction(options).await;
        assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
        assert_eq!(path.orders(), usize::from(replayable));
    }
    let path = warm().await;
    path.server.fault(At::BeforeCommit, Fault::RollbackTag);
    let told = path.write("k").await;
    assert!(matches!(told, Ok(Written::Committed { .. })), "{told:?}");
    assert_eq!((path.orders(), path.server.rolled_back_keys().len()), (1, 1), "the second time");
    path.at_rest("rolled back").await;
}
