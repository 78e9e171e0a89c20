//! What every call looks at: state, forced position, reason and generation of the breaker in one word, and whether a
//! success has anything to say but that it is one.
//!
//! It only packs and unpacks; `machine` decides what is in it.

use super::{BreakerState, Forced, TripReason};

/// A change of state makes a new word, so two equal words stand for the same stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

const STATE: u64 = 0b11;
const FORCED_SHIFT: u32 = 2;
const REASON_SHIFT: u32 = 4;
const GENERATION_SHIFT: u32 = 8;
/// State and forced position; zero is closed and not forced.
const POSITION: u64 = 0b1111;
const REASON: u64 = 0b111;
/// The last result was a failure. Only in what is published.
const FAILING: u64 = 1 << 7;

impl Word {
    pub(super) fn new(
        state: BreakerState,
        forced: Option<Forced>,
        reason: TripReason,
        generation: u64,
    ) -> Self {
        let state = match state {
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
        };
        let forced = match forced {
            None => 0,
            Some(Forced::Open) => 1,
            Some(Forced::Closed) => 2,
        };
        let reason = (reason as u64) << REASON_SHIFT;
        Self(generation << GENERATION_SHIFT | reason | forced << FORCED_SHIFT | state)
    }

    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// The same word, with a note of whether failures in a row are there for a success to end.
    pub(super) fn failing(self, is_failing: bool) -> Self {
        if is_failing { Self(self.0 | FAILING) } else { Self(self.0 & !FAILING) }
    }

    /// Closed by itself, and no failures in a row: a success is counted, and that is all.
    #[inline]
    pub(super) fn is_calm(self) -> bool {
        self.0 & (POSITION | FAILING) == 0
    }

    /// Closed by itself and not by force: the one position in which results are counted.
    #[inline]
    pub(super) fn is_counting(self) -> bool {
        self.0 & POSITION == 0
    }

    #[inline]
    pub(super) fn state(self) -> BreakerState {
        match self.0 & STATE {
            0 => BreakerState::Closed,
            1 => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    pub(super) fn forced(self) -> Option<Forced> {
        match self.0 >> FORCED_SHIFT & 0b11 {
            1 => Some(Forced::Open),
            2 => Some(Forced::Closed),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn reason(self) -> TripReason {
        match self.0 >> REASON_SHIFT & REASON {
            0 => TripReason::ConsecutiveFailures,
            1 => TripReason::FailureRatio,
            2 => TripReason::SlowCalls,
            3 => TripReason::Probe,
            4 => TripReason::Trial,
            5 => TripReason::Forced,
            _ => TripReason::Unproven,
        }
    }

    #[inline]
    pub(super) fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASONS: [TripReason; 7] = [
        TripReason::ConsecutiveFailures,
        TripReason::FailureRatio,
        TripReason::SlowCalls,
        TripReason::Probe,
        TripReason::Trial,
        TripReason::Forced,
        TripReason::Unproven,
    ];

    #[test]
    fn everything_that_is_packed_comes_out_again() {
        let states = [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen];
        for state in states {
            for forced in [None, Some(Forced::Open), Some(Forced::Closed)] {
                for reason in REASONS {
                    let word = Word::new(state, forced, reason, 77);
                    assert_eq!(
                        (word.state(), word.forced(), word.reason(), word.generation()),
                        (state, forced, reason, 77)
                    );
                    let is_counting = state == BreakerState::Closed && forced.is_none();
                    assert_eq!((word.is_counting(), word.is_calm()), (is_counting, is_counting));
                    let failing = word.failing(true);
                    assert!(!failing.is_calm() && failing.is_counting() == is_counting);
                    assert_eq!((failing.reason(), failing.generation()), (reason, 77));
                    assert_eq!(failing.failing(false), word);
                }
            }
        }
    }
}
