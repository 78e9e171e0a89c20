//! W7: a failover may take back what committed in its loss window, no more than was declared, and the service itself
//! must say which. Decides which writes lie in the window; that they are gone is found by `writes`.

use std::collections::HashSet;

use crate::checker::index::{Index, Write};
use crate::checker::{Finding, at};
use crate::history::{Limits, Promotion};
use crate::verdict::{Check, Class};

/// Whether this write may have committed where only the old primary had it.
pub(crate) fn in_window(index: &Index<'_>, write: &Write<'_>) -> bool {
    index.seen.promotions.iter().any(|promotion| falls_into(index, write, promotion))
}

fn falls_into(index: &Index<'_>, write: &Write<'_>, promotion: &Promotion) -> bool {
    // A journal answers for its entries until they are applied where they stay.
    let Some((end_us, op)) = write.committed else { return false };
    let lsn = index.ops.get(op).and_then(|op| op.end?.1.lsn);
    match (lsn, promotion.replayed_lsn, promotion.written_lsn) {
        (Some(lsn), Some(replayed), Some(written)) => replayed < lsn && lsn <= written,
        _ => end_us >= promotion.lost_from_us && write.begun_us <= promotion.lost_until_us,
    }
}

/// `gone` are the acknowledged writes that are not in the database although they committed, all of them in a window.
pub(crate) fn check(index: &Index<'_>, limits: &Limits, gone: &[usize]) -> Check {
    let mut finding =
        Finding::new("W7", "a failover loses no more than declared, and says what", Class::Safety);
    if index.seen.promotions.is_empty() {
        finding.not_measured("no standby was promoted");
        return finding.done(String::new());
    }
    finding.examined(gone.len() as u64);
    let allowed = allowed(index, limits);
    if gone.len() as u64 > allowed {
        finding.violated(format!("{} acknowledged writes lost, {allowed} declared", gone.len()), || {
            lines(index, gone.first())
        });
    }
    let reported: HashSet<&str> =
        index.seen.losses.iter().flat_map(|report| &report.keys).map(String::as_str).collect();
    if index.seen.losses.is_empty() {
        if !gone.is_empty() {
            finding.not_measured("nobody asked the servers what they lost");
        }
    } else {
        for place in gone {
            let Some(write) = index.writes.get(*place) else { continue };
            if !write.key.is_some_and(|key| reported.contains(key)) {
                let summary = format!("the failover took {}, and no server reports it as lost", write.value);
                finding.violated(summary, || lines(index, Some(place)));
            }
        }
    }
    finding.done(format!(
        "{} acknowledged writes lost in the window (at most {allowed} declared), {} keys reported",
        gone.len(),
        reported.len()
    ))
}

/// What was declared, as a number of writes: the window times the rate at which writes were acknowledged.
fn allowed(index: &Index<'_>, limits: &Limits) -> u64 {
    let acknowledged = index.writes.iter().filter(|write| write.acknowledged.is_some()).count() as f64;
    let seconds = index.load.until_us.saturating_sub(index.load.at_us).max(1) as f64 / 1e6;
    (acknowledged / seconds * limits.loss_window_ms as f64 / 1e3).ceil() as u64
}

fn lines(index: &Index<'_>, place: Option<&usize>) -> Vec<String> {
    let write = place.and_then(|place| index.writes.get(*place));
    let told = write.map(|write| write.lines(&index.ops)).unwrap_or_default();
    let promoted = index.seen.promotions.iter().map(|promotion| {
        format!(
            "{} was promoted at {}; lost is what committed from {} to {}",
            promotion.node,
            at(promotion.at_us),
            at(promotion.lost_from_us),
            at(promotion.lost_until_us)
        )
    });
    told.into_iter().chain(promoted).collect()
}
