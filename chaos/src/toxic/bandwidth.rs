//! The toxic `bandwidth`: data goes on at a rate, a tenth of a second's worth at a time. It loses nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::toxic::kind::Bandwidth;
use crate::toxic::rule::{Context, Head, Rule, Step, once_due};

/// A piece takes this long at the most: small enough to look like a slow line, large enough for the timer.
const PIECE_MS: u64 = 100;
/// One byte a nanosecond and more is no limit.
const RATE_MAX: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Paced {
    /// Bytes a millisecond, which is kilobytes a second.
    rate: u64,
    /// When the piece before had gone through. Kept by plan and not by the clock, so that late timers make no slower
    /// line.
    free: Option<Instant>,
}

impl Paced {
    pub(super) fn new(attributes: &Bandwidth) -> Self {
        Self { rate: u64::try_from(attributes.rate).unwrap_or(0).min(RATE_MAX), free: None }
    }
}

impl Rule for Paced {
    fn judge(&mut self, head: Head, context: &mut Context<'_>) -> Step {
        let (bytes, arrived) = match head {
            Head::Empty => return Step::Wait(None),
            Head::End { .. } => return Step::Pass,
            Head::Data { bytes, arrived } => (bytes, arrived),
        };
        if self.rate == 0 {
            return Step::Wait(None);
        }
        let piece = bytes.min(usize::try_from(self.rate * PIECE_MS).unwrap_or(bytes));
        let takes = Duration::from_nanos(
            u64::try_from(piece).unwrap_or(u64::MAX).saturating_mul(1_000_000) / self.rate,
        );
        let ready = self.free.map_or(arrived, |free| free.max(arrived)) + takes;
        let then = if piece == bytes { Step::Pass } else { Step::Part(piece) };
        let step = once_due(ready, context.now, then);
        if step == then {
            self.free = Some(ready);
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toxic::rule::ask;

    #[test]
    fn data_goes_on_piece_by_piece_at_the_rate() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rule = Paced::new(&Bandwidth { rate: 10 });
        let head = |bytes| Head::Data { bytes, arrived: start };
        assert_eq!(ask(&mut rule, head(2_500), start, start, 0), Step::Wait(Some(at(100))));
        // A timer that is late by 30 ms does not move what follows.
        assert_eq!(ask(&mut rule, head(2_500), start, at(130), 0), Step::Part(1_000));
        assert_eq!(ask(&mut rule, head(1_500), start, at(130), 0), Step::Wait(Some(at(200))));
        assert_eq!(ask(&mut rule, head(1_500), start, at(200), 0), Step::Part(1_000));
        assert_eq!(ask(&mut rule, head(500), start, at(200), 0), Step::Wait(Some(at(250))));
        assert_eq!(ask(&mut rule, head(500), start, at(250), 0), Step::Pass);
    }

    #[test]
    fn an_idle_line_saves_nothing_up() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let mut rule = Paced::new(&Bandwidth { rate: 1 });
        assert_eq!(ask(&mut rule, Head::Data { bytes: 1, arrived: start }, start, later, 0), Step::Pass);
        let head = Head::Data { bytes: 50, arrived: later };
        let due = later + Duration::from_millis(50);
        assert_eq!(ask(&mut rule, head, start, later, 0), Step::Wait(Some(due)));
    }

    #[test]
    fn at_rate_zero_data_waits_and_the_end_passes() {
        let start = Instant::now();
        for rate in [0, -3] {
            let mut rule = Paced::new(&Bandwidth { rate });
            let head = Head::Data { bytes: 1, arrived: start };
            let later = start + Duration::from_secs(3_600);
            assert_eq!(ask(&mut rule, head, start, later, 0), Step::Wait(None));
        }
    }

    #[test]
    fn a_rate_beyond_any_line_limits_nothing() {
        let start = Instant::now();
        let mut rule = Paced::new(&Bandwidth { rate: i64::MAX });
        let soon = start + Duration::from_micros(100);
        assert_eq!(ask(&mut rule, Head::Data { bytes: 32_768, arrived: start }, start, soon, 0), Step::Pass);
    }
}
