//! T3: when the database is back, users see it soon. The moment of being back is the canary's first commit.

use crate::checker::band::{Band, Banded};
use crate::checker::index::Index;
use crate::checker::machine::{self, Stretch};
use crate::checker::{Finding, at};
use crate::history::{Limits, Run};
use crate::verdict::{Check, Class, Numbers};

pub(crate) fn check(index: &Index<'_>, bands: &[Banded], limits: &Limits, numbers: &mut Numbers) -> Check {
    let mut finding = Finding::new("T3", "fresh answers return soon after the database", Class::Liveness);
    let Run { plan, .. } = index.run;
    for fault in index.faults.iter().filter(|fault| fault.canary_failed) {
        let Some(up_us) = fault.up_us else {
            finding.not_measured("the canary never committed again");
            continue;
        };
        finding.examined(1);
        // An answer may come before the canary's own commit; it must come after the database was away. That may be long
        // before the fault is taken off, where it bites once.
        let healed_us = fault.end_us.unwrap_or(fault.start.at_us).min(up_us);
        let away_until = fault.severed.map_or(healed_us, |(_, until)| until);
        let first = |band| first_after(index, bands, band, away_until).map(|us| us.saturating_sub(up_us));
        numbers.first_committed_us = later(numbers.first_committed_us, first(Band::Committed));
        let fresh = first(Band::Fresh);
        numbers.first_fresh_us = later(numbers.first_fresh_us, fresh);
        let plain_us = limits.recovery_ms * 1_000;
        let until_us = up_us + fresh.unwrap_or(plain_us).max(plain_us);
        let factor = match machine::stretch(&index.seen.machine, up_us, until_us) {
            Stretch::By(factor) => factor,
            Stretch::Unfit if fresh.is_some_and(|us| us > plain_us) => {
                finding.not_measured("the machine was too busy with other programs to tell");
                continue;
            }
            Stretch::Unfit => 1.0,
        };
        if fresh.is_none() && index.load.until_us < up_us.max(away_until) + plain_us {
            // With the load over, nobody can tell whether one would have come in time.
            finding.not_measured("the load ended too soon to tell");
            continue;
        }
        if fresh.is_none_or(|us| us as f64 > plain_us as f64 * factor) {
            let summary = fresh.map_or_else(
                || "no fresh answer came after the database was back".to_owned(),
                |us| format!("the first fresh answer came {} after the database was back", at(us)),
            );
            finding.violated(summary, || {
                vec![
                    format!("{} began at {}", fault.start.fault, at(fault.start.at_us)),
                    format!("the canary committed again at {}", at(up_us)),
                    format!("the load was planned for {} ms", plan.load_ms),
                ]
            });
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("the canary never saw the database away and back");
    }
    let took = numbers.first_fresh_us.map_or("none".to_owned(), at);
    let (limit, remark) = (at(limits.recovery_ms * 1_000), machine::remark(&index.seen.machine));
    finding.done(format!("first fresh answer after {took} (limit {limit}{remark})"))
}

/// The largest of several; the worst recovery is the one that counts.
fn later(known: Option<u64>, new: Option<u64>) -> Option<u64> {
    known.max(new)
}

fn first_after(index: &Index<'_>, bands: &[Banded], wanted: Band, from_us: u64) -> Option<u64> {
    let ops = index.ops.iter().zip(bands).filter(|(op, banded)| banded.band == wanted && op.measured);
    ops.filter(|(op, _)| op.begun_us >= from_us).filter_map(|(op, _)| Some(op.end?.1.at_us)).min()
}
