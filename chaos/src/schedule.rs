//! A schedule: everything that a run does, written out, so that the file alone runs it again. Made from a scenario or
//! a seed; carried out by `run.rs`. It chooses nothing itself.

pub mod moment;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::history::{Limits, Plan};
use crate::nemesis::Fault;

pub use moment::{After, Moment};

/// The format of the file. It rises when an old reader would misread a new file.
pub const FORMAT: u32 = 1;
/// Its name in a run's folder.
pub const FILE: &str = "schedule.toml";

/// More than these on one database are no schedule but a mistake.
const FAULTS_MAX: usize = 64;
const SERVERS_MAX: usize = 16;
/// Below this the phases are too short to say anything.
pub const DURATION_MIN: Duration = Duration::from_secs(6);
/// Above this a history would not be judged in memory any more.
pub const DURATION_MAX: Duration = Duration::from_secs(3_600);
/// More than this one machine cannot send and serve; the run would only measure itself.
pub const RATE_MAX: u32 = 2_000;

/// What a run does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The scenario it was made from, or a name for it.
    pub scenario: String,
    /// Fixes the traffic, and every choice that is not written out below.
    pub seed: u64,
    /// The file that describes the service it is for. Default none: our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// The stack.
    pub stack: Parts,
    /// The traffic.
    pub load: Plan,
    /// What counts as good enough.
    pub limits: Limits,
    /// The faults; the first is number 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Planned>,
}

/// The stack of a run, as far as it differs from one to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parts {
    /// How many servers, 1 to 16. Default 2.
    pub servers: usize,
    /// Added to the environment of each server, as texts `KEY=VALUE`. Default none.
    pub server_env: Vec<String>,
    /// Settings of PostgreSQL, as texts `NAME=VALUE`. Default none.
    pub settings: Vec<String>,
    /// Whether the servers' disks forget what was not synced when a server ends, as in a power cut. Default false.
    pub forgetful_disks: bool,
    /// Whether a proxy before PostgreSQL counts what each server does there. Default false; where a fault needs the
    /// proxy, it counts all the same.
    pub counted: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            servers: 2,
            server_env: Vec::new(),
            settings: Vec::new(),
            forgetful_disks: false,
            counted: false,
        }
    }
}

/// One fault and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// What breaks, such as `db-kill:moment=commit`.
    #[serde(with = "text")]
    pub fault: Fault,
    /// Which server a fault on one server is put on, from 0.
    #[serde(default)]
    pub server: usize,
    /// When it is put on.
    #[serde(with = "text")]
    pub from: Moment,
    /// When it is healed; at the latest when the load ends.
    #[serde(with = "text")]
    pub until: Moment,
}

impl Schedule {
    /// Reads a file, or [`FILE`] in a folder.
    ///
    /// # Errors
    /// [`Error::State`] where it cannot be read or makes no run, with the line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let what = format!("read the schedule {}", path.display());
        let text = std::fs::read_to_string(&path).map_err(Error::io(what.clone()))?;
        Self::parse(&text).map_err(|reason| Error::state(what, reason))
    }

    /// Writes [`FILE`] into a folder.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(FILE);
        let what = format!("write the schedule {}", path.display());
        let text = toml::to_string(self).map_err(|error| Error::state(what.clone(), error.to_string()))?;
        let head = "# Everything that the run did; `ridethrough-chaos replay FOLDER` does it again.\n";
        std::fs::write(path, format!("{head}{text}")).map_err(Error::io(what))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let schedule: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        schedule.check()?;
        Ok(schedule)
    }

    /// Whether it makes a run.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check(&self) -> Result<(), String> {
        let Self { format, stack, load, faults, .. } = self;
        if *format != FORMAT {
            return Err(format!("it has format {format}, and {FORMAT} is what can be read"));
        }
        if !(1..=SERVERS_MAX).contains(&stack.servers) {
            return Err(format!("{} servers are not between 1 and {SERVERS_MAX}", stack.servers));
        }
        if load.rate_per_second == 0 || load.rate_per_second > RATE_MAX {
            let rate = load.rate_per_second;
            return Err(format!("{rate} requests per second are not between 1 and {RATE_MAX}"));
        }
        let duration = Duration::from_millis(load.load_ms);
        if duration < DURATION_MIN || duration > DURATION_MAX {
            let (min, max) = (DURATION_MIN.as_secs(), DURATION_MAX.as_secs());
            return Err(format!("a duration of {duration:?} is not between {min}s and {max}s"));
        }
        if faults.len() > FAULTS_MAX {
            return Err(format!("{} faults are more than {FAULTS_MAX}", faults.len()));
        }
        for pair in stack.server_env.iter().chain(&stack.settings) {
            if pair.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
                return Err(format!("`{pair}` has no form NAME=VALUE"));
            }
        }
        for moment in faults.iter().flat_map(|planned| [planned.from, planned.until]) {
            if let After::Begun(number) | After::Healed(number) = moment.after
                && !(1..=faults.len()).contains(&number)
            {
                return Err(format!("`{moment}` waits for a fault that there is not"));
            }
        }
        Ok(())
    }
}

/// `KEY=VALUE` texts as pairs.
#[must_use]
pub fn pairs(texts: &[String]) -> Vec<(String, String)> {
    let pairs = texts.iter().filter_map(|text| text.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// For serde: a value that is written as text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        let planned = |fault: &str, from: &str, until: &str| Planned {
            fault: fault.parse().unwrap(),
            server: 1,
            from: from.parse().unwrap(),
            until: until.parse().unwrap(),
        };
        Schedule {
            format: FORMAT,
            scenario: "by hand".into(),
            seed: 7,
            target: Some("/a/target.toml".into()),
            stack: Parts { settings: vec!["max_wal_size=64MB".into()], ..Parts::default() },
            load: Plan::default(),
            limits: Limits::default(),
            faults: vec![
                planned("db-kill:moment=commit", "4000 ms", "12000 ms"),
                planned("server-kill", "fault 1 begun + 500 ms", "canary up + 0 ms"),
            ],
        }
    }

    #[test]
    fn a_file_gives_the_schedule_back() {
        let folder = tempfile::tempdir().unwrap();
        let written = schedule();
        written.write(folder.path()).unwrap();
        assert_eq!(Schedule::read(folder.path()).unwrap(), written);
        assert_eq!(Schedule::read(&folder.path().join(FILE)).unwrap(), written);
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.contains("fault = \"db-kill:moment=commit\""), "{text}");
        assert!(text.contains("from = \"fault 1 begun + 500 ms\""), "{text}");
    }

    #[test]
    fn what_makes_no_run_is_refused_with_the_reason() {
        let refused = |change: fn(&mut Schedule)| {
            let mut one = schedule();
            change(&mut one);
            one.check().unwrap_err()
        };
        assert!(refused(|one| one.format = 2).contains("format 2"));
        assert!(refused(|one| one.stack.servers = 0).contains("0 servers"));
        assert!(refused(|one| one.load.rate_per_second = 0).contains("not between"));
        assert!(refused(|one| one.load.load_ms = 10).contains("not between"));
        assert!(refused(|one| one.stack.settings = vec!["fsync".into()]).contains("`fsync`"));
        assert_eq!(schedule().check(), Ok(()));
    }

    #[test]
    fn a_fault_may_wait_only_for_one_that_is_there() {
        let mut one = schedule();
        one.faults.remove(0);
        one.faults.iter_mut().for_each(|planned| planned.from = "fault 2 begun + 0 ms".parse().unwrap());
        assert!(one.check().unwrap_err().contains("fault 2 begun"));
    }

    #[test]
    fn an_unknown_key_or_fault_is_an_error() {
        let text = toml::to_string(&schedule()).unwrap();
        assert!(Schedule::parse(&text.replace("seed", "sead")).unwrap_err().contains("sead"));
        assert!(Schedule::parse(&text.replace("server-kill", "server-melt")).unwrap_err().contains("melt"));
    }
}
