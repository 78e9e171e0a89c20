//! L1: liveness is answered, in time, whatever the database does, and nothing restarts unasked.

use std::collections::HashMap;

use crate::checker::index::Index;
use crate::checker::machine::{self, Stretch};
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
    for probe in index.seen.probes.iter().filter(|probe| probe.path == "/livez") {
        let away = absences.get(probe.process.as_str()).map(Vec::as_slice).unwrap_or_default();
        if away.iter().any(|(from, until)| (*from..*until).contains(&probe.planned_us)) {
            continue;
        }
        finding.examined(1);
        numbers.live_probes += 1;
        let took_us = probe.at_us.saturating_sub(probe.planned_us);
        numbers.live_worst_us = numbers.live_worst_us.max(took_us);
        if probe.status == Some(200) && took_us <= limits.live_answer_ms * 1_000 {
            continue;
        }
        let late = judge(
            probe,
            took_us,
            limits,
            machine::stretch(&index.seen.machine, probe.planned_us, probe.at_us),
        );
        if late == Late::Unfit {
            finding.not_measured("the machine was too busy with other programs to tell");
        } else if late == Late::Yes {
            finding.violated(format!("{} did not say in time that it lives", probe.process), || {
                vec![line(probe)]
            });
        }
    }
    let unasked = index.seen.exits.iter().filter(|exit| !exit.planned && exit.role != Role::Database);
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
    let remark = machine::remark(&index.seen.machine);
    finding.done(format!("{probes} probes, the slowest answered in {worst:.1} ms (limit {limit} ms{remark})"))
}

/// What an answer beyond the plain limit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Yes,
    /// Others used so much of the machine that it was in time.
    No,
    /// Others used so much of it that nobody can tell.
    Unfit,
}

fn judge(probe: &Probe, took_us: u64, limits: &Limits, stretch: Stretch) -> Late {
    // A refusal or another status does not come from a busy machine.
    let in_doubt = match probe.status {
        Some(200) => true,
        Some(_) => false,
        None => took_us > limits.live_answer_ms * 1_000,
    };
    let Stretch::By(factor) = stretch else { return if in_doubt { Late::Unfit } else { Late::Yes } };
    let allowed_us = limits.live_answer_ms as f64 * 1_000.0 * factor;
    match probe.status {
        Some(200) if took_us as f64 <= allowed_us => Late::No,
        // Given up before the stretched limit had passed.
        None if in_doubt && (took_us as f64) < allowed_us => Late::Unfit,
        _ => Late::Yes,
    }
}

/// The times in which each process was away on purpose.
pub(crate) fn absences<'a>(index: &Index<'a>) -> HashMap<&'a str, Vec<(u64, u64)>> {
    let mut absences: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for exit in index.seen.exits.iter().filter(|exit| exit.planned) {
        let back = index
            .seen
            .starts
            .iter()
            .filter(|start| start.process == exit.process && start.at_us >= exit.at_us);
        let until = back.map(|start| start.at_us + START_GRACE_US).min().unwrap_or(u64::MAX);
        let from = exit.at_us.saturating_sub(KILL_GRACE_US);
        absences.entry(&exit.process).or_default().push((from, until));
    }
    absences
}

/// A process that starts again without having been asked to end was restarted by somebody else.
fn check_restarts(index: &Index<'_>, finding: &mut Finding) {
    let mut starts: HashMap<&str, usize> = HashMap::new();
    for start in index.seen.starts.iter().filter(|start| start.role != Role::Database) {
        *starts.entry(&start.process).or_default() += 1;
    }
    let ends = |process: &str| {
        let ended = |exit: &&&ProcessExit| exit.process == process;
        index.seen.exits.iter().filter(ended).count()
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

/// A probe and its answer, for people.
pub(crate) fn line(probe: &Probe) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(status: Option<u16>, took_ms: u64) -> Probe {
        let at_us = took_ms * 1_000;
        Probe { process: "server-1".into(), path: "/livez".into(), planned_us: 0, at_us, status, error: None }
    }

    fn judged(status: Option<u16>, took_ms: u64, stretch: Stretch) -> Late {
        judge(&probe(status, took_ms), took_ms * 1_000, &Limits::default(), stretch)
    }

    #[test]
    fn a_shared_machine_stretches_the_time_and_nothing_else() {
        assert_eq!(judged(Some(200), 400, Stretch::By(1.0)), Late::Yes);
        assert_eq!(judged(Some(200), 400, Stretch::By(2.0)), Late::No);
        assert_eq!(judged(Some(200), 600, Stretch::By(2.0)), Late::Yes);
        assert_eq!(judged(Some(503), 5, Stretch::By(2.0)), Late::Yes);
        assert_eq!(judged(None, 5, Stretch::By(2.0)), Late::Yes);
    }

    #[test]
    fn what_a_filled_machine_kept_back_is_left_open_and_a_refusal_is_not() {
        assert_eq!(judged(Some(200), 900, Stretch::Unfit), Late::Unfit);
        assert_eq!(judged(None, 1_000, Stretch::Unfit), Late::Unfit);
        // Given up after a second, where two were allowed.
        assert_eq!(judged(None, 1_000, Stretch::By(4.9)), Late::Unfit);
        assert_eq!(judged(Some(500), 5, Stretch::Unfit), Late::Yes);
        assert_eq!(judged(None, 5, Stretch::Unfit), Late::Yes);
    }
}
