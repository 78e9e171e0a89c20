//! Faults of disks and clocks below one program, by the preload shim: PostgreSQL's log, tables and clock, a server's journal
//! and clock. The shim itself is in `shim.rs`.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::kind::{
    CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed,
};
use crate::nemesis::victim::{newcomer, newcomer_with, serves};
use crate::shim::{Applied, Rule, Victim};
use crate::stack::Service;

const DELAY: Parameter = Parameter {
    name: "delay",
    default: "500",
    domain: Domain::Whole(1, 60_000),
    about: "milliseconds that each sync takes longer",
};
const SECONDS: Parameter = Parameter {
    name: "seconds",
    default: "3600",
    domain: Domain::Whole(1, 31_536_000),
    about: "by how much the wall clock is off",
};
const DIRECTION: Parameter = Parameter {
    name: "direction",
    default: "forward",
    domain: Domain::Words(&["forward", "back"]),
    about: "to which side",
};

const DATABASE: &[Means] = &[Means::DatabaseShim];
const SERVER: &[Means] = &[Means::ServerShim];

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D10",
        name: "wal-disk-full",
        about: "no room for PostgreSQL's log: it panics (53100) and cannot recover before there is some",
        parameters: &[],
        needs: DATABASE,
        inject: |scene, _| boxed(Panicked::inject(scene, Why::Full)),
    },
    Kind {
        id: "D11",
        name: "fsync-fails",
        about: "PostgreSQL's log cannot be synced once: it panics (58030) and recovers",
        parameters: &[],
        needs: DATABASE,
        inject: |scene, _| boxed(Panicked::inject(scene, Why::Sync)),
    },
    Kind {
        id: "D10",
        name: "table-disk-full",
        about: "no room for tables: statements that need some fail (53100), others go on",
        parameters: &[],
        needs: DATABASE,
        inject: |scene, _| boxed(Shimmed::table_full(scene)),
    },
    Kind {
        id: "D11",
        name: "fsync-slow",
        about: "each sync of PostgreSQL's log takes long",
        parameters: &[DELAY],
        needs: DATABASE,
        inject: |scene, with| boxed(Shimmed::slow_log(scene, with)),
    },
    Kind {
        id: "C1",
        name: "db-clock-jump",
        about: "PostgreSQL's wall clock is off",
        parameters: &[SECONDS, DIRECTION],
        needs: DATABASE,
        inject: |scene, with| boxed(Shimmed::database_clock(scene, with)),
    },
    Kind {
        id: "C1",
        name: "clock-jump",
        about: "the wall clock of one server is off",
        parameters: &[SECONDS, DIRECTION],
        needs: SERVER,
        inject: |scene, with| boxed(Shimmed::server_clock(scene, with)),
    },
    Kind {
        id: "J3",
        name: "journal-disk-full",
        about: "one server's journal takes no write (ENOSPC); healed with a restart of the server",
        parameters: &[],
        needs: SERVER,
        inject: |scene, _| boxed(Journal::inject(scene, Rule::full_to_the_brim, true)),
    },
    Kind {
        id: "J3",
        name: "journal-fsync-fails",
        about: "one server's journal cannot be synced (EIO); healed with a restart of the server",
        parameters: &[],
        needs: SERVER,
        inject: |scene, _| boxed(Journal::inject(scene, Rule::sync_fails, true)),
    },
    Kind {
        id: "J3",
        name: "journal-fsync-slow",
        about: "each sync of one server's journal takes 300 ms longer",
        parameters: &[],
        needs: SERVER,
        inject: |scene, _| {
            boxed(Journal::inject(scene, |below| Rule::slow_sync(below, JOURNAL_DELAY), false))
        },
    },
];

/// A slow disk, not a dead one.
const JOURNAL_DELAY: Duration = Duration::from_millis(300);
/// How long a commit may take to meet it.
const MET_LIMIT: Duration = Duration::from_secs(5);
/// A commit that waits for its sync; one that wrote nothing does not.
const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'chaos', '')";
/// One statement of the harness's own.
const LIMIT: Duration = Duration::from_secs(5);
/// Above the drain limit of a server.
const DRAIN_LIMIT: Duration = Duration::from_secs(35);

fn database(scene: &Scene) -> Result<Victim, Error> {
    let victim = scene.equipment.database_shim().cloned();
    victim.ok_or_else(|| Error::state("reach PostgreSQL's calls", "it was started without the shim"))
}

fn server(scene: &Scene) -> Result<(Service, Victim), Error> {
    let victim = scene.one_of(scene.equipment.server_shims()).cloned();
    let victim = victim
        .ok_or_else(|| Error::state("reach a server's calls", "the servers were started without the shim"))?;
    Ok((scene.server()?.clone(), victim))
}

/// Puts a rule on, unless the effect is to be left out.
fn apply(scene: &Scene, victim: &Victim, rule: &Rule) -> Result<Option<Applied>, Error> {
    scene.has_teeth().then(|| victim.apply(rule)).transpose()
}

fn jump(with: &Values) -> Rule {
    let milliseconds = i64::try_from(with.whole("seconds").saturating_mul(1_000)).unwrap_or(i64::MAX);
    Rule::clock_jump(if with.word("direction") == "back" { -milliseconds } else { milliseconds })
}

/// Why PostgreSQL panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Full,
    Sync,
}

/// PostgreSQL cannot write its log, and panics for it.
#[derive(Debug)]
struct Panicked {
    cluster: Cluster,
    applied: Option<Applied>,
    why: Why,
}

impl Panicked {
    async fn inject(scene: Scene, why: Why) -> Result<Self, Error> {
        let log = scene.cluster.data().join("pg_wal");
        let rule = match why {
            // Files of log are used again: a disk that only lets none grow would be met after many of them.
            Why::Full => Rule::full_to_the_brim(&log),
            Why::Sync => Rule::sync_fails(&log).at_most(1),
        };
        let applied = apply(&scene, &database(&scene)?, &rule)?;
        let guard = Self { cluster: scene.cluster.clone(), applied, why };
        let end = Instant::now() + MET_LIMIT;
        while guard.applied.as_ref().is_some_and(|applied| applied.hits() == 0) && Instant::now() < end {
            newcomer(&guard.cluster, COMMIT, LIMIT).await;
        }
        Ok(guard)
    }
}

impl Guard for Panicked {
    fn database_gone(&self) -> bool {
        self.why == Why::Full && self.applied.is_some()
    }

    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let Some(applied) = self.applied.take() else { return Ok(None) };
            let witness = applied.witness();
            drop(applied);
            let took = self.cluster.revive().await?.as_millis();
            Ok(witness.map(|seen| format!("{seen}; PostgreSQL served again {took} ms after it was lifted")))
        })
    }
}

/// Something below a program is not as it should be, and the program lives on.
#[derive(Debug)]
struct Shimmed {
    cluster: Cluster,
    applied: Option<Applied>,
    met: Option<String>,
}

impl Shimmed {
    async fn table_full(scene: Scene) -> Result<Self, Error> {
        let tables = scene.cluster.data().join("base");
        let mut guard = Self::of(&scene, &database(&scene)?, &Rule::full(&tables))?;
        // A table of one session's own, so that a disk with room keeps nothing of it.
        let big = "CREATE TEMP TABLE chaos AS SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n";
        guard.met = newcomer_with(&scene.cluster, big, "53100", scene.patience()).await;
        Ok(guard)
    }

    async fn slow_log(scene: Scene, with: Values) -> Result<Self, Error> {
        let log = scene.cluster.data().join("pg_wal");
        let guard = Self::of(&scene, &database(&scene)?, &Rule::slow_sync(&log, with.millis("delay")))?;
        // A commit of the harness's own, so that there is a sync where the service writes nothing.
        newcomer(&scene.cluster, COMMIT, LIMIT).await;
        Ok(guard)
    }

    async fn database_clock(scene: Scene, with: Values) -> Result<Self, Error> {
        let guard = Self::of(&scene, &database(&scene)?, &jump(&with))?;
        newcomer(&scene.cluster, "SELECT clock_timestamp()", LIMIT).await;
        Ok(guard)
    }

    async fn server_clock(scene: Scene, with: Values) -> Result<Self, Error> {
        let (service, victim) = server(&scene)?;
        let guard = Self::of(&scene, &victim, &jump(&with))?;
        // A request is logged with its time, so that there is a look where nobody else asks.
        service.status("/api/todos?limit=1").await;
        Ok(guard)
    }

    fn of(scene: &Scene, victim: &Victim, rule: &Rule) -> Result<Self, Error> {
        Ok(Self { cluster: scene.cluster.clone(), applied: apply(scene, victim, rule)?, met: None })
    }
}

impl Guard for Shimmed {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let Some(applied) = self.applied.take() else { return Ok(None) };
            let witness = applied.witness();
            drop(applied);
            serves(&self.cluster).await?;
            Ok(match (witness, self.met.take()) {
                (Some(witness), Some(met)) => Some(format!("{witness}; a session of the service met {met}")),
                (witness, _) => witness,
            })
        })
    }
}

/// The journal of one server fails or dawdles. It shows only where something is journaled meanwhile.
#[derive(Debug)]
struct Journal {
    service: Service,
    applied: Option<Applied>,
    restarts: bool,
}

impl Journal {
    async fn inject(scene: Scene, rule: fn(&std::path::Path) -> Rule, restarts: bool) -> Result<Self, Error> {
        let (service, victim) = server(&scene)?;
        let below: PathBuf = service.home().join("data");
        let applied = apply(&scene, &victim, &rule(&below))?;
        Ok(Self { service, applied, restarts })
    }
}

impl Guard for Journal {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let Some(applied) = self.applied.take() else { return Ok(None) };
            let witness = applied.witness();
            drop(applied);
            // A journal that failed once is not trusted again by the same process, and rightly so.
            if self.restarts && witness.is_some() {
                self.service.stop(DRAIN_LIMIT).await?;
                self.service.restart().await?;
            }
            Ok(witness)
        })
    }
}
