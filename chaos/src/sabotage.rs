//! Bugs that can be planted into our own server, each with the run that must find it and the invariants of which one must
//! break. Plain data: running it is up to the caller, and what the server does with a name is the server's business.

use std::path::Path;
use std::time::Duration;

use crate::error::Error;
use crate::nemesis::Fault;
use crate::scenario::Scenario;
use crate::schedule::{After, Moment, Planned as PlannedFault, Schedule};

/// The variable that names the planted bugs, a comma list.
const VARIABLE: &str = "RIDETHROUGH_SABOTAGE";

/// One planted bug.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// Its name, as the server knows it.
    pub name: &'static str,
    /// What the server then does wrong.
    pub about: &'static str,
    /// The run that must find it.
    pub trial: &'static Trial,
    /// At least one of these invariants must break.
    pub expected: &'static [&'static str],
}

/// A run that finds bugs, and that must hold where there is none.
#[derive(Debug)]
pub struct Trial {
    /// Its name in the table.
    pub name: &'static str,
    /// The scenario behind it.
    scenario: &'static str,
    /// Whether users write to registers over and over, instead of to todos once each. Our server is then described by a
    /// target file, and has no proxy before it.
    registers: bool,
    /// What differs from the scenario.
    shape: fn(&mut Schedule) -> Result<(), Error>,
}

/// The database is away for some seconds, under the usual load.
static OUTAGE: Trial = Trial { name: "outage", scenario: "db-kill", registers: false, shape: |_| Ok(()) };
/// The same, and each of a few registers is written many times meanwhile: what waits in a journal has an order.
static REGISTERS: Trial = Trial {
    name: "registers",
    scenario: "db-kill",
    registers: true,
    shape: |schedule| {
        schedule.limits.required.push("W4".to_owned());
        schedule.limits.outcomes.push("journaled".to_owned());
        Ok(())
    },
};
/// The database hangs, and who connects meanwhile is not greeted, also not when it goes on: as behind a box in the network
/// that has forgotten the connection.
static LOST_GREETINGS: Trial = Trial {
    name: "lost-greetings",
    scenario: "db-hang",
    registers: false,
    shape: |schedule| {
        let plan = &schedule.load;
        let from = Duration::from_millis(plan.baseline_ms + plan.outage_ms * 9 / 10);
        schedule.faults.push(PlannedFault {
            fault: "greeting-swallowed".parse()?,
            server: 0,
            from: Moment::at(from),
            until: Moment { after: After::Healed(1), delay: GREETINGS_LOST },
        });
        // Another one that was lucky would hide the one that never comes back.
        schedule.stack.servers = 1;
        // What finds no session at such an end is refused in time. Here it is about whether there is one again at all.
        schedule.limits.writes_bad_max = 0.25;
        Ok(())
    },
};
/// So long after the database goes on, the greetings that it owed are under way.
const GREETINGS_LOST: Duration = Duration::from_millis(400);
/// In an outage a server loses its power while writes wait in its journal.
static POWER_CUT: Trial = Trial {
    name: "power-cut",
    scenario: "server-kill-in-outage",
    registers: false,
    shape: |schedule| {
        schedule.stack.forgetful_disks = true;
        Ok(())
    },
};
/// Every write loses its race for a while. Each may be run again a few times, out of what all calls have earned.
static LOST_RACES: Trial = Trial {
    name: "lost-races",
    scenario: "serialization-failures",
    registers: false,
    shape: |schedule| {
        let fault: Fault = "serialization-failures:share=100".parse()?;
        schedule.faults.iter_mut().for_each(|planned| planned.fault = fault.clone());
        let limits = &mut schedule.limits;
        // What cannot be written is refused while it lasts, which is nearly half of the time.
        limits.writes_bad_max = 0.6;
        limits.attempts_per_request_max = ATTEMPTS_MAX;
        limits.required.push("H5".to_owned());
        Ok(())
    },
};
/// Attempts for one write of a user, over the whole of [`LOST_RACES`]. The default budget has room for about one and a half
/// of them; without it, there are as many as the database can fail.
const ATTEMPTS_MAX: f64 = 3.0;

/// All of them.
pub static BUGS: &[Planted] = &[
    Planted {
        name: "skip-fsync",
        about: "the journal acknowledges without syncing",
        trial: &POWER_CUT,
        expected: &["W1"],
    },
    Planted {
        name: "early-ack",
        about: "the journal acknowledges first and writes a moment later",
        trial: &POWER_CUT,
        expected: &["W1"],
    },
    Planted {
        name: "no-idempotency",
        about: "nobody asks whether a key was applied already",
        trial: &OUTAGE,
        expected: &["W2"],
    },
    Planted {
        name: "replay-twice",
        about: "replay applies each write twice under its one key",
        trial: &OUTAGE,
        expected: &["W2"],
    },
    Planted {
        name: "order-swapped",
        about: "replay applies what changes one thing from the last to the first",
        trial: &REGISTERS,
        expected: &["W4"],
    },
    Planted {
        name: "understated-age",
        about: "a stale answer says that it is brand-new",
        trial: &OUTAGE,
        expected: &["S2"],
    },
    Planted {
        name: "unlabelled-stale",
        about: "a stale answer says that it is fresh",
        trial: &OUTAGE,
        expected: &["S3", "W5"],
    },
    Planted {
        name: "anothers-answer",
        about: "the key of a kept answer forgets whose it is",
        trial: &OUTAGE,
        expected: &["E2", "S4"],
    },
    Planted {
        name: "liveness-asks-database",
        about: "a process without its database says that it is dead",
        trial: &OUTAGE,
        expected: &["L1"],
    },
    Planted {
        name: "readiness-asks-database",
        about: "a process without its database refuses all traffic",
        trial: &OUTAGE,
        expected: &["L2", "L4"],
    },
    Planted {
        name: "retry-without-budget",
        about: "a lost race is run again until the deadline",
        trial: &LOST_RACES,
        expected: &["H5"],
    },
    Planted {
        name: "no-connect-deadline",
        about: "a connection that is being made may take for ever",
        trial: &LOST_GREETINGS,
        expected: &["T3"],
    },
];

impl Planted {
    /// The bug with this name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the names there are.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        BUGS.iter().find(|bug| bug.name == name).ok_or_else(|| Error::Unknown {
            what: "the bug",
            name: name.to_owned(),
            known: BUGS.iter().map(|bug| bug.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The run that must find it.
    ///
    /// # Errors
    /// As [`Trial::control`].
    pub fn schedule(&self, seed: u64) -> Result<Schedule, Error> {
        self.trial.schedule(seed, Some(self.name))
    }
}

impl Trial {
    /// The file that describes the server in this program as a target, where the run needs one.
    #[must_use]
    pub fn target(&self, server: &Path) -> Option<String> {
        /// Where cargo puts the server that the example names.
        const THERE: &str = "{{here}}/../../../target/debug/ridethrough-server";
        let text = include_str!("../examples/ridethrough/target.toml");
        self.registers.then(|| text.replace(THERE, &server.to_string_lossy()))
    }

    /// The same run without a bug.
    ///
    /// # Errors
    /// [`Error`] where it names something that there is not.
    pub fn control(&self, seed: u64) -> Result<Schedule, Error> {
        self.schedule(seed, None)
    }

    fn schedule(&self, seed: u64, bug: Option<&'static str>) -> Result<Schedule, Error> {
        let mut schedule = Scenario::find(self.scenario)?.schedule(seed, None, None)?;
        (self.shape)(&mut schedule)?;
        schedule.scenario = format!("{}-{}", self.name, bug.unwrap_or("control"));
        // In the file, too: a replay of the run plants the bug again.
        schedule.stack.server_env.push(format!("{VARIABLE}={}", bug.unwrap_or_default()));
        Ok(schedule)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_has_a_run_that_differs_from_its_control_by_the_bug_alone() {
        for bug in BUGS {
            let mut planted = bug.schedule(7).unwrap();
            let control = bug.trial.control(7).unwrap();
            assert!(planted.stack.server_env.concat().contains(bug.name), "{}", bug.name);
            assert!(!control.stack.server_env.concat().contains(bug.name), "{}", bug.name);
            planted.stack.server_env = control.stack.server_env.clone();
            planted.scenario = control.scenario.clone();
            assert_eq!(planted, control, "{}", bug.name);
        }
    }

    #[test]
    fn ten_bugs_have_ten_names_and_each_expects_something() {
        let names: BTreeSet<&str> = BUGS.iter().map(|bug| bug.name).collect();
        assert_eq!(names.len(), BUGS.len());
        assert!(names.len() >= 10);
        assert!(BUGS.iter().all(|bug| !bug.expected.is_empty()));
        let error = Planted::find("typo").unwrap_err().to_string();
        assert!(error.contains("`typo`") && error.contains("skip-fsync"), "{error}");
    }
}
