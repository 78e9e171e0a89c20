//! T1 and T2: the service notices soon that the database is gone, and keeps nobody waiting beyond the deadline.

use crate::checker::band::{Band, Banded};
use crate::checker::index::Index;
use crate::checker::machine::{self, Stretch};
use crate::checker::{Finding, at};
use crate::history::Limits;
use crate::verdict::{Check, Class};

/// A request may end so long after its deadline: the way of the answer, and a busy machine.
const OVERRUN_US: u64 = 100_000;

pub(crate) fn check(index: &Index<'_>, bands: &[Banded], limits: &Limits) -> Vec<Check> {
    vec![detection(index, bands, limits), overruns(index, limits)]
}

fn detection(index: &Index<'_>, bands: &[Banded], limits: &Limits) -> Check {
    let mut finding =
        Finding::new("T1", "the service notices soon that the database is gone", Class::Liveness);
    let plain_us = limits.detect_ms * 1_000;
    let mut slowest = 0;
    for fault in index.faults.iter().filter(|fault| fault.start.database_gone && fault.canary_failed) {
        let from = fault.start.at_us;
        let aware = |band| {
            matches!(band, Band::Stale | Band::Journaled | Band::Fallback | Band::Error | Band::Refused)
        };
        let asked = index.ops.iter().zip(bands).filter(|(op, _)| op.measured && op.begun_us >= from);
        let (mut first, mut any) = (None::<u64>, false);
        for (op, banded) in asked {
            any |= op.begun_us < from + plain_us / 2;
            if let Some((_, done)) = op.end.filter(|_| aware(banded.band)) {
                first = Some(first.map_or(done.at_us, |us| us.min(done.at_us)));
            }
        }
        if !any {
            finding.not_measured("nobody asked right after the fault");
            continue;
        }
        finding.examined(1);
        let took = first.map(|us| us - from);
        slowest = slowest.max(took.unwrap_or(plain_us));
        let late = late(index, from, took.unwrap_or(u64::MAX), plain_us, &mut finding);
        if late {
            let words = took.map_or("never".to_owned(), |us| format!("after {}", at(us)));
            finding.violated(format!("{} showed in an answer {words}", fault.start.fault), || {
                vec![format!("{} began at {}", fault.start.fault, at(from))]
            });
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no fault took the database away");
    }
    finding.done(format!("the first answer that knew came after {} (limit {})", at(slowest), at(plain_us)))
}

fn overruns(index: &Index<'_>, limits: &Limits) -> Check {
    let mut finding = Finding::new("T2", "no request outlives its deadline", Class::Liveness);
    let plain_us = limits.request_deadline_ms.unwrap_or(index.run.plan.deadline_ms) * 1_000;
    let mut slowest = 0;
    for op in index.ops.iter().filter(|op| op.measured && !index.run.foreign) {
        finding.examined(1);
        // What has no end in the history was open until the last look at least.
        let end_us = op.ended_us.or(index.rows_us).unwrap_or(op.begun_us);
        let took = end_us.saturating_sub(op.planned_us);
        slowest = slowest.max(took);
        if took <= plain_us + OVERRUN_US {
            continue;
        }
        // The deadline itself does not stretch, only what comes on top.
        let from = op.planned_us + plain_us;
        if late(index, from, took - plain_us, OVERRUN_US, &mut finding) {
            finding.violated(format!("a request was open for {}", at(took)), || vec![op.line()]);
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("no request was planned");
    }
    let remark = machine::remark(&index.seen.machine);
    finding.done(format!("the slowest took {} (limit {} and 0.1 s{remark})", at(slowest), at(plain_us)))
}

/// Whether a time beyond its limit counts, for what others used of the machine meanwhile.
fn late(index: &Index<'_>, from_us: u64, took_us: u64, plain_us: u64, finding: &mut Finding) -> bool {
    if took_us <= plain_us {
        return false;
    }
    match machine::stretch(&index.seen.machine, from_us, from_us.saturating_add(took_us)) {
        Stretch::By(factor) => took_us as f64 > plain_us as f64 * factor,
        Stretch::Unfit => {
            finding.not_measured("the machine was too busy with other programs to tell");
            false
        }
    }
}
