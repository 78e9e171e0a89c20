//! Gives back what was held for a program that knows it, if that is this one: at the start, before readers are shown what
//! waits, and before the first batch. It applies nothing.

use super::command;
use crate::{db::Db, journal::Aside};

/// Held entries that are looked at together.
const HELD_AT_ONCE: usize = 64;

/// Looks at all that is held, from this sequence on; blocks for the reads. Answers where to go on, where it could not look
/// at everything.
pub(in crate::db) fn release_known(db: &Db, from: u64) -> Option<u64> {
    let (mut from, mut released) = (from, 0);
    if db.0.journal.aside_counts().held == 0 {
        return None;
    }
    loop {
        let Ok(aside) = db.0.journal.aside(from, HELD_AT_ONCE) else { return Some(from) };
        let Some(last) = aside.last() else { break };
        from = last.entry.sequence + 1;
        for held in &aside {
            let is_known = || db.0.commands.knows(&command(&held.entry));
            if matches!(held.why, Aside::Held { .. }) && is_known().is_ok() {
                released += db.0.journal.release(&held.entry.ordering_key);
            }
        }
    }
    if released > 0 {
        tracing::info!(entries = released, "journaled writes were held for this program and are pending now");
    }
    None
}
