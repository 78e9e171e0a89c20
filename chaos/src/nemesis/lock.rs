//! Faults by locks and by errors that a transaction meets, by SQL: a locked table, and statements that end with a
//! chosen SQLSTATE. Sessions are in `session.rs`, real conflicts of transactions in `conflict.rs`.

use std::time::Duration;

use tokio_postgres::Client;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::undo::{LIMIT, Undo, Where, execute};
use crate::nemesis::victim::Victim;

/// The table of the service that a fault is put on.
pub(super) const TABLE: Parameter =
    Parameter { name: "table", default: "todos", domain: Domain::Name, about: "the table of the service" };
pub(super) const SHARE: Parameter = Parameter {
    name: "share",
    default: "30",
    domain: Domain::Whole(1, 100),
    about: "how many of 100 writing statements",
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D9",
        name: "lock-storm",
        about: "a table is locked by somebody else: statements wait until they are given up (55P03, 57014)",
        parameters: &[
            TABLE,
            Parameter {
                name: "against",
                default: "all",
                domain: Domain::Words(&["all", "writes"]),
                about: "who has to wait",
            },
        ],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(LockStorm::inject(scene, with)),
    },
    Kind {
        id: "D9",
        name: "serialization-failures",
        about: "a share of all writing statements fails to serialize (40001)",
        parameters: &[TABLE, SHARE],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Raised::inject(scene, with, "40001")),
    },
    Kind {
        id: "D9",
        name: "deadlocks",
        about: "a share of all writing statements is the victim of a deadlock (40P01)",
        parameters: &[TABLE, SHARE],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Raised::inject(scene, with, "40P01")),
    },
];

/// A table is locked as long as this lives.
#[derive(Debug)]
struct LockStorm {
    holder: Client,
    met: Option<String>,
}

impl LockStorm {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let table = with.word("table");
        // SHARE keeps out everybody who writes, and nobody who reads.
        let (mode, wanted) = match with.word("against") {
            "writes" => ("SHARE", "ROW EXCLUSIVE"),
            _ => ("ACCESS EXCLUSIVE", "ACCESS SHARE"),
        };
        let holder = scene.cluster.connect(LIMIT).await?;
        if scene.has_teeth() {
            let lock = format!("SET lock_timeout = '4s'; BEGIN; LOCK TABLE public.{table} IN {mode} MODE");
            holder.batch_execute(&lock).await.map_err(Error::postgres("lock a table"))?;
        }
        let victim = Victim::open(&scene.cluster).await?;
        let ask =
            format!("SET lock_timeout = '100ms'; BEGIN; LOCK TABLE public.{table} IN {wanted} MODE; COMMIT");
        let met = victim.meets(&ask, LIMIT).await.with("55P03");
        Ok(Self { holder, met })
    }
}

impl Guard for LockStorm {
    fn heal(self: Box<Self>) -> Healing {
        Box::pin(async move {
            let Self { holder, met } = *self;
            // Closing it would do as well, a moment later.
            holder.batch_execute("ROLLBACK").await.map_err(Error::postgres("unlock a table"))?;
            Ok(met.map(|met| format!("a session of the service met {met}")))
        })
    }
}

/// A share of the writing statements ends with an error of the server's own.
#[derive(Debug)]
struct Raised {
    cluster: Cluster,
    undo: Option<Undo>,
    met: Option<String>,
}

/// With a share of 10 in 100, all but one of 500 see an error within these.
const TRIES: u32 = 60;

impl Raised {
    async fn inject(scene: Scene, with: Values, code: &'static str) -> Result<Self, Error> {
        let (table, share) = (with.word("table"), with.whole("share"));
        // A sequence counts on when the statement that counted is rolled back.
        let install = format!(
            "CREATE SEQUENCE public.chaos_{code}_hits;\n\
             GRANT USAGE ON SEQUENCE public.chaos_{code}_hits TO PUBLIC;\n\
             CREATE FUNCTION public.chaos_{code}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF random() * 100 < {share} THEN PERFORM nextval('public.chaos_{code}_hits'); \
             RAISE EXCEPTION 'injected by the fault laboratory' USING ERRCODE = '{code}'; END IF; RETURN NULL; END $$;\n\
             CREATE TRIGGER chaos_{code} BEFORE INSERT OR UPDATE OR DELETE ON public.{table} \
             FOR EACH STATEMENT EXECUTE FUNCTION public.chaos_{code}()"
        );
        let remove = format!(
            "DROP TRIGGER IF EXISTS chaos_{code} ON public.{table};\n\
             DROP FUNCTION IF EXISTS public.chaos_{code}();\nDROP SEQUENCE IF EXISTS public.chaos_{code}_hits"
        );
        let mut guard = Self { cluster: scene.cluster.clone(), undo: None, met: None };
        if scene.has_teeth() {
            guard.undo = Some(Undo::by(&scene.cluster, Where::Service, remove));
            execute(&scene.cluster, Where::Service, &install).await?;
        }
        let victim = Victim::open(&scene.cluster).await?;
        // Chance decides about each try.
        let ask = format!("DELETE FROM public.{table} WHERE false");
        for _ in 0..TRIES {
            guard.met = victim.meets(&ask, LIMIT).await.with(code);
            if guard.met.is_some() {
                break;
            }
        }
        guard.met = guard.met.take().map(|met| format!("a session of the service met {met}"));
        Ok(guard)
    }
}

impl Guard for Raised {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let Some(undo) = self.undo.take() else { return Ok(self.met.take()) };
            let hits = hits(&self.cluster).await?;
            undo.now().await?;
            Ok(self.met.take().map(|met| format!("{met}; {hits} statements in all")))
        })
    }
}

/// How many statements were hit by triggers of this file.
async fn hits(cluster: &Cluster) -> Result<i64, Error> {
    let what = "count the statements that were hit";
    let client = cluster.connect(LIMIT).await?;
    let query =
        "SELECT coalesce(sum(last_value), 0)::bigint FROM pg_sequences WHERE sequencename LIKE 'chaos%hits'";
    let asked = tokio::time::timeout(Duration::from_secs(5), client.query_one(query, &[])).await;
    let row = asked.map_err(|_| Error::Late { what: what.to_owned(), limit: LIMIT })?;
    row.and_then(|row| row.try_get(0)).map_err(Error::postgres(what))
}
