//! Faults on sessions, by SQL: ended, cancelled, timed out, crowded out. Each keeps what a session of the service's role met.
//! Locks are in `lock.rs`; faults by signals in `process.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::cluster::{APP, Changed, Cluster, connect};
use crate::error::{Error, describe_postgres};
use crate::nemesis::kind::{
    CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, YES_NO, boxed,
};
use crate::nemesis::undo::LIMIT;
use crate::nemesis::victim::{Victim, newcomer_with};

const EVERY: Parameter = Parameter {
    name: "every",
    default: "500",
    domain: Domain::Whole(20, 60_000),
    about: "milliseconds from one time to the next",
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D7",
        name: "sessions-terminated",
        about: "every session of the service is ended by an administrator (57P01), again and again",
        parameters: &[EVERY],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Harried::inject(scene, with, &TERMINATED)),
    },
    Kind {
        id: "D9",
        name: "statements-cancelled",
        about: "every running statement of the service is cancelled (57014), again and again",
        parameters: &[Parameter { default: "50", ..EVERY }],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Harried::inject(scene, with, &CANCELLED)),
    },
    Kind {
        id: "D7",
        name: "idle-timeout",
        about: "PostgreSQL ends sessions that wait (57P05, or 25P03 within a transaction)",
        parameters: &[
            Parameter {
                name: "of",
                default: "session",
                domain: Domain::Words(&["session", "transaction"]),
                about: "idle sessions, or idle transactions",
            },
            Parameter {
                name: "after",
                default: "200",
                domain: Domain::Whole(10, 60_000),
                about: "milliseconds of waiting",
            },
        ],
        needs: &[Means::Configuration],
        inject: |scene, with| boxed(IdleTimeout::inject(scene, with)),
    },
    Kind {
        id: "D8",
        name: "connections-exhausted",
        about: "all slots for connections are taken but the reserved ones (53300)",
        parameters: &[Parameter {
            name: "all",
            default: "yes",
            domain: YES_NO,
            about: "whether those of the service are taken from it, too",
        }],
        needs: &[Means::Sql],
        inject: |scene, with| boxed(Crowd::inject(scene, with)),
    },
];

/// What is done to sessions, and what they meet.
#[derive(Debug)]
struct Harm {
    function: &'static str,
    only: &'static str,
    code: &'static str,
}

const TERMINATED: Harm = Harm { function: "pg_terminate_backend", only: "true", code: "57P01" };
const CANCELLED: Harm = Harm { function: "pg_cancel_backend", only: "state = 'active'", code: "57014" };

/// Sessions are ended or cancelled as long as this lives.
#[derive(Debug)]
struct Harried {
    tasks: JoinSet<()>,
    hits: Arc<AtomicU64>,
    met: Option<String>,
}

impl Harried {
    async fn inject(scene: Scene, with: Values, harm: &'static Harm) -> Result<Self, Error> {
        let client = scene.cluster.connect_admin(LIMIT).await?;
        let mut victim = Victim::open(&scene.cluster).await?;
        let hits = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let every = with.millis("every");
        let query = format!(
            "SELECT count(*) FILTER (WHERE {}(pid)) FROM pg_stat_activity WHERE usename = '{APP}' AND {}",
            harm.function, harm.only
        );
        let (counter, patience) = (Arc::clone(&hits), scene.patience());
        let asked = tokio::spawn(async move {
            // Its statement is what is cancelled; a session that is to be ended just waits.
            let met = victim.meets("SELECT pg_sleep(1)", patience).await;
            let last = victim.ended(Duration::from_millis(100)).await;
            met.with(harm.code).or(last.filter(|last| last.starts_with(harm.code)))
        });
        let harry = async move {
            // The victim's own statement must have begun.
            tokio::time::sleep(Duration::from_millis(50)).await;
            while let Ok(row) = client.query_one(&query, &[]).await {
                counter.fetch_add(row.try_get::<_, i64>(0).unwrap_or(0).unsigned_abs(), Ordering::Relaxed);
                tokio::time::sleep(every).await;
            }
        };
        if scene.has_teeth() {
            tasks.spawn(harry);
        }
        let met = asked.await.map_err(|error| Error::state("watch a session", error.to_string()))?;
        Ok(Self { tasks, hits, met })
    }
}

impl Guard for Harried {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.tasks.shutdown().await;
            let hits = self.hits.load(Ordering::Relaxed);
            Ok(self.met.take().map(|met| format!("a session of the service met {met}; {hits} times in all")))
        })
    }
}

/// Sessions that wait are ended.
#[derive(Debug)]
struct IdleTimeout {
    changed: Option<Changed>,
    met: Option<String>,
}

impl IdleTimeout {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let (name, code, begin) = match with.word("of") {
            "transaction" => ("idle_in_transaction_session_timeout", "25P03", "BEGIN"),
            _ => ("idle_session_timeout", "57P05", "SELECT 1"),
        };
        let after = with.millis("after");
        // Opened before: on a busy machine it would be ended before its first statement.
        let mut victim = Victim::open(&scene.cluster).await?;
        let changed = if scene.has_teeth() {
            Some(scene.cluster.change(name, &format!("{}ms", after.as_millis())).await?)
        } else {
            None
        };
        victim.meets(begin, LIMIT).await;
        let last = victim.ended(after + Duration::from_millis(500)).await;
        Ok(Self { changed, met: last.filter(|last| last.starts_with(code)) })
    }
}

impl Guard for IdleTimeout {
    fn heal(mut self: Box<Self>) -> Healing {
        drop(self.changed.take());
        let witness = self.met.take().map(|met| format!("a session that waited met {met}"));
        Box::pin(std::future::ready(Ok(witness)))
    }
}

/// Every free slot is taken, and each that becomes free.
#[derive(Debug)]
struct Crowd {
    cluster: Cluster,
    tasks: JoinSet<()>,
    taken: Arc<AtomicU64>,
    met: Option<String>,
}

/// Between two looks for a free slot.
const CROWD_EVERY: Duration = Duration::from_millis(5);
/// So many at once, or the service is quicker to come back.
const CROWD_PARTS: u32 = 4;
/// So often its sessions are sent out before those that are left are left to it.
const ROUNDS_MAX: u32 = 40;
/// More than PostgreSQL has here.
const CROWD_MAX: usize = 500;

impl Crowd {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        // Connected before, though a superuser has slots of his own: others may take them.
        let admin = scene.cluster.connect_admin(LIMIT).await?;
        let mut guard =
            Self { cluster: scene.cluster.clone(), tasks: JoinSet::new(), taken: Arc::default(), met: None };
        if scene.has_teeth() {
            for _ in 0..CROWD_PARTS {
                guard.tasks.spawn(crowd(scene.cluster.canary(), Arc::clone(&guard.taken)));
            }
            newcomer_with(&guard.cluster, "SELECT 1", "53300", scene.patience()).await;
            // Once the room is full there is hardly a way back for whoever is sent out.
            let end =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{APP}'");
            for _ in 0..if with.yes("all") { ROUNDS_MAX } else { 0 } {
                let ended = admin.query(&end, &[]).await;
                if ended.map_err(Error::postgres("end the sessions of the service"))?.is_empty() {
                    break;
                }
                tokio::time::sleep(CROWD_EVERY * 2).await;
            }
        }
        guard.met = newcomer_with(&guard.cluster, "SELECT 1", "53300", scene.patience()).await;
        Ok(guard)
    }
}

/// Takes a free slot whenever there is one. What it took is given back when it is dropped.
async fn crowd(config: tokio_postgres::Config, taken: Arc<AtomicU64>) {
    let mut held: Vec<tokio_postgres::Client> = Vec::new();
    loop {
        let before = held.len() as u64;
        match connect(&config, LIMIT).await {
            Ok(client) if held.len() < CROWD_MAX => held.push(client),
            _ => tokio::time::sleep(CROWD_EVERY).await,
        }
        held.retain(|client| !client.is_closed());
        let now = held.len() as u64;
        taken.fetch_add(now, Ordering::Relaxed);
        taken.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Guard for Crowd {
    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let taken = self.taken.load(Ordering::Relaxed);
            self.tasks.shutdown().await;
            let free = crate::nemesis::victim::serves(&self.cluster).await;
            free?;
            Ok(self.met.take().map(|met| format!("a new session met {met}; {taken} slots were taken")))
        })
    }
}

/// How many sessions of the service there are, and their pids.
pub(super) async fn backends(cluster: &Cluster) -> Result<Vec<u32>, Error> {
    let what = "list the sessions of the service";
    let client = cluster.connect_admin(LIMIT).await?;
    let query = "SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend' ORDER BY pid";
    let rows = client.query(query, &[&APP]).await.map_err(Error::postgres(what))?;
    rows.iter()
        .map(|row| row.try_get::<_, i32>(0).map(i32::unsigned_abs))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::state(what, describe_postgres(&error)))
}
