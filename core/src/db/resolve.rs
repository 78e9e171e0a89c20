//! What became of a transaction whose COMMIT was not answered: the key's row is the truth, the transaction's own status
//! the short way, and what still runs is waited for, then ended.
//!
//! It decides nothing about retries or the journal. Everything is bounded by the deadline it is given.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Error as DriverError;

use super::{
    Command, Db, Statements,
    begin::{self, Mark, ORIGIN},
    guards::{AttemptTime, Connected},
    keys::{self, Known},
    pool::Loan,
};
use crate::{breaker::CallResult, deadline::Deadline};

/// A COMMIT that is on its way gets this long to arrive and finish before the session behind it is ended.
const GHOST_GRACE: Duration = Duration::from_millis(150);
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// One look; a server that does not answer it will not answer in time.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// What was found out.
#[derive(Debug)]
pub(super) enum Resolution {
    /// The key is settled in the database.
    Settled(Known),
    /// It committed.
    Committed,
    /// It did not commit and never will.
    RolledBack,
    /// There is no trace of it that can be trusted. Under a key it may be done again: the key's row lets only one through.
    NoTrace,
    /// Not found out in time.
    Unresolved,
}

/// One look at a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Committed,
    RolledBack,
    InProgress,
    Unknowable,
}

/// The status is that of our transaction only where the server is in the same life as then.
fn fate(status: Option<&str>) -> Fate {
    match status {
        Some("committed") => Fate::Committed,
        Some("aborted") => Fate::RolledBack,
        Some("in progress") => Fate::InProgress,
        _ => Fate::Unknowable,
    }
}

impl Db {
    /// Finds out about the transaction of `mark`, by the key of `command` where it has one.
    pub(super) async fn resolve(
        &self,
        mark: Option<&Mark>,
        command: Option<&Command>,
        deadline: Deadline,
    ) -> Resolution {
        let fence_from = Instant::now() + GHOST_GRACE;
        let mut pause = LOOK_FIRST;
        loop {
            let fence = Instant::now() >= fence_from;
            let looked = self.look(mark, command, fence, deadline).await;
            match looked {
                Some((_, Some(known))) => return Resolution::Settled(known),
                Some((Fate::Committed, None)) => return Resolution::Committed,
                Some((Fate::RolledBack, None)) => return Resolution::RolledBack,
                Some((Fate::Unknowable, None)) => return Resolution::NoTrace,
                Some((Fate::InProgress, None)) | None => {}
            }
            if deadline.remaining(Instant::now()) <= pause {
                return Resolution::Unresolved;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// `None` where the database could not be asked.
    async fn look(
        &self,
        mark: Option<&Mark>,
        command: Option<&Command>,
        fence: bool,
        deadline: Deadline,
    ) -> Option<(Fate, Option<Known>)> {
        let time = AttemptTime::new(deadline, LOOK_LIMIT);
        // No permit: its caller holds one, and the lost connection has made room in the pool.
        let Connected { admission, loan, .. } = self.connected(&time, None).await.ok()?;
        let looked = timeout_at(time.deadline.instant(), look_with(&loan, mark, command, fence)).await;
        let result = match &looked {
            Ok(Ok(_)) => CallResult::Success,
            Ok(Err(_)) => CallResult::Neutral,
            Err(_) => time.on_expiry(),
        };
        admission.record(result, Instant::now());
        let looked = looked.ok()?.ok()?;
        loan.give_back();
        Some(looked)
    }
}

/// The status first and the row after it: what is committed by then is visible to the later statement.
async fn look_with(
    loan: &Loan,
    mark: Option<&Mark>,
    command: Option<&Command>,
    fence: bool,
) -> Result<(Fate, Option<Known>), DriverError> {
    let statements = loan.statements();
    let mut fate = Fate::Unknowable;
    if let Some(Mark { xid, origin: Some(origin), .. }) = mark {
        fate = status(&statements, *xid, origin).await?;
    }
    let known = match command {
        Some(command) => keys::look_up(&statements, &command.key).await?,
        None => None,
    };
    if let (Fate::InProgress, None, true, Some(mark)) = (fate, &known, fence, mark) {
        end(&statements, mark).await?;
    }
    Ok((fate, known))
}

async fn status(statements: &Statements<'_>, xid: i64, origin: &str) -> Result<Fate, DriverError> {
    let sql = format!("SELECT CASE WHEN {ORIGIN} = $2 THEN txid_status($1) END");
    let row = statements.row(&sql, &[&xid, &origin]).await?;
    let status: Option<String> = row.map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(fate(status.as_deref()))
}

/// Ends the session that runs this very transaction. Not one that waits for a standby: it has committed already, and
/// ending it would give up the wait that the operator asked for. And none of another life of the server, where that is
/// known: after a failover both numbers can belong to somebody else there.
///
/// Where this server does not let us, that is no failure: whoever comes next waits for the session's own end, on the lock
/// that it holds or by looking again, and both are bounded.
pub(super) async fn end(statements: &Statements<'_>, mark: &Mark) -> Result<(), DriverError> {
    const SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE pid = $1 AND backend_xid = $2::text::xid AND wait_event IS DISTINCT FROM 'SyncRep'";
    let short = short(mark.xid);
    let ended = match &mark.origin {
        None => statements.rows(SQL, &[&mark.process, &short]).await,
        Some(origin) => {
            let sql = format!("{SQL} AND CASE WHEN pg_is_in_recovery() THEN false ELSE {ORIGIN} = $3 END");
            statements.rows(&sql, &[&mark.process, &short, origin]).await
        }
    };
    match ended {
        Ok(rows) if rows.is_empty() => {}
        Ok(_) => tracing::debug!("ended a session that still ran an abandoned transaction"),
        Err(error) if begin::is_kept_from_us(&error) => {
            tracing::debug!("an abandoned transaction may not be ended; its own end is waited for");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The identifier without its epoch, as the activity view shows it.
fn short(xid: i64) -> String {
    (xid & 0xffff_ffff).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_of_the_server_tell_the_fate() {
        let told = [
            (Some("committed"), Fate::Committed),
            (Some("aborted"), Fate::RolledBack),
            (Some("in progress"), Fate::InProgress),
            (Some("?"), Fate::Unknowable),
            // Too old, or another life of the server.
            (None, Fate::Unknowable),
        ];
        for (status, expected) in told {
            assert_eq!(fate(status), expected, "{status:?}");
        }
    }

    #[test]
    fn identifiers_are_compared_without_their_epoch() {
        assert_eq!(short(727), "727");
        assert_eq!(short((3 << 32) + 727), "727");
        assert_eq!(short(0xffff_fffe), "4294967294");
    }
}
