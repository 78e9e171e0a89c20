//! Faults, and the time in which the database was away because of them, as an independent canary saw it.
//! Judges nothing.

use std::collections::HashMap;

use crate::history::{Canary, FaultEnd, FaultStart};

/// An accepted canary that took longer than this was held up by the database.
const CANARY_SLOW_US: u64 = 500_000;
/// After a fault took hold, sessions may need this long to notice that the database is gone.
const SEVER_GRACE_US: u64 = 500_000;

/// One fault with what proves it and what the canary saw of it.
#[derive(Debug, Clone)]
pub(crate) struct Fault<'a> {
    pub(crate) start: &'a FaultStart,
    pub(crate) end_us: Option<u64>,
    pub(crate) witness: Option<&'a str>,
    /// Whether the canary failed or was held up.
    pub(crate) canary_failed: bool,
    pub(crate) up_us: Option<u64>,
    /// In this time no database session can have been answered.
    pub(crate) severed: Option<(u64, u64)>,
}

/// All faults of a run, in their order.
pub(crate) fn all<'a>(
    canaries: &mut [&'a Canary],
    starts: &mut [&'a FaultStart],
    ends: &HashMap<u32, &'a FaultEnd>,
) -> Vec<Fault<'a>> {
    canaries.sort_by_key(|canary| canary.sent_us);
    starts.sort_by_key(|start| start.at_us);
    let next_starts = starts.iter().skip(1).map(|start| start.at_us).chain([u64::MAX]);
    starts
        .iter()
        .zip(next_starts)
        .map(|(start, next)| {
            let end = ends.get(&start.id);
            let end_us = end.map(|end| end.at_us);
            let late_witness = end.and_then(|end| end.witness.as_deref());
            let witness = start.witness.as_deref().or(late_witness);
            let away = Away::seen_by(canaries, start.at_us, next);
            let severed = away.as_ref().filter(|_| start.database_gone).and_then(|away| {
                let until = away.last_failed_us.min(end_us.unwrap_or(u64::MAX));
                let from = start.at_us + SEVER_GRACE_US;
                (from < until).then_some((from, until))
            });
            let up_us = away.as_ref().and_then(|away| away.up_us);
            Fault { start, end_us, witness, canary_failed: away.is_some(), up_us, severed }
        })
        .collect()
}

/// The time in which the canary could not commit.
struct Away {
    /// When the last canary that failed was begun.
    last_failed_us: u64,
    up_us: Option<u64>,
}

impl Away {
    fn seen_by(canaries: &[&Canary], from: u64, until: u64) -> Option<Self> {
        let held_up =
            |canary: &Canary| !canary.ok || canary.at_us.saturating_sub(canary.sent_us) > CANARY_SLOW_US;
        let mut near = canaries.iter().filter(|canary| canary.at_us > from && canary.sent_us < until);
        let first = near.clone().find(|canary| held_up(canary))?.sent_us;
        let up_us = near
            .clone()
            .filter(|canary| canary.ok && canary.sent_us >= first)
            .map(|canary| canary.at_us)
            .min();
        let last_failed_us = near
            .rfind(|canary| !canary.ok && canary.sent_us < up_us.unwrap_or(u64::MAX))
            .map_or(first, |canary| canary.sent_us);
        Some(Self { last_failed_us, up_us })
    }
}
