//! What happens to entries that wait too long, by the policy of the configuration. It refuses nothing itself: that is for
//! whoever takes appends.

use std::time::SystemTime;

use crate::journal::record;
use crate::journal::writer::JournalWriter;
use crate::journal::{Aside, WhenTooOld};

/// Entries that are set aside at a time, so that appends wait for no more than that.
const ENTRIES_MAX: usize = 256;
/// The code of the reason.
const TOO_OLD: &str = "too-old";

impl JournalWriter {
    /// Looks at the oldest entry, and says once when it has become too old.
    pub(super) fn see_to_age(&mut self, now: SystemTime) {
        let config = &self.shared.config;
        let (age_max, policy) = (config.age_max, config.when_too_old);
        let limit = record::micros_before(now, age_max);
        let is_too_old = self.shared.with_index(|index| index.is_older_than(limit));
        if is_too_old && !self.told_too_old {
            tracing::warn!(?age_max, ?policy, "the oldest entry of the journal has waited too long");
        }
        self.told_too_old = is_too_old;
        if is_too_old && policy == WhenTooOld::SetAside {
            let sequences = self.shared.with_index(|index| index.older_than(limit, ENTRIES_MAX));
            if let Err(error) = self.set_aside(&sequences, &Aside::Rejected { reason: TOO_OLD.to_owned() }) {
                tracing::warn!(%error, "could not set aside what has waited too long; it waits on");
            }
        }
    }
}
