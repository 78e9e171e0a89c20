//! The schema and a connection: what is recorded there, what is missing, and the steps. One process at a time, under a lock
//! that ends with the session.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, Row};

use super::{
    NotMigrated,
    steps::{How, Recorded, Step, checksum, missing},
};

/// Any number will do that no other program locks in the same database.
const LOCK: i64 = 0x5269_6465_746f_646f;
/// Between attempts at the lock. Who waits inside of a statement holds a snapshot, which the making of an index waits for.
const LOCK_PAUSE: Duration = Duration::from_millis(250);
/// A step that waits for a table keeps everybody waiting who comes after it, so it gives up soon and is tried again.
const SESSION: &str = "SET lock_timeout = '2s'; SET statement_timeout = 0; \
                       SET idle_in_transaction_session_timeout = '30s'";
const STEP_AGAIN_PAUSE: Duration = Duration::from_secs(1);
const HISTORY: &str = "CREATE TABLE IF NOT EXISTS ridethrough_migrations (\
                       version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, \
                       applied_at timestamptz NOT NULL DEFAULT now());\
                       ALTER TABLE ridethrough_migrations ADD COLUMN IF NOT EXISTS works_with integer";
/// The one encoding in which PostgreSQL keeps every title as it was written: another one refuses some, or sorts and counts
/// bytes for characters.
pub(super) const ENCODING: &str = "UTF8";
const UNDEFINED_TABLE: &str = "42P01";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What a look found, without a write and without a lock.
pub(super) struct Looked {
    pub(super) missing: Vec<&'static Step>,
    pub(super) is_superuser: bool,
}

/// Compares. Every role that may read the record can do it, also at a standby.
pub(super) async fn look(client: &Client) -> Result<Looked, NotMigrated> {
    // Without a name, which would meet those of others behind a pooler.
    let sql = "SELECT current_setting('server_encoding'), current_setting('is_superuser') = 'on'";
    let rows = client.query_typed(sql, &[]).await?;
    let row = rows.first().ok_or(NotMigrated::Failed(None))?;
    suits(row.try_get(0)?)?;
    let recorded = match recorded(client).await {
        Err(NotMigrated::Failed(Some(code))) if code == UNDEFINED_TABLE => Vec::new(),
        recorded => recorded?,
    };
    Ok(Looked { missing: missing(&recorded)?, is_superuser: row.try_get(1)? })
}

/// Before anything is made in it, and before the first write is promised to anybody.
fn suits(encoding: &str) -> Result<(), NotMigrated> {
    if encoding == ENCODING { Ok(()) } else { Err(NotMigrated::Encoding(encoding.to_owned())) }
}

/// Applies what is missing. Answers the number of steps.
///
/// # Cancel safety
/// What was applied stays; the lock ends with the session.
pub(super) async fn migrate(client: &mut Client) -> Result<usize, NotMigrated> {
    client.batch_execute(SESSION).await?;
    while !client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?.try_get::<_, bool>(0)? {
        sleep(LOCK_PAUSE).await;
    }
    let migrated = apply_missing(client).await;
    // Where this fails the connection is gone, and the lock with it.
    let _ = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    migrated
}

async fn apply_missing(client: &mut Client) -> Result<usize, NotMigrated> {
    client.batch_execute(HISTORY).await?;
    let missing = missing(&recorded(client).await?)?;
    for step in &missing {
        loop {
            match apply(client, step).await {
                Err(NotMigrated::Failed(Some(code))) if code == LOCK_NOT_AVAILABLE => {
                    tracing::info!(
                        version = step.version,
                        "a schema step waits for others to let go of a table"
                    );
                    sleep(STEP_AGAIN_PAUSE).await;
                }
                applied => break applied?,
            }
        }
        tracing::info!(version = step.version, name = step.name, "schema step applied");
    }
    Ok(missing.len())
}

async fn apply(client: &mut Client, step: &Step) -> Result<(), NotMigrated> {
    if let How::Index(name) = step.how {
        let broken_off =
            "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)";
        if client.query_one(broken_off, &[&name]).await?.try_get(0)? {
            client.batch_execute(&format!("DROP INDEX CONCURRENTLY {name}")).await?;
        }
        let is_there = "SELECT to_regclass($1) IS NOT NULL";
        if !client.query_one(is_there, &[&name]).await?.try_get::<_, bool>(0)? {
            client.batch_execute(step.sql).await?;
        }
        return record(client, step).await;
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(step.sql).await?;
    transaction.batch_execute(step.library_sql).await?;
    record(transaction.client(), step).await?;
    Ok(transaction.commit().await?)
}

async fn record(client: &Client, step: &Step) -> Result<(), NotMigrated> {
    let sql =
        "INSERT INTO ridethrough_migrations (version, name, checksum, works_with) VALUES ($1, $2, $3, $4)";
    client.execute(sql, &[&step.version, &step.name, &checksum(step.sql), &step.works_with]).await?;
    Ok(())
}

/// The steps that the database records. A record that an older program made has one column less.
async fn recorded(client: &Client) -> Result<Vec<Recorded>, NotMigrated> {
    let sql = "SELECT version, checksum, (to_jsonb(step) ->> 'works_with')::integer \
               FROM ridethrough_migrations AS step ORDER BY version";
    let read = |row: &Row| {
        Ok(Recorded { version: row.try_get(0)?, checksum: row.try_get(1)?, works_with: row.try_get(2)? })
    };
    client.query_typed(sql, &[]).await?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of another encoding was taken over: a title with a letter that it lacks was accepted into the journal and
    /// could never be stored.
    #[test]
    fn a_database_of_another_encoding_is_left_alone() {
        assert_eq!(suits("UTF8"), Ok(()));
        for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
            let refusal = suits(encoding).unwrap_err();
            assert!(refusal.is_mismatch() && !refusal.will_pass(), "{refusal}");
            let text = refusal.to_string();
            assert!(text.contains(encoding) && text.contains("ENCODING 'UTF8'"), "{text}");
        }
    }
}
