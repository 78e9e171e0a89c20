//! What a transaction of the service's own is told to have been, where that is easily told wrong.

use std::sync::Arc;

use ridethrough::{
    Deadline,
    db::{
        Applied, ApplyError, BoxFuture, Command, Commands, DbConfig, Outcome, Statements, TransactionOptions,
    },
    error::ErrorClass,
    testkit::TestDb,
};

use super::kit::*;

#[derive(Debug)]
struct Nothing;

impl Commands for Nothing {
    fn apply<'c>(
        &'c self,
        _statements: &'c Statements<'c>,
        _command: &'c Command,
        _replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>> {
        Box::pin(async { Ok(Applied::Done(Bytes::new())) })
    }
}

/// Runs work of one insert and then `last`.
async fn ended(server: &FakePostgres, last: &'static str) -> Outcome<()> {
    let shop = TestDb::start(server, DbConfig::default(), Arc::new(Nothing)).await.unwrap();
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(4));
    let work = async move |statements: &Statements<'_>| {
        statements.run("INSERT INTO todos (title) VALUES ($1)", &[&"milk"]).await?;
        statements.batch_execute(last).await?;
        Ok(())
    };
    shop.db.transaction(TransactionOptions::new("test"), deadline, work).await
}

/// The work rolled back by itself and then said that all was well. PostgreSQL answers COMMIT outside of a transaction with a
/// warning and COMMIT, so the caller was told of a success that was none.
#[tokio::test]
async fn work_that_rolled_back_by_itself_is_not_called_committed() {
    for (last, insertions) in [("ROLLBACK", 0), ("COMMIT", 1), ("", 1)] {
        let server = todos();
        let outcome = ended(&server, last).await;
        assert_eq!(server.committed("INSERT INTO todos"), insertions, "{last}");
        match outcome {
            Outcome::Committed(()) => assert_eq!(insertions, 1, "{last}"),
            Outcome::RolledBack(error) => {
                assert_eq!((insertions, error.class()), (0, ErrorClass::Permanent), "{last}");
            }
            // Where the server does not tell.
            Outcome::Unknown(_) => assert!(!last.is_empty(), "{last}"),
        }
    }
}
