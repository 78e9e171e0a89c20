//! Faults, and the time in which the database was away because of them, as an independent canary saw it.
//! Judges nothing.

use crate::checker::index::Map;
use crate::history::{Canary, FaultEnd, FaultStart};

/// A canary that committed, but took longer than this, was held up by the database.
const CANARY_SLOW_US: u64 = 500_000;
/// After a fault took hold, sessions may need this long to notice that the database is gone.
const SEVER_GRACE_US: u64 = 500_000;

/// One fault with what proves it and what the canary saw of it.
#[derive(Debug, Clone)]
pub(crate) struct Fault<'a> {
    pub(crate) start: &'a FaultStart,
    pub(crate) end_us: Option<u64>,
    pub(crate) witness: Option<&'a str>,
    /// Whether the canary failed or was held up because of it.
    pub(crate) canary_failed: bool,
    /// When the canary committed again.
    pub(crate) up_us: Option<u64>,
    /// In this time no database session can have been answered.
    pub(crate) severed: Option<(u64, u64)>,
}

/// All faults of a run, in their order.
pub(crate) fn all<'a>(
    canaries: &mut [&'a Canary],
    starts: &mut [&'a FaultStart],
    ends: &Map<u32, &'a FaultEnd>,
) -> Vec<Fault<'a>> {
    canaries.sort_by_key(|canary| (canary.sent_us, canary.at_us));
    starts.sort_by_key(|start| start.at_us);
    let mut faults: Vec<Fault<'a>> = starts
        .iter()
        .map(|start| {
            let end = ends.get(&start.id);
            let late_witness = end.and_then(|end| end.witness.as_deref());
            Fault {
                start,
                end_us: end.map(|end| end.at_us),
                witness: start.witness.as_deref().or(late_witness),
                canary_failed: false,
                up_us: None,
                severed: None,
            }
        })
        .collect();
    for away in stretches(canaries) {
        // A fault on a server in the middle of an outage did not take the database away.
        let behind = faults
            .iter_mut()
            .filter(|fault| away.overlaps(fault))
            .max_by_key(|fault| (fault.start.database_gone, fault.start.at_us));
        if let Some(fault) = behind {
            fault.add(&away);
        }
    }
    faults
}

impl Fault<'_> {
    /// Takes up a stretch in which the canary failed because of this fault; the last one tells its end.
    fn add(&mut self, away: &Away) {
        self.canary_failed = true;
        self.up_us = away.up_us;
        let from = self.start.at_us + SEVER_GRACE_US;
        let until = away.last_failed_us.min(self.end_us.unwrap_or(u64::MAX));
        self.severed = (self.start.database_gone && from < until).then_some((from, until));
    }
}

/// A stretch of time in which the canary could not commit.
struct Away {
    first_us: u64,
    /// When the last canary that failed was begun.
    last_failed_us: u64,
    up_us: Option<u64>,
}

impl Away {
    fn overlaps(&self, fault: &Fault<'_>) -> bool {
        self.up_us.is_none_or(|up| up > fault.start.at_us)
            && fault.end_us.is_none_or(|end| self.first_us < end)
    }
}

fn stretches(canaries: &[&Canary]) -> Vec<Away> {
    let mut stretches: Vec<Away> = Vec::new();
    let mut open: Option<Away> = None;
    for canary in canaries {
        let slow = canary.at_us.saturating_sub(canary.sent_us) > CANARY_SLOW_US;
        if open.is_none() && canary.ok && !slow {
            continue;
        }
        let away = open.get_or_insert(Away {
            first_us: canary.sent_us,
            last_failed_us: canary.sent_us,
            up_us: None,
        });
        if !canary.ok {
            away.last_failed_us = canary.sent_us;
            continue;
        }
        away.up_us = Some(canary.at_us);
        stretches.extend(open.take());
    }
    stretches.extend(open);
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(sent_ms: u64, took_ms: u64, ok: bool) -> Canary {
        Canary { sent_us: sent_ms * 1_000, at_us: (sent_ms + took_ms) * 1_000, ok, error: None }
    }

    fn start(id: u32, at_ms: u64, database_gone: bool) -> FaultStart {
        FaultStart {
            id,
            fault: format!("fault-{id}"),
            at_us: at_ms * 1_000,
            asked_us: None,
            database_gone,
            way_gone: false,
            witness: None,
        }
    }

    fn end(id: u32, at_ms: u64) -> FaultEnd {
        FaultEnd { id, at_us: at_ms * 1_000, witness: Some("seen".into()) }
    }

    fn of<'a>(canaries: &'a [Canary], starts: &'a [FaultStart], ends: &'a [FaultEnd]) -> Vec<Fault<'a>> {
        let ends = ends.iter().map(|end| (end.id, end)).collect();
        all(&mut canaries.iter().collect::<Vec<_>>(), &mut starts.iter().collect::<Vec<_>>(), &ends)
    }

    #[test]
    fn an_outage_belongs_to_the_fault_on_the_database_not_to_one_in_its_midst() {
        // A server was killed while the database was away, and the whole outage was ascribed to that fault,
        // so that the database seemed never to have come back from its own.
        let canaries: Vec<_> =
            (0..100).map(|tick| canary(tick * 100, 2, !(20..60).contains(&tick))).collect();
        let (starts, ends) =
            ([start(1, 2_010, true), start(2, 4_000, false)], [end(1, 5_500), end(2, 4_500)]);
        let faults = of(&canaries, &starts, &ends);
        assert!(faults[0].canary_failed && !faults[1].canary_failed);
        assert_eq!(faults[0].up_us, Some(6_002_000));
        assert_eq!(faults[0].severed, Some((2_510_000, 5_500_000)));
        assert_eq!(faults[1].witness, Some("seen"));
    }

    #[test]
    fn a_canary_that_waits_through_a_short_hang_shows_it_too() {
        let canaries = [canary(0, 2, true), canary(1_000, 900, true), canary(1_950, 2, true)];
        let (starts, ends) = ([start(1, 1_010, true)], [end(1, 1_890)]);
        let faults = of(&canaries, &starts, &ends);
        assert_eq!((faults[0].canary_failed, faults[0].up_us), (true, Some(1_900_000)));
        assert_eq!(faults[0].severed, None, "no canary failed, so nothing bounds the time without sessions");
    }

    #[test]
    fn a_canary_that_stumbles_long_after_the_healing_is_no_outage_of_the_fault() {
        let canaries =
            [canary(0, 2, true), canary(1_000, 2, false), canary(1_100, 2, true), canary(9_000, 2, false)];
        let (starts, ends) = ([start(1, 990, true)], [end(1, 1_050)]);
        assert_eq!(of(&canaries, &starts, &ends)[0].up_us, Some(1_102_000));
    }
}
