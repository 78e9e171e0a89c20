//! L1: liveness is answered, in time, whatever the database does, and nothing restarts unasked.

use std::collections::HashMap;

use crate::checker::index::Index;
use crate::checker::{Finding, at};
use crate::history::{Limits, Probe, ProcessExit, Role};
use crate::verdict::{Check, Class, Numbers};

/// After a process said that it listens, probes planned this much earlier may still have found it down.
const START_GRACE_US: u64 = 1_000_000;
/// A probe planned this long before a planned kill may not have been answered any more.
const KILL_GRACE_US: u64 = 1_000_000;

pub(crate) fn check(index: &Index<'_>, limits: &Limits, numbers: &mut Numbers) -> Check {
    let mut finding = Finding::new(
        "L1",
        "liveness is answered in time throughout, and no process ends unasked",
        Class::Liveness,
    );
    let absences = absences(index);
    for probe in index.probes.iter().filter(|probe| probe.path == "/livez") {
        let away = absences.get(probe.process.as_str()).map(Vec::as_slice).unwrap_or_default();
        if away.iter().any(|(from, until)| (*from..*until).contains(&probe.planned_us)) {
            continue;
        }
        finding.examined(1);
        numbers.live_probes += 1;
        let took_us = probe.at_us.saturating_sub(probe.planned_us);
        numbers.live_worst_us = numbers.live_worst_us.max(took_us);
        if probe.status != Some(200) || took_us > limits.live_answer_ms * 1_000 {
            finding.violated(format!("{} did not say in time that it lives", probe.process), || {
                vec![line(probe)]
            });
        }
    }
    let unasked = index.exits.iter().filter(|exit| !exit.planned && exit.role != Role::Database);
    for exit in unasked {
        finding.violated(format!("{} ended unasked", exit.process), || {
            vec![format!("{} was gone at {} ({})", exit.process, at(exit.at_us), exit.how)]
        });
    }
    check_restarts(index, &mut finding);
    if numbers.live_probes == 0 {
        finding.not_measured("no liveness probe was made");
    }
    let (probes, worst) = (numbers.live_probes, numbers.live_worst_us as f64 / 1e3);
    let limit = limits.live_answer_ms;
    finding.done(format!("{probes} probes, the slowest answered in {worst:.1} ms (limit {limit} ms)"))
}

/// The times in which each process was away on purpose.
fn absences<'a>(index: &Index<'a>) -> HashMap<&'a str, Vec<(u64, u64)>> {
    let mut absences: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for exit in index.exits.iter().filter(|exit| exit.planned) {
        let back =
            index.starts.iter().filter(|start| start.process == exit.process && start.at_us >= exit.at_us);
        let until = back.map(|start| start.at_us + START_GRACE_US).min().unwrap_or(u64::MAX);
        let from = exit.at_us.saturating_sub(KILL_GRACE_US);
        absences.entry(&exit.process).or_default().push((from, until));
    }
    absences
}

/// A process that starts again without having been asked to end was restarted by somebody else.
fn check_restarts(index: &Index<'_>, finding: &mut Finding) {
    let mut starts: HashMap<&str, usize> = HashMap::new();
    for start in index.starts.iter().filter(|start| start.role != Role::Database) {
        *starts.entry(&start.process).or_default() += 1;
    }
    let ends = |process: &str| {
        let ended = |exit: &&&ProcessExit| exit.process == process;
        index.exits.iter().filter(ended).count()
    };
    for (process, count) in starts {
        if count > ends(process) + 1 {
            finding.violated(
                format!("{process} started {count} times without having ended in between"),
                Vec::new,
            );
        }
    }
}

fn line(probe: &Probe) -> String {
    let answer = match (probe.status, &probe.error) {
        (Some(status), _) => status.to_string(),
        (None, error) => error.clone().unwrap_or_else(|| "no answer".into()),
    };
    let took_ms = probe.at_us.saturating_sub(probe.planned_us) as f64 / 1e3;
    format!(
        "{} asked for {} at {}: {answer} after {took_ms:.1} ms",
        probe.process,
        probe.path,
        at(probe.planned_us)
    )
}
