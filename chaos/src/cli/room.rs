//! Gets the runs that need namespaces of our own there, by starting this program once more inside, or says why they cannot
//! be had. What can be done inside is in `namespace.rs`.

use std::path::Path;

use crate::guardian;
use crate::namespace;
use crate::nemesis;
use crate::schedule::Schedule;
use crate::stack::Fitting;

/// What became of it: nothing where all is as it should be, or why there are no namespaces.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    missing: Option<String>,
}

impl Room {
    /// For these runs. Where one of them needs namespaces and this machine has them, this program starts once more, with
    /// the same arguments, and does not come back.
    ///
    /// # Cancel safety
    /// Dropping the future ends what it tried.
    pub(super) async fn enter_for<'a>(schedules: impl IntoIterator<Item = &'a Schedule>) -> Self {
        let mut needed = schedules.into_iter().map(fitting);
        if needed.any(Fitting::needs_namespaces) { Self::enter().await } else { Self::default() }
    }

    /// As [`Room::enter_for`], for whatever needs them.
    ///
    /// # Cancel safety
    /// As [`Room::enter_for`].
    pub(super) async fn enter() -> Self {
        if namespace::entered() {
            return Self::default();
        }
        // Tried first in a process beside this one: who has gone in and failed does not come back.
        let tried = namespace::probe(Some(Path::new(guardian::OWN_BINARY))).await;
        let failed = match tried.and_then(|_| namespace::enter()) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        Self { missing: Some(format!("failed to {failed}")) }
    }

    /// Why this run is left out; `None` where it can be had.
    pub(super) fn lacks(&self, schedule: &Schedule) -> Option<&str> {
        self.missing.as_deref().filter(|_| fitting(schedule).needs_namespaces())
    }

    /// Why there are no namespaces; `None` where there are, or nobody asked.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }
}

fn fitting(schedule: &Schedule) -> Fitting {
    nemesis::fitting(schedule.faults.iter().map(|planned| &planned.fault))
}
