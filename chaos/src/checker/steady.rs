//! T4: after the database is back, the service becomes as good and as quick again as before, and soon. Looks at spans
//! of five seconds.

use crate::checker::band::Banded;
use crate::checker::fault::Fault;
use crate::checker::index::Index;
use crate::checker::machine::{self, Stretch};
use crate::checker::numbers::percentile;
use crate::checker::{Finding, at};
use crate::history::Limits;
use crate::verdict::{Check, Class};

/// A steady span is so long.
const SPAN_US: u64 = 5_000_000;
/// Spans begin in this distance.
const STEP_US: u64 = 100_000;
/// So many of its answers must be good.
const GOOD_SHARE: f64 = 0.999;
/// Its 99th percentile may exceed that of the baseline by this factor.
const P99_FACTOR: f64 = 2.0;
/// A span with fewer answers has no 99th percentile.
const ANSWERS_MIN: usize = 100;

pub(crate) fn check(index: &Index<'_>, bands: &[Banded], limits: &Limits) -> Check {
    let mut finding = Finding::new("T4", "the service is soon as steady again as before", Class::Liveness);
    if index.outages().is_empty() {
        finding.not_measured("the database was never away and back");
        return finding.done(String::new());
    }
    let course = Course::of(index, bands);
    let mut slowest = None;
    for fault in index.faults.iter().filter(|fault| fault.canary_failed) {
        let Some(up_us) = fault.up_us else { continue };
        // A second outage within the time is that fault's recovery, not this one's.
        let next = index.faults.iter().map(|other| other.start.at_us).filter(|us| *us > up_us).min();
        let until = next.unwrap_or(u64::MAX).min(index.load.until_us);
        let Some(slow_us) = course.slow_us(index, fault) else {
            finding.not_measured("too few answers before the fault");
            continue;
        };
        let steady = course.steady_from(up_us, until, slow_us);
        let limit_us = limits.steady_ms * 1_000;
        match steady {
            Some(us) if us - up_us <= limit_us => {
                finding.examined(1);
                slowest = slowest.max(Some(us - up_us));
            }
            // With the load over, nobody can tell whether it would have become steady in time.
            _ if until < up_us + limit_us + SPAN_US => {
                finding.not_measured("the load ended too soon to tell")
            }
            late => {
                let end = late.unwrap_or(up_us + limit_us);
                let factor = match machine::stretch(&index.seen.machine, up_us, end + SPAN_US) {
                    Stretch::By(factor) => factor,
                    Stretch::Unfit => {
                        finding.not_measured("the machine was too busy with other programs to tell");
                        continue;
                    }
                };
                if factor > 1.0
                    && course
                        .steady_from(up_us, until, (slow_us as f64 * factor) as u64)
                        .is_some_and(|us| (us - up_us) as f64 <= limit_us as f64 * factor)
                {
                    finding.examined(1);
                    continue;
                }
                finding.examined(1);
                let words = late.map_or("never".to_owned(), |us| format!("after {}", at(us - up_us)));
                finding.violated(format!("a steady state began {words}"), || {
                    vec![
                        format!("{} began at {}", fault.start.fault, at(fault.start.at_us)),
                        format!("the canary committed again at {}", at(up_us)),
                        format!("steady means 99.9 % good and at most 1 % slower than {}", at(slow_us)),
                    ]
                });
            }
        }
    }
    if finding.check.examined == 0 {
        finding.not_measured("the database was never away and back");
    }
    let took = slowest.map_or("none".to_owned(), at);
    finding.done(format!("steady after {took} (limit {})", at(limits.steady_ms * 1_000)))
}

/// All measured requests in the order of their planned times.
struct Course {
    planned: Vec<u64>,
    took: Vec<u64>,
    good: Vec<bool>,
}

impl Course {
    fn of(index: &Index<'_>, bands: &[Banded]) -> Self {
        let deadline_us = index.run.plan.deadline_ms * 1_000;
        let mut all: Vec<(u64, u64, bool)> = Vec::with_capacity(index.ops.len());
        for (op, banded) in index.ops.iter().zip(bands).filter(|(op, _)| op.measured) {
            let planned = op.planned_us;
            let took = op.ended_us.map_or(deadline_us, |us| us.saturating_sub(planned));
            all.push((planned, took, banded.band.is_good()));
        }
        all.sort_by_key(|(planned, ..)| *planned);
        Self {
            planned: all.iter().map(|(planned, ..)| *planned).collect(),
            took: all.iter().map(|(_, took, _)| *took).collect(),
            good: all.iter().map(|(.., good)| *good).collect(),
        }
    }

    /// What counts as slow: beyond twice the 99th percentile before the fault.
    fn slow_us(&self, index: &Index<'_>, fault: &Fault<'_>) -> Option<u64> {
        let first = index.faults.first().map_or(fault.start.at_us, |first| first.start.at_us);
        let until = self.planned.partition_point(|us| *us < first);
        let mut before = self.took.get(..until)?.to_vec();
        before.sort_unstable();
        (before.len() >= ANSWERS_MIN).then(|| (percentile(&before, 0.99) as f64 * P99_FACTOR) as u64)
    }

    /// The beginning of the first steady span in this time.
    fn steady_from(&self, from_us: u64, until_us: u64, slow_us: u64) -> Option<u64> {
        let first = self.planned.partition_point(|us| *us < from_us);
        // Sums up to each request, so that a span costs two look-ups.
        let (mut bad, mut slow) = (vec![0_usize], vec![0_usize]);
        for (took, good) in self.took.iter().zip(&self.good).skip(first) {
            bad.push(bad.last().copied().unwrap_or(0) + usize::from(!*good));
            slow.push(slow.last().copied().unwrap_or(0) + usize::from(*took > slow_us));
        }
        let mut begin = from_us;
        while begin + SPAN_US <= until_us {
            let place = |us: u64| self.planned.partition_point(|planned| *planned < us) - first;
            let (from, until) = (place(begin), place(begin + SPAN_US));
            let many = until - from;
            let of = |sums: &[usize]| sums.get(until).zip(sums.get(from)).map_or(0, |(b, a)| b - a);
            let few = |part: usize, share: f64| part as f64 <= many as f64 * share;
            if many >= ANSWERS_MIN && few(of(&bad), 1.0 - GOOD_SHARE) && few(of(&slow), 0.01) {
                return Some(begin);
            }
            begin += STEP_US;
        }
        None
    }
}
