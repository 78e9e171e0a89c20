//! X1 to X4: whether the run was fit to prove anything. A run that fails here is inconclusive, not good.

use crate::checker::band::{Band, Banded};
use crate::checker::index::{Index, Op};
use crate::checker::{Finding, at};
use crate::history::{Got, Limits};
use crate::verdict::{Check, Class, Numbers};

/// Fewer requests than this are no baseline.
const BASELINE_MIN: u64 = 50;
/// The baseline ends this long before the first fault is known to have taken hold, which it may have done earlier.
const FAULT_LEAD_US: u64 = 500_000;

pub(crate) fn check(index: &Index<'_>, bands: &[Banded], limits: &Limits, numbers: &Numbers) -> Vec<Check> {
    vec![
        faults_bit(index, limits),
        load_was_real(index, bands, limits),
        outcomes_occurred(index, bands, limits, numbers),
        sabotage_was_caught(index),
    ]
}

fn faults_bit(index: &Index<'_>, limits: &Limits) -> Check {
    let mut finding = Finding::new("X1", "every fault is proved on the victim's side", Class::Honesty);
    if index.faults.is_empty() && limits.fault_expected {
        finding.violated("no fault was injected".into(), Vec::new);
    }
    for fault in &index.faults {
        finding.examined(1);
        let name = &fault.start.fault;
        let line = || vec![format!("{name} began at {}", at(fault.start.at_us))];
        if fault.witness.is_none_or(str::is_empty) {
            finding.violated(format!("nothing proves that {name} bit"), line);
        } else if fault.start.database_gone && !fault.canary_failed {
            finding.violated(format!("the canary went on committing during {name}"), line);
        } else if fault.end_us.is_none() {
            finding.violated(format!("{name} was never healed"), line);
        }
    }
    let words: Vec<&str> = index.faults.iter().filter_map(|fault| fault.witness).collect();
    let measured = match (words.as_slice(), index.faults.len()) {
        ([], 0) => "no fault planned".to_owned(),
        ([], many) => format!("{many} begun, none with a witness"),
        (words, _) => words.join("; "),
    };
    finding.done(measured)
}

fn load_was_real(index: &Index<'_>, bands: &[Banded], limits: &Limits) -> Check {
    let mut finding =
        Finding::new("X2", "the load was sent, and all was well before the fault", Class::Honesty);
    let planned = index.load.reads + index.load.writes;
    // Putting a fault on takes time of its own, and what happens meanwhile belongs to it.
    let begins = index
        .faults
        .iter()
        .map(|fault| fault.start.asked_us.unwrap_or_else(|| fault.start.at_us.saturating_sub(FAULT_LEAD_US)));
    let baseline_until = begins.min().unwrap_or(u64::MAX);
    let (mut sent, mut before, mut before_bad) = (0_u64, 0_u64, 0_u64);
    for (op, banded) in index.ops.iter().zip(bands).filter(|(op, _)| op.measured) {
        sent += u64::from(!matches!(op.end, Some((_, done)) if done.got == Got::NeverSent));
        let ended_us = op.ended_us.map_or(u64::MAX, |us| us);
        // What was under way when the fault came belongs to the fault.
        if ended_us <= baseline_until {
            before += 1;
            // A stack that is already degraded shows nothing about the fault to come.
            before_bad += u64::from(!matches!(banded.band, Band::Fresh | Band::Committed));
        }
    }
    finding.examined(planned);
    let sent_share = sent as f64 / planned.max(1) as f64;
    if sent_share < limits.sent_share_min {
        finding.violated(format!("only {sent} of {planned} planned requests were sent"), Vec::new);
    }
    if before < BASELINE_MIN {
        finding.violated(
            format!("only {before} requests ended before the fault, {BASELINE_MIN} are needed"),
            Vec::new,
        );
    } else if before_bad as f64 / before as f64 > limits.baseline_bad_max {
        finding.violated(
            format!("{before_bad} of {before} requests were neither fresh nor committed before the fault"),
            Vec::new,
        );
    }
    finding.done(format!(
        "{sent} of {planned} requests sent; {before_bad} of {before} neither fresh nor committed before the fault"
    ))
}

fn outcomes_occurred(index: &Index<'_>, bands: &[Banded], limits: &Limits, numbers: &Numbers) -> Check {
    let mut finding = Finding::new("X3", "the outcomes the scenario aims at occurred", Class::Honesty);
    let (seen, wanted) = (numbers.writes.journaled, limits.journaled_min);
    finding.examined(index.writes.len() as u64);
    if seen < wanted {
        finding.violated(format!("{seen} writes were journaled, at least {wanted} are needed"), Vec::new);
    }
    for outcome in &limits.outcomes {
        let is_it = |banded: &Banded| format!("{:?}", banded.band).eq_ignore_ascii_case(outcome);
        let occurred = |(op, banded): (&Op<'_>, &Banded)| op.measured && is_it(banded);
        if !index.ops.iter().zip(bands).any(occurred) {
            finding.violated(format!("nobody got an answer of the kind {outcome}"), Vec::new);
        }
    }
    finding.done(format!("{seen} writes acknowledged from a journal (at least {wanted} wanted)"))
}

fn sabotage_was_caught(index: &Index<'_>) -> Check {
    let mut finding = Finding::new("X4", "bugs planted on purpose are caught", Class::Honesty);
    for sabotage in &index.seen.sabotages {
        finding.examined(1);
        if !sabotage.expected.iter().any(|id| sabotage.broken.contains(id)) {
            let expected = sabotage.expected.join(" or ");
            finding.violated(format!("{} went unnoticed by {expected}", sabotage.bug), || {
                vec![format!("its run broke: {}", sabotage.broken.join(", "))]
            });
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no bug was planted in this run");
    }
    let (missed, planted) = (finding.check.violations, finding.check.examined);
    finding.done(format!("{} of {planted} planted bugs caught", planted - missed))
}
