//! Faults by signal: a killed or hung database, a killed server. Each is a guard that heals on drop and keeps what
//! the kernel said about the victim. The catalogue and the names are in `nemesis.rs`.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{Cluster, Hang, Killed};
use crate::error::Error;
use crate::process::{Exit, poll_until};
use crate::stack::Service;

const SIGKILL: i32 = 9;
/// Backends notice the death of their postmaster at their next wait, within milliseconds; one that computes does not.
const BACKENDS_LIMIT: Duration = Duration::from_secs(2);

/// The postmaster is dead.
#[derive(Debug)]
pub(super) struct DbKill {
    cluster: Cluster,
    killed: Killed,
    /// How long its processes took to be gone; `None` while one lives on.
    gone_after: Option<Duration>,
    healed: bool,
}

impl DbKill {
    pub(super) async fn inject(cluster: &Cluster) -> Result<Self, Error> {
        let began = Instant::now();
        let killed = cluster.kill().await?;
        // From here on the guard heals, should this future be dropped.
        let mut guard = Self { cluster: cluster.clone(), killed, gone_after: None, healed: false };
        let gone =
            poll_until(BACKENDS_LIMIT, || (guard.cluster.processes() == 0).then(|| began.elapsed())).await;
        guard.gone_after = gone;
        Ok(guard)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.gone_after.is_some()
    }

    pub(super) async fn heal(mut self) -> Result<Option<String>, Error> {
        // Still down at the end, or somebody else had started it meanwhile.
        let down = self.cluster.pid().is_none();
        self.healed = true;
        self.cluster.start_again().await?;
        Ok(self.witness().filter(|_| down))
    }

    fn witness(&self) -> Option<String> {
        let Killed { pid, exit, processes } = self.killed;
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

impl Drop for DbKill {
    fn drop(&mut self) {
        if !self.healed {
            self.cluster.start_again_unwatched();
        }
    }
}

/// Every process of the database is stopped.
#[derive(Debug)]
pub(super) struct DbHang {
    hang: Hang,
}

impl DbHang {
    pub(super) async fn inject(cluster: &Cluster) -> Result<Self, Error> {
        Ok(Self { hang: cluster.hang().await? })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.hang.stopped_now() == self.hang.processes()
    }

    /// The kernel's word at the end counts: a process that somebody woke meanwhile may have answered.
    pub(super) fn heal(self) -> Option<String> {
        let (stopped, all) = (self.hang.stopped_now(), self.hang.processes());
        (stopped == all && all > 0)
            .then(|| format!("all {all} processes of PostgreSQL were stopped to the end"))
    }
}

/// One server is dead.
#[derive(Debug)]
pub(super) struct ServerKill {
    service: Service,
    exit: Exit,
    healed: bool,
}

impl ServerKill {
    pub(super) async fn inject(service: &Service) -> Result<Self, Error> {
        let exit = service.kill().await?;
        Ok(Self { service: service.clone(), exit, healed: false })
    }

    pub(super) async fn heal(mut self) -> Result<Option<String>, Error> {
        self.healed = true;
        let took = self.service.restart().await?;
        let name = self.service.name();
        let witness = format!(
            "{name} ended by {}, listened again {} ms after its restart",
            self.exit,
            took.as_millis()
        );
        Ok((self.exit.signal == Some(SIGKILL)).then_some(witness))
    }
}

impl Drop for ServerKill {
    fn drop(&mut self) {
        if !self.healed {
            self.service.restart_unwatched();
        }
    }
}
