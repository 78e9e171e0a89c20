//! The scenarios: which faults come when, and what a run of it must have seen. Plain data; `run.rs` carries it out.

use std::time::Duration;

use crate::error::Error;
use crate::history::{Bounds, Limits, Plan};
use crate::nemesis::Fault;

/// Below this the phases are too short to say anything.
const DURATION_MIN: Duration = Duration::from_secs(6);
/// Above this a history would not be judged in memory any more.
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// One fault of a scenario, placed in its outage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What breaks.
    pub fault: Fault,
    /// When, as a share of the outage: 0 is its beginning.
    pub from: f64,
    /// When it is healed: 1 is the end of the outage.
    pub until: f64,
}

/// The stack and the load of a scenario, where they are not given.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Setting {
    servers: usize,
    rate_per_second: u32,
    read_share: f64,
    /// The share of the load's time before the first fault, of the outage, and of the time after it.
    parts: [u64; 3],
    is_bounded: bool,
}

/// Two servers behind the proxy, under light traffic that is mostly reads.
const USUAL: Setting =
    Setting { servers: 2, rate_per_second: 150, read_share: 0.7, parts: [4, 8, 6], is_bounded: false };
/// One server, so that all 500 writes per second wait in one journal; and reads enough to tell how quick they are.
const ENDURING: Setting =
    Setting { servers: 1, rate_per_second: 625, read_share: 0.2, parts: [1, 10, 1], is_bounded: true };

/// A named course of faults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, for a list.
    pub about: &'static str,
    /// Its faults in the order of their beginning; each is healed by the end of the outage.
    pub steps: &'static [Step],
    /// At least so many writes must have come from the journal, or the run has not shown what it is for.
    journaled_min: u64,
    setting: Setting,
}

/// What `demo` runs.
pub const DEMO: &str = "db-kill";

/// All scenarios, in the order of `run all`.
pub const ALL: [Scenario; 5] = [
    Scenario {
        name: "db-kill",
        about: "the database is killed under load and brought back",
        steps: &[Step { fault: Fault::DbKill, from: 0.0, until: 1.0 }],
        journaled_min: 1,
        setting: USUAL,
    },
    Scenario {
        name: "db-hang",
        about: "the database stops answering, with every connection open, and goes on",
        steps: &[Step { fault: Fault::DbHang, from: 0.0, until: 1.0 }],
        journaled_min: 1,
        setting: USUAL,
    },
    Scenario {
        name: "server-kill-in-outage",
        about: "the database is killed, and in the outage a server with a filled journal too",
        steps: &[
            Step { fault: Fault::DbKill, from: 0.0, until: 1.0 },
            Step { fault: Fault::ServerKill, from: 0.45, until: 0.6 },
        ],
        journaled_min: 1,
        setting: USUAL,
    },
    Scenario {
        name: "long-outage",
        about: "the database is away while one server takes 500 writes per second; memory, disk, and the way back",
        steps: &[Step { fault: Fault::DbKill, from: 0.0, until: 1.0 }],
        journaled_min: 1,
        setting: ENDURING,
    },
    Scenario {
        name: "no-fault",
        about: "control: the usual load and nothing broken",
        steps: &[],
        journaled_min: 0,
        setting: USUAL,
    },
];

impl Scenario {
    /// The scenario with this name.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the names there are.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| Error::Unknown {
            what: "the scenario",
            name: name.to_owned(),
            known: ALL.map(|scenario| scenario.name).join(", "),
        })
    }

    /// How many servers the stack has.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.setting.servers
    }

    /// The plan of the load: `duration` from the first to the last planned request (default 18 s), split into the time
    /// before, in and after the outage: 4 to 8 to 6, of a long outage 1 to 10 to 1.
    ///
    /// # Errors
    /// [`Error::State`] for a duration outside 6 s to 1 h, or a rate of 0 or above 2,000.
    pub fn plan(&self, duration: Option<Duration>, rate: Option<u32>) -> Result<Plan, Error> {
        /// More than this one machine cannot send and serve; the run would only measure itself.
        const RATE_MAX: u32 = 2_000;
        let Setting { rate_per_second, read_share, parts, .. } = self.setting;
        let mut plan = Plan { rate_per_second, read_share, ..Plan::default() };
        if let Some(rate) = rate {
            if rate == 0 || rate > RATE_MAX {
                let reason = format!("{rate} requests per second are not between 1 and {RATE_MAX}");
                return Err(Error::state("plan the load", reason));
            }
            plan.rate_per_second = rate;
        }
        if let Some(duration) = duration {
            if duration < DURATION_MIN || duration > DURATION_MAX {
                let (min, max) = (DURATION_MIN.as_secs(), DURATION_MAX.as_secs());
                let reason = format!("a duration of {duration:?} is not between {min}s and {max}s");
                return Err(Error::state("plan the load", reason));
            }
            plan.load_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        }
        let [before, outage, after] = parts;
        plan.baseline_ms = plan.load_ms * before / (before + outage + after);
        plan.outage_ms = plan.load_ms * outage / (before + outage + after);
        Ok(plan)
    }

    /// What counts as good enough.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let (journaled_min, fault_expected) = (self.journaled_min, !self.steps.is_empty());
        let bounds = self.setting.is_bounded.then(Bounds::default);
        Limits { journaled_min, fault_expected, bounds, ..Limits::default() }
    }

    /// Every moment at which something is to be done, in order, from the first planned request on.
    pub(crate) fn moments(&self, plan: &Plan) -> Vec<Moment> {
        let outage = Duration::from_millis(plan.outage_ms);
        let start = Duration::from_millis(plan.baseline_ms);
        let moment =
            |index: usize, share: f64, heal: bool| Moment { at: start + outage.mul_f64(share), index, heal };
        let pairs = self.steps.iter().enumerate();
        let mut moments: Vec<Moment> = pairs
            .flat_map(|(index, step)| [moment(index, step.from, false), moment(index, step.until, true)])
            .collect();
        moments.sort_by_key(|moment| moment.at);
        moments
    }
}

/// Something to be done to a step of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// When, from the first planned request.
    pub(crate) at: Duration,
    /// Which step, by its place in the scenario.
    pub(crate) index: usize,
    /// Heal it, or put it on.
    pub(crate) heal: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_put_on_before_it_is_healed_and_within_the_load() {
        for scenario in &ALL {
            let plan = scenario.plan(None, None).unwrap();
            for step in scenario.steps {
                assert!(0.0 <= step.from && step.from < step.until && step.until <= 1.0, "{}", scenario.name);
            }
            let moments = scenario.moments(&plan);
            assert_eq!(moments.len(), 2 * scenario.steps.len());
            assert!(moments.is_sorted_by_key(|moment| moment.at));
            assert!(moments.iter().all(|moment| moment.at < Duration::from_millis(plan.load_ms)));
        }
    }

    #[test]
    fn the_demo_takes_the_database_away_for_eight_seconds() {
        let scenario = Scenario::find(DEMO).unwrap();
        let moments = scenario.moments(&scenario.plan(None, None).unwrap());
        let times: Vec<u64> = moments.iter().map(|moment| moment.at.as_secs()).collect();
        assert_eq!(times, [4, 12]);
    }

    #[test]
    fn a_duration_is_split_in_the_same_parts() {
        let plan = ALL[0].plan(Some(Duration::from_secs(36)), Some(50)).unwrap();
        assert_eq!(
            (plan.baseline_ms, plan.outage_ms, plan.load_ms, plan.rate_per_second),
            (8_000, 16_000, 36_000, 50)
        );
    }

    #[test]
    fn a_long_outage_takes_500_writes_per_second_for_ten_of_twelve_minutes() {
        let scenario = Scenario::find("long-outage").unwrap();
        let plan = scenario.plan(Some(Duration::from_secs(720)), None).unwrap();
        assert_eq!((plan.baseline_ms, plan.outage_ms), (60_000, 600_000));
        assert!((f64::from(plan.rate_per_second) * (1.0 - plan.read_share) - 500.0).abs() < 1e-9);
        assert!(scenario.limits().bounds.is_some() && ALL[0].limits().bounds.is_none());
    }

    #[test]
    fn plans_that_prove_nothing_are_refused() {
        assert!(ALL[0].plan(Some(Duration::from_secs(2)), None).is_err());
        assert!(ALL[0].plan(None, Some(0)).is_err());
        assert!(ALL[0].plan(None, Some(100_000)).is_err());
    }

    #[test]
    fn only_the_control_expects_no_fault() {
        for scenario in &ALL {
            assert_eq!(scenario.limits().fault_expected, scenario.name != "no-fault");
        }
    }
}
