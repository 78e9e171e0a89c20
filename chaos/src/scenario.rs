//! The scenarios: schedules with a name. Which faults come when, and what a run of it must have seen. Plain data;
//! `schedule.rs` is what becomes of it, and `run.rs` carries that out.

use std::time::Duration;

use crate::error::Error;
use crate::history::{Bounds, Limits, Plan};
use crate::schedule::{self, Moment, Parts, Planned, Schedule};

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
    /// A moment, as [`Moment`] is written.
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
    /// What a failover may lose, in milliseconds before it.
    loss_window_ms: u64,
    /// Most changes of one server's readiness in ten seconds, and the largest share of writes without a told end, where
    /// they are to be measured.
    ready_changes_max: Option<u32>,
    unknown_share_max: Option<f64>,
}

/// Two servers behind the proxy, under light traffic that is mostly reads.
const USUAL: Setting = Setting {
    servers: 2,
    seconds: 8,
    rate_per_second: 150,
    read_share: 0.7,
    parts: [4, 8, 6],
    is_bounded: false,
    journaled_min: 1,
    is_outage: true,
    bad_max: None,
    is_counted: false,
    loss_window_ms: 0,
    ready_changes_max: None,
    unknown_share_max: None,
};
/// A fault that the canary does not meet: on the service's own role, tables or processes.
const ASIDE: Setting = Setting { is_outage: false, journaled_min: 0, ..USUAL };
/// One server, so that all 500 writes per second wait in one journal; and reads enough to tell how quick they are.
const ENDURING: Setting = Setting {
    servers: 1,
    seconds: 18,
    rate_per_second: 625,
    read_share: 0.2,
    parts: [1, 10, 1],
    is_bounded: true,
    ..USUAL
};

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

/// A fault for the whole outage.
const fn all_of_it(fault: &'static str) -> Step {
    Step { fault, from: When::Share(0.0), until: When::Share(1.0) }
}

const fn scenario(
    name: &'static str,
    about: &'static str,
    steps: &'static [Step],
    setting: Setting,
) -> Scenario {
    Scenario { name, about, steps, in_all: true, setting }
}

/// All scenarios, in the order of `run all`.
pub const ALL: &[Scenario] = &[
    scenario("db-kill", "the database is killed under load and brought back", &[all_of_it("db-kill")], USUAL),
    scenario(
        "db-hang",
        "the database stops answering, with every connection open, and goes on",
        &[all_of_it("db-hang")],
        USUAL,
    ),
    scenario(
        "herd",
        "the database hangs, and what each server connects and asks is counted on its way",
        &[all_of_it("db-hang")],
        Setting { is_counted: true, ..USUAL },
    ),
    scenario(
        "db-stop-fast",
        "the database is stopped in order, as for maintenance, and started",
        &[all_of_it("db-stop")],
        USUAL,
    ),
    scenario(
        "db-stop-smart",
        "the database takes no new sessions and waits for the old ones to end",
        &[all_of_it("db-stop:mode=smart")],
        Setting { journaled_min: 0, ..USUAL },
    )
    .only_by_name(),
    scenario(
        "db-flapping",
        "the database goes and comes, over and over",
        &[all_of_it("db-flapping:down=1000,up=500")],
        Setting { ready_changes_max: Some(1), ..USUAL },
    ),
    scenario(
        "backend-kill",
        "one session's process dies, and the database ends all others and recovers",
        &[Step { fault: "backend-kill", from: When::Share(0.0), until: When::Share(0.2) }],
        Setting { journaled_min: 0, ..USUAL },
    ),
    scenario(
        "backends-hang",
        "sessions of the service hang while the database serves others",
        &[all_of_it("backends-hang:count=500")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "sessions-terminated",
        "an administrator ends every session, again and again",
        &[all_of_it("sessions-terminated")],
        ASIDE,
    ),
    scenario(
        "connections-exhausted",
        "others take all connections, those of the service too",
        &[all_of_it("connections-exhausted")],
        Setting { journaled_min: 0, ..USUAL },
    )
    .only_by_name(),
    scenario(
        "lock-storm",
        "somebody locks the table and goes for a coffee",
        &[all_of_it("lock-storm")],
        // What waits for the lock for longer than retries last is journaled, and so is who finds no place behind those.
        Setting { journaled_min: 1, ..ASIDE },
    ),
    scenario("read-only", "the database takes no writes", &[all_of_it("read-only")], USUAL),
    scenario(
        "sync-standby-missing",
        "commits hang, because a standby is away that must confirm them",
        &[all_of_it("sync-standby-missing")],
        // Writes that wait behind a row or a key of a hanging commit are refused, honestly.
        Setting { bad_max: Some((0.001, 0.35)), journaled_min: 0, ..USUAL },
    ),
    scenario(
        "password-rotated",
        "the password is another one, and the sessions are ended",
        &[all_of_it("password-rotated")],
        Setting { journaled_min: 1, ..ASIDE },
    ),
    scenario(
        "cached-plan-invalid",
        "a migration changes a type under prepared statements, twice",
        &[all_of_it("cached-plan-invalid")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "serialization-failures",
        "a third of the writes fails to serialize",
        &[all_of_it("serialization-failures")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "server-kill-in-outage",
        "the database is killed, and in the outage a server with a filled journal too",
        &[
            all_of_it("db-kill"),
            Step { fault: "server-kill", from: When::Share(0.45), until: When::Share(0.6) },
        ],
        USUAL,
    ),
    scenario(
        "rolling-restart-in-outage",
        "a new version is rolled out while the database is away",
        &[
            all_of_it("db-kill"),
            Step { fault: "rolling-restart", from: When::Share(0.3), until: When::Share(0.9) },
        ],
        USUAL,
    ),
    scenario(
        "cold-recovery",
        "the database comes back to three servers with cold caches and full journals, all at once",
        &[
            all_of_it("db-kill"),
            Step {
                fault: "rolling-restart:gap=0,signal=kill",
                from: When::Share(0.6),
                until: When::Share(0.95),
            },
        ],
        // Cold and without a database, a server has nothing to show.
        Setting { servers: 3, bad_max: Some((0.6, 0.2)), ..USUAL },
    )
    .only_by_name(),
    scenario(
        "server-pause",
        "one of two servers stops for a while and goes on, as a virtual machine does",
        &[all_of_it("server-pause")],
        ASIDE,
    )
    .only_by_name(),
    scenario(
        "ghost-writer",
        "a server is killed while its writes wait in the database, and starts again beside them",
        &[Step {
            fault: "ghost-writer",
            from: When::Share(0.0),
            until: When::Moment("fault 1 begun + 0 ms"),
        }],
        Setting { bad_max: Some((0.01, 0.2)), ..ASIDE },
    ),
    scenario(
        "network-latency",
        "bytes between servers and database take 20 ms longer, each way",
        &[all_of_it("network-latency:delay=20,jitter=5")],
        ASIDE,
    ),
    scenario(
        "network-blackhole",
        "no packet arrives between servers and database, and nobody is told; others reach it",
        &[all_of_it("network-blackhole")],
        // As a hang: what was under way runs out of time and is journaled, also where it waited for a COMMIT's answer.
        Setting { journaled_min: 1, ..ASIDE },
    ),
    scenario(
        "commit-cut",
        "the database commits, and the connection ends or falls silent before it can say so",
        &[
            Step { fault: "commit-cut", from: When::Share(0.0), until: When::Share(0.4) },
            Step { fault: "answer-swallowed", from: When::Share(0.5), until: When::Share(1.0) },
        ],
        // Each fault cuts one COMMIT on the way of each server: four of some 360 writes whose outcome is unknown by nature.
        // The service finds out, or journals them under their keys; in no case does anybody else pay, so nothing is added
        // to the usual budget.
        Setting { unknown_share_max: Some(0.012), ..ASIDE },
    ),
    scenario(
        "disk-full-wal",
        "the database has no room for its log, panics, and cannot recover",
        &[all_of_it("wal-disk-full")],
        USUAL,
    ),
    scenario(
        "fsync-fails",
        "the database cannot sync a commit, panics, and recovers",
        &[all_of_it("fsync-fails")],
        Setting { journaled_min: 0, ..USUAL },
    ),
    scenario(
        "failover",
        "the primary is lost, its standby takes over, and the old primary comes back beside it",
        &[all_of_it("old-primary-returns")],
        // The canary waits a failover out, or nearly so.
        ASIDE,
    ),
    scenario(
        "long-outage",
        "the database is away while one server takes 500 writes per second; memory, disk, and the way back",
        &[all_of_it("db-kill")],
        ENDURING,
    )
    .only_by_name(),
    scenario(
        "no-fault",
        "control: the usual load and nothing broken",
        &[],
        Setting { journaled_min: 0, ..USUAL },
    ),
];

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
            max_stale_ms: Some(load.baseline_ms + load.outage_ms + usual.recovery_ms),
            required: counted.iter().map(|id| (*id).to_owned()).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::After;

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
