//! Faults by signals to PostgreSQL's processes: killed and hung. Each is a guard that heals on drop and keeps what the
//! kernel said about the victim. Orderly ends are in `restart.rs`, servers and the proxy in `service.rs`.

mod moment;

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{Cluster, Hang, Killed};
use crate::error::Error;
use crate::nemesis::kind::{
    Absence, CanarySees, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed,
};
use crate::nemesis::process::moment::{Moment, Occupied};
use crate::nemesis::session::backends;
use crate::nemesis::victim::{Met, SILENCE, Victim, serves};
use crate::process::poll_until;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "D1",
        name: "db-kill",
        about: "SIGKILL of PostgreSQL's postmaster; healed by a start on the same data",
        parameters: &[Parameter {
            name: "moment",
            default: "idle",
            domain: Domain::Words(moment::WORDS),
            about: "what a session beside the service's is doing when it comes",
        }],
        needs: &[Means::DatabaseSignals],
        inject: |scene, with| boxed(DbKill::inject(scene, with)),
    },
    Kind {
        id: "D3",
        name: "postmaster-hang",
        about: "SIGSTOP of the postmaster alone: live sessions go on, new ones connect and hear nothing",
        parameters: &[],
        needs: &[Means::DatabaseSignals],
        inject: |scene, _| boxed(PartHang::inject_postmaster(scene)),
    },
    Kind {
        id: "D4",
        name: "backends-hang",
        about: "SIGSTOP of sessions of the service: its statements hang, others go on",
        parameters: &[Parameter {
            name: "count",
            default: "1",
            domain: Domain::Whole(1, 500),
            about: "how many of them",
        }],
        needs: &[Means::DatabaseSignals],
        inject: |scene, with| boxed(PartHang::inject_backends(scene, with)),
    },
    Kind {
        id: "D5",
        name: "backend-kill",
        about: "SIGKILL of one session's process: PostgreSQL ends all others and recovers by itself",
        parameters: &[],
        needs: &[Means::DatabaseSignals],
        inject: |scene, _| boxed(BackendKill::inject(scene)),
    },
    Kind {
        id: "D4",
        name: "db-hang",
        about: "SIGSTOP of every PostgreSQL process: connections stay open and nobody answers",
        parameters: &[],
        needs: &[Means::DatabaseSignals],
        inject: |scene, _| boxed(DbHang::inject(scene)),
    },
];

pub(super) const SIGKILL: i32 = 9;
/// Backends notice the death of their postmaster at their next wait, within milliseconds; one that computes does not.
const BACKENDS_LIMIT: Duration = Duration::from_secs(2);

/// The service's sessions come and go.
const HANG_TRIES: u32 = 10;
/// An answer that comes at all comes within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The name of the database in the history.
pub(super) const DATABASE: &str = "postgresql";

/// The postmaster is dead.
#[derive(Debug)]
struct DbKill {
    cluster: Cluster,
    /// `None` where it was spared.
    killed: Option<Killed>,
    /// How long its processes took to be gone; `None` while one lives on.
    gone_after: Option<Duration>,
    occupied: Option<Occupied>,
    healed: bool,
}

impl DbKill {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let cluster = scene.cluster.clone();
        let occupied = Moment::of(with.word("moment")).occupy(&cluster).await?;
        let began = Instant::now();
        let killed = if scene.has_teeth() { Some(cluster.kill().await?) } else { None };
        // From here on the guard heals, should this future be dropped.
        let mut guard = Self { cluster, killed, gone_after: None, occupied: Some(occupied), healed: false };
        if killed.is_some() {
            let gone = || (guard.cluster.processes() == 0).then(|| began.elapsed());
            guard.gone_after = poll_until(BACKENDS_LIMIT, gone).await;
        }
        Ok(guard)
    }

    async fn heal(mut self) -> Result<Option<String>, Error> {
        // Still down at the end, or somebody else had started it meanwhile.
        let down = self.cluster.pid().is_none();
        self.healed = true;
        if self.killed.is_some() {
            self.cluster.start_again().await?;
        }
        let left = match self.occupied.take() {
            Some(occupied) => occupied.left(&self.cluster).await?,
            None => String::new(),
        };
        Ok(self.witness().filter(|_| down).map(|witness| witness + &left))
    }

    fn witness(&self) -> Option<String> {
        let Killed { pid, exit, processes } = self.killed?;
        if exit.signal != Some(SIGKILL) {
            return None;
        }
        let rest = match self.gone_after {
            Some(after) => format!("all {processes} processes were gone after {} ms", after.as_millis()),
            None => "a backend lived on".to_owned(),
        };
        Some(format!("postmaster {pid} ended by {exit}; {rest}"))
    }
}

impl Guard for DbKill {
    fn database_gone(&self) -> bool {
        self.gone_after.is_some()
    }

    fn canary(&self) -> CanarySees {
        CanarySees::NoneCommits
    }

    fn absence(&self) -> Option<Absence> {
        self.killed.map(|killed| Absence {
            process: DATABASE.to_owned(),
            database: true,
            how: killed.exit.to_string(),
        })
    }

    fn heal(self: Box<Self>) -> Healing {
        Box::pin(Self::heal(*self))
    }
}

impl Drop for DbKill {
    fn drop(&mut self) {
        if !self.healed && self.killed.is_some() {
            self.cluster.start_again_unwatched();
        }
    }
}

/// Every process of the database is stopped.
#[derive(Debug)]
struct DbHang {
    hang: Option<Hang>,
}

impl DbHang {
    async fn inject(scene: Scene) -> Result<Self, Error> {
        let hang = if scene.has_teeth() { Some(scene.cluster.hang().await?) } else { None };
        Ok(Self { hang })
    }
}

impl Guard for DbHang {
    fn database_gone(&self) -> bool {
        self.hang.as_ref().is_some_and(|hang| hang.stopped_now() == hang.processes())
    }

    fn canary(&self) -> CanarySees {
        CanarySees::NoneCommits
    }

    /// The kernel's word at the end counts: a process that somebody woke meanwhile may have answered.
    fn heal(self: Box<Self>) -> Healing {
        let counts = self.hang.as_ref().map(|hang| (hang.stopped_now(), hang.processes()));
        let witness = counts.filter(|(stopped, all)| stopped == all && *all > 0);
        let witness =
            witness.map(|(_, all)| format!("all {all} processes of PostgreSQL were stopped to the end"));
        drop(self);
        Box::pin(std::future::ready(Ok(witness)))
    }
}

/// Some of the database's processes are stopped.
#[derive(Debug)]
struct PartHang {
    hang: Option<Hang>,
    canary: CanarySees,
    met: Option<String>,
    _victim: Victim,
}

impl PartHang {
    async fn inject_postmaster(scene: Scene) -> Result<Self, Error> {
        let victim = Victim::open(&scene.cluster).await?;
        let hang = match scene.cluster.pid() {
            Some(pid) if scene.has_teeth() => Some(scene.cluster.hang_only(&[pid]).await?),
            _ => None,
        };
        let old = victim.meets("SELECT 1", ANSWER_LIMIT).await;
        let met =
            (old == Met::Answer).then(|| "the postmaster was stopped, an old session went on".to_owned());
        Ok(Self { hang, canary: CanarySees::NoneCommits, met, _victim: victim })
    }

    async fn inject_backends(scene: Scene, with: Values) -> Result<Self, Error> {
        let victim = Victim::open(&scene.cluster).await?;
        let mut tries = 1;
        let (pids, hang) = loop {
            let mut pids = backends(&scene.cluster).await?;
            pids.retain(|pid| *pid != victim.pid());
            pids.truncate(usize::try_from(with.whole("count")).unwrap_or(usize::MAX));
            pids.push(victim.pid());
            if scene.toothless {
                break (pids, None);
            }
            match scene.cluster.hang_only(&pids).await {
                Ok(hang) => break (pids, Some(hang)),
                // A session that has just ended was listed still.
                Err(Error::State { .. }) if tries < HANG_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        };
        let silent = victim.meets("SELECT 1", SILENCE).await == Met::Silence;
        let met = silent.then(|| {
            format!(
                "{} sessions of the service and one of the harness were stopped, it heard nothing",
                pids.len() - 1
            )
        });
        Ok(Self { hang, canary: CanarySees::Anything, met, _victim: victim })
    }
}

impl Guard for PartHang {
    fn canary(&self) -> CanarySees {
        self.canary
    }

    fn heal(mut self: Box<Self>) -> Healing {
        let stopped = self.hang.take().is_some_and(|hang| hang.stopped_now() > 0);
        let witness = self.met.take().filter(|_| stopped);
        Box::pin(std::future::ready(Ok(witness)))
    }
}

/// One session's process was killed.
#[derive(Debug)]
struct BackendKill {
    cluster: Cluster,
    met: Option<String>,
}

impl BackendKill {
    async fn inject(scene: Scene) -> Result<Self, Error> {
        let cluster = scene.cluster.clone();
        let killed = Victim::open(&cluster).await?;
        let mut other = Victim::open(&cluster).await?;
        if scene.has_teeth() {
            cluster.kill_only(killed.pid())?;
        }
        let last = other.ended(if scene.has_teeth() { ANSWER_LIMIT } else { SILENCE }).await;
        let met = last.map(|last| {
            format!("process {} was killed; the last word to another session was `{last}`", killed.pid())
        });
        Ok(Self { cluster, met })
    }
}

impl Guard for BackendKill {
    fn canary(&self) -> CanarySees {
        CanarySees::SomeFail
    }

    /// PostgreSQL heals by itself, in a second or two.
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            serves(&self.cluster).await?;
            Ok(self.met.take())
        })
    }
}
