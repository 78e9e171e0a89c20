//! Swarm schedules: each seed takes its own few faults, rates and sizes. Pure: the same seed gives the same schedule. Running
//! them is up to the caller. Two faults at once, pair by pair, are in [`pairs`].

pub mod pairs;

use std::time::Duration;

use crate::error::Error;
use crate::history::{Limits, Plan};
use crate::nemesis::Fault;
use crate::scenario::{CONNECT_PAUSE_MS, POOL_MAX};
use crate::schedule::{self, After, Moment, Parts, Planned, Schedule};

/// Faults on the database. One at a time: most cannot be put on while it is away.
const DATABASE: &[&str] = &[
    "db-kill",
    "db-kill:moment=transaction",
    "db-kill:moment=commit",
    "db-kill:moment=computing",
    "db-hang",
    "postmaster-hang",
    "backends-hang",
    "backends-hang:count=500",
    "backend-kill",
    "db-stop",
    "db-stop:mode=immediate",
    "db-stop:mode=smart",
    "slow-recovery",
    "db-flapping",
    "db-flapping:down=300,up=300",
    "db-flapping:mode=fast",
    "slow-start",
    "sessions-terminated",
    "sessions-terminated:every=50",
    "statements-cancelled",
    "idle-timeout",
    "connections-exhausted",
    "connections-exhausted:all=no",
    "lock-storm",
    "lock-storm:against=writes",
    "serialization-failures",
    "deadlocks",
    "deadlocks:share=90",
    "deadlocks-detected",
    "rows-changed-meanwhile",
    "read-only",
    "sync-standby-missing",
    "sync-standby-missing:end=cancel",
    "sync-standby-missing:end=terminate",
    "password-rotated",
    "password-rotated:drop=no",
    "role-nologin",
    "role-gone",
    "hba-reject",
    "database-gone",
    "column-renamed",
    "table-renamed",
    "cached-plan-invalid",
    "commit-cut:nth=0",
    "commit-cut:way=close",
    "connection-cut",
    "connection-cut:at=execute,way=blackhole",
    "message-cut",
    "answer-swallowed",
    "answer-late",
    "error-injected:code=57P01",
    "network-blackhole",
    "network-refused",
    "network-latency",
    "packets-lost",
    "packets-lost:way=from",
    "sessions-forgotten",
    "wal-disk-full",
    "fsync-fails",
    "fsync-slow",
    "table-disk-full",
];
/// Faults on the service, which may come beside one on the database.
const SERVICE: &[&str] = &[
    "server-kill",
    "server-pause",
    "rolling-restart",
    "rolling-restart:signal=kill",
    "zombie-owner",
    "cpu-starved",
    "files-exhausted",
    "memory-exhausted",
    "proxy-kill",
    "clock-jump",
    "clock-jump:direction=back",
];

/// Traffic before the first fault.
const BASELINE_MS: u64 = 2_500;
/// Traffic after the last one.
const AFTER_MS: u64 = 3_000;

/// The schedule of a seed.
///
/// # Errors
/// [`Error`] where a name of the lists above is no fault.
pub fn schedule(seed: u64) -> Result<Schedule, Error> {
    let mut random = fastrand::Rng::with_seed(seed);
    let servers = random.usize(1..=3);
    let outage_ms = random.u64(2_000..=6_000);
    let mut faults = Vec::new();
    let on_database = random.usize(1..=2);
    let share_ms = outage_ms / u64::try_from(on_database).unwrap_or(1);
    for number in 0..on_database {
        let from = match number {
            0 => Moment::at(Duration::from_millis(BASELINE_MS)),
            _ => Moment { after: After::Healed(number), delay: Duration::from_millis(random.u64(0..=800)) },
        };
        let own = faults.len() + 1;
        let until = Moment { after: After::Begun(own), delay: Duration::from_millis(share_ms) };
        faults.push(planned(&mut random, DATABASE, servers, from, until)?);
    }
    if random.bool() {
        let from = Moment::at(Duration::from_millis(BASELINE_MS + random.u64(0..=outage_ms)));
        let own = faults.len() + 1;
        let until =
            Moment { after: After::Begun(own), delay: Duration::from_millis(random.u64(300..=outage_ms)) };
        faults.push(planned(&mut random, SERVICE, servers, from, until)?);
    }
    let load = Plan {
        rate_per_second: random.u32(40..=200),
        read_share: f64::from(random.u32(2..=9)) / 10.0,
        repeat_share: f64::from(random.u32(0..=20)) / 100.0,
        warm_todos: random.u32(100..=400),
        load_ms: BASELINE_MS + outage_ms + AFTER_MS,
        baseline_ms: BASELINE_MS,
        outage_ms,
        ..Plan::default()
    };
    // Whether users got enough is a matter of the fault; whether they were told the truth is not.
    let limits = Limits {
        reads_bad_max: 1.0,
        writes_bad_max: 1.0,
        outage_expected: false,
        pool_max: Some(POOL_MAX),
        connect_pause_ms: Some(CONNECT_PAUSE_MS),
        attempts_per_request_max: attempts_max(&load, servers),
        ..Limits::default()
    };
    let scenario = format!("swarm-{seed}");
    let stack = Parts { servers, ..Parts::default() };
    let schedule =
        Schedule { format: schedule::FORMAT, scenario, seed, target: None, stack, load, limits, faults };
    schedule.check().map_err(|reason| Error::state("make a schedule", reason))?;
    Ok(schedule)
}

/// What retry budgets have room for where a fault lets nearly every write fail that is tried: one retry for five requests
/// of any kind, and two a second without any; and as much again by the proxy, which asks another server.
fn attempts_max(load: &Plan, servers: usize) -> f64 {
    let seconds = load.load_ms as f64 / 1e3;
    let requests = f64::from(load.rate_per_second) * seconds;
    let writes = (requests * (1.0 - load.read_share)).max(1.0);
    1.1 + 2.0 * (0.2 * requests + 2.0 * seconds * servers as f64) / writes
}

fn planned(
    random: &mut fastrand::Rng,
    names: &[&str],
    servers: usize,
    from: Moment,
    until: Moment,
) -> Result<Planned, Error> {
    let name = random.choice(names).copied().unwrap_or_default();
    let fault: Fault = name.parse()?;
    Ok(Planned { fault, server: random.usize(0..servers), from, until })
}

/// Its faults, for one line.
#[must_use]
pub fn words(schedule: &Schedule) -> String {
    let faults: Vec<String> = schedule.faults.iter().map(|planned| planned.fault.to_string()).collect();
    faults.join(" + ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nemesis;
    use crate::stack::Fitting;

    #[test]
    fn a_seed_gives_the_same_schedule_each_time_and_another_seed_another() {
        assert_eq!(schedule(5).unwrap(), schedule(5).unwrap());
        let all: BTreeSet<String> = (0..50).map(|seed| words(&schedule(seed).unwrap())).collect();
        assert!(all.len() > 40, "{} of 50", all.len());
    }

    #[test]
    fn every_name_is_a_fault_and_every_schedule_makes_a_run() {
        let mut all = Fitting::default();
        for name in DATABASE.iter().chain(SERVICE) {
            all = all.and(nemesis::fitting([&name.parse::<Fault>().unwrap()]));
        }
        assert!(all.is_possible(), "whatever a seed takes goes together");
        for seed in 0..500 {
            let schedule = schedule(seed).unwrap();
            assert!((1..=3).contains(&schedule.faults.len()));
            assert!(schedule.load.load_ms < 15_000);
        }
    }
}
