//! What a toxic says about the next bytes of a stream: a decision without clock, socket or queue. Who carries it out is
//! the pipeline.

use std::time::Duration;

use tokio::time::Instant;

use crate::toxic::bandwidth::Paced;
use crate::toxic::ending::{Ended, Limited, Reset, Silenced};
use crate::toxic::kind::Kind;
use crate::toxic::latency::Delayed;
use crate::toxic::slicer::Sliced;

/// The longest delay a toxic can ask for; far beyond any experiment, and far from where instants overflow.
const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What stands first in the queue before a toxic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing.
    Empty,
    /// So many bytes, since when.
    Data { bytes: usize, arrived: Instant },
    /// The end of the stream, since when.
    End { arrived: Instant },
}

/// What becomes of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on as it is.
    Pass,
    /// Its first bytes go on, fewer than it has; the rest is asked about again.
    Part(usize),
    /// It is dropped.
    Drop,
    /// It waits, until then or until something changes.
    Wait(Option<Instant>),
    /// The stream ends here, and with it the connection.
    Stop(Stop),
}

/// How a toxic ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// In order: FIN to both sides.
    Close,
    /// RST to both sides.
    Reset,
}

/// What a rule may know beside the head.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    /// Since when the toxic, as it is now, acts on this connection.
    pub(super) since: Instant,
    /// Bytes that it has let through on this connection.
    pub(super) passed: u64,
    /// The random source of this toxic on this connection.
    pub(super) random: &'a mut fastrand::Rng,
}

/// A toxic on one direction of one connection.
pub(super) trait Rule: std::fmt::Debug + Send {
    /// What becomes of the head. About an empty queue it says `Wait` or `Stop`; an end is never asked to be dropped or
    /// parted.
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step;
}

/// The rule of a kind of toxic, as for a connection that it has just met.
pub(super) fn of(kind: &Kind) -> Box<dyn Rule> {
    match kind {
        Kind::Latency(latency) => Box::new(Delayed::new(latency)),
        Kind::Bandwidth(bandwidth) => Box::new(Paced::new(bandwidth)),
        Kind::SlowClose(slow) => Box::new(Ended::new(slow)),
        Kind::Timeout(timeout) => Box::new(Silenced::new(timeout)),
        Kind::ResetPeer(reset) => Box::new(Reset::new(reset)),
        Kind::Slicer(slicer) => Box::new(Sliced::new(slicer)),
        Kind::LimitData(limit) => Box::new(Limited::new(limit)),
        Kind::Noop(_) => Box::new(Untouched),
    }
}

/// Lets everything through.
#[derive(Debug)]
pub(super) struct Untouched;

impl Rule for Untouched {
    fn judge(&mut self, head: Head, _: &mut Context<'_>) -> Step {
        if head == Head::Empty { Step::Wait(None) } else { Step::Pass }
    }
}

/// Milliseconds of the interface; below zero is zero.
pub(super) fn millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0)).min(DELAY_MAX)
}

/// Microseconds of the interface; below zero is zero.
pub(super) fn micros(number: i64) -> Duration {
    Duration::from_micros(u64::try_from(number).unwrap_or(0)).min(DELAY_MAX)
}

/// Waits until `due`, then does `then`.
pub(super) fn once_due(due: Instant, now: Instant, then: Step) -> Step {
    if now < due { Step::Wait(Some(due)) } else { then }
}

/// Asks a rule in tests, with a random source that is always the same.
#[cfg(test)]
pub(super) fn ask(rule: &mut dyn Rule, head: Head, since: Instant, now: Instant, passed: u64) -> Step {
    rule.judge(head, &mut Context { now, since, passed, random: &mut fastrand::Rng::with_seed(7) })
}
