//! Faults by real conflicts between transactions, told by PostgreSQL itself: deadlocks with another session, and rows that
//! changed meanwhile. Errors that a trigger only raises are in `lock.rs`.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::cluster::{APP, Cluster};
use crate::error::Error;
use crate::nemesis::access::end_sessions_of_role;
use crate::nemesis::kind::{Guard, Healing, Kind, Means, Scene, Values, boxed};
use crate::nemesis::lock::{SHARE, TABLE};
use crate::nemesis::undo::{LIMIT, Undo, Where, execute};
use crate::nemesis::victim::Victim;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D9",
        name: "deadlocks-detected",
        about: "a share of all writing statements runs into a deadlock with another session, and is its victim (40P01)",
        parameters: &[TABLE, SHARE],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Conflict::inject(scene, with, &DEADLOCK)),
    },
    Kind {
        id: "D9",
        name: "rows-changed-meanwhile",
        about: "the role's transactions are repeatable reads, and a share of their writes meets a row that changed (40001)",
        parameters: &[TABLE, SHARE],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Conflict::inject(scene, with, &CHANGED)),
    },
];

/// How a conflict is made.
#[derive(Debug)]
struct How {
    code: &'static str,
    /// What a statement of the service does in the trigger; `PARTNER` is the pid of the other session.
    body: &'static str,
    /// Settings of the trigger function.
    set: &'static str,
    /// The role's level of isolation, where it has to be another.
    isolation: Option<&'static str>,
    partner: Partner,
}

#[derive(Debug, Clone, Copy)]
enum Partner {
    Locks,
    Updates,
}

/// The statement takes the first lock and waits until the partner, which has the second, waits for it. Then it asks for
/// the second. PostgreSQL looks for deadlocks first on behalf of who waited shorter than the partner is willing to.
const DEADLOCK: How = How {
    code: "40P01",
    body: "PERFORM pg_advisory_xact_lock(4001); \
           FOR round IN 1..50 LOOP \
           EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE pid = PARTNER AND NOT granted); PERFORM pg_sleep(0.002); \
           END LOOP; PERFORM pg_advisory_xact_lock(4002);",
    set: "SET deadlock_timeout = '10ms'",
    isolation: None,
    partner: Partner::Locks,
};

/// The statement's transaction sees the row as it was; the partner changes it all the time.
const CHANGED: How = How {
    code: "40001",
    body: "IF current_setting('transaction_isolation') <> 'read committed' THEN \
           PERFORM pg_sleep(0.02); UPDATE public.chaos_conflict SET number = number + 1; END IF;",
    set: "",
    isolation: Some("repeatable read"),
    partner: Partner::Updates,
};

impl How {
    fn install(&self, table: &str, share: u64, partner: i32) -> String {
        let Self { body, set, .. } = self;
        let body = body.replace("PARTNER", &partner.to_string());
        let mut text = format!(
            "CREATE TABLE public.chaos_conflict (number bigint);\n\
             INSERT INTO public.chaos_conflict VALUES (0);\n\
             CREATE FUNCTION public.chaos_conflict() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {set} AS \
             $$ BEGIN IF random() * 100 < {share} THEN {body} END IF; RETURN NULL; END $$;\n\
             CREATE TRIGGER chaos_conflict BEFORE INSERT OR UPDATE OR DELETE ON public.{table} \
             FOR EACH STATEMENT EXECUTE FUNCTION public.chaos_conflict()"
        );
        if let Some(isolation) = self.isolation {
            text += &format!(";\nALTER ROLE {APP} SET default_transaction_isolation = '{isolation}'");
            text += &format!(";\n{}", end_sessions_of_role());
        }
        text
    }

    fn remove(&self, table: &str) -> String {
        let mut text = format!(
            "DROP TRIGGER IF EXISTS chaos_conflict ON public.{table};\n\
             DROP FUNCTION IF EXISTS public.chaos_conflict();\nDROP TABLE IF EXISTS public.chaos_conflict"
        );
        if self.isolation.is_some() {
            text += &format!(
                ";\nALTER ROLE {APP} RESET default_transaction_isolation;\n{}",
                end_sessions_of_role()
            );
        }
        text
    }
}

/// Transactions of the service conflict with one of the harness.
#[derive(Debug)]
struct Conflict {
    cluster: Cluster,
    undo: Option<Undo>,
    partner: JoinSet<Result<(), Error>>,
    met: Option<String>,
    how: &'static How,
    deadlocks_before: i64,
}

/// With a share of 10 in 100, all but one of 500 meet an error within these.
const TRIES: u32 = 60;
/// Between two steps of the partner.
const STEP: Duration = Duration::from_millis(3);

impl Conflict {
    async fn inject(scene: Scene, with: Values, how: &'static How) -> Result<Self, Error> {
        let (cluster, table) = (scene.cluster.clone(), with.word("table"));
        let mut guard = Self {
            deadlocks_before: deadlocks(&cluster).await?,
            cluster: cluster.clone(),
            undo: None,
            partner: JoinSet::new(),
            met: None,
            how,
        };
        if scene.has_teeth() {
            let client = cluster.connect(LIMIT).await?;
            let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
            let pid = row.and_then(|row| row.try_get(0)).map_err(Error::postgres("make a conflict"))?;
            guard.undo = Some(Undo::by(&cluster, Where::Service, how.remove(table)));
            execute(&cluster, Where::Service, &how.install(table, with.whole("share"), pid)).await?;
            guard.partner.spawn(async move {
                match how.partner {
                    Partner::Locks => lock_on(&client).await,
                    Partner::Updates => update_on(&client).await,
                }
            });
        }
        let victim = Victim::open(&cluster).await?;
        // Chance decides about each try.
        let ask = format!("DELETE FROM public.{table} WHERE false");
        for _ in 0..TRIES {
            guard.met = victim.meets(&ask, LIMIT).await.with(how.code);
            if guard.met.is_some() {
                break;
            }
        }
        Ok(guard)
    }
}

/// Takes the second lock, and the first as soon as a statement of the service has it. Willing to wait for long, it is never
/// the one that finds the deadlock.
async fn lock_on(client: &Client) -> Result<(), Error> {
    let what = "run into deadlocks";
    let run = async |statement: &str| client.batch_execute(statement).await.map_err(Error::postgres(what));
    run("SET deadlock_timeout = '60s'").await?;
    loop {
        run("BEGIN; SELECT pg_advisory_xact_lock(4002)").await?;
        loop {
            let free = client.query_one("SELECT pg_try_advisory_lock(4001)", &[]).await;
            let is_free: bool = free.and_then(|row| row.try_get(0)).map_err(Error::postgres(what))?;
            if !is_free {
                break;
            }
            run("SELECT pg_advisory_unlock(4001)").await?;
            tokio::time::sleep(STEP).await;
        }
        run("SELECT pg_advisory_xact_lock(4001); COMMIT").await?;
    }
}

/// Changes the row all the time.
async fn update_on(client: &Client) -> Result<(), Error> {
    loop {
        let changed = client.batch_execute("UPDATE public.chaos_conflict SET number = number + 1").await;
        changed.map_err(Error::postgres("change a row"))?;
        tokio::time::sleep(STEP).await;
    }
}

/// What PostgreSQL itself has counted.
async fn deadlocks(cluster: &Cluster) -> Result<i64, Error> {
    let client = cluster.connect(LIMIT).await?;
    let query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let what = "count deadlocks";
    let asked = tokio::time::timeout(LIMIT, client.query_one(query, &[])).await;
    let row = asked.map_err(|_| Error::Late { what: what.to_owned(), limit: LIMIT })?;
    row.and_then(|row| row.try_get(0)).map_err(Error::postgres(what))
}

impl Guard for Conflict {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            // First the partner: it has a lock on what is taken away.
            self.partner.shutdown().await;
            let Some(undo) = self.undo.take() else { return Ok(self.met.take()) };
            undo.now().await?;
            let count = deadlocks(&self.cluster).await? - self.deadlocks_before;
            let is_counted = matches!(self.how.partner, Partner::Locks);
            Ok(self.met.take().map(|met| match count {
                1.. if is_counted => {
                    format!("a session of the service met {met}; PostgreSQL counted {count} deadlocks")
                }
                _ => format!("a session of the service met {met}"),
            }))
        })
    }
}
