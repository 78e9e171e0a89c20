//! The nemesis: the catalogue of faults, and how each is put on and taken off a running stack.
//! When to do so is up to the scenario; whether users noticed is up to the checker.

mod process;

use std::fmt;
use std::str::FromStr;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::nemesis::process::{DbHang, DbKill, ServerKill};
use crate::stack::Service;

/// A fault that can be put on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of the postmaster; healed by starting it again on the same data.
    DbKill,
    /// SIGSTOP of every PostgreSQL process; healed by SIGCONT.
    DbHang,
    /// SIGKILL of one server; healed by starting it again on the same ports and data folder.
    ServerKill,
}

impl Fault {
    /// All faults there are.
    pub const ALL: [Self; 3] = [Self::DbKill, Self::DbHang, Self::ServerKill];

    /// Its name on the command line and in the history.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DbKill => "db-kill",
            Self::DbHang => "db-hang",
            Self::ServerKill => "server-kill",
        }
    }

    /// What it does, for a list.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::DbKill => "SIGKILL of PostgreSQL's postmaster; healed by a start on the same data",
            Self::DbHang => "SIGSTOP of every PostgreSQL process: connections stay open and nobody answers",
            Self::ServerKill => "SIGKILL of one server; healed by a start on the same journal",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| Error::Unknown {
            what: "the fault",
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// A fault that has taken hold. It is healed when this is dropped; [`Bite::heal`] also waits and tells.
#[derive(Debug)]
#[must_use = "the fault is healed as soon as this is dropped"]
pub struct Bite {
    fault: Fault,
    began: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Kill(DbKill),
    Hang(DbHang),
    Server(ServerKill),
}

/// How a fault was taken off.
#[derive(Debug, Clone)]
pub struct Healed {
    /// When healing began.
    pub at: Instant,
    /// What was seen on the victim's side that proves the fault bit; `None` where nothing proves it.
    pub witness: Option<String>,
}

/// Puts a fault on and returns once it has taken hold. `server` is the victim of a fault on one server.
///
/// # Errors
/// [`Error`] where the victim is not running or did not give way; then nothing is left broken.
///
/// # Cancel safety
/// Dropping the future heals what it had begun.
pub async fn inject(fault: Fault, cluster: &Cluster, server: &Service) -> Result<Bite, Error> {
    let kind = match fault {
        Fault::DbKill => Kind::Kill(DbKill::inject(cluster).await?),
        Fault::DbHang => Kind::Hang(DbHang::inject(cluster).await?),
        Fault::ServerKill => Kind::Server(ServerKill::inject(server).await?),
    };
    Ok(Bite { fault, began: Instant::now(), kind })
}

impl Bite {
    /// Which fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// When it had taken hold.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether no session of the database can be answered while it lasts. False also where a backend outlived its
    /// postmaster.
    #[must_use]
    pub fn database_gone(&self) -> bool {
        match &self.kind {
            Kind::Kill(kill) => kill.is_complete(),
            Kind::Hang(hang) => hang.is_complete(),
            Kind::Server(_) => false,
        }
    }

    /// Takes the fault off and waits until the victim serves again.
    ///
    /// # Errors
    /// [`Error::Start`] with the victim's log when it does not come back.
    ///
    /// # Cancel safety
    /// Dropping the future heals too, but nobody waits for the result.
    pub async fn heal(self) -> Result<Healed, Error> {
        let at = Instant::now();
        let witness = match self.kind {
            Kind::Kill(kill) => kill.heal().await?,
            Kind::Hang(hang) => hang.heal(),
            Kind::Server(kill) => kill.heal().await?,
        };
        Ok(Healed { at, witness })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_by_its_name_and_an_unknown_one_lists_them() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse::<Fault>().unwrap(), fault);
        }
        let error = "db-melt".parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains("`db-melt`") && error.contains("db-kill, db-hang"), "{error}");
    }
}
