//! Who hears of a transition: one log line with reason and evidence, the metrics, and whoever watches.
//!
//! It runs outside the breaker's lock and decides nothing.

use std::time::Duration;

use tokio::sync::watch;

use super::{Breaker, BreakerState, Forced, machine::Transition, word::Word};
use crate::metrics;

/// The state that a transition led to, as [`Breaker::changes`] tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerChange {
    /// The state.
    pub state: BreakerState,
    /// Whether and how a person holds it there.
    pub forced: Option<Forced>,
    /// Grows with every transition.
    pub generation: u64,
}

impl BreakerChange {
    pub(super) fn of(word: Word) -> Self {
        Self { state: word.state(), forced: word.forced(), generation: word.generation() }
    }

    fn level(self) -> f64 {
        match self.state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        }
    }

    fn label(self) -> &'static str {
        match self.forced {
            Some(Forced::Open) => "forced-open",
            Some(Forced::Closed) => "forced-closed",
            None => self.state.as_str(),
        }
    }
}

impl Breaker {
    /// The state as it changes. The end of an open interval by time alone shows when the first call asks.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BreakerChange> {
        self.told.subscribe()
    }

    pub(super) fn tell_start(&self) {
        metrics::breaker_starts(self.circuit.clone(), self.told.borrow().level());
    }

    pub(super) fn tell(&self, transition: &Transition) {
        self.log(transition);
        let change = BreakerChange::of(transition.word);
        metrics::breaker_transition(self.circuit.clone(), change.label());
        // Two callers may tell of two transitions in the wrong order: the later one stays.
        self.told.send_if_modified(|told| {
            let is_later = change.generation > told.generation;
            if is_later {
                *told = change;
                metrics::breaker_state(self.circuit.clone(), change.level());
            }
            is_later
        });
    }

    fn log(&self, transition: &Transition) {
        let Transition { word, evidence, open_for, retry_after } = transition;
        let circuit = self.circuit.as_ref();
        let open_ms = open_for.map(milliseconds);
        match (word.forced(), word.state()) {
            (Some(forced), _) => {
                tracing::warn!(circuit, ?forced, %evidence, "breaker forced by an operator");
            }
            (None, BreakerState::Open) => {
                let reason = word.reason();
                let retry_after_ms = milliseconds(*retry_after);
                tracing::warn!(circuit, %reason, %evidence, retry_after_ms, "breaker opened");
            }
            (None, BreakerState::HalfOpen) => {
                tracing::info!(circuit, open_ms, "breaker half-open");
            }
            (None, BreakerState::Closed) => tracing::info!(circuit, open_ms, "breaker closed"),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
