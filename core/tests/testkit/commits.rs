//! What happened and what the client heard of it, around COMMIT.

use super::kit::*;

/// A write as the library makes it; the driver's own `commit` does not look at the tag.
async fn write(client: &Client, key: &str) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    claim(client, key).await?;
    client.batch_execute("SELECT 1; COMMIT").await
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_before_commit_did_not_happen_and_after_it_did() {
    for fault in [Fault::Drop, Fault::Reset, Fault::Fatal("57P01"), Fault::Error("40001"), Fault::Cut(3)] {
        for (at, happened) in [(At::BeforeCommit, false), (At::AfterCommit, true)] {
            // What is cut is the answer, and that comes after the deed.
            let happened = happened || matches!(fault, Fault::Cut(_));
            let server = todos();
            let client = server.client().await.unwrap();
            server.fault(at.clone(), fault.clone());
            assert!(write(&client, "k").await.is_err(), "{at:?} {fault:?}");
            assert_eq!(server.committed_keys().len(), usize::from(happened), "{at:?} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_answered_by_rollback_looks_like_success_to_the_driver() {
    let server = todos();
    let client = server.client().await.unwrap();
    server.fault(At::BeforeCommit, Fault::RollbackTag);
    assert!(write(&client, "k").await.is_ok());
    assert_eq!(server.rolled_back_keys(), ["k"]);
    assert_eq!(server.counts().commits, 0);
}

/// The client is gone, its statement is not: the commit happens when nobody is left to hear of it.
#[tokio::test(start_paused = true)]
async fn a_ghost_commits_after_its_client_has_gone() {
    let server = todos();
    let client = server.client().await.unwrap();
    server.fault(At::BeforeCommit, Fault::Delay(Duration::from_secs(2)));
    assert!(timeout(Duration::from_secs(1), write(&client, "k")).await.is_err());
    drop(client);
    assert!(server.committed_keys().is_empty());
    let other = server.client().await.unwrap();
    assert_eq!(claim(&other, "k").await.unwrap(), 0, "it waited for the ghost, and found its key");
    assert_eq!(server.committed_keys(), ["k"]);
}

#[tokio::test(start_paused = true)]
async fn cut_at_every_message_the_key_says_what_happened() {
    let whole = todos();
    write(&whole.client().await.unwrap(), "k").await.unwrap();
    let messages = whole.counts().messages;
    assert!(messages >= 8, "{messages}");
    let mut happened = 0;
    for at in [At::BeforeMessage, At::AfterMessage] {
        for nth in 1..=messages {
            let server = todos();
            server.fault_nth(at.clone(), nth, Fault::Drop);
            let client = server.client().await.unwrap();
            assert!(write(&client, "k").await.is_err(), "{at:?} {nth}");
            happened += server.committed_keys().len();
            let again = server.client().await.unwrap();
            write(&again, "k").await.unwrap();
            assert_eq!(server.applied("todo.create"), 1, "{at:?} {nth}");
        }
    }
    assert_eq!(happened, 1, "only where the very last answer was lost");
}
