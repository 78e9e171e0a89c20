//! E1: how many of the planned requests went bad, against the budget of the scenario. A refusal for lack of room or time
//! tells nothing where other programs filled the machine; a wrong answer always does.

use crate::checker::Finding;
use crate::checker::band::{Band, Banded};
use crate::checker::index::{Index, Op};
use crate::checker::machine::{self, Stretch};
use crate::history::Limits;
use crate::verdict::{Bands, Check, Class, Numbers};

/// So many of the bad requests are shown; which they were tells more than how many.
const SHOWN_MAX: usize = 5;

pub(crate) fn check(index: &Index<'_>, banded: &[Banded], numbers: &Numbers, limits: &Limits) -> Check {
    let bad = |write: bool| {
        let measured = index.ops.iter().zip(banded).filter(|(op, _)| op.measured);
        let bad = measured.filter(|(op, banded)| op.write == write && !banded.band.is_good());
        bad.take(SHOWN_MAX).map(|(op, _): (&Op<'_>, _)| op.line()).collect::<Vec<_>>()
    };
    let mut finding = Finding::new("E1", "few planned requests go bad", Class::Liveness);
    let kinds =
        [("reads", numbers.reads, limits.reads_bad_max), ("writes", numbers.writes, limits.writes_bad_max)];
    let mut measured = Vec::new();
    for (kind, bands, allowed) in kinds {
        finding.examined(bands.planned);
        let share = bands.bad() as f64 / bands.planned.max(1) as f64;
        let (percent, allowed_percent) = (share * 100.0, allowed * 100.0);
        let text = format!(
            "{} of {} {kind} bad ({percent:.3} %, budget {allowed_percent:.3} %)",
            bands.bad(),
            bands.planned
        );
        let telling = bands.bad() - for_want_of_machine(index, banded, kind == "writes");
        if share > allowed && telling as f64 / bands.planned.max(1) as f64 <= allowed {
            finding.not_measured("the machine was too busy with other programs to tell");
        } else if share > allowed {
            finding.violated(text.clone(), || [vec![parts(&bands)], bad(kind == "writes")].concat());
        }
        measured.push(text);
    }
    if finding.check.examined == 0 {
        finding.not_measured("no request was planned");
    }
    finding.done(measured.join("; "))
}

/// Bad requests that others may be to blame for, who left next to nothing of the machine meanwhile.
fn for_want_of_machine(index: &Index<'_>, banded: &[Banded], write: bool) -> u64 {
    let starved = |op: &Op<'_>| {
        let until_us = op.ended_us.unwrap_or(op.planned_us);
        machine::stretch(&index.seen.machine, op.planned_us, until_us) == Stretch::Unfit
    };
    let ops = index.ops.iter().zip(banded).filter(|(op, _)| op.measured && op.write == write);
    let may_be = |band: Band| !band.is_good() && band != Band::Wrong;
    ops.filter(|(op, banded)| may_be(banded.band) && starved(op)).count() as u64
}

fn parts(bands: &Bands) -> String {
    format!(
        "fallback {}, refused or cut {}, error {}, no answer {}, never sent {}, wrong {}",
        bands.fallback, bands.refused, bands.error, bands.no_answer, bands.never_sent, bands.wrong
    )
}
