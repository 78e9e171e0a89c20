//! The schema: numbered steps that only go forward, each in a transaction, one process at a time. It decides nothing
//! about requests: until the schema is in order the library keeps them from the database.

mod apply;
mod steps;

use std::{fmt, io::Write as _, time::Duration};

use ridethrough::{
    Db,
    db::{DbConfig, Migrate, Superuser},
    drain::Draining,
    health::{DatabasePart, SchemaPart},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use self::{
    apply::{ENCODING, look, migrate},
    steps::{Step, latest},
};
use crate::{
    cli::{CLEAN, INTERNAL_FAULT, WRONG_CONFIGURATION},
    config::Config,
};

/// The tables of the service, without what is made beside its work.
pub const SCHEMA: &str = concat!(
    include_str!("../migrations/0001_todos.sql"),
    include_str!("../migrations/0002_owners_and_events.sql"),
    include_str!("../migrations/0004_outbox.sql")
);

/// What is made beside it: one statement.
pub const SCHEMA_BESIDE: &str = include_str!("../migrations/0003_todos_of_owner.sql");

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For all steps together, waiting for another process included. A step that needs longer is for the sub-command.
const MIGRATE_MAX: Duration = Duration::from_secs(120);
/// The same by hand.
const MIGRATE_BY_HAND_MAX: Duration = Duration::from_secs(24 * 3_600);
/// For reading what was applied.
const LOOK_MAX: Duration = Duration::from_secs(5);

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
    /// This many steps are missing, and it is not for this process to make them now.
    Behind(usize),
    /// The role is a superuser, which the configuration forbids.
    Superuser,
}

impl fmt::Display for NotMigrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(Some(code)) => write!(f, "the database answered with SQLSTATE {code}"),
            Self::Failed(None) => f.write_str("the connection to the database failed"),
            Self::TooSlow => write!(f, "it took too long"),
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
            Self::Behind(steps) => write!(
                f,
                "the schema lacks {steps} of this program's steps, and the database takes only reads, or \
                 database.migrate is never: `ridethrough-server migrate` makes them"
            ),
            Self::Superuser => f.write_str(
                "the role in the database URL is a superuser, and database.superuser is refuse: use an ordinary role",
            ),
        }
    }
}

impl From<tokio_postgres::Error> for NotMigrated {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error.code().map(|code| code.code().to_owned()))
    }
}

impl From<ridethrough::Error> for NotMigrated {
    fn from(error: ridethrough::Error) -> Self {
        Self::Failed(error.code().map(str::to_owned))
    }
}

impl NotMigrated {
    /// It goes away without a person: the database is starting, ending, overloaded, locked by another migration, or a
    /// standby for now.
    fn will_pass(&self) -> bool {
        match self {
            Self::Failed(code) => {
                let passing = ["08", "25006", "40P01", "53", "55P03", "57"];
                code.as_ref().is_none_or(|code| passing.iter().any(|known| code.starts_with(known)))
            }
            Self::TooSlow | Self::Behind(_) => true,
            Self::Newer(_) | Self::Changed(_) | Self::Encoding(_) | Self::Superuser => false,
        }
    }

    /// The schema, or what it would stand in, was seen and is not ours to use.
    fn is_mismatch(&self) -> bool {
        matches!(self, Self::Newer(_) | Self::Changed(_) | Self::Encoding(_) | Self::Superuser)
    }
}

/// What is to be done about the schema, as it is set.
#[derive(Debug, Clone, Copy)]
struct Wishes {
    migrate: Migrate,
    superuser: Superuser,
}

/// What became of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// All steps are there, of which so many were made now.
    InOrder(usize),
    /// What this program needs is there, and something else is not.
    Usable(NotMigrated),
}

/// What a process with these wishes does about missing steps.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Go(Found),
    Make,
    Wait(NotMigrated),
}

impl Wishes {
    /// `seen` is what the database is now.
    fn next(self, missing: &[&Step], seen: DatabasePart) -> Next {
        let behind = NotMigrated::Behind(missing.len());
        match missing {
            [] => Next::Go(Found::InOrder(0)),
            _ if self.migrate == Migrate::Auto && seen == DatabasePart::Up => Next::Make,
            _ if missing.iter().all(|step| !step.needed) => Next::Go(Found::Usable(behind)),
            _ => Next::Wait(behind),
        }
    }

    /// # Errors
    /// Where the role has rights that it must not have.
    fn accept(self, is_superuser: bool, was_said: &mut bool) -> Result<(), NotMigrated> {
        match self.superuser {
            Superuser::Refuse if is_superuser => return Err(NotMigrated::Superuser),
            Superuser::Warn if is_superuser && !*was_said => {
                tracing::warn!(
                    "the role in the database URL is a superuser, whom no rule of the database holds back; an ordinary \
                     role is enough (server/sql/roles.sql)"
                );
                *was_said = true;
            }
            Superuser::Refuse | Superuser::Warn | Superuser::Allow => {}
        }
        Ok(())
    }
}

/// Brings the schema in order as soon as the database is seen, however late that is, and then says so to `db`. A
/// database that takes no writes now is looked at, so that reads need not wait for one that does; and so is every one where
/// `database.migrate` is `never`.
///
/// # Cancel safety
/// A dropped run leaves the steps that were committed; the next run goes on from there.
pub(crate) async fn when_seen(db: Db, config: DbConfig, mut draining: Draining) {
    let wishes = Wishes { migrate: config.migrate, superuser: config.superuser };
    let mut stopped = draining.clone();
    tokio::select! {
        () = bring_in_order(&db, wishes) => draining.requested().await,
        () = stopped.requested() => {}
    }
}

async fn bring_in_order(db: &Db, wishes: Wishes) {
    let mut database = db.database();
    if is_away_at_start(&mut database).await {
        tracing::warn!(
            "database is away; starting degraded: writes go to the journal, reads get what was kept"
        );
    }
    let mut pause = PAUSE_FIRST;
    let (mut logged, mut was_said) = (None, false);
    loop {
        let seen = match database.wait_for(answers).await {
            Ok(part) => *part,
            Err(_) => return,
        };
        match attempt(db, wishes, seen, &mut was_said).await {
            Ok(Found::InOrder(applied)) => {
                db.set_schema(SchemaPart::Ok);
                if seen == DatabasePart::Up {
                    tracing::info!(schema_version = latest(), applied, "database taken over");
                    return;
                }
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
            Ok(Found::Usable(reason)) => {
                db.set_schema(SchemaPart::Pending);
                if logged.as_ref() != Some(&reason) {
                    tracing::warn!(%reason, "the database is used, though its schema is not complete");
                }
                logged = Some(reason);
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

/// Looks, and makes what is missing where it may. The look comes first: a role that may make nothing can serve a database in
/// which nothing is missing.
async fn attempt(
    db: &Db,
    wishes: Wishes,
    seen: DatabasePart,
    was_said: &mut bool,
) -> Result<Found, NotMigrated> {
    let mut client = db.connect(CONNECT_MAX).await?;
    let looked = timeout(LOOK_MAX, look(&client)).await.unwrap_or(Err(NotMigrated::TooSlow))?;
    wishes.accept(looked.is_superuser, was_said)?;
    match wishes.next(&looked.missing, seen) {
        Next::Go(found) => Ok(found),
        Next::Wait(reason) => Err(reason),
        Next::Make => {
            let made = timeout(MIGRATE_MAX, migrate(&mut client)).await.unwrap_or(Err(NotMigrated::TooSlow));
            let Err(reason) = made else { return made.map(Found::InOrder) };
            // What was made before it broke off may be all that is needed.
            let left = timeout(LOOK_MAX, async { look(&db.connect(CONNECT_MAX).await?).await }).await;
            let is_usable = matches!(left, Ok(Ok(left)) if left.missing.iter().all(|step| !step.needed));
            if is_usable && !reason.is_mismatch() { Ok(Found::Usable(reason)) } else { Err(reason) }
        }
    }
}

/// The sub-command `migrate`: once, without a server. With `check` it only looks, says what is missing, and answers 1 where
/// something is.
pub(crate) fn once(config: &Config, check: bool) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Ok(connected)) = (runtime, config.database.connect(CONNECT_MAX)) else {
        return WRONG_CONFIGURATION;
    };
    let ended = runtime.block_on(async {
        let mut client = connected.await?;
        let looked = timeout(LOOK_MAX, look(&client)).await.unwrap_or(Err(NotMigrated::TooSlow))?;
        if check {
            return Ok(Checked::Missing(looked.missing));
        }
        let migrated = timeout(MIGRATE_BY_HAND_MAX, migrate(&mut client)).await;
        migrated.unwrap_or(Err(NotMigrated::TooSlow)).map(Checked::Made)
    });
    match ended {
        Ok(Checked::Made(applied)) => {
            tracing::info!(schema_version = latest(), applied, "the schema is up to date");
            CLEAN
        }
        Ok(Checked::Missing(missing)) => {
            let mut out = std::io::stdout().lock();
            for step in &missing {
                let word = if step.needed { "needed" } else { "can wait" };
                let _ = writeln!(out, "missing: {} {} ({word})", step.version, step.name);
            }
            if missing.is_empty() {
                let _ = writeln!(out, "the schema is up to date: version {}", latest());
            }
            if missing.is_empty() { CLEAN } else { WRONG_CONFIGURATION }
        }
        Err(reason) => {
            tracing::error!(%reason, "the schema was not brought up to date");
            INTERNAL_FAULT
        }
    }
}

/// What the sub-command did.
enum Checked {
    Made(usize),
    Missing(Vec<&'static Step>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::steps::{STEPS, missing, tests::all};

    const AUTO: Wishes = Wishes { migrate: Migrate::Auto, superuser: Superuser::Warn };
    const NEVER: Wishes = Wishes { migrate: Migrate::Never, ..AUTO };

    /// A server that saw nothing but a standby left the schema unknown, and refused reads that the standby could answer.
    #[test]
    fn a_standby_is_used_only_with_what_this_program_needs() {
        use DatabasePart::{Away, ReadOnly, Standby, Up};
        let none = missing(&[]).ok().unwrap();
        let behind = NotMigrated::Behind(STEPS.len());
        for seen in [ReadOnly, Standby] {
            assert_eq!(AUTO.next(&[], seen), Next::Go(Found::InOrder(0)));
            assert_eq!(AUTO.next(&none, seen), Next::Wait(behind.clone()));
        }
        assert!(!behind.is_mismatch(), "the primary may be migrated any moment");
        assert_eq!([Up, ReadOnly, Standby, Away].map(|part| answers(&part)), [true, true, true, false]);
    }

    #[test]
    fn steps_are_made_only_where_that_is_wished_and_what_can_wait_holds_up_nobody() {
        use DatabasePart::{Standby, Up};
        let none = missing(&[]).ok().unwrap();
        assert_eq!((AUTO.next(&none, Up), AUTO.next(&[], Up)), (Next::Make, Next::Go(Found::InOrder(0))));
        assert_eq!(NEVER.next(&none, Up), Next::Wait(NotMigrated::Behind(STEPS.len())));
        let needed: Vec<_> = STEPS.iter().filter(|step| step.needed).map(|step| step.version).collect();
        let recorded: Vec<_> = all().into_iter().filter(|one| needed.contains(&one.version)).collect();
        let can_wait = missing(&recorded).ok().unwrap();
        assert!(!can_wait.is_empty());
        let usable = Next::Go(Found::Usable(NotMigrated::Behind(can_wait.len())));
        assert_eq!((NEVER.next(&can_wait, Up), AUTO.next(&can_wait, Standby)), (usable.clone(), usable));
        assert_eq!(AUTO.next(&can_wait, Up), Next::Make);
    }

    #[test]
    fn a_superuser_is_refused_where_that_is_wished() {
        let mut said = false;
        let refuse = Wishes { superuser: Superuser::Refuse, ..AUTO };
        assert_eq!(refuse.accept(true, &mut said), Err(NotMigrated::Superuser));
        assert_eq!(refuse.accept(false, &mut said), Ok(()));
        assert!(NotMigrated::Superuser.is_mismatch() && !NotMigrated::Superuser.will_pass());
        assert_eq!((AUTO.accept(true, &mut said), said), (Ok(()), true));
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
}
