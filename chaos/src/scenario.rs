//! The scenarios: schedules with a name. Which faults come when, and what a run of it must have seen. Plain data;
//! `schedule.rs` is what becomes of it, and `run.rs` carries that out.

mod planned;
mod table;

use std::time::Duration;

use crate::error::Error;

pub use table::ALL;

/// One fault of a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What breaks, as [`crate::nemesis::Fault`] is written.
    pub fault: &'static str,
    /// When it is put on.
    pub from: When,
    /// When it is healed.
    pub until: When,
}

/// When something of a scenario is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// A share of the outage: 0 is its beginning, 1 its end.
    Share(f64),
    /// A moment, as [`crate::schedule::Moment`] is written.
    Moment(&'static str),
}

/// The stack, the load and the limits of a scenario, where they are not given.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Setting {
    servers: usize,
    seconds: u64,
    rate_per_second: u32,
    read_share: f64,
    /// The share of the load's time before the first fault, of the outage, and of the time after it.
    parts: [u64; 3],
    is_bounded: bool,
    /// At least so many writes must have come from the journal, or the run has not shown what it is for.
    journaled_min: u64,
    /// Whether the fault takes the database away from everybody, the canary too.
    is_outage: bool,
    /// Largest share of bad reads and writes, where it is not the usual one.
    bad_max: Option<(f64, f64)>,
    /// Whether what the servers do at the database is counted, and what is to be judged by that must be.
    is_counted: bool,
    /// How soon after the fault everything must be fresh again, in milliseconds, where it is not the usual time.
    recovery_ms: Option<u64>,
    /// What a failover may lose, in milliseconds before it.
    loss_window_ms: u64,
    /// Checks that must have been made, beside the usual ones.
    required: &'static [&'static str],
    /// Added to the environment of each server.
    server_env: &'static [&'static str],
    /// Most changes of one server's readiness in ten seconds, and the largest share of writes without a told end, where
    /// they are to be measured.
    ready_changes_max: Option<u32>,
    unknown_share_max: Option<f64>,
}

/// A named course of faults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, for a list.
    pub about: &'static str,
    /// Its faults in the order of their beginning; each is healed by the end of the outage.
    pub steps: &'static [Step],
    /// Whether `run all` runs it; others take too long for that.
    pub in_all: bool,
    setting: Setting,
}

/// H2: what a server may hold: a connection for each permit (`database.bulkhead.permits`), two lanes, the prober's session
/// and the listener's.
pub(crate) const POOL_MAX: u64 = 32 + 2 + 1 + 1;
/// H1: the shortest pause of a server between two attempts to connect.
pub(crate) const CONNECT_PAUSE_MS: u64 = 100;

/// What `demo` runs.
pub const DEMO: &str = "db-kill";
/// How long its load takes where nothing else is asked for.
pub const DEMO_DURATION: Duration = Duration::from_secs(18);

impl Scenario {
    /// Left out of `run all`, which has to end within five minutes.
    const fn only_by_name(self) -> Self {
        Self { in_all: false, ..self }
    }

    /// The scenario with this name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the names there are.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| Error::Unknown {
            what: "the scenario",
            name: name.to_owned(),
            known: ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{After, Planned, Schedule};

    fn schedule(name: &str) -> Schedule {
        Scenario::find(name).unwrap().schedule(7, None, None).unwrap()
    }

    #[test]
    fn every_fault_is_put_on_before_it_is_healed_and_within_the_load() {
        for scenario in ALL {
            let schedule = schedule(scenario.name);
            assert_eq!(schedule.faults.len(), scenario.steps.len());
            for Planned { fault, from, until, .. } in &schedule.faults {
                assert!(from.delay < until.delay || until.after != After::Load, "{fault}");
                assert!(until.delay < Duration::from_millis(schedule.load.load_ms), "{fault}");
            }
        }
    }

    #[test]
    fn twelve_or_more_take_8_to_15_seconds_each() {
        let quick: Vec<_> = ALL.iter().filter(|scenario| scenario.in_all).collect();
        assert!(quick.len() >= 12);
        for scenario in quick {
            let load = schedule(scenario.name).load;
            assert!((8_000..=15_000).contains(&load.load_ms), "{}", scenario.name);
        }
    }

    #[test]
    fn the_demo_takes_the_database_away_for_eight_seconds() {
        let schedule = Scenario::find(DEMO).unwrap().schedule(1, Some(DEMO_DURATION), None).unwrap();
        let moments = schedule.faults.iter().flat_map(|planned| [planned.from, planned.until]);
        let times: Vec<u64> = moments.map(|moment| moment.delay.as_secs()).collect();
        assert_eq!(times, [4, 12]);
    }

    #[test]
    fn a_duration_is_split_in_the_same_parts() {
        let load = ALL[0].schedule(1, Some(Duration::from_secs(36)), Some(50)).unwrap().load;
        assert_eq!(
            (load.baseline_ms, load.outage_ms, load.load_ms, load.rate_per_second),
            (8_000, 16_000, 36_000, 50)
        );
    }

    #[test]
    fn a_long_outage_takes_500_writes_per_second_for_ten_of_twelve_minutes() {
        let scenario = Scenario::find("long-outage").unwrap();
        let Schedule { load, limits, .. } =
            scenario.schedule(1, Some(Duration::from_secs(720)), None).unwrap();
        assert_eq!((load.baseline_ms, load.outage_ms), (60_000, 600_000));
        assert!((f64::from(load.rate_per_second) * (1.0 - load.read_share) - 500.0).abs() < 1e-9);
        assert!(limits.bounds.is_some() && schedule(ALL[0].name).limits.bounds.is_none());
    }

    #[test]
    fn plans_that_prove_nothing_are_refused() {
        assert!(ALL[0].schedule(1, Some(Duration::from_secs(2)), None).is_err());
        assert!(ALL[0].schedule(1, None, Some(0)).is_err());
        assert!(ALL[0].schedule(1, None, Some(100_000)).is_err());
    }

    #[test]
    fn only_the_control_expects_no_fault() {
        for scenario in ALL {
            assert_eq!(schedule(scenario.name).limits.fault_expected, scenario.name != "no-fault");
        }
    }
}
