//! One pod: a process, which container of it this is, and what is known of that. What follows from it is decided above.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::kubelet::Kind;
use crate::stack::Service;

/// Before the second restart; it doubles with each.
const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Pod {
    service: Service,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts containers.
    container: u32,
    restarts: u32,
    is_started: bool,
    is_ready: bool,
    /// Its deletion was asked for.
    is_ending: bool,
    /// A probe condemned it, and it is on its way out and in again.
    is_condemned: bool,
}

impl Pod {
    /// A pod around a process that was just started.
    pub(super) fn new(service: Service) -> Self {
        Self { service, state: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        self.service.name()
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    pub(super) fn container(&self) -> u32 {
        self.lock().container
    }

    /// Whether a probe of this kind is due: the others wait for the startup, and an ending pod is asked only for its
    /// readiness.
    pub(super) fn wants(&self, kind: Kind) -> bool {
        let state = self.lock();
        !state.is_condemned
            && match kind {
                Kind::Startup => !state.is_started && !state.is_ending,
                Kind::Liveness => state.is_started && !state.is_ending,
                Kind::Readiness => state.is_started,
            }
    }

    pub(super) fn started(&self) {
        self.lock().is_started = true;
    }

    pub(super) fn ready(&self, is_ready: bool) {
        self.lock().is_ready = is_ready;
    }

    pub(super) fn delete(&self) {
        self.lock().is_ending = true;
    }

    /// A new container takes the place of the one before.
    pub(super) fn begin(&self) {
        let mut state = self.lock();
        *state = State { container: state.container + 1, restarts: state.restarts, ..State::default() };
    }

    /// It is to be restarted, after the time that this gives; nothing where that is under way or nobody wants it any more.
    pub(super) fn condemn(&self) -> Option<Duration> {
        let mut state = self.lock();
        if state.is_condemned || state.is_ending {
            return None;
        }
        (state.is_condemned, state.is_ready, state.restarts) = (true, false, state.restarts + 1);
        Some(back_off(state.restarts))
    }

    pub(super) fn may_be_restarted(&self) -> bool {
        let state = self.lock();
        !state.is_condemned && !state.is_ending
    }

    /// Whether it gets traffic.
    pub(super) fn is_endpoint(&self) -> bool {
        let state = self.lock();
        state.is_ready && !state.is_ending
    }

    /// Whether it gets traffic where nobody else could.
    pub(super) fn serves_while_ending(&self) -> bool {
        let state = self.lock();
        state.is_ready && state.is_ending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before the restart with this number, from 1: the first is at once.
fn back_off(restart: u32) -> Duration {
    match restart.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => {
            BACK_OFF_FIRST.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(BACK_OFF_MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_wait_ever_longer() {
        let seconds = [1, 2, 3, 6, 7, 40, u32::MAX].map(|restart| back_off(restart).as_secs());
        assert_eq!(seconds, [0, 10, 20, 160, 300, 300, 300]);
    }
}
