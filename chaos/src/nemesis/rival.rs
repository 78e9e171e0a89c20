//! Faults on whom a journal belongs to: a second server on the folder of one that is stopped, and a statement that goes on
//! after its server was killed and started again.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Client;

use crate::cluster::APP;
use crate::error::Error;
use crate::nemesis::kind::{Absence, Guard, Healing, Kind, Means, Scene, Values, boxed};
use crate::nemesis::lock::TABLE;
use crate::nemesis::service::Paused;
use crate::nemesis::undo::LIMIT;
use crate::stack::Service;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "J4",
        name: "zombie-owner",
        about: "SIGSTOP of the owner of a journal, a second server on the same folder, then SIGCONT",
        parameters: &[],
        needs: &[Means::Services],
        inject: |scene, _| boxed(Zombie::inject(scene)),
    },
    Kind {
        id: "J5",
        name: "ghost-writer",
        about: "a server is killed while its statements wait for a lock; they go on without it, and then it starts again",
        parameters: &[TABLE],
        needs: &[Means::Services, Means::Sql],
        inject: |scene, with| boxed(Ghost::inject(scene, with)),
    },
];

/// How long a second server may take to find the folder taken.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);
/// How long a statement of the service is waited for.
const STATEMENT_LIMIT: Duration = Duration::from_secs(3);

/// The owner of a journal is stopped, and another one was refused.
#[derive(Debug)]
struct Zombie {
    paused: Paused,
    refused: Option<String>,
}

impl Zombie {
    async fn inject(scene: Scene) -> Result<Self, Error> {
        let has_teeth = scene.has_teeth();
        let paused = Paused::inject(scene).await?;
        if !has_teeth {
            return Ok(Self { paused, refused: None });
        }
        let (exit, log) = paused.service().rival(REFUSAL_LIMIT).await?;
        let refused = match exit {
            Some(exit) if exit.code == Some(0) => None,
            Some(exit) => {
                Some(format!("a second one on its folder ended with {exit}:{}", log.replace('\n', " ")))
            }
            None => {
                // The very thing that must not be: told as an error, because no verdict would show it.
                let name = paused.service().name().to_owned();
                let reason =
                    format!("a second server runs on the folder of {name}, which is stopped and not dead");
                return Err(Error::state("see a second owner of a journal refused", reason));
            }
        };
        Ok(Self { paused, refused })
    }
}

impl Guard for Zombie {
    fn absence(&self) -> Option<Absence> {
        self.paused.absence()
    }

    fn heal(self: Box<Self>) -> Healing {
        let witness = self.paused.witness().zip(self.refused.clone());
        drop(self);
        Box::pin(std::future::ready(Ok(witness.map(|(stopped, refused)| format!("{stopped}; {refused}")))))
    }
}

/// A server is dead, and its statements go on.
#[derive(Debug)]
struct Ghost {
    service: Service,
    ghosts: usize,
    killed: bool,
}

impl Ghost {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let what = "let statements of the service wait";
        let (cluster, service) = (scene.cluster.clone(), scene.server()?.clone());
        let holder = cluster.connect(LIMIT).await?;
        let mut guard = Self { service, ghosts: 0, killed: false };
        if scene.toothless {
            return Ok(guard);
        }
        let lock = format!("BEGIN; LOCK TABLE public.{} IN SHARE MODE", with.word("table"));
        holder.batch_execute(&lock).await.map_err(Error::postgres(what))?;
        let client = cluster.connect_admin(LIMIT).await?;
        let end = tokio::time::Instant::now() + STATEMENT_LIMIT;
        while tokio::time::Instant::now() < end {
            let waiting = waiting(&client).await?;
            let own = service_ports(&guard.service);
            if waiting.iter().any(|(_, port)| own.contains(port)) {
                guard.killed = true;
                guard.service.kill().await?;
                guard.ghosts =
                    self::waiting(&client).await?.iter().filter(|(_, port)| own.contains(port)).count();
                // At once: PostgreSQL looks for lost clients once a second, where the service asks it to.
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        holder.batch_execute("ROLLBACK").await.map_err(Error::postgres(what))?;
        Ok(guard)
    }
}

/// Sessions of the service that wait for a lock: pid, and the port at the service's end.
async fn waiting(client: &Client) -> Result<Vec<(i32, u16)>, Error> {
    let what = "list the statements that wait for a lock";
    let query =
        "SELECT pid, client_port FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'";
    let rows = client.query(query, &[&APP]).await.map_err(Error::postgres(what))?;
    let pair = |row: &tokio_postgres::Row| {
        let (pid, port): (i32, i32) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
        Some((pid, u16::try_from(port).ok()?))
    };
    Ok(rows.iter().filter_map(pair).collect())
}

/// The local ports of a process's connections, by the kernel's tables.
fn service_ports(service: &Service) -> BTreeSet<u16> {
    let Some(pid) = service.pid() else { return BTreeSet::new() };
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inodes: BTreeSet<String> = links
        .filter_map(|link| std::fs::read_link(link.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    table
        .lines()
        .filter_map(|line| connection(line))
        .filter(|(_, inode)| inodes.contains(*inode))
        .map(|(port, _)| port)
        .collect()
}

/// `  0: 0100007F:1F90 0100007F:D431 01 … UID TIMEOUT INODE …` gives the local port and the inode.
fn connection(line: &str) -> Option<(u16, &str)> {
    /// Counted from 0 in the line split at blanks.
    const INODE: usize = 9;
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.split_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, fields.nth(INODE - 2)?))
}

impl Guard for Ghost {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            if !self.killed {
                return Ok(None);
            }
            self.killed = false;
            self.service.restart().await?;
            let (name, ghosts) = (self.service.name(), self.ghosts);
            let witness = format!("{ghosts} statements of {name} went on after it had been killed");
            Ok((ghosts > 0).then_some(witness))
        })
    }
}

impl Drop for Ghost {
    fn drop(&mut self) {
        if self.killed {
            self.service.restart_unwatched();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_gives_port_and_inode() {
        let line = "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        assert_eq!(connection(line), Some((8080, "4711")));
        assert_eq!(connection("  sl  local_address rem_address   st"), None);
    }
}
