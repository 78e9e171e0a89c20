//! Sorts what users got into bands: fresh, stale, committed, journaled, and the ways of getting nothing.
//! Whether a value can be right is asked of `reads`.

use crate::checker::index::{End, Index, Op, is_journaled};
use crate::checker::reads::{self, Wrong};
use crate::checker::two;
use crate::history::{Completion, Event, Got};

/// What the user of one request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Band {
    /// A read, called fresh.
    Fresh,
    /// A read, labelled stale.
    Stale,
    /// A write acknowledged as committed.
    Committed,
    /// A write acknowledged as journaled.
    Journaled,
    /// The proxy's own answer.
    Fallback,
    /// No connection, or cut.
    Refused,
    /// Any other error status.
    Error,
    /// No answer by the deadline, or the operation never ended.
    NoAnswer,
    /// Never sent.
    NeverSent,
    /// A value that cannot be right.
    Wrong,
}

impl Band {
    /// Every band, the good ones first.
    pub const ALL: [Self; 10] = [
        Self::Fresh,
        Self::Stale,
        Self::Committed,
        Self::Journaled,
        Self::Fallback,
        Self::Refused,
        Self::Error,
        Self::NoAnswer,
        Self::NeverSent,
        Self::Wrong,
    ];

    /// Whether the user got what was asked for, or an honest second best.
    #[must_use]
    pub fn is_good(self) -> bool {
        matches!(self, Self::Fresh | Self::Stale | Self::Committed | Self::Journaled)
    }
}

/// One measured request and what its user got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// When it was meant to be sent.
    pub planned_us: u64,
    /// When it ended, with an answer or without; absent where it never did.
    pub ended_us: Option<u64>,
    /// Whether it was a write.
    pub write: bool,
    /// What its user got.
    pub band: Band,
}

/// What the users of all measured requests got, for drawing; empty where the history makes no sense.
#[must_use]
pub fn answered(events: &[Event]) -> Vec<Answered> {
    let Ok(index) = Index::build(events) else { return Vec::new() };
    let bands = all(&index);
    let measured = index.ops.iter().zip(&bands).filter(|(op, _)| op.measured);
    measured
        .map(|(op, banded)| Answered {
            planned_us: op.planned_us,
            ended_us: op.ended_us,
            write: op.write,
            band: banded.band,
        })
        .collect()
}

/// The band of one operation, with the reason where its value is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Banded {
    pub(crate) band: Band,
    /// What the answer says about its age; of no answer nothing.
    pub(crate) freshness: Freshness,
    pub(crate) wrong: Option<Wrong>,
}

/// The bands of all operations, in their order.
pub(crate) fn all(index: &Index<'_>) -> Vec<Banded> {
    two::map(&index.ops, |place, op| {
        let wrong = reads::wrong(index, place, op);
        let freshness = op.end.map_or(Freshness::Fresh, |(_, done)| Freshness::of(done));
        let band = if wrong.is_some() { Band::Wrong } else { band(op, freshness) };
        Banded { band, freshness, wrong }
    })
}

fn band(op: &Op<'_>, freshness: Freshness) -> Band {
    let Some((end, done)) = op.end else { return Band::NoAnswer };
    match done.got {
        Got::Refused | Got::Cut => return Band::Refused,
        Got::Deadline => return Band::NoAnswer,
        Got::NeverSent => return Band::NeverSent,
        Got::Answer => {}
    }
    if end != End::Ok {
        let from_proxy = done.proxy_status.as_deref().is_some_and(|text| text.contains("ridethrough-proxy"));
        return if from_proxy { Band::Fallback } else { Band::Error };
    }
    match (op.write, is_journaled(done), freshness) {
        (true, true, _) => Band::Journaled,
        (true, false, _) => Band::Committed,
        (false, _, Freshness::Stale { .. }) => Band::Stale,
        (false, _, Freshness::Fresh) => Band::Fresh,
    }
}

/// What an answer says about its own age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Called fresh, or not labelled at all, which is the same promise.
    Fresh,
    /// Labelled stale; an age that cannot be read counts as zero, the strictest claim.
    Stale { age_seconds: u64 },
}

impl Freshness {
    pub(crate) fn of(done: &Completion) -> Self {
        let Some(label) = done.freshness.as_deref() else { return Self::Fresh };
        let mut parts = label.split(';').map(str::trim);
        if parts.next() != Some("stale") {
            return Self::Fresh;
        }
        let age = parts.find_map(|part| part.strip_prefix("age=")).and_then(|age| age.parse().ok());
        Self::Stale { age_seconds: age.unwrap_or(0) }
    }
}
