//! Removes the outcomes of writes that were kept long enough, a bounded number at a time. It goes on beside
//! replay: an entry that waits for an operator may wait for long.

use std::time::Duration;

use crate::{
    db::{Db, asked::Question, statements::Statements},
    metrics,
};

/// The first look comes a little after the start, when everything else has settled down.
pub(super) const FIRST: Duration = Duration::from_secs(5);
/// Rows that one statement removes at the most.
const ROWS_MAX: i64 = 1_000;
/// Between looks for such rows, where the last one found less than there may be.
const EVERY: Duration = Duration::from_secs(60);
/// Between statements, where it found that many: 2,000 rows a second, more than a replica is meant to write.
const SOON: Duration = Duration::from_millis(500);
/// Any number will do that no other program locks in the same database. One replica at a time looks; where the lock belongs
/// to a transaction, it works behind every pooler.
const LOCK: i64 = 0x5269_6465_7772_6974;
/// As PostgreSQL takes intervals of any length.
const SQL: &str = "\
WITH lock AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1::bigint) AS ours), \
old AS MATERIALIZED (\
    SELECT key FROM ridethrough_writes \
    WHERE (SELECT ours FROM lock) AND settled_at < now() - make_interval(secs => $2::double precision) \
    ORDER BY settled_at LIMIT $3::bigint FOR UPDATE SKIP LOCKED) \
DELETE FROM ridethrough_writes AS w USING old WHERE w.key = old.key";

/// Looks once, and answers when to look again. A failure is no matter: the next look finds the same rows.
pub(super) async fn tend(db: &Db) -> Duration {
    let removed = db.remove_settled().await;
    let pause = if removed >= ROWS_MAX.unsigned_abs() { SOON } else { EVERY };
    // Spread, so that replicas that were started together do not meet for ever.
    pause + db.random(|random| pause.mul_f64(random.f64() / 5.0))
}

/// One statement's worth of rows that were kept for so many seconds; answers how many there were.
struct RemoveOld {
    seconds: f64,
}

impl Question for RemoveOld {
    type Answer = u64;

    fn operation(&self) -> &'static str {
        "remove-old-outcomes"
    }

    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(&'c self, statements: &'c Statements<'c>) -> Result<u64, tokio_postgres::Error> {
        statements.run(SQL, &[&LOCK, &self.seconds, &ROWS_MAX]).await
    }
}

impl Db {
    /// One statement's worth of rows that were kept long enough; answers how many there were.
    async fn remove_settled(&self) -> u64 {
        let old = RemoveOld { seconds: self.0.config.write.retention.as_secs_f64() };
        match self.ask_primary(&old).await {
            Ok(rows) => {
                metrics::outcomes_removed(rows);
                rows
            }
            Err(error) => {
                tracing::debug!(code = error.code(), "old outcomes of writes could not be removed");
                0
            }
        }
    }
}
