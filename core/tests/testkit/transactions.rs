//! Transactions, keys and their locks, as PostgreSQL has them.

use super::kit::*;

#[tokio::test(start_paused = true)]
async fn a_failed_transaction_takes_nothing_and_its_commit_rolls_back() {
    let server = todos();
    let mut client = server.client().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    claim(transaction.client(), "k").await.unwrap();
    assert!(transaction.query("SELECT nothing FROM nowhere", &[]).await.is_err());
    let refused = transaction.query("SELECT title FROM todos", &[]).await.unwrap_err();
    assert_eq!(code(&refused), Some("25P02"));
    // The driver does not look at the tag; this is the silent loss that the library guards against.
    transaction.commit().await.unwrap();
    assert!(server.committed_keys().is_empty());
    assert_eq!(server.rolled_back_keys(), ["k"]);
}

#[tokio::test(start_paused = true)]
async fn a_statement_before_commit_in_one_message_guards_it() {
    let server = todos();
    let client = server.client().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    assert!(client.batch_execute("SELECT nothing FROM nowhere").await.is_err());
    let refused = client.batch_execute("SELECT 1; COMMIT").await.unwrap_err();
    assert_eq!(code(&refused), Some("25P02"));
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("BEGIN; SET LOCAL statement_timeout = 100; SELECT 1; COMMIT").await.unwrap();
    assert_eq!(server.counts().commits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_rolls_back_and_a_savepoint_gives_back() {
    let server = todos();
    let client = server.client().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    claim(&client, "lost").await.unwrap();
    drop(client);
    let client = server.client().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    claim(&client, "kept").await.unwrap();
    client.batch_execute("SAVEPOINT s; INSERT INTO todos (id) VALUES (1)").await.unwrap();
    assert!(client.batch_execute("SELECT nothing FROM nowhere").await.is_err());
    client.batch_execute("ROLLBACK TO s; COMMIT").await.unwrap();
    assert_eq!(
        (server.committed_keys(), server.rolled_back_keys()),
        (vec!["kept".into()], vec!["lost".into()])
    );
    assert_eq!((server.committed("INSERT INTO todos"), server.applied("todo.create")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_claimed_once_and_read_back() {
    let server = todos();
    let client = server.client().await.unwrap();
    assert_eq!((claim(&client, "k").await.unwrap(), claim(&client, "k").await.unwrap()), (1, 0));
    let answer = b"made".as_slice();
    let update = "UPDATE ridethrough_writes SET outcome = $2, answer = $3 WHERE key = $1";
    assert_eq!(client.execute(update, &[&"k", &"superseded", &answer]).await.unwrap(), 1);
    let find = "SELECT fingerprint, outcome, answer, reason FROM ridethrough_writes WHERE key = $1";
    let row = client.query_one(find, &[&"k"]).await.unwrap();
    assert_eq!(row.get::<_, &[u8]>("fingerprint"), [7; 32]);
    assert_eq!((row.get::<_, &str>("outcome"), row.get::<_, &[u8]>("answer")), ("superseded", answer));
    assert_eq!(row.get::<_, Option<&str>>("reason"), None);
    assert!(client.query_opt(find, &[&"other"]).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_key_in_another_transaction_is_waited_for() {
    let server = todos();
    let (first, second) = (server.client().await.unwrap(), server.client().await.unwrap());
    first.batch_execute("BEGIN").await.unwrap();
    claim(&first, "k").await.unwrap();
    second.batch_execute("SET lock_timeout = '800'").await.unwrap();
    let started = Instant::now();
    let gave_up = claim(&second, "k").await.unwrap_err();
    assert_eq!((code(&gave_up), started.elapsed().as_millis()), (Some("55P03"), 800));
    let (claimed, committed) = tokio::join!(claim(&second, "k"), first.batch_execute("ROLLBACK"));
    committed.unwrap();
    assert_eq!(claimed.unwrap(), 1, "the other gave the key back");
}

#[tokio::test(start_paused = true)]
async fn the_fate_of_a_transaction_can_be_asked_for() {
    let server = todos();
    let client = server.client().await.unwrap();
    let mut ids = Vec::new();
    for end in ["COMMIT", "ROLLBACK"] {
        let id = one(&client, "BEGIN; SELECT pg_current_xact_id()").await.unwrap();
        let asking = server.client().await.unwrap();
        let status = one(&asking, &format!("SELECT pg_xact_status('{id}')")).await;
        assert_eq!(status.as_deref(), Some("in progress"));
        client.batch_execute(end).await.unwrap();
        ids.push(id);
    }
    for (id, fate) in ids.iter().zip(["committed", "aborted"]) {
        let row = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[id]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), fate);
    }
    assert_eq!(one(&client, "SELECT pg_xact_status('999999')").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_ghost_can_be_found_and_fenced() {
    let server = todos();
    let (ghost, other) = (server.client().await.unwrap(), server.client().await.unwrap());
    let pid: i32 = ghost.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    ghost.batch_execute("BEGIN").await.unwrap();
    claim(&ghost, "k").await.unwrap();
    assert!(
        other.query_opt("SELECT pid FROM pg_stat_activity WHERE pid = $1", &[&pid]).await.unwrap().is_some()
    );
    assert!(other.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap().get::<_, bool>(0));
    assert_eq!(claim(&other, "k").await.unwrap(), 1);
    assert!(ghost.batch_execute("COMMIT").await.is_err());
}

/// A process may have gone on to another transaction: only the one that was meant is ended.
#[tokio::test(start_paused = true)]
async fn only_the_session_that_fits_is_ended() {
    let server = todos();
    let (ghost, other) = (server.client().await.unwrap(), server.client().await.unwrap());
    let row = ghost.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let pid: i32 = row.get(0);
    let id = one(&ghost, "BEGIN; SELECT txid_current()").await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE pid = $1 AND backend_xid = $2::text::xid AND wait_event IS DISTINCT FROM 'SyncRep'";
    assert!(other.query(end, &[&pid, &"7"]).await.unwrap().is_empty());
    assert!(ghost.batch_execute("SELECT 1").await.is_ok());
    // Nor one of another life of the server.
    let origin = "CASE WHEN current_setting('server_version_num')::int >= 150000 THEN \
                  substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || \
                  extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())::text END";
    let end = format!("{end} AND CASE WHEN pg_is_in_recovery() THEN false ELSE {origin} = $3 END");
    assert!(other.query(&end, &[&pid, &id.as_str(), &"00000002/1700000000"]).await.unwrap().is_empty());
    assert!(ghost.batch_execute("SELECT 1").await.is_ok());
    let here = one(&other, &format!("SELECT {origin}")).await.unwrap();
    assert_eq!(other.query(&end, &[&pid, &id.as_str(), &here.as_str()]).await.unwrap().len(), 1);
    assert!(ghost.batch_execute("COMMIT").await.is_err());
}
