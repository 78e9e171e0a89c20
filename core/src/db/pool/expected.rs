//! What the server behind a session must be: the one that the prober knows as this host. Pure comparison.
//!
//! A host's name or address can lead elsewhere while nothing breaks: a name with several addresses, a moved address, a proxy
//! that switched. An old primary that still lives would take the writes of sessions that were made before.

use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Release},
};

use crate::db::{
    hosts::{Role, Sighting},
    session::Identity,
};

const ANY: u8 = 0;
const PRIMARY: u8 = 1;
const STANDBY: u8 = 2;
const NOBODY: u8 = 3;
/// No system and no timeline has this number.
const UNKNOWN: u64 = 0;

/// Set by the prober, read at each checkout. A reader who meets half of a change refuses a session too many, not one too few.
#[derive(Debug, Default)]
pub(in crate::db) struct Expected {
    kind: AtomicU8,
    system: AtomicU64,
    /// Of a primary; that of a standby is known late.
    timeline: AtomicU32,
    /// Of a primary that has others beside it: while it was down, one of them may have been promoted.
    started_us: AtomicU64,
}

impl Expected {
    pub(super) fn set(&self, role: Role, sighting: Option<Sighting>) {
        let kind = match role {
            Role::Unknown => ANY,
            Role::Primary | Role::ReadOnly | Role::Alias => PRIMARY,
            Role::Standby => STANDBY,
            Role::Fenced(_) => NOBODY,
        };
        let system = sighting.and_then(|seen| seen.system).unwrap_or(UNKNOWN);
        let timeline = sighting.and_then(|seen| seen.timeline).filter(|_| kind == PRIMARY).unwrap_or(0);
        let started = sighting.and_then(|seen| seen.started_us).filter(|_| kind == PRIMARY);
        self.started_us.store(started.unwrap_or(UNKNOWN), Release);
        self.system.store(system, Release);
        self.timeline.store(timeline, Release);
        self.kind.store(kind, Release);
    }

    /// Whether a session may be used whose server said this at its start. What is not known is not held against it.
    #[inline]
    pub(super) fn fits(&self, said: &Identity) -> bool {
        let kind = self.kind.load(Acquire);
        let is_same =
            |wanted: u64, said: Option<u64>| wanted == UNKNOWN || said.is_none_or(|said| said == wanted);
        match kind {
            ANY => true,
            PRIMARY => {
                !said.in_recovery
                    && is_same(self.system.load(Acquire), said.system_identifier)
                    && is_same(u64::from(self.timeline.load(Acquire)), said.timeline.map(u64::from))
                    && is_same(self.started_us.load(Acquire), said.started_us)
            }
            STANDBY => said.in_recovery && is_same(self.system.load(Acquire), said.system_identifier),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::hosts::Fence;

    #[test]
    fn only_the_server_that_the_prober_knows_will_do() {
        let seen = Sighting { system: Some(7), timeline: Some(2), ..Sighting::default() };
        let same = Identity { system_identifier: Some(7), timeline: Some(2), ..Identity::default() };
        let old_primary = Identity { timeline: Some(1), ..same };
        let standby = Identity { in_recovery: true, ..old_primary };
        let foreign = Identity { system_identifier: Some(8), ..same };
        let silent = Identity::default();
        let all = [same, old_primary, standby, foreign, silent];
        let expected = Expected::default();
        assert_eq!(all.map(|said| expected.fits(&said)), [true; 5], "before the first probe");
        expected.set(Role::Primary, Some(seen));
        assert_eq!(all.map(|said| expected.fits(&said)), [true, false, false, false, true]);
        expected.set(Role::Primary, Some(Sighting { started_us: Some(5), ..seen }));
        let [before, after] = [5, 6].map(|started| Identity { started_us: Some(started), ..same });
        assert_eq!([before, after, same].map(|said| expected.fits(&said)), [true, false, true], "restarted");
        expected.set(Role::Standby, Some(seen));
        assert_eq!(all.map(|said| expected.fits(&said)), [false, false, true, false, false]);
        expected.set(Role::Fenced(Fence::OldTimeline), Some(seen));
        assert_eq!(all.map(|said| expected.fits(&said)), [false; 5]);
        expected.set(Role::Primary, Some(Sighting::default()));
        assert_eq!(all.map(|said| expected.fits(&said)), [true, true, false, true, true]);
    }
}
