//! From a scenario to its schedule: the load, the limits, and the moment of each fault. What a scenario is
//! is in `scenario.rs`, all of them are in `scenario/table.rs`.

use std::time::Duration;

use crate::error::Error;
use crate::history::{Bounds, Limits, Plan};
use crate::scenario::{CONNECT_PAUSE_MS, POOL_MAX, Scenario, Setting, Step, When};
use crate::schedule::{self, Moment, Parts, Planned, Schedule};

impl Scenario {
    /// Everything that a run of it does. `duration` is from the first to the last planned request (default 8 s), split
    /// into the time before, in and after the outage: 4 to 8 to 6, of a long outage 1 to 10 to 1.
    ///
    /// # Errors
    /// [`Error::State`] for a duration outside 6 s to 1 h, or a rate of 0 or above 2,000.
    pub fn schedule(
        &self,
        seed: u64,
        duration: Option<Duration>,
        rate: Option<u32>,
    ) -> Result<Schedule, Error> {
        let load = self.plan(duration, rate);
        let faults = self.steps.iter().map(|step| step.planned(&load, seed)).collect::<Result<_, _>>()?;
        let schedule = Schedule {
            format: schedule::FORMAT,
            scenario: self.name.to_owned(),
            seed,
            target: None,
            stack: Parts {
                servers: self.setting.servers,
                counted: self.setting.is_counted,
                server_env: self.setting.server_env.iter().map(|&pair| pair.to_owned()).collect(),
                ..Parts::default()
            },
            limits: self.limits(&load),
            load,
            faults,
        };
        schedule.check().map_err(|reason| Error::state("plan the load", reason))?;
        Ok(schedule)
    }

    fn plan(&self, duration: Option<Duration>, rate: Option<u32>) -> Plan {
        let Setting { seconds, rate_per_second, read_share, parts, .. } = self.setting;
        let duration = duration.unwrap_or(Duration::from_secs(seconds));
        let load_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let [before, outage, after] = parts;
        let share = |part| load_ms.saturating_mul(part) / (before + outage + after);
        Plan {
            rate_per_second: rate.unwrap_or(rate_per_second),
            read_share,
            load_ms,
            baseline_ms: share(before),
            outage_ms: share(outage),
            ..Plan::default()
        }
    }

    /// What counts as good enough.
    fn limits(&self, load: &Plan) -> Limits {
        let Setting { journaled_min, is_bounded, is_outage, bad_max, is_counted, .. } = self.setting;
        let counted: &[&str] = if is_counted { &["H1", "H2", "H3", "H5"] } else { &[] };
        let usual = Limits::default();
        let recovery_ms = self.setting.recovery_ms.unwrap_or(usual.recovery_ms);
        let (reads_bad_max, writes_bad_max) = bad_max.unwrap_or((usual.reads_bad_max, usual.writes_bad_max));
        Limits {
            journaled_min,
            fault_expected: !self.steps.is_empty(),
            outage_expected: is_outage,
            bounds: is_bounded.then(Bounds::default),
            reads_bad_max,
            writes_bad_max,
            loss_window_ms: self.setting.loss_window_ms,
            ready_changes_max: self.setting.ready_changes_max,
            unknown_share_max: self.setting.unknown_share_max,
            // An answer may have been kept at any time before the outage, by a replica that heard of no change since.
            // What was missed must be seen soon after it.
            max_stale_ms: Some(load.baseline_ms + load.outage_ms + recovery_ms),
            recovery_ms,
            required: counted.iter().chain(self.setting.required).map(|&id| id.to_owned()).collect(),
            pool_max: Some(POOL_MAX),
            connect_pause_ms: Some(CONNECT_PAUSE_MS),
            ..usual
        }
    }
}

impl Step {
    fn planned(&self, load: &Plan, seed: u64) -> Result<Planned, Error> {
        let moment = |when| match when {
            When::Share(share) => {
                let outage = Duration::from_millis(load.outage_ms);
                Ok(Moment::at(Duration::from_millis(load.baseline_ms) + outage.mul_f64(share)))
            }
            When::Moment(text) => {
                text.parse().map_err(|reason: String| Error::state("plan the faults", reason))
            }
        };
        Ok(Planned {
            fault: self.fault.parse()?,
            server: usize::try_from(seed).unwrap_or(0) % SERVERS_MAX,
            from: moment(self.from)?,
            until: moment(self.until)?,
        })
    }
}

/// The victim is chosen among these, round and round.
const SERVERS_MAX: usize = 16;
