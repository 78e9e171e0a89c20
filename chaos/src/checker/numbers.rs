//! Counts and latencies of a run. Judges nothing.

use crate::checker::band::{Band, Banded};
use crate::checker::index::Index;
use crate::verdict::{Bands, Latency, Numbers, Outage};

pub(crate) fn count(index: &Index<'_>, bands: &[Banded], numbers: &mut Numbers) {
    numbers.outages = index.outages();
    count_bands(index, bands, numbers);
    numbers.latency = latency(index, &numbers.outages);
    let measured = index.ops.iter().filter(|op| op.measured);
    let mut late: Vec<u64> = measured.clone().map(|op| op.begun_us.saturating_sub(op.planned_us)).collect();
    late.sort_unstable();
    numbers.sender_late_p99_us = percentile(&late, 0.99);
    numbers.resent = measured.clone().filter(|op| op.end.is_some_and(|(_, done)| done.resent)).count() as u64;
    numbers.repeated = measured.filter(|op| op.invoke.repeat_of.is_some()).count() as u64;
    for write in &index.writes {
        let open = write.unknown(&index.ops);
        let told = matches!(write.status, Some("applied" | "superseded" | "rejected"));
        numbers.unknown += u64::from(open);
        numbers.unknown_resolved += u64::from(open && told);
    }
}

fn count_bands(index: &Index<'_>, bands: &[Banded], numbers: &mut Numbers) {
    for (op, banded) in index.ops.iter().zip(bands).filter(|(op, _)| op.measured) {
        let counts = if op.write { &mut numbers.writes } else { &mut numbers.reads };
        counts.planned += 1;
        *slot(counts, banded.band) += 1;
    }
    // What was planned and never even begun belongs to those who planned it, not to nobody.
    for (counts, planned) in
        [(&mut numbers.reads, index.load.reads), (&mut numbers.writes, index.load.writes)]
    {
        let missing = planned.saturating_sub(counts.planned);
        counts.planned += missing;
        counts.never_sent += missing;
    }
}

fn slot(counts: &mut Bands, band: Band) -> &mut u64 {
    match band {
        Band::Fresh => &mut counts.fresh,
        Band::Stale => &mut counts.stale,
        Band::Committed => &mut counts.committed,
        Band::Journaled => &mut counts.journaled,
        Band::Fallback => &mut counts.fallback,
        Band::Refused => &mut counts.refused,
        Band::Error => &mut counts.error,
        Band::NoAnswer => &mut counts.no_answer,
        Band::NeverSent => &mut counts.never_sent,
        Band::Wrong => &mut counts.wrong,
    }
}

const PHASES: [&str; 3] = ["before", "during", "after"];
const KINDS: [&str; 2] = ["reads", "writes"];

fn latency(index: &Index<'_>, outages: &[Outage]) -> Vec<Latency> {
    let mut samples: [[Vec<u64>; KINDS.len()]; PHASES.len()] = Default::default();
    for op in index.ops.iter().filter(|op| op.measured) {
        // An operation without an end took at least as long as the whole deadline.
        let deadline_us = index.run.plan.deadline_ms * 1_000;
        let took = op.ended_us.map_or(deadline_us, |us| us.saturating_sub(op.planned_us));
        let phase = samples.get_mut(phase(op.planned_us, outages));
        if let Some(took_before) = phase.and_then(|kinds| kinds.get_mut(usize::from(op.write))) {
            took_before.push(took);
        }
    }
    let mut latency = Vec::new();
    let names = PHASES.into_iter().flat_map(|phase| KINDS.map(|kind| (phase, kind)));
    for ((phase, kind), mut took) in names.zip(samples.into_iter().flatten()) {
        if took.is_empty() {
            continue;
        }
        took.sort_unstable();
        latency.push(Latency {
            phase: phase.into(),
            kind: kind.into(),
            n: took.len() as u64,
            p50_us: percentile(&took, 0.5),
            p99_us: percentile(&took, 0.99),
            max_us: took.last().copied().unwrap_or(0),
        });
    }
    latency
}

/// Which of [`PHASES`] a time belongs to.
fn phase(planned_us: u64, outages: &[Outage]) -> usize {
    let inside =
        |outage: &Outage| planned_us >= outage.from_us && outage.until_us.is_none_or(|us| planned_us < us);
    if outages.iter().any(inside) {
        1
    } else if outages.first().is_none_or(|outage| planned_us < outage.from_us) {
        0
    } else {
        2
    }
}

/// The value that this share of the sorted samples does not exceed.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(0)
}
