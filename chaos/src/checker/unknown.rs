//! W6: few writes end without anybody knowing how, and a server that is asked later tells the truth about each. What is
//! in the database comes from the final rows.

use crate::checker::Finding;
use crate::checker::index::{Index, Write};
use crate::history::Limits;
use crate::verdict::{Check, Class};

/// `shown` tells for each write in how many rows its effect was found.
pub(crate) fn check(index: &Index<'_>, limits: &Limits, shown: &[u64]) -> Check {
    let mut finding =
        Finding::new("W6", "few writes end unknown, and asked later a server knows each", Class::Safety);
    let Some(share_max) = limits.unknown_share_max else {
        finding.not_measured("the run states no share");
        return finding.done(String::new());
    };
    let measured = |write: &Write<'_>| write.sends(&index.ops).any(|op| op.measured);
    let (mut open, mut untold) = (0_u64, 0_u64);
    for (place, write) in index.writes.iter().enumerate() {
        if !write.unknown(&index.ops) || !measured(write) {
            continue;
        }
        open += 1;
        finding.examined(1);
        let there = shown.get(place).copied().unwrap_or(0) > 0;
        let wrong = match write.status {
            Some("applied") => !there,
            Some("rejected" | "absent" | "superseded") => there,
            _ => {
                untold += 1;
                continue;
            }
        };
        if wrong && rows_tell(index, write) {
            let (said, truth) = (write.status.unwrap_or_default(), if there { "is" } else { "is not" });
            let summary = format!("a server called {} {said}, and it {truth} in the database", write.value);
            finding.violated(summary, || write.lines(&index.ops));
        }
    }
    let intended = index.load.writes.max(1);
    let share = open as f64 / intended as f64;
    if share > share_max {
        finding.violated(
            format!("{open} of {intended} writes ended unknown, {share_max} of them allowed"),
            Vec::new,
        );
    }
    if untold > 0 {
        finding.not_measured(&format!("{untold} of {open} unknown writes were never accounted for"));
    }
    finding.done(format!(
        "{open} of {intended} writes unknown (share at most {share_max}), {untold} of them for good"
    ))
}

/// Whether the rows that were read can tell whether this write took effect.
fn rows_tell(index: &Index<'_>, write: &Write<'_>) -> bool {
    if write.object.is_some() { index.ledger_us.is_some() } else { index.rows_us.is_some() }
}
