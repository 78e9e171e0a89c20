//! The nemesis: the catalogue of faults, and how each is put on and taken off a running stack.
//! When to do so is up to the schedule; whether users noticed is up to the checker.
//!
//! A fault is a row of the table in its file, and a file stands for one kind of victim: PostgreSQL's processes
//! (`process`), its ends (`restart`) and starts (`start`), sessions (`session`), transactions (`lock`, `conflict`), settings
//! (`settings`), who may come in (`access`), the schema (`schema`); servers and the proxy (`service`), what they live on
//! (`starve`, `memory`), their journals (`rival`). Between the two it is messages (`message`, `cancel`), bytes (`bytes`),
//! packets (`packets`) and the name (`naming`), below them disks and clocks (`disk`), and behind them a standby
//! (`failover`). What all rows are made of is in `kind`; what a session met, in `victim`; how changes are taken back on
//! drop, in `undo`. Rows of the design that are no fault of a run are in `elsewhere`, with what proves them.

mod kind;

mod access;
mod bytes;
mod cancel;
mod conflict;
mod disk;
pub mod elsewhere;
mod failover;
mod lock;
mod memory;
mod message;
mod naming;
mod packets;
mod process;
mod restart;
mod rival;
mod schema;
mod service;
mod session;
mod settings;
mod start;
mod starve;
mod undo;
mod victim;

use std::fmt;
use std::str::FromStr;

use tokio::time::Instant;

use crate::cluster::Window;
use crate::error::Error;
use crate::stack::Fitting;

pub use kind::{
    Absence, CanarySees, Domain, Guard, Healing, Injecting, Kind, Means, Parameter, Scene, Values,
};

/// The tables of all files, in the order of the list.
const TABLES: &[&[Kind]] = &[
    process::KINDS,
    restart::KINDS,
    start::KINDS,
    session::KINDS,
    lock::KINDS,
    conflict::KINDS,
    settings::KINDS,
    access::KINDS,
    schema::KINDS,
    service::KINDS,
    starve::KINDS,
    memory::KINDS,
    rival::KINDS,
    message::KINDS,
    cancel::KINDS,
    bytes::KINDS,
    packets::KINDS,
    naming::KINDS,
    disk::KINDS,
    failover::KINDS,
];

/// Every fault there is.
pub fn catalogue() -> impl Iterator<Item = &'static Kind> {
    TABLES.iter().copied().flatten()
}

/// What a stack has to be fitted with for these faults.
#[must_use]
pub fn fitting<'a>(faults: impl IntoIterator<Item = &'a Fault>) -> Fitting {
    let mut fitting = Fitting::default();
    faults.into_iter().flat_map(|fault| fault.kind.needs).for_each(|means| means.put_into(&mut fitting));
    fitting
}

/// A fault with its parameters. As text `db-kill`, or `db-kill:moment=commit`.
#[derive(Debug, Clone)]
pub struct Fault {
    kind: &'static Kind,
    values: Values,
}

impl Fault {
    /// Its row in the catalogue.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// The same on another table, where it is a fault on the service's table whose name was left open.
    ///
    /// # Errors
    /// [`Error::State`] where the name is none that a table may have.
    pub fn on_table(&self, table: &str) -> Result<Self, Error> {
        let open = |one: &&Parameter| one.name == "table" && self.values.word("table") == one.default;
        if !self.kind.parameters.iter().any(|one| open(&one)) {
            return Ok(self.clone());
        }
        let others = self.values.text(self.kind);
        Ok(Self { kind: self.kind, values: Values::parse(self.kind, &format!("{others},table={table}"))? })
    }

    /// Its name, without parameters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind.name
    }
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.values == other.values
    }
}

impl Eq for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.text(self.kind);
        if values.is_empty() { out.write_str(self.name()) } else { write!(out, "{}:{values}", self.name()) }
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, values) = text.split_once(':').unwrap_or((text, ""));
        let Some(kind) = catalogue().find(|kind| kind.name == name) else {
            let known = catalogue().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
            return Err(Error::Unknown { what: "the fault", name: name.to_owned(), known });
        };
        Ok(Self { kind, values: Values::parse(kind, values)? })
    }
}

/// A fault that has taken hold. It is healed when this is dropped; [`Bite::heal`] also waits and tells.
#[derive(Debug)]
#[must_use = "the fault is healed as soon as this is dropped"]
pub struct Bite {
    fault: Fault,
    began: Instant,
    guard: Box<dyn Guard>,
}

/// How a fault was taken off.
#[derive(Debug, Clone)]
pub struct Healed {
    /// When healing began.
    pub at: Instant,
    /// What was seen on the victim's side that proves the fault bit; `None` where nothing proves it.
    pub witness: Option<String>,
}

/// Puts a fault on and returns once it has taken hold.
///
/// # Errors
/// [`Error`] where the victim is not running or did not give way; then nothing is left broken.
///
/// # Cancel safety
/// Dropping the future heals what it had begun.
pub async fn inject(fault: &Fault, scene: &Scene) -> Result<Bite, Error> {
    let guard = (fault.kind.inject)(scene.clone(), fault.values.clone()).await?;
    Ok(Bite { fault: fault.clone(), began: Instant::now(), guard })
}

impl Bite {
    /// Which fault it is.
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.fault
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
        self.guard.database_gone()
    }

    /// Whether no server reaches the database while it lasts, though others do.
    #[must_use]
    pub fn way_gone(&self) -> bool {
        self.guard.way_gone()
    }

    /// What the canary must have seen of it.
    #[must_use]
    pub fn canary(&self) -> CanarySees {
        self.guard.canary()
    }

    /// Who is away on purpose and kept account of by nobody else.
    #[must_use]
    pub fn absence(&self) -> Option<Absence> {
        self.guard.absence()
    }

    /// What a failover lost, where it is one.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        self.guard.window()
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
        let witness = self.guard.heal().await?;
        Ok(Healed { at, witness })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_is_found_by_its_name_and_an_unknown_one_lists_them() {
        for kind in catalogue() {
            assert_eq!(kind.name.parse::<Fault>().unwrap().to_string(), kind.name);
        }
        let error = "db-melt".parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains("`db-melt`") && error.contains("db-kill, "), "{error}");
    }

    #[test]
    fn names_are_unique_and_every_default_is_a_value() {
        let names: BTreeSet<&str> = catalogue().map(|kind| kind.name).collect();
        assert_eq!(names.len(), catalogue().count());
        for kind in catalogue() {
            for Parameter { name, default, .. } in kind.parameters {
                let fault = format!("{}:{name}={default}", kind.name).parse::<Fault>().unwrap();
                assert_eq!(fault.to_string(), kind.name, "a default is not told");
            }
        }
    }

    #[test]
    fn parameters_are_read_and_told_again_and_wrong_ones_are_refused() {
        let fault: Fault = "db-kill:moment=commit".parse().unwrap();
        assert_eq!(fault.to_string(), "db-kill:moment=commit");
        assert_ne!(fault, "db-kill".parse().unwrap());
        let wrong = |text: &str| text.parse::<Fault>().unwrap_err().to_string();
        assert!(wrong("db-kill:moment=noon").contains("transaction"), "{}", wrong("db-kill:moment=noon"));
        assert!(wrong("db-kill:mood=bad").contains("`mood`"));
        assert!(wrong("server-kill:x=1").contains("none"));
    }
}
