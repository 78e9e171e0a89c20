//! Two faults at once: every pair of faults that can go together, each as a schedule of its own. Pure; running them is up to
//! the caller.
//!
//! A pair is an outer fault that is put on first and an inner one within it. Which can go together follows from what a fault
//! is on: while PostgreSQL is away nothing can be done to it by SQL, two faults that refuse the service look the same from
//! outside, and a fault that is put on by a session of the harness goes when all sessions do.

use std::time::Duration;

use crate::error::Error;
use crate::history::{Limits, Plan};
use crate::nemesis::{self, Fault};
use crate::schedule::{self, After, Moment, Parts, Planned, Schedule};

/// What a fault is on, as far as it decides about its company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// PostgreSQL is away from everybody.
    Outage,
    /// The service's role is refused.
    Door,
    /// Something of PostgreSQL's own that outlives its end: settings, schema, files.
    Lasting,
    /// Sessions or locks, which end with PostgreSQL.
    Sessions,
    /// The way of the servers to PostgreSQL.
    Way,
    /// One server, all of them, or the proxy.
    Servers,
    /// What goes on around the servers and ends none.
    Around,
    /// A server whose statements wait in PostgreSQL: what else is broken must let them come there.
    Ghost,
    /// A server's journal, which is written to only in an outage.
    Journal,
    /// Two nodes of PostgreSQL.
    Standby,
}

use On::{Around, Door, Ghost, Journal, Lasting, Outage, Servers, Sessions, Standby, Way};

/// Every kind of the catalogue, in the form that shows soonest.
const FAULTS: &[(&str, On)] = &[
    ("db-kill", Outage),
    ("db-hang", Outage),
    ("db-stop", Outage),
    ("backend-kill", Outage),
    ("slow-recovery:wal=16", Outage),
    ("slow-start", Outage),
    ("db-flapping:down=500,up=300", Outage),
    ("wal-disk-full", Outage),
    ("fsync-fails", Outage),
    ("packets-lost", Outage),
    ("postmaster-hang", Door),
    ("connections-exhausted", Door),
    ("password-rotated", Door),
    ("role-nologin", Door),
    ("role-gone", Door),
    ("hba-reject", Door),
    ("database-gone", Door),
    ("idle-timeout", Lasting),
    ("read-only", Lasting),
    ("serialization-failures", Lasting),
    ("deadlocks", Lasting),
    ("column-renamed", Lasting),
    ("table-renamed", Lasting),
    ("cached-plan-invalid", Lasting),
    ("sequence-jump", Lasting),
    ("table-disk-full", Lasting),
    ("fsync-slow", Lasting),
    ("db-clock-jump", Lasting),
    ("backends-hang", Sessions),
    ("sessions-terminated", Sessions),
    ("statements-cancelled", Sessions),
    ("lock-storm", Sessions),
    ("sync-standby-missing", Sessions),
    ("deadlocks-detected", Sessions),
    ("rows-changed-meanwhile", Sessions),
    ("commit-cut:nth=0", Way),
    ("connection-cut", Way),
    ("message-cut:nth=1", Way),
    ("answer-swallowed:nth=1", Way),
    ("greeting-swallowed", Way),
    ("answer-repeated:nth=1", Way),
    ("answer-late", Way),
    ("error-injected", Way),
    ("garbage:nth=1", Way),
    ("cancel-lost", Way),
    ("cancel-late", Way),
    ("tls-refused", Way),
    ("tls-expired", Way),
    ("tls-cut", Way),
    ("network-blackhole", Way),
    ("network-refused", Way),
    ("network-latency", Way),
    ("network-bandwidth", Way),
    ("network-slices", Way),
    ("network-slow-close", Way),
    ("sessions-forgotten", Way),
    ("name-unknown", Way),
    ("name-slow", Way),
    ("name-moves", Way),
    ("server-kill", Servers),
    ("server-pause", Servers),
    ("rolling-restart", Servers),
    ("files-exhausted", Servers),
    ("memory-exhausted", Servers),
    ("zombie-owner", Servers),
    ("ghost-writer", Ghost),
    ("proxy-kill", Around),
    ("cpu-starved", Around),
    ("clock-jump", Around),
    ("journal-disk-full", Journal),
    ("journal-fsync-fails", Journal),
    ("journal-fsync-slow", Journal),
    ("failover", Standby),
    ("old-primary-returns", Standby),
    ("db-rolling-restart", Standby),
];

/// Whether the inner fault can be put on and taken off while the outer one is on.
fn holds(outer: On, inner: On) -> bool {
    matches!(
        (outer, inner),
        (Outage, Servers | Around | Journal)
            | (Door, Servers | Around)
            | (Standby, Servers | Around | Ghost)
            | (Lasting, Outage | Door | Way | Servers | Around)
            | (Sessions, Door | Way | Servers | Around)
            | (Way, Outage | Door | Servers | Around)
            | (Servers | Ghost, Around)
    )
}

/// Pairs whose faults get into each other's way all the same, with the reason.
const APART: &[(&str, &str, &str)] = &[
    (
        "ghost-writer",
        "",
        "its statements must come to wait in PostgreSQL, which a second fault keeps them from",
    ),
    ("db-rolling-restart", "rolling-restart", "each server waits for the end of the other restart"),
    ("backends-hang", "database-gone", "a stopped session cannot be ended, and holds the database open"),
    ("lock-storm", "database-gone", "the session that holds the lock would be ended, too"),
    (
        "backends-hang",
        "connections-exhausted",
        "a stopped session cannot be ended and gives its place to nobody",
    ),
];

/// Two faults, the outer one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// It is put on first and taken off last.
    pub outer: &'static str,
    /// It is put on and taken off within.
    pub inner: &'static str,
}

impl Pair {
    fn is_apart(self) -> bool {
        let name = |text: &'static str| text.split(':').next().unwrap_or(text);
        let both = [name(self.outer), name(self.inner)];
        APART.iter().any(|(one, other, _)| both.contains(one) && both.contains(other))
    }
}

/// All pairs, each once.
#[must_use]
pub fn all() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (outer, on) in FAULTS {
        for (inner, within) in FAULTS {
            let pair = Pair { outer, inner };
            if holds(*on, *within) && !pair.is_apart() && can_share_a_stack(pair) {
                pairs.push(pair);
            }
        }
    }
    pairs
}

fn can_share_a_stack(pair: Pair) -> bool {
    let fitting = |text: &str| text.parse::<Fault>().map(|fault| nemesis::fitting([&fault]));
    match (fitting(pair.outer), fitting(pair.inner)) {
        (Ok(one), Ok(other)) => one.and(other).is_possible(),
        _ => false,
    }
}

/// All pairs in an order by chance, the same for a seed each time: the first so many are a sample.
#[must_use]
pub fn shuffled(seed: u64) -> Vec<Pair> {
    let mut pairs = all();
    fastrand::Rng::with_seed(seed).shuffle(&mut pairs);
    pairs
}

/// Traffic before the first fault.
const BASELINE_MS: u64 = 2_500;
/// From the first fault to the second: time to notice, to degrade, to journal.
const ALONE_MS: u64 = 1_000;
/// Both together.
const TOGETHER_MS: u64 = 1_500;
/// From the end of the second to that of the first.
const REST_MS: u64 = 300;
/// All of it, and the time that it takes to put both on, some seconds on a busy machine.
const OUTAGE_MS: u64 = 8_000;
/// Traffic after the last one.
const AFTER_MS: u64 = 3_000;

/// The schedule of a pair.
///
/// # Errors
/// [`Error`] where a name is no fault.
pub fn schedule(pair: Pair, seed: u64) -> Result<Schedule, Error> {
    let after = |after, millis| Moment { after, delay: Duration::from_millis(millis) };
    let planned = |fault: &str, server, from, until| {
        Ok::<_, Error>(Planned { fault: fault.parse()?, server, from, until })
    };
    let faults = vec![
        planned(
            pair.outer,
            0,
            Moment::at(Duration::from_millis(BASELINE_MS)),
            after(After::Healed(2), REST_MS),
        )?,
        planned(pair.inner, 1, after(After::Begun(1), ALONE_MS), after(After::Begun(2), TOGETHER_MS))?,
    ];
    let load = Plan {
        load_ms: BASELINE_MS + OUTAGE_MS + AFTER_MS,
        baseline_ms: BASELINE_MS,
        outage_ms: OUTAGE_MS,
        // As many writes as reads, so that each kind of fault meets something to break.
        read_share: 0.5,
        ..Plan::default()
    };
    // Whether users got enough is a matter of the faults; whether they were told the truth is not.
    let limits =
        Limits { reads_bad_max: 1.0, writes_bad_max: 1.0, outage_expected: false, ..Limits::default() };
    let scenario = format!("{}+{}", name(pair.outer), name(pair.inner));
    let schedule = Schedule {
        format: schedule::FORMAT,
        scenario,
        seed,
        target: None,
        stack: Parts::default(),
        load,
        limits,
        faults,
    };
    schedule.check().map_err(|reason| Error::state("make a schedule", reason))?;
    Ok(schedule)
}

fn name(fault: &str) -> &str {
    fault.split(':').next().unwrap_or(fault)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_fault_of_the_catalogue_has_its_place_and_its_company() {
        let placed: BTreeSet<&str> = FAULTS.iter().map(|(fault, _)| name(fault)).collect();
        let known: BTreeSet<&str> = nemesis::catalogue().map(|kind| kind.name).collect();
        assert_eq!(placed, known);
        let pairs = all();
        for fault in &known {
            let count =
                pairs.iter().filter(|pair| [name(pair.outer), name(pair.inner)].contains(fault)).count();
            assert!(count > 0, "{fault} goes with nothing");
        }
    }

    #[test]
    fn each_pair_is_there_once_and_makes_a_schedule() {
        let pairs = all();
        let sets: BTreeSet<BTreeSet<&str>> =
            pairs.iter().map(|pair| BTreeSet::from([name(pair.outer), name(pair.inner)])).collect();
        assert_eq!(sets.len(), pairs.len());
        for pair in &pairs {
            let schedule = schedule(*pair, 1).unwrap();
            assert_eq!(schedule.faults.len(), 2);
        }
        // docs/faults.md tells how many there are.
        assert!(
            include_str!("../../../docs/faults.md").contains(&format!("{} pairs", pairs.len())),
            "{}",
            pairs.len()
        );
    }

    #[test]
    fn the_pairs_that_the_design_names_are_among_them() {
        let has = |one: &str, other: &str| {
            all().iter().any(|pair| {
                let both = [name(pair.outer), name(pair.inner)];
                both.contains(&one) && both.contains(&other)
            })
        };
        assert!(has("db-kill", "journal-fsync-fails"), "D1+J3");
        assert!(has("failover", "ghost-writer"), "D14+J5");
        assert!(has("packets-lost", "rolling-restart"), "N2+R1");
    }

    #[test]
    fn a_seed_gives_the_same_order_each_time() {
        assert_eq!(shuffled(3), shuffled(3));
        assert_ne!(shuffled(3), shuffled(4));
    }
}
