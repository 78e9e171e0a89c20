//! What a fault is made of: its row in the catalogue, its parameters, where it is put on, and the guard that heals it.
//! It breaks nothing; each file beside this one does, by one means.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use crate::cluster::{Cluster, Window};
use crate::error::Error;
use crate::stack::{Equipment, Fitting, Service, Stack};

/// The future that puts a fault on. Dropping it heals what it had begun.
pub type Injecting = Pin<Box<dyn Future<Output = Result<Box<dyn Guard>, Error>> + Send>>;
/// The future that takes a fault off and gives the witness, if there is one.
pub type Healing = Pin<Box<dyn Future<Output = Result<Option<String>, Error>> + Send>>;

/// One row of the catalogue.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its number in the catalogue of the design, such as `D1`; variants share one.
    pub id: &'static str,
    /// Its name on the command line, in schedules and in the history.
    pub name: &'static str,
    /// What it does, for a list.
    pub about: &'static str,
    /// What can be chosen.
    pub parameters: &'static [Parameter],
    /// What it is injected with; `doctor` proves each.
    pub needs: &'static [Means],
    /// Puts it on.
    pub inject: fn(Scene, Values) -> Injecting,
}

impl Kind {
    /// What a stack has to be fitted with for it.
    #[must_use]
    pub fn fitting(&self) -> Fitting {
        let mut fitting = Fitting::default();
        self.needs.iter().for_each(|means| means.put_into(&mut fitting));
        fitting
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.id, self.name)
    }
}

/// One thing that can be chosen of a fault.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its value where none is given.
    pub default: &'static str,
    /// Which values it takes.
    pub domain: Domain,
    /// What it changes, with its unit.
    pub about: &'static str,
}

/// Which values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A whole number from the first to the second.
    Whole(u64, u64),
    /// The name of a table, a role or the like: a lower-case letter or `_`, then also digits; at most 60.
    Name,
}

impl Domain {
    fn takes(self, value: &str) -> bool {
        match self {
            Self::Words(words) => words.contains(&value),
            Self::Whole(least, most) => value.parse().is_ok_and(|number| (least..=most).contains(&number)),
            Self::Name => {
                let first = value.chars().next();
                first.is_some_and(|c| c == '_' || c.is_ascii_lowercase())
                    && value.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
                    && value.len() <= 60
            }
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => out.write_str(&words.join(", ")),
            Self::Whole(least, most) => write!(out, "{least} to {most}"),
            Self::Name => out.write_str("a plain name"),
        }
    }
}

/// With what a fault is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// Signals to processes of PostgreSQL.
    DatabaseSignals,
    /// SQL as superuser.
    Sql,
    /// PostgreSQL's own configuration files and a reload.
    Configuration,
    /// Servers and the proxy as children.
    Services,
    /// Limits of a running process.
    ProcessLimits,
    /// A shell to burn processor time.
    Shell,
    /// A proxy before PostgreSQL that knows its protocol.
    Messages,
    /// The same, and TLS from the servers to it.
    Tls,
    /// A proxy before PostgreSQL that takes toxics.
    Bytes,
    /// The preload shim in PostgreSQL.
    DatabaseShim,
    /// The preload shim in a server.
    ServerShim,
    /// A standby that can take over.
    Standby,
    /// A network of our own that loses packets.
    Wire,
    /// A name server of our own.
    Names,
}

impl Means {
    /// Adds what a stack has to be fitted with for it.
    pub(super) fn put_into(self, fitting: &mut Fitting) {
        match self {
            Self::Messages => fitting.messages = true,
            Self::Tls => (fitting.messages, fitting.tls) = (true, true),
            Self::Bytes => fitting.bytes = true,
            Self::DatabaseShim => fitting.database_shim = true,
            Self::ServerShim => fitting.server_shim = true,
            Self::Standby => fitting.standby = true,
            Self::Wire => fitting.wire = true,
            Self::Names => fitting.names = true,
            Self::DatabaseSignals
            | Self::Sql
            | Self::Configuration
            | Self::Services
            | Self::ProcessLimits
            | Self::Shell => {}
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::DatabaseSignals => "signals to PostgreSQL",
            Self::Sql => "SQL as superuser",
            Self::Configuration => "PostgreSQL's configuration",
            Self::Services => "servers and proxy",
            Self::ProcessLimits => "limits of a process",
            Self::Shell => "programs that compute",
            Self::Messages => "a proxy for messages",
            Self::Tls => "TLS to PostgreSQL",
            Self::Bytes => "a proxy for bytes",
            Self::DatabaseShim => "the shim in PostgreSQL",
            Self::ServerShim => "the shim in a server",
            Self::Standby => "a standby",
            Self::Wire => "a network that loses packets",
            Self::Names => "a name server",
        })
    }
}

/// The parameters of one fault: those given, over the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<&'static str, String>);

impl Values {
    /// Reads `name=value,name=value`; what is not named keeps its default.
    pub(super) fn parse(kind: &Kind, text: &str) -> Result<Self, Error> {
        let mut values: BTreeMap<_, _> =
            kind.parameters.iter().map(|parameter| (parameter.name, parameter.default.to_owned())).collect();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(parameter) = kind.parameters.iter().find(|parameter| parameter.name == name) else {
                let known: Vec<&str> = kind.parameters.iter().map(|parameter| parameter.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Error::Unknown { what: "the parameter", name: name.to_owned(), known });
            };
            if !parameter.domain.takes(value) {
                let reason = format!("`{value}` is not one of: {}", parameter.domain);
                return Err(Error::state(format!("set {name} of {}", kind.name), reason));
            }
            values.insert(parameter.name, value.to_owned());
        }
        Ok(Self(values))
    }

    /// Those that differ from the defaults, as they are read.
    pub(super) fn text(&self, kind: &Kind) -> String {
        let changed = kind.parameters.iter().filter_map(|parameter| {
            let value = self.0.get(parameter.name).filter(|value| *value != parameter.default)?;
            Some(format!("{}={value}", parameter.name))
        });
        changed.collect::<Vec<_>>().join(",")
    }

    /// A word or name.
    pub(crate) fn word(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A whole number; 0 where there is none of this name.
    pub(crate) fn whole(&self, name: &str) -> u64 {
        self.word(name).parse().unwrap_or(0)
    }

    /// A number of milliseconds.
    pub(crate) fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.whole(name))
    }

    /// `yes` or `no`.
    pub(crate) fn yes(&self, name: &str) -> bool {
        self.word(name) == "yes"
    }
}

/// The values of a switch.
pub(super) const YES_NO: Domain = Domain::Words(&["no", "yes"]);

/// What a fault is put on.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The database.
    pub cluster: Cluster,
    /// The servers; none where there is only a database.
    pub servers: Vec<Service>,
    /// The proxy before them.
    pub proxy: Option<Service>,
    /// What the stack was fitted with for its faults.
    pub equipment: Equipment,
    /// The place of the server that a fault on one server is put on; counted from 0, and round and round.
    pub victim: usize,
    /// Leaves out every effect and does all the rest: no fault may find a witness then. For the test of the harness.
    pub toothless: bool,
}

impl Scene {
    /// A whole stack, with one of its servers as victim.
    #[must_use]
    pub fn of(stack: &Stack, victim: usize, toothless: bool) -> Self {
        Self {
            cluster: stack.cluster().clone(),
            servers: stack.servers().to_vec(),
            proxy: stack.proxy().cloned(),
            equipment: stack.equipment().clone(),
            victim,
            toothless,
        }
    }

    /// The server that a fault on one server is put on.
    ///
    /// # Errors
    /// [`Error::State`] where there is no server.
    pub(crate) fn server(&self) -> Result<&Service, Error> {
        self.one_of(&self.servers).ok_or_else(|| Error::state("choose a server", "the stack has none"))
    }

    /// What belongs to that server, in a list with one for each.
    pub(crate) fn one_of<'a, T>(&self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.victim.checked_rem(list.len())?)
    }

    /// How long a witness is looked for. Where there can be none, not for long.
    pub(crate) fn patience(&self) -> Duration {
        if self.toothless { Duration::from_millis(200) } else { Duration::from_secs(2) }
    }

    /// Whether the effect is to be left in.
    pub(crate) fn has_teeth(&self) -> bool {
        !self.toothless
    }
}

/// What the canary must have seen of a fault while it lasted, or the fault did not bite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanarySees {
    /// The canary is not on the way of this fault.
    Anything,
    /// At least one of its tries failed.
    SomeFail,
    /// It tried, and nothing committed.
    NoneCommits,
}

/// A process that is away on purpose while a fault lasts and that nobody else keeps account of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence {
    /// Its name in the history.
    pub process: String,
    /// Whether it is PostgreSQL.
    pub database: bool,
    /// Why it does not answer, such as `signal 9`.
    pub how: String,
}

/// A fault that has taken hold. It heals on drop, as well as it can without waiting.
pub trait Guard: fmt::Debug + Send {
    /// Whether no session of the database can be answered while it lasts.
    fn database_gone(&self) -> bool {
        false
    }

    /// Whether no server reaches the database while it lasts, though others do.
    fn way_gone(&self) -> bool {
        false
    }

    /// What the canary must see.
    fn canary(&self) -> CanarySees {
        CanarySees::Anything
    }

    /// Who is away on purpose.
    fn absence(&self) -> Option<Absence> {
        None
    }

    /// What a failover lost.
    fn window(&self) -> Option<Window> {
        None
    }

    /// Takes it off, waits until the victim serves again, and gives what was seen on the victim's side that proves
    /// it bit.
    fn heal(self: Box<Self>) -> Healing;
}

/// Turns what a fault's own function gives into what the catalogue holds.
pub(super) fn boxed<G: Guard + 'static>(
    work: impl Future<Output = Result<G, Error>> + Send + 'static,
) -> Injecting {
    Box::pin(async move { work.await.map(|guard| Box::new(guard) as Box<dyn Guard>) })
}
