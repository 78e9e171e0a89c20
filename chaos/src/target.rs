//! A target: somebody else's service, as a TOML file describes it. How it is started, what its users ask and what its
//! answers mean, how its tables are read. It starts nothing (`stack`), sends nothing (`workload`), judges nothing.

mod template;
mod traffic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{self, ConfigError};
use crate::error::Error;
use crate::history::Limits;
use crate::schedule::Schedule;

pub(crate) use template::fill;
pub(crate) use traffic::text_at;
pub use traffic::{Meaning, Operation, Sign, Traffic, Workload};

/// Replicas of one target.
const REPLICAS_MAX: usize = 16;
/// Registers or lists of one target.
const OBJECTS_MAX: u32 = 10_000;
/// What a start command and its environment may name.
const OF_START: &[&str] = &["port", "dir", "here", "database_url"];

/// A service on PostgreSQL that is not ours.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `[service]`: its processes.
    pub service: Service,
    /// `[database]`: what it keeps.
    pub database: Database,
    /// `[health]`: where it is asked how it does.
    #[serde(default)]
    pub health: Health,
    /// `[traffic]`: what its users ask for.
    pub traffic: Traffic,
    /// `[limits]`: what is good enough, where that is not what is good enough for everybody.
    #[serde(default)]
    pub limits: Allowed,
}

/// `[service]`. Command and environment may hold `{{port}}` (a free loopback port), `{{dir}}` (a folder of the replica's
/// own, where it also works), `{{database_url}}` and `{{here}}` (the folder of the file).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name in errors.
    pub name: String,
    /// The program and its arguments. A program without a slash is looked for on the path.
    pub command: Vec<String>,
    /// Added to the environment. Default none.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How many processes, 1 to 16; users are spread over them. Default 2.
    #[serde(default = "two")]
    pub replicas: usize,
    /// A text in its output that says that it listens. Default none: its port accepts a connection.
    #[serde(default)]
    pub ready_line: Option<String>,
    /// What asks it to end, `TERM`, `INT` or `QUIT`. Default `TERM`.
    #[serde(default)]
    pub stop_signal: StopSignal,
    /// How long it may take until it listens, as text with a unit. Default 20 s.
    #[serde(default = "twenty_seconds", deserialize_with = "config::text::a_duration")]
    pub start_timeout: Duration,
}

/// What asks a process to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
}

/// `[database]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Statements that the service's own role carries out once, before the first start. Default none.
    #[serde(default)]
    pub prepare: Option<String>,
    /// Statements that the harness carries out as superuser once the service is ready, before any traffic: such as a
    /// trigger that writes every effect down, where the service itself keeps only the last. Default none.
    #[serde(default)]
    pub observe: Option<String>,
    /// The table that faults on a table are put on. Default none: they take the name that they have by default.
    #[serde(default)]
    pub table: Option<String>,
    /// A query that gives, at the end, the id of the object, the value, and optionally the place of the value in the
    /// order of all writes to the object, ascending from 1. With the workload `todo`: id (text), title (text), version
    /// (bigint) and mark (boolean) of each todo.
    pub rows: String,
    /// Whether these are all effects there were, or only the last of each object. Default all.
    #[serde(default)]
    pub keeps: Keeps,
}

/// What the rows of a service tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeps {
    /// A row for each effect: what is missing is lost, what is there twice was done twice.
    #[default]
    All,
    /// A row for each object, with its last value: one more read, and no word about what was written over.
    Last,
}

/// `[health]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// The path of the liveness probe. Default `/livez`.
    pub live: String,
    /// The path of the readiness probe. Default `/readyz`.
    pub ready: String,
}

impl Default for Health {
    fn default() -> Self {
        Self { live: "/livez".to_owned(), ready: "/readyz".to_owned() }
    }
}

/// `[limits]`; each as in [`Limits`], and absent where its default stands.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allowed {
    /// E1: largest share of bad reads, in the place of the usual one; where a scenario allows more, that stands.
    pub reads_bad_max: Option<f64>,
    /// E1: largest share of bad writes, likewise.
    pub writes_bad_max: Option<f64>,
    /// L1: a liveness answer must be there so soon, in milliseconds.
    pub live_answer_ms: Option<u64>,
    /// T3: the first fresh answer must come so soon after the canary commits, in milliseconds.
    pub recovery_ms: Option<u64>,
    /// T4: a steady state must begin so soon after that, in milliseconds.
    pub steady_ms: Option<u64>,
    /// H1: the shortest pause of a replica between two attempts to connect, in milliseconds. Default none: not measured.
    pub connect_pause_ms: Option<u64>,
    /// H2: connections that a replica may hold. Default none: not measured.
    pub pool_max: Option<u64>,
    /// H5: most transactions that write for one write of a user. Default none: not measured.
    pub attempts_per_request_max: Option<f64>,
}

fn two() -> usize {
    2
}

fn twenty_seconds() -> Duration {
    Duration::from_secs(20)
}

impl Target {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Configuration`] with file, line and the nearest known key, or with what makes no target.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let mut target: Self = toml::from_str(&text).map_err(|error| config::misread(path, &text, &error))?;
        let here = std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))?;
        let here = here.parent().map(Path::to_path_buf).unwrap_or_default();
        target.check().map_err(|message| ConfigError::Target { path: path.to_owned(), message })?;
        target.settle_in(&here);
        Ok(target)
    }

    fn check(&self) -> Result<(), String> {
        let Self { service, traffic, .. } = self;
        if service.command.is_empty() {
            return Err("service.command: it names no program".to_owned());
        }
        if !(1..=REPLICAS_MAX).contains(&service.replicas) {
            return Err(format!(
                "service.replicas: {} is not between 1 and {REPLICAS_MAX}",
                service.replicas
            ));
        }
        if !(1..=OBJECTS_MAX).contains(&traffic.objects) {
            return Err(format!("traffic.objects: {} is not between 1 and {OBJECTS_MAX}", traffic.objects));
        }
        for text in service.command.iter().chain(service.environment.values()) {
            template::check("service", text, OF_START)?;
        }
        let names_a_port = |text: &String| text.contains("{{port}}");
        if !service.command.iter().chain(service.environment.values()).any(names_a_port) {
            return Err("service: neither command nor environment says {{port}}, where it must listen".into());
        }
        traffic.check()
    }

    /// Puts in where the file is; the rest is known at each start.
    fn settle_in(&mut self, here: &Path) {
        let here = here.to_string_lossy();
        let filled = |text: &mut String| *text = fill(text, &[("here", &here)]);
        self.service.command.iter_mut().chain(self.service.environment.values_mut()).for_each(filled);
    }

    /// The program, and its arguments.
    #[must_use]
    pub fn command(&self) -> (PathBuf, Vec<String>) {
        let mut command = self.service.command.iter();
        let program = command.next().map(PathBuf::from).unwrap_or_default();
        (program, command.cloned().collect())
    }

    /// Makes a schedule one of this target: its replicas, objects and deadline, its table in faults on a table, and no
    /// demand that only our own service can meet. Doing it twice is doing it once.
    ///
    /// # Errors
    /// [`Error`] where a fault does not take the table's name.
    pub fn adapt(&self, schedule: &mut Schedule) -> Result<(), Error> {
        schedule.stack.servers = self.service.replicas;
        let load = &mut schedule.load;
        load.warm_todos = self.traffic.objects;
        load.deadline_ms = u64::try_from(self.traffic.deadline.as_millis()).unwrap_or(u64::MAX);
        if !self.traffic.reads() {
            load.read_share = 0.0;
        }
        if !self.traffic.knows_repeats() {
            load.repeat_share = 0.0;
        }
        let limits = &mut schedule.limits;
        limits.journaled_min = 0;
        limits.bounds = None;
        limits.waived = self.waived();
        self.allow(limits);
        if let Some(table) = &self.database.table {
            for planned in &mut schedule.faults {
                planned.fault = planned.fault.on_table(table)?;
            }
        }
        Ok(())
    }

    fn allow(&self, limits: &mut Limits) {
        let own = &self.limits;
        let usual = Limits::default();
        // Where a scenario allows more than the usual, as under a lock, that is a matter of the fault and stands.
        let bad_max = |own: Option<f64>, stated: f64, usual: f64| match own {
            Some(own) if stated <= usual => own,
            Some(own) => stated.max(own),
            None => stated,
        };
        limits.reads_bad_max = bad_max(own.reads_bad_max, limits.reads_bad_max, usual.reads_bad_max);
        limits.writes_bad_max = bad_max(own.writes_bad_max, limits.writes_bad_max, usual.writes_bad_max);
        limits.live_answer_ms = own.live_answer_ms.unwrap_or(limits.live_answer_ms);
        limits.recovery_ms = own.recovery_ms.unwrap_or(limits.recovery_ms);
        limits.steady_ms = own.steady_ms.unwrap_or(limits.steady_ms);
        // Those of our own service say nothing about another.
        let is_stated = |id: &String| match id.as_str() {
            "H1" => own.connect_pause_ms.is_some(),
            "H2" => own.pool_max.is_some(),
            "H5" => own.attempts_per_request_max.is_some(),
            _ => true,
        };
        limits.required.retain(is_stated);
        limits.connect_pause_ms = own.connect_pause_ms;
        limits.pool_max = own.pool_max;
        limits.attempts_per_request_max =
            own.attempts_per_request_max.unwrap_or(limits.attempts_per_request_max);
    }

    /// What this service gives no means to measure.
    fn waived(&self) -> Vec<String> {
        let mut waived = Vec::new();
        if !self.traffic.says_age() {
            waived.push("S2".to_owned());
        }
        if !self.traffic.reads() {
            waived.push("T3".to_owned());
        }
        if self.database.keeps == Keeps::Last && self.traffic.workload != Workload::Todo {
            waived.extend(["W1", "W2", "W3"].map(str::to_owned));
        }
        waived
    }
}

#[cfg(test)]
mod tests;
