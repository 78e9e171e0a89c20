//! The schema: numbered steps that only go forward, each in a transaction, one process at a time. It decides nothing
//! about requests: until the schema is in order the library keeps them from the database.

use std::{fmt, time::Duration};

use ridethrough::{
    Db,
    db::SCHEMA_SQL,
    drain::Draining,
    health::{DatabasePart, SchemaPart},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, NoTls, Row};

use crate::{
    cli::{CLEAN, INTERNAL_FAULT, WRONG_CONFIGURATION},
    config::Config,
};

/// One step of the schema.
struct Migration {
    version: i32,
    name: &'static str,
    /// Checked against what was applied: an applied step must never be edited.
    sql: &'static str,
    /// Statements of the library, which may be run again and are not part of the checksum.
    library_sql: &'static str,
}

/// The tables of the service.
pub const SCHEMA: &str = include_str!("../migrations/0001_todos.sql");

const MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, name: "todos", sql: SCHEMA, library_sql: SCHEMA_SQL }];

/// Any number will do that no other program locks in the same database.
const LOCK: i64 = 0x5269_6465_746f_646f;
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For all steps together, waiting for another process included. A step that needs longer is run by hand.
const MIGRATE_MAX: Duration = Duration::from_secs(120);
/// The one encoding in which PostgreSQL keeps every title as it was written: another one refuses some, or sorts and counts
/// bytes for characters.
const ENCODING: &str = "UTF8";
/// For reading what was applied.
const LOOK_MAX: Duration = Duration::from_secs(5);
const UNDEFINED_TABLE: &str = "42P01";
const SESSION: &str = "SET lock_timeout = '30s'; SET statement_timeout = '100s'; \
                       SET idle_in_transaction_session_timeout = '30s'";
const HISTORY: &str = "CREATE TABLE IF NOT EXISTS ridethrough_migrations (\
                       version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, \
                       applied_at timestamptz NOT NULL DEFAULT now())";

/// How soon the start says that it goes on without the database.
const PATIENCE_AT_START: Duration = Duration::from_secs(1);
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why the schema is not in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NotMigrated {
    /// The database refused or lost a statement; its SQLSTATE where it spoke.
    Failed(Option<String>),
    /// It took too long.
    TooSlow,
    /// The database was migrated by a newer version of this program.
    Newer(i32),
    /// A step was applied in another form than this program knows.
    Changed(i32),
    /// The database keeps its texts in this encoding, and not in [`ENCODING`].
    Encoding(String),
    /// The database takes no writes now, and this many steps are missing.
    Behind(usize),
}

impl fmt::Display for NotMigrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(Some(code)) => write!(f, "the database answered with SQLSTATE {code}"),
            Self::Failed(None) => f.write_str("the connection to the database failed"),
            Self::TooSlow => write!(f, "it took longer than {} s", MIGRATE_MAX.as_secs()),
            Self::Newer(version) => write!(
                f,
                "the database has schema version {version}, and this program knows only {}: use a newer one",
                latest()
            ),
            Self::Changed(version) => {
                write!(f, "schema version {version} in the database is not the one that this program knows")
            }
            Self::Encoding(found) => write!(
                f,
                "the database has the encoding {found}, which cannot hold every title, and an encoding cannot be \
                 changed: make a new database with ENCODING '{ENCODING}' TEMPLATE template0, and name it in the \
                 database URL"
            ),
            Self::Behind(steps) => {
                write!(
                    f,
                    "the database takes only reads, and its schema lacks {steps} steps of this program's"
                )
            }
        }
    }
}

impl From<tokio_postgres::Error> for NotMigrated {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error.code().map(|code| code.code().to_owned()))
    }
}

impl NotMigrated {
    /// It goes away without a person: the database is starting, ending, overloaded, locked by another migration, or a
    /// standby for now.
    fn will_pass(&self) -> bool {
        match self {
            Self::Failed(code) => {
                let passing = ["08", "25006", "53", "55P03", "57"];
                code.as_ref().is_none_or(|code| passing.iter().any(|known| code.starts_with(known)))
            }
            Self::TooSlow | Self::Behind(_) => true,
            Self::Newer(_) | Self::Changed(_) | Self::Encoding(_) => false,
        }
    }

    /// The schema, or what it would stand in, was seen and is not ours to use.
    fn is_mismatch(&self) -> bool {
        matches!(self, Self::Newer(_) | Self::Changed(_) | Self::Encoding(_))
    }
}

/// Brings the schema in order as soon as the database is seen, however late that is, and then says so to `db`. A
/// database that takes no writes now is looked at, so that reads need not wait for one that does.
///
/// # Cancel safety
/// A dropped run leaves the steps that were committed; the next run goes on from there.
pub(crate) async fn when_seen(db: Db, mut draining: Draining) {
    let migrated = async {
        let mut database = db.database();
        if is_away_at_start(&mut database).await {
            tracing::warn!(
                "database is away; starting degraded: writes go to the journal, reads get what was kept"
            );
        }
        let mut pause = PAUSE_FIRST;
        let mut logged = None;
        loop {
            let seen = match database.wait_for(answers).await {
                Ok(part) => *part,
                Err(_) => return,
            };
            let reads_only = matches!(seen, DatabasePart::ReadOnly | DatabasePart::Standby);
            let checked = if reads_only { look(&db).await } else { attempt(&db).await };
            match checked {
                Ok(applied) if seen == DatabasePart::Up => {
                    db.set_schema(SchemaPart::Ok);
                    tracing::info!(schema_version = latest(), applied, "database taken over");
                    return;
                }
                Ok(_) => {
                    db.set_schema(SchemaPart::Ok);
                    tracing::info!(
                        schema_version = latest(),
                        "the database takes only reads, and its schema is in order: reads are answered, and writes go \
                         to the journal"
                    );
                    if database.wait_for(|part| *part == DatabasePart::Up).await.is_err() {
                        return;
                    }
                    // It takes writes now, so nothing is to be waited for.
                    continue;
                }
                Err(reason) => {
                    if reason.is_mismatch() {
                        db.set_schema(SchemaPart::Mismatch);
                    }
                    if logged.as_ref() != Some(&reason) {
                        log(&reason);
                    }
                    logged = Some(reason);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    let mut stopped = draining.clone();
    tokio::select! {
        () = migrated => draining.requested().await,
        () = stopped.requested() => {}
    }
}

/// Whether the start goes on without the database. A host that was not asked to the end yet is no news, however long this
/// machine takes for it: the prober's time limit bounds that.
async fn is_away_at_start(database: &mut watch::Receiver<DatabasePart>) -> bool {
    if timeout(PATIENCE_AT_START, database.wait_for(answers)).await.is_ok() {
        return false;
    }
    database.wait_for(|part| *part != DatabasePart::Unknown).await.is_ok_and(|part| !answers(&part))
}

/// Whether the schema can at least be read.
fn answers(part: &DatabasePart) -> bool {
    matches!(part, DatabasePart::Up | DatabasePart::ReadOnly | DatabasePart::Standby)
}

fn log(reason: &NotMigrated) {
    const TEXT: &str = "the schema could not be checked; until it is, the database is not used";
    if reason.will_pass() {
        tracing::warn!(%reason, "{TEXT}");
    } else {
        tracing::error!(%reason, "{TEXT}");
    }
}

async fn attempt(db: &Db) -> Result<usize, NotMigrated> {
    let connected = db.connect(CONNECT_MAX).await;
    let mut client = connected.map_err(|error| NotMigrated::Failed(error.code().map(str::to_owned)))?;
    timeout(MIGRATE_MAX, migrate(&mut client)).await.unwrap_or(Err(NotMigrated::TooSlow))
}

/// Compares without a write and without a lock: for a standby, which allows neither. Answers 0, as [`attempt`] does where
/// nothing was missing.
async fn look(db: &Db) -> Result<usize, NotMigrated> {
    let connected = db.connect(CONNECT_MAX).await;
    let client = connected.map_err(|error| NotMigrated::Failed(error.code().map(str::to_owned)))?;
    let looked = async {
        check_encoding(&client).await?;
        applied(&client).await
    };
    let applied = match timeout(LOOK_MAX, looked).await.unwrap_or(Err(NotMigrated::TooSlow)) {
        // What the primary has not made yet, no standby has.
        Err(NotMigrated::Failed(Some(code))) if code == UNDEFINED_TABLE => Vec::new(),
        applied => applied?,
    };
    all_there(&applied)
}

/// Whether a database with these steps can be read by this program as it is. Answers the number of missing steps: none.
fn all_there(applied: &[(i32, String)]) -> Result<usize, NotMigrated> {
    match missing(applied)?.len() {
        0 => Ok(0),
        steps => Err(NotMigrated::Behind(steps)),
    }
}

/// The sub-command `migrate`: once, without a server.
pub(crate) fn once(config: &Config) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Ok(target)) = (runtime, config.database.validate()) else { return WRONG_CONFIGURATION };
    let migrated = runtime.block_on(async {
        let connected = timeout(CONNECT_MAX, target.connect(NoTls)).await;
        let (mut client, connection) = connected.map_err(|_| NotMigrated::Failed(None))??;
        let driver = tokio::spawn(connection);
        let migrated = timeout(MIGRATE_MAX, migrate(&mut client)).await.unwrap_or(Err(NotMigrated::TooSlow));
        drop(client);
        // The goodbye to the server is a courtesy.
        let _ = timeout(CONNECT_MAX, driver).await;
        migrated
    });
    match migrated {
        Ok(applied) => {
            tracing::info!(schema_version = latest(), applied, "the schema is up to date");
            CLEAN
        }
        Err(reason) => {
            tracing::error!(%reason, "the schema was not brought up to date");
            INTERNAL_FAULT
        }
    }
}

/// Applies what is missing, under a lock that ends with the session. Answers the number of steps.
async fn migrate(client: &mut Client) -> Result<usize, NotMigrated> {
    client.batch_execute(SESSION).await?;
    check_encoding(client).await?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let migrated = apply_missing(client).await;
    // Where this fails the connection is gone, and the lock with it.
    let _ = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    migrated
}

async fn apply_missing(client: &mut Client) -> Result<usize, NotMigrated> {
    client.batch_execute(HISTORY).await?;
    let missing = missing(&applied(client).await?)?;
    for migration in &missing {
        let transaction = client.transaction().await?;
        transaction.batch_execute(migration.sql).await?;
        transaction.batch_execute(migration.library_sql).await?;
        transaction
            .execute(
                "INSERT INTO ridethrough_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                &[&migration.version, &migration.name, &checksum(migration.sql)],
            )
            .await?;
        transaction.commit().await?;
        tracing::info!(version = migration.version, name = migration.name, "schema step applied");
    }
    Ok(missing.len())
}

/// Before anything is made in it, and before the first write is promised to anybody.
async fn check_encoding(client: &Client) -> Result<(), NotMigrated> {
    let row = client.query_one("SHOW server_encoding", &[]).await?;
    suits(row.try_get(0)?)
}

fn suits(encoding: &str) -> Result<(), NotMigrated> {
    if encoding == ENCODING { Ok(()) } else { Err(NotMigrated::Encoding(encoding.to_owned())) }
}

/// The steps that the database records, with their checksums.
async fn applied(client: &Client) -> Result<Vec<(i32, String)>, NotMigrated> {
    let rows =
        client.query("SELECT version, checksum FROM ridethrough_migrations ORDER BY version", &[]).await?;
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(read).collect()
}

/// The steps that a database with these still needs.
fn missing(applied: &[(i32, String)]) -> Result<Vec<&'static Migration>, NotMigrated> {
    for (version, recorded) in applied {
        let known = MIGRATIONS.iter().find(|migration| migration.version == *version);
        match known {
            None => return Err(NotMigrated::Newer(*version)),
            Some(known) if checksum(known.sql) != *recorded => return Err(NotMigrated::Changed(*version)),
            Some(_) => {}
        }
    }
    let is_applied = |version| applied.iter().any(|(done, _)| *done == version);
    Ok(MIGRATIONS.iter().filter(|migration| !is_applied(migration.version)).collect())
}

fn latest() -> i32 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied() -> Vec<(i32, String)> {
        MIGRATIONS.iter().map(|migration| (migration.version, checksum(migration.sql))).collect()
    }

    #[test]
    fn an_empty_database_needs_all_steps_and_a_current_one_none() {
        assert_eq!(missing(&[]).ok().unwrap().len(), MIGRATIONS.len());
        assert!(missing(&applied()).ok().unwrap().is_empty());
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        let mut newer = applied();
        newer.push((latest() + 1, "x".to_owned()));
        let refusal = missing(&newer).err().unwrap();
        assert_eq!(refusal, NotMigrated::Newer(latest() + 1));
        assert!(refusal.is_mismatch() && refusal.to_string().contains("use a newer one"));
    }

    /// A server that saw nothing but a standby left the schema unknown, and refused reads that the standby could answer.
    #[test]
    fn a_standby_is_used_only_with_exactly_this_schema() {
        assert_eq!(all_there(&applied()), Ok(0));
        let behind = all_there(&[]).err().unwrap();
        assert_eq!(behind, NotMigrated::Behind(MIGRATIONS.len()));
        assert!(!behind.is_mismatch(), "the primary may be migrated any moment");
        let mut newer = applied();
        newer.push((latest() + 1, "x".to_owned()));
        assert!(all_there(&newer).err().unwrap().is_mismatch());
        use DatabasePart::{Away, ReadOnly, Standby, Up};
        assert_eq!([Up, ReadOnly, Standby, Away].map(|part| answers(&part)), [true, true, true, false]);
    }

    /// On a busy machine the first look at a database that was there took longer than the patience, and the log said that it
    /// was away.
    #[tokio::test(start_paused = true)]
    async fn a_database_is_away_at_the_start_once_it_was_asked_and_not_before() {
        use DatabasePart::{Away, Refused, Standby, Unknown, Up};
        for (part, is_away) in [(Up, false), (Standby, false), (Away, true), (Refused, true)] {
            for late in [Duration::ZERO, PATIENCE_AT_START / 2, PATIENCE_AT_START * 3] {
                let (seen, mut database) = watch::channel(Unknown);
                let told = async {
                    sleep(late).await;
                    seen.send_replace(part);
                };
                let (found, ()) = tokio::join!(is_away_at_start(&mut database), told);
                assert_eq!(found, is_away, "{part:?} after {late:?}");
            }
        }
        // Who comes back in time was never away.
        let (seen, mut database) = watch::channel(Away);
        let returns = async {
            sleep(PATIENCE_AT_START / 2).await;
            seen.send_replace(Up);
        };
        assert!(!tokio::join!(is_away_at_start(&mut database), returns).0);
    }

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

    #[test]
    fn an_edited_step_is_noticed() {
        let edited = vec![(1, checksum("something else"))];
        assert_eq!(missing(&edited).err(), Some(NotMigrated::Changed(1)));
    }

    #[test]
    fn only_what_will_not_pass_is_a_persons_business() {
        let failed = |code: &str| NotMigrated::Failed(Some(code.to_owned()));
        let (unreachable, slow) = (NotMigrated::Failed(None), NotMigrated::TooSlow);
        let behind = NotMigrated::Behind(1);
        for passing in [unreachable, slow, behind, failed("57P03"), failed("55P03"), failed("25006")] {
            assert!(passing.will_pass(), "{passing}");
        }
        for lasting in [failed("42501"), failed("42P07"), NotMigrated::Newer(2), NotMigrated::Changed(1)] {
            assert!(!lasting.will_pass(), "{lasting}");
        }
    }

    #[test]
    fn versions_rise_by_one() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=latest()).collect::<Vec<_>>());
    }
}
