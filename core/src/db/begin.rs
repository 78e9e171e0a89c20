//! How a transaction begins: one message that opens it, sets its limits at the server from what is left of the deadline,
//! and brings back a mark by which it can be found again if the answer to its COMMIT is lost.
//!
//! It runs no statement of the service.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_postgres::{Error as DriverError, SimpleQueryMessage};

use super::{config::PoolConfig, guards::AttemptTime, pool::Loan};

/// What tells one life of one server from all others: its timeline, and when its statistics began. Those begin anew after
/// every crash, in every copy, and nowhere else unless an operator resets them. A timeline, a system identifier and the
/// start of the postmaster all stay the same through a crash, after which PostgreSQL may give the same transaction
/// identifier to another transaction. Before version 15 asking for it costs too much.
pub(super) const ORIGIN: &str = "CASE WHEN current_setting('server_version_num')::int >= 150000 THEN \
     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || \
     extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())::text END";

/// A transaction, as the server names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) xid: i64,
    pub(super) process: i32,
    /// See [`ORIGIN`]; `None` where this server does not tell.
    pub(super) origin: Option<String>,
}

/// What this database lets its users see.
#[derive(Debug, Default)]
pub(super) struct Marking {
    origin_hidden: AtomicBool,
}

/// How isolated a transaction is; PostgreSQL's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// What the server or the role has as its default.
    #[default]
    ServerDefault,
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see the same.
    RepeatableRead,
    /// As if transactions ran one after the other. Fails with contention, so mark such transactions replayable.
    Serializable,
}

/// What kind of transaction to begin.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kind {
    pub(super) isolation: Isolation,
    pub(super) read_only: bool,
}

/// What the server is told about time, so that it stops when nobody waits any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    statement: Duration,
    lock: Duration,
    idle: Duration,
    transaction: Duration,
}

/// The server gives up a statement this long before its caller does, so that the answer still arrives.
const MARGIN_MAX: Duration = Duration::from_millis(50);
/// Said to the transaction where it cannot be said to the session: the answer to COMMIT must mean that it is on disk.
const DURABLE: &str = "; SELECT set_config('synchronous_commit', 'on', true) \
     WHERE current_setting('synchronous_commit') = 'off'";
/// Longer than any limit that the configuration takes.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// And ends an abandoned session this long after.
const GRACE: Duration = Duration::from_millis(250);

impl Limits {
    pub(super) fn within(remaining: Duration, config: &PoolConfig) -> Self {
        // PostgreSQL takes zero for "no limit", and refuses what is more than an int of milliseconds.
        let least = Duration::from_millis(1);
        let remaining = remaining.min(LONGEST);
        let margin = (remaining / 10).min(MARGIN_MAX);
        Self {
            statement: config.statement.min(remaining.saturating_sub(margin)).max(least),
            // Shorter, to tell a lock held by others from a server that does not answer.
            lock: config.lock.min(remaining * 3 / 4).max(least),
            idle: config.idle_in_transaction.min(remaining + GRACE),
            transaction: remaining + GRACE,
        }
    }
}

/// Whether a statement that the server cancelled at `now` was cancelled for the limit it was given.
pub(super) fn is_own_limit(time: &AttemptTime, now: Instant) -> bool {
    time.deadline.remaining(now) <= 2 * MARGIN_MAX
}

/// Begins a transaction and answers its mark; a read-only one has none, since it has no effect to look for.
///
/// # Cancel safety
/// The connection is in a transaction, or in doubt; the loan must be dropped.
pub(super) async fn begin(
    loan: &Loan,
    kind: Kind,
    limits: Limits,
    marking: &Marking,
) -> Result<Option<Mark>, DriverError> {
    let hidden = marking.origin_hidden.load(Ordering::Relaxed);
    let tail = if loan.statements().is_pooled() && !kind.read_only { DURABLE } else { "" };
    let text = |with_origin| format!("{}{tail}", message(kind, limits, with_origin));
    let error = match loan.simple_query(&text(!hidden)).await {
        Ok(answer) => return Ok(mark(&answer).filter(|_| !kind.read_only)),
        Err(error) => error,
    };
    if hidden || kind.read_only || !is_kept_from_us(&error) {
        return Err(error);
    }
    marking.origin_hidden.store(true, Ordering::Relaxed);
    tracing::info!("this database does not tell its origin; lost commits are looked for by key only");
    loan.batch_execute("ROLLBACK").await?;
    Ok(mark(&loan.simple_query(&text(false)).await?))
}

/// A server, or what stands for one, that does not know what it was asked for or does not let us have it.
pub(super) fn is_kept_from_us(error: &DriverError) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("42") || code.code().starts_with("0A"))
}

fn message(kind: Kind, limits: Limits, with_origin: bool) -> String {
    let isolation = match kind.isolation {
        Isolation::ServerDefault => "",
        Isolation::ReadCommitted => " ISOLATION LEVEL READ COMMITTED",
        Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
        Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
    };
    let access = if kind.read_only { " READ ONLY" } else { "" };
    let marks = match (kind.read_only, with_origin) {
        (true, _) => String::new(),
        (false, true) => format!(", txid_current(), pg_backend_pid(), {ORIGIN}"),
        (false, false) => ", txid_current(), pg_backend_pid(), NULL".to_owned(),
    };
    let Limits { statement, lock, idle, transaction } = limits;
    // `transaction_timeout` came with version 17.
    format!(
        "BEGIN{isolation}{access}; SELECT set_config('statement_timeout', '{}', true), \
         set_config('lock_timeout', '{}', true), \
         set_config('idle_in_transaction_session_timeout', '{}', true), \
         CASE WHEN current_setting('server_version_num')::int >= 170000 \
         THEN set_config('transaction_timeout', '{}', true) END{marks}",
        statement.as_millis(),
        lock.as_millis(),
        idle.as_millis(),
        transaction.as_millis(),
    )
}

fn mark(answer: &[SimpleQueryMessage]) -> Option<Mark> {
    const FIRST: usize = 4;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })?;
    let text = |index: usize| row.try_get(FIRST + index).ok().flatten();
    let xid = text(0)?.parse().ok()?;
    Some(Mark { xid, process: text(1)?.parse().ok()?, origin: text(2).map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn(u64) -> Limits =
        |remaining| Limits::within(Duration::from_millis(remaining), &PoolConfig::default());

    #[test]
    fn the_server_gives_up_before_the_caller_and_a_lock_before_that() {
        for remaining in [10, 100, 400, 1_000, 60_000] {
            let limits = LIMITS(remaining);
            assert!(limits.lock < limits.statement, "{remaining}: {limits:?}");
            assert!(limits.statement < Duration::from_millis(remaining), "{remaining}: {limits:?}");
            assert!(limits.transaction > Duration::from_millis(remaining), "{remaining}: {limits:?}");
        }
        assert_eq!(LIMITS(60_000).lock, PoolConfig::default().lock);
        assert_eq!(LIMITS(60_000).statement, PoolConfig::default().statement);
    }

    /// PostgreSQL reads zero as "no limit", so a deadline that has passed would have switched the limits off.
    #[test]
    fn nothing_left_is_not_no_limit() {
        let limits = LIMITS(0);
        assert_eq!((limits.statement.as_millis(), limits.lock.as_millis()), (1, 1));
        assert!(!limits.idle.is_zero() && !limits.transaction.is_zero());
    }

    /// An attempt of a month made every BEGIN fail on version 17, which got more than the int that it takes.
    #[test]
    fn the_longest_deadline_is_one_that_the_server_takes() {
        let limits = Limits::within(Duration::MAX, &PoolConfig::default());
        assert!(limits.transaction.as_millis() <= i32::MAX as u128, "{limits:?}");
    }

    #[test]
    fn a_read_only_transaction_asks_for_no_identifier() {
        let kind = Kind { isolation: Isolation::RepeatableRead, read_only: true };
        let text = message(kind, LIMITS(1_000), true);
        assert!(text.starts_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "), "{text}");
        assert!(!text.contains("txid"), "{text}");
        assert!(message(Kind::default(), LIMITS(1_000), true).contains("txid_current"));
    }
}
