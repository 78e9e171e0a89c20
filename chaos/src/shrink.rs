//! Shrinking: from a schedule that breaks a promise to the fewest faults that still do. It chooses what to leave out;
//! running a candidate and looking at its verdict is up to the caller.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::schedule::{After, Moment, Schedule};

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The smallest schedule that still breaks the promise.
    pub schedule: Schedule,
    /// How many candidates were run.
    pub runs: u32,
    /// Whether leaving out any one fault more was tried, and mended it each time.
    pub is_least: bool,
}

/// Leaves out faults as long as `breaks` says that what is left still breaks the promise: first halves, then quarters, and
/// so on down to single ones. Runs at most `runs_max` candidates.
///
/// # Errors
/// What `breaks` gives.
///
/// # Cancel safety
/// As that of `breaks`; this keeps nothing.
pub async fn shrink(
    schedule: &Schedule,
    runs_max: u32,
    mut breaks: impl AsyncFnMut(&Schedule) -> Result<bool, Error>,
) -> Result<Shrunk, Error> {
    let mut best = schedule.clone();
    let mut runs = 0;
    let mut parts = 2;
    while best.faults.len() > 1 {
        let count = best.faults.len();
        let parts_now = parts.min(count);
        let mut smaller = None;
        for candidate in candidates(&best, parts_now) {
            if runs == runs_max {
                return Ok(Shrunk { schedule: best, runs, is_least: false });
            }
            runs += 1;
            if breaks(&candidate).await? {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            // What is left may again be halved.
            Some(candidate) => (best, parts) = (candidate, 2),
            None if parts_now == count => break,
            None => parts = parts_now * 2,
        }
    }
    Ok(Shrunk { schedule: best, runs, is_least: true })
}

/// The schedule without each of so many parts of its faults, in turn. Those in which a fault would wait for one that is left
/// out are no candidates.
fn candidates(schedule: &Schedule, parts: usize) -> Vec<Schedule> {
    let count = schedule.faults.len();
    let size = count.div_ceil(parts.max(1)).max(1);
    (0..count)
        .step_by(size)
        .filter_map(|from| without(schedule, &(from..(from + size).min(count)).collect()))
        .collect()
}

/// The schedule without the faults at these places, with all references renumbered.
fn without(schedule: &Schedule, left_out: &BTreeSet<usize>) -> Option<Schedule> {
    let renumber = |moment: Moment| -> Option<Moment> {
        let number = |old: usize| -> Option<usize> {
            let place = old.checked_sub(1)?;
            let before = left_out.iter().filter(|left| **left < place).count();
            (!left_out.contains(&place)).then(|| old - before)
        };
        let after = match moment.after {
            After::Begun(old) => After::Begun(number(old)?),
            After::Healed(old) => After::Healed(number(old)?),
            other => other,
        };
        Some(Moment { after, ..moment })
    };
    let mut smaller = schedule.clone();
    let kept = smaller.faults.drain(..).enumerate().filter(|(place, _)| !left_out.contains(place));
    let kept: Option<Vec<_>> = kept
        .map(|(_, mut planned)| {
            planned.from = renumber(planned.from)?;
            planned.until = renumber(planned.until)?;
            Some(planned)
        })
        .collect();
    smaller.faults = kept?;
    (!smaller.faults.is_empty()).then_some(smaller)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Limits, Plan};
    use crate::schedule::{FORMAT, Parts, Planned};

    const NAMES: [&str; 8] = [
        "db-kill",
        "server-kill",
        "read-only",
        "lock-storm",
        "server-pause",
        "db-hang",
        "hba-reject",
        "deadlocks",
    ];

    fn schedule(count: usize) -> Schedule {
        let planned = |name: &&str| Planned {
            fault: name.parse().unwrap(),
            server: 0,
            from: "1000 ms".parse().unwrap(),
            until: "2000 ms".parse().unwrap(),
        };
        Schedule {
            format: FORMAT,
            scenario: "test".into(),
            seed: 1,
            target: None,
            stack: Parts::default(),
            load: Plan::default(),
            limits: Limits::default(),
            faults: NAMES.iter().take(count).map(planned).collect(),
        }
    }

    fn names(schedule: &Schedule) -> Vec<&'static str> {
        schedule.faults.iter().map(|planned| planned.fault.name()).collect()
    }

    async fn shrunk(needed: &[&str], count: usize, runs_max: u32) -> Shrunk {
        let breaks = async |candidate: &Schedule| {
            candidate.check().unwrap();
            Ok(needed.iter().all(|name| names(candidate).contains(name)))
        };
        shrink(&schedule(count), runs_max, breaks).await.unwrap()
    }

    #[tokio::test]
    async fn the_faults_that_matter_are_what_is_left() {
        for needed in
            [&["hba-reject"][..], &["db-kill", "deadlocks"], &["server-kill", "read-only", "db-hang"]]
        {
            let shrunk = shrunk(needed, 8, 100).await;
            assert_eq!(names(&shrunk.schedule), needed);
            assert!(shrunk.is_least && shrunk.runs < 40, "{} runs", shrunk.runs);
        }
    }

    #[tokio::test]
    async fn it_stops_at_its_limit_and_says_so() {
        let shrunk = shrunk(&["db-kill", "deadlocks"], 8, 3).await;
        assert_eq!((shrunk.runs, shrunk.is_least), (3, false));
        assert!(names(&shrunk.schedule).contains(&"deadlocks"));
    }

    #[tokio::test]
    async fn one_fault_alone_is_not_run_again() {
        let shrunk = shrunk(&["db-kill"], 1, 10).await;
        assert_eq!((shrunk.runs, shrunk.is_least), (0, true));
    }

    #[test]
    fn references_follow_the_fault_they_mean() {
        let mut three = schedule(3);
        three.faults[2].from = "fault 2 begun + 5 ms".parse().unwrap();
        let left = without(&three, &BTreeSet::from([0])).unwrap();
        assert_eq!(left.faults[1].from, "fault 1 begun + 5 ms".parse().unwrap());
        assert_eq!(without(&three, &BTreeSet::from([1])), None, "it would wait for ever");
    }
}
