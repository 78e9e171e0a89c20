//! Writes whose end is in doubt: done once at the most, and never called what they are not.

use ridethrough::db::WriteState;

use ridethrough::journal::NewEntry;

use super::path::*;

fn entry(command: Command) -> NewEntry {
    NewEntry {
        key: command.key,
        kind: command.name,
        fingerprint: command.fingerprint,
        accepted_at: command.accepted_at,
        payload: command.payload,
        version: command.version,
        ordering_key: command.ordering_key,
        retried: false,
    }
}

/// Somebody had removed the row of a key whose COMMIT was not answered. The write was journaled, and replay, which found no
/// row either, did it a second time.
#[tokio::test(start_paused = true)]
async fn a_committed_write_whose_row_is_gone_is_not_done_again() {
    let path = Path::new(Path::quiet()).await;
    path.server.on("INSERT INTO ridethrough_writes", Reply::touched(1));
    path.server.on("UPDATE ridethrough_writes", Reply::touched(1));
    let none: [(&str, &str); 0] = [];
    path.server.on("SELECT fingerprint", Reply::rows(["fingerprint", "outcome"], none));
    path.server.fault(At::AfterCommit, Fault::Drop);
    let written = path.write("k").await;
    path.replayed("the journal").await;
    assert_eq!(path.orders(), 1, "{written:?}");
    let answer = Bytes::from_static(b"ordered");
    assert_eq!(written.unwrap(), Written::Committed { answer, repeated: false });
}

/// The same in replay: its COMMIT was not answered, and the rows of its keys were gone when it looked for them.
#[tokio::test(start_paused = true)]
async fn nor_is_a_replayed_one() {
    let path = Path::new(Path::quiet()).await;
    path.server.on("INSERT INTO ridethrough_writes", Reply::touched(1));
    path.server.on("UPDATE ridethrough_writes", Reply::touched(1));
    let none: [(&str, &str); 0] = [];
    path.server.on("SELECT fingerprint", Reply::rows(["fingerprint", "outcome"], none));
    path.server.fault(At::AfterCommit, Fault::Drop);
    path.shop.journal().append(entry(order("k"))).await.unwrap();
    path.replayed("the journal").await;
    assert_eq!((path.orders(), path.server.faults_waiting()), (1, 0));
}

/// A write whose COMMIT got no answer is journaled under its key; others of its ordering key wait behind it, and only those.
#[tokio::test(start_paused = true)]
async fn a_write_in_doubt_holds_up_only_its_own_thing() {
    let path = Path::new(Path::quiet()).await;
    path.server.fault(At::AfterCommit, Fault::Silence);
    let of = |key: &str, thing: &str| Command { ordering_key: thing.to_owned(), ..order(key) };
    let write = async |command| path.shop.db.write(command, within(4)).await;
    let (told, ()) = tokio::join!(write(of("doubt", "a")), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        path.server.silence();
    });
    assert!(matches!(told, Ok(Written::Journaled { .. }) | Err(WriteError::Unknown(_))), "{told:?}");
    let behind = write(of("behind", "a")).await;
    assert!(matches!(behind, Ok(Written::Journaled { .. })), "{behind:?}");
    assert!(path.shop.journal().is_waiting("a") && !path.shop.journal().is_waiting("b"));
    path.server.recover();
    path.replayed("the journal").await;
    assert_eq!(path.orders(), 2, "each of them once");
}

/// A client that had lost patience asked for its key, was told that it had never been seen, and ordered again under another
/// key, while the first order was still on its way to COMMIT.
#[tokio::test(start_paused = true)]
async fn a_write_on_its_way_is_not_called_never_seen() {
    let path = Path::new(Path::quiet()).await;
    let state = async || {
        let status = path.shop.db.write_status("k", within(4)).await.unwrap();
        status.map(|status| status.state)
    };
    assert_eq!(state().await, None);
    path.server.fault(At::statement("INSERT INTO orders"), Fault::Delay(Duration::from_millis(200)));
    let (written, during) = tokio::join!(path.write("k"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        state().await
    });
    assert!(written.is_ok(), "{written:?}");
    assert_eq!((during, state().await), (Some(WriteState::Unknown), Some(WriteState::Applied)));
}

/// The same after the answer that nobody knows: the row may come yet.
#[tokio::test(start_paused = true)]
async fn nor_is_one_that_ended_without_anybody_finding_out() {
    let server = todos();
    let shop = TestDb::start(&server, Path::quiet(), Arc::new(Meddler)).await.unwrap();
    let command = Command { payload: Bytes::from_static(b"COMMIT"), ..order("k") };
    let written = shop.db.write(command, within(4)).await;
    assert!(matches!(written, Err(WriteError::Unknown(_))), "{written:?}");
    let of = async |key| shop.db.write_status(key, within(4)).await.unwrap().map(|status| status.state);
    let state = of("k").await;
    assert!(matches!(state, Some(WriteState::Unknown | WriteState::Applied)), "{state:?}");
    // What was dropped on its way may have its effect, too.
    server.fault(At::statement("INSERT INTO orders"), Fault::Silence);
    let dropped = timeout(Duration::from_millis(100), shop.db.write(order("dropped"), within(4))).await;
    assert!(dropped.is_err());
    assert_eq!((of("dropped").await, of("other").await), (Some(WriteState::Unknown), None));
}

/// Places an order and then says what its payload holds.
#[derive(Debug)]
struct Meddler;

impl Commands for Meddler {
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async move {
            statements.run(ORDER, &[&"milk"]).await?;
            statements.batch_execute(std::str::from_utf8(&command.payload).unwrap_or_default()).await?;
            Ok(Applied::Done(Bytes::from_static(b"ordered")))
        })
    }
}

const MEDDLING: [(&str, usize); 3] = [("ROLLBACK", 0), ("COMMIT", 1), ("ROLLBACK; BEGIN", 0)];

/// A command that rolled back by itself was acknowledged: its answer was kept by nobody, and COMMIT outside of a transaction
/// is answered with COMMIT.
#[tokio::test(start_paused = true)]
async fn a_command_that_ends_its_transaction_is_not_acknowledged() {
    for (last, orders) in MEDDLING {
        let server = todos();
        let shop = TestDb::start(&server, Path::quiet(), Arc::new(Meddler)).await.unwrap();
        let command = Command { payload: Bytes::from_static(last.as_bytes()), ..order("k") };
        let written = shop.db.write(command, within(4)).await;
        let Err(WriteError::Unknown(error)) = &written else { panic!("{last}: {written:?}") };
        assert_eq!(error.class(), ErrorClass::Permanent, "{last}");
        assert_eq!(shop.journal().backlog().entries, 0, "{last}");
        assert_eq!(server.committed("INSERT INTO orders"), orders, "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn nor_does_it_hold_up_the_journal() {
    for (last, orders) in MEDDLING {
        let server = todos();
        server.outage();
        let shop = TestDb::start(&server, DbConfig::default(), Arc::new(Meddler)).await.unwrap();
        for (key, payload) in [("before", ""), ("k", last), ("after", "")] {
            let command = Command { payload: Bytes::from_static(payload.as_bytes()), ..order(key) };
            assert!(
                matches!(shop.db.write(command, within(4)).await, Ok(Written::Journaled { .. })),
                "{last}"
            );
        }
        server.recover();
        let emptied = async {
            while shop.journal().backlog().entries > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), emptied).await.expect(last);
        assert_eq!(server.committed("INSERT INTO orders"), 2 + orders, "{last}");
        let status = shop.db.write_status("k", within(4)).await.unwrap().unwrap();
        let expected = if orders == 1 { WriteState::Applied } else { WriteState::Rejected };
        assert_eq!(status.state, expected, "{last}");
    }
}

/// What an attempt had left behind was forgotten when ending it failed once, and held the key for the rest of the call.
#[tokio::test(start_paused = true)]
async fn what_was_left_behind_is_ended_even_if_that_fails_once() {
    const END: &str = "SELECT pg_terminate_backend";
    let path = Path::new(Path::quiet()).await;
    path.server.fault(At::statement("INSERT INTO orders"), Fault::Silence);
    path.server.fault(At::statement(END), Fault::Drop);
    path.server.fault_nth(At::statement(END), 2, Fault::Delay(Duration::from_millis(1)));
    let written = path.write("k").await;
    assert_eq!(path.server.faults_waiting(), 0, "it was not tried again: {written:?}");
    path.replayed("the journal").await;
    assert_eq!((path.orders(), path.server.unanswered()), (1, Vec::new()), "{written:?}");
}
