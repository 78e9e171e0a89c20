//! L2, L3, L4: readiness says what the table of health demands, changes no more often than the world does, and is never
//! gone everywhere because of the database. Looks at `/readyz` probes that were answered.

use crate::checker::index::{Index, Map};
use crate::checker::{Finding, at, health};
use crate::history::{Limits, Probe};
use crate::verdict::{Check, Class};

/// A replica that has to stop taking traffic may take so long to say it.
const NOT_READY_US: u64 = 1_000_000;
/// L3 looks at spans of this length where a run states how often readiness may change.
const SPAN_US: u64 = 10_000_000;

/// One replica's answers in the order of their planned times, with what they had to be.
struct Replica<'a> {
    name: &'a str,
    answers: Vec<Answer<'a>>,
}

#[derive(Clone, Copy)]
struct Answer<'a> {
    probe: &'a Probe,
    ready: bool,
    /// Whether nothing happened to this replica alone that excuses a refusal.
    must_be_ready: bool,
    /// What was done to it a while ago, so that it must refuse.
    must_refuse: Option<&'a str>,
}

pub(crate) fn check(index: &Index<'_>, limits: &Limits) -> Vec<Check> {
    let replicas = replicas(index);
    vec![as_demanded(&replicas), steady(index, limits, &replicas), somewhere(&replicas)]
}

fn replicas<'a>(index: &Index<'a>) -> Vec<Replica<'a>> {
    let absences = health::absences(index);
    let mut probes: Map<&str, Vec<&Probe>> = Map::new();
    for probe in index.seen.probes.iter().filter(|probe| probe.path == "/readyz" && probe.status.is_some()) {
        probes.entry(probe.process.as_str()).or_default().push(probe);
    }
    let mut replicas: Vec<Replica<'a>> = probes
        .into_iter()
        .map(|(name, mut probes)| {
            probes.sort_by_key(|probe| (probe.planned_us, probe.at_us));
            let away = absences.get(name).map(Vec::as_slice).unwrap_or_default();
            Replica { name, answers: answers(index, name, &probes, away) }
        })
        .collect();
    replicas.sort_by_key(|replica| replica.name);
    replicas
}

fn answers<'a>(index: &Index<'a>, name: &str, probes: &[&'a Probe], away: &[(u64, u64)]) -> Vec<Answer<'a>> {
    let mut dues: Vec<_> = index.seen.dues.iter().filter(|due| due.process == name).collect();
    dues.sort_by_key(|due| due.at_us);
    let mut was_ready = false;
    let answer = |probe: &&'a Probe| {
        let inside = |(from, until): &(u64, u64)| (*from..*until).contains(&probe.planned_us);
        let absent = away.iter().any(inside);
        // A new life begins as one that was never ready.
        was_ready &= !absent;
        let before = |us: u64| dues.iter().rev().find(move |due| due.at_us <= us);
        // What was in flight when it changed may be answered either way.
        let due = before(probe.at_us);
        let may_refuse =
            due.is_some_and(|due| !due.ready) || before(probe.planned_us).is_some_and(|due| !due.ready);
        // Whoever answers is there, also shortly before an end that was planned.
        let settled =
            before(probe.planned_us).filter(|due| !due.ready && due.at_us + NOT_READY_US <= probe.planned_us);
        let late = settled.filter(|_| before(probe.at_us).is_some_and(|due| !due.ready));
        let ready = probe.status == Some(200);
        let must_be_ready = was_ready && !may_refuse;
        was_ready |= ready;
        let must_refuse = late.map(|due| due.why.as_str());
        Answer { probe, ready, must_be_ready, must_refuse }
    };
    probes.iter().map(answer).collect()
}

fn as_demanded(replicas: &[Replica<'_>]) -> Check {
    let mut finding =
        Finding::new("L2", "a replica is ready unless something of its own forbids it", Class::Liveness);
    for replica in replicas {
        for answer in &replica.answers {
            finding.examined(u64::from(answer.must_be_ready || answer.must_refuse.is_some()));
            let summary = match answer.must_refuse {
                _ if answer.must_be_ready && !answer.ready => {
                    format!("{} was ready and gave it up, with nothing wrong of its own", replica.name)
                }
                Some(why) if answer.ready => format!("{} called itself ready although {why}", replica.name),
                _ => continue,
            };
            finding.violated(summary, || vec![health::line(answer.probe)]);
        }
    }
    let (found, examined) = not_measured(&mut finding);
    finding.done(format!("{found} of {examined} answers against the table"))
}

fn steady(index: &Index<'_>, limits: &Limits, replicas: &[Replica<'_>]) -> Check {
    let mut finding =
        Finding::new("L3", "readiness changes no more often than there is reason to", Class::Liveness);
    let mut worst = 0;
    for replica in replicas {
        let changes: Vec<&Answer<'_>> = replica
            .answers
            .windows(2)
            .filter_map(|pair| if let [a, b] = pair { (a.ready != b.ready).then_some(b) } else { None })
            .collect();
        finding.examined(replica.answers.len() as u64);
        worst = worst.max(changes.len());
        let lines = || changes.iter().take(6).map(|answer| health::line(answer.probe)).collect::<Vec<_>>();
        let real = real_changes(index, replica.name);
        if changes.len() as u64 > 2 * real + 1 {
            let many = changes.len();
            finding.violated(format!("{} changed {many} times, for {real} reasons", replica.name), lines);
        }
        let Some(most) = limits.ready_changes_max.map(|most| most as usize) else { continue };
        let span = |pair: &[&Answer<'_>]| match pair {
            [first, .., last] => last.probe.planned_us - first.probe.planned_us < SPAN_US,
            _ => most == 0,
        };
        if changes.windows(most + 1).any(span) {
            finding.violated(format!("{} changed more than {most} times in 10 s", replica.name), lines);
        }
    }
    not_measured(&mut finding);
    finding.done(format!("at most {worst} changes of one replica"))
}

/// How often something really changed for this replica: its own life, what was demanded of it, the database.
fn real_changes(index: &Index<'_>, name: &str) -> u64 {
    let dues = index.seen.dues.iter().filter(|due| due.process == name).count();
    let starts = index.seen.starts.iter().filter(|start| start.process == name).count();
    let exits = index.seen.exits.iter().filter(|exit| exit.process == name).count();
    let outages = index.faults.iter().filter(|fault| fault.canary_failed).count();
    (dues + starts + exits + 2 * outages) as u64
}

fn somewhere(replicas: &[Replica<'_>]) -> Check {
    let mut finding =
        Finding::new("L4", "never are all replicas not ready because of the database", Class::Liveness);
    let mut answers: Vec<(usize, &Answer<'_>)> = replicas
        .iter()
        .enumerate()
        .flat_map(|(place, replica)| replica.answers.iter().map(move |answer| (place, answer)))
        .collect();
    answers.sort_by_key(|(_, answer)| (answer.probe.at_us, answer.probe.planned_us));
    let mut latest: Vec<Option<&Answer<'_>>> = vec![None; replicas.len()];
    let mut gone = false;
    for (place, answer) in answers {
        if let Some(slot) = latest.get_mut(place) {
            *slot = Some(answer);
        }
        finding.examined(1);
        let refuse = latest.iter().all(|known| known.is_some_and(|known| !known.ready));
        let unasked = latest.iter().flatten().any(|known| known.must_be_ready);
        if refuse && unasked && !gone {
            finding.violated(format!("no replica was ready at {}", at(answer.probe.at_us)), || {
                latest.iter().flatten().map(|known| health::line(known.probe)).collect()
            });
        }
        gone = refuse && unasked;
    }
    let (found, examined) = not_measured(&mut finding);
    finding.done(format!("{found} such times in {examined} answers of {} replicas", replicas.len()))
}

fn not_measured(finding: &mut Finding) -> (u64, u64) {
    if finding.check.examined == 0 {
        finding.not_measured("no readiness probe was answered");
    }
    (finding.check.violations, finding.check.examined)
}
