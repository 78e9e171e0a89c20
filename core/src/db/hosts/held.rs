//! Writes that are held back from a host whose disk is full or whose data are damaged: until when, and when it is over. It
//! proves nothing; the prober does.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{Hosts, UNKNOWN};

/// Space comes back when somebody makes it, so the next look is soon; and each is one more try to write.
pub(in crate::db) const DISK_FULL_HOLD: Duration = Duration::from_secs(1);
/// No look tells whether the damage is gone, so only a person can end it for good. Until then one write in this time finds out.
pub(in crate::db) const DAMAGED_HOLD: Duration = Duration::from_secs(30);

/// Since then the host is known not to be able to write; the value tells one hold from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::db) struct Hold {
    pub(in crate::db) until: Instant,
    stored: i64,
}

impl Hosts {
    /// Keeps writes away from the host for at least `time`, and until the prober has seen one succeed.
    pub(in crate::db) fn hold_writes(&self, index: usize, time: Duration, now: Instant) {
        let Some(host) = self.at(index) else { return };
        let until = now + time;
        let before = host.held_until.fetch_max(self.micros(until), Ordering::AcqRel);
        let until = self.instant(before).map_or(until, |before| before.max(until));
        host.writes.probe_failed(now, until);
    }

    /// The hold on the host's writes, over or not.
    pub(in crate::db) fn hold(&self, index: usize) -> Option<Hold> {
        let stored = self.at(index)?.held_until.load(Ordering::Acquire);
        self.instant(stored).map(|until| Hold { until, stored })
    }

    /// A write succeeded after the hold was over. One that began meanwhile stays.
    pub(in crate::db) fn end_hold(&self, index: usize, hold: Hold) {
        if let Some(host) = self.at(index) {
            let ended =
                host.held_until.compare_exchange(hold.stored, UNKNOWN, Ordering::AcqRel, Ordering::Relaxed);
            if ended.is_ok() {
                tracing::info!(host = index + 1, "the host can write again");
            }
        }
    }
}
