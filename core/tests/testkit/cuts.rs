//! The connection cut, silenced or reset at every message boundary of a write and of a transaction: what the caller is told
//! equals what the server did, and what nobody could know is known afterwards.

use super::path::*;

/// What happens before a message is handled, and in the place of its answer.
const BEFORE: [Fault; 3] = [Fault::Drop, Fault::Reset, Fault::Silence];
const AFTER: [Fault; 4] = [Fault::Drop, Fault::Silence, Fault::Cut(0), Fault::Cut(5)];

/// How many messages `call` takes on a connection that is there already; 0 where the connection must be made.
async fn messages(warm: bool, call: impl AsyncFn(&Path)) -> u64 {
    let path = started(warm).await;
    let before = path.server.counts().messages;
    call(&path).await;
    path.server.counts().messages - before
}

async fn started(warm: bool) -> Path {
    let path = Path::new(Path::quiet()).await;
    if warm {
        path.read().await.unwrap();
    }
    path
}

/// Runs `call` once for each of the first `boundaries` messages and each fault.
async fn at_each_boundary(boundaries: u64, warm: bool, call: impl AsyncFn(&Path, &str)) {
    assert!(boundaries >= 8, "{boundaries}");
    let before = BEFORE.map(|fault| (At::BeforeMessage, fault));
    let after = AFTER.map(|fault| (At::AfterMessage, fault));
    for (at, fault) in before.into_iter().chain(after) {
        for nth in 1..=boundaries {
            let story = format!("{fault:?} {at:?} {nth} of {boundaries}, warm {warm}");
            let path = started(warm).await;
            path.server.fault_nth(at.clone(), nth, fault.clone());
            call(&path, &story).await;
            path.at_rest(&story).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_under_a_key_happens_once_wherever_it_is_cut() {
    for warm in [false, true] {
        let ended = async |path: &Path| assert!(path.write("k").await.is_ok());
        let (count, of_a_warm_one) = (messages(warm, ended).await, messages(true, ended).await);
        // A new connection has messages of its own at first; from then on it is as one that was there before.
        let boundaries = if warm { count } else { 10.max(count - of_a_warm_one + 1) };
        at_each_boundary(boundaries, warm, async |path: &Path, story: &str| {
            let told = path.write("k").await;
            match &told {
                Ok(Written::Committed { .. }) => assert_eq!(path.orders(), 1, "{story}"),
                Ok(_) => {}
                Err(WriteError::Rejected(error)) => panic!("{story}: there is a journal: {error}"),
                // The same request finds out.
                Err(WriteError::Unknown(_)) => assert!(path.write("k").await.is_ok(), "{story}"),
                Err(error) => panic!("{story}: {error}"),
            }
            path.replayed(story).await;
            assert_eq!((path.orders(), path.server.applied("order.place")), (1, 1), "{story}: {told:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_told_as_it_was_wherever_it_is_cut() {
    for replayable in [false, true] {
        let options = TransactionOptions { replayable, ..TransactionOptions::new("order") };
        let count = messages(true, async |path: &Path| {
            assert!(path.transaction(options).await.committed().is_some());
        });
        at_each_boundary(count.await, true, async |path: &Path, story: &str| {
            let outcome = path.transaction(options).await;
            let told = match &outcome {
                Outcome::Committed(_) => 1,
                Outcome::RolledBack(error) => {
                    assert!(!replayable, "{story}: {error}");
                    0
                }
                Outcome::Unknown(unresolved) => panic!("{story}: {unresolved:?}"),
            };
            assert_eq!(path.orders(), told, "{story}");
            // What was left behind is ended, not late.
            if story.starts_with("Silence") {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            assert_eq!(path.orders(), told, "{story}");
        })
        .await;
    }
}

/// Nobody can know while the whole server is silent. The same key finds out, and a transaction's number does.
#[tokio::test(start_paused = true)]
async fn what_is_unknown_is_known_afterwards() {
    for at in [At::BeforeCommit, At::AfterCommit] {
        let path = started(true).await;
        path.server.fault(at.clone(), Fault::Silence);
        let (outcome, ()) = tokio::join!(path.transaction(TransactionOptions::new("order")), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            path.server.silence();
        });
        let Outcome::Unknown(unresolved) = outcome else { panic!("{at:?}: {outcome:?}") };
        path.server.recover();
        let client = path.server.client().await.unwrap();
        let xid = i64::try_from(unresolved.xid.unwrap()).unwrap();
        let fate = one(&client, &format!("SELECT txid_status({xid})")).await.unwrap();
        let committed = if fate == "committed" { 1 } else { 0 };
        assert_eq!((path.orders(), committed), (committed, usize::from(at == At::AfterCommit)), "{fate}");

        let path = started(true).await;
        path.server.fault(at.clone(), Fault::Silence);
        let (told, ()) = tokio::join!(path.write("k"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            path.server.silence();
        });
        assert!(matches!(told, Ok(Written::Journaled { .. }) | Err(WriteError::Unknown(_))), "{told:?}");
        path.server.recover();
        assert!(path.write("k").await.is_ok());
        path.replayed("unknown").await;
        assert_eq!(path.orders(), 1, "{at:?}");
    }
}

/// The transaction's number counts for nothing where the server crashed since: it may belong to another one by now.
#[tokio::test(start_paused = true)]
async fn a_crash_makes_a_number_worthless_and_a_key_does_not_need_it() {
    for (at, orders) in [(At::BeforeCommit, 0), (At::AfterCommit, 1)] {
        let path = started(true).await;
        path.server.fault(at.clone(), Fault::Delay(Duration::from_millis(200)));
        let (outcome, ()) = tokio::join!(path.transaction(TransactionOptions::new("order")), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            path.server.crash();
        });
        assert!(outcome.is_unknown(), "{at:?}: {outcome:?}");
        assert_eq!(path.orders(), orders);

        let path = started(true).await;
        path.server.fault(at.clone(), Fault::Delay(Duration::from_millis(200)));
        let (told, ()) = tokio::join!(path.write("k"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            path.server.crash();
        });
        assert!(told.is_ok(), "{at:?}: {told:?}");
        path.replayed("crash").await;
        assert_eq!(path.orders(), 1, "{at:?}");
    }
}
