//! What the writer says of entries that wait too long. It refuses nothing and takes nothing away: the one is for whoever takes
//! appends, the other for replay, which can ask the database.

use std::time::SystemTime;

use crate::journal::record;
use crate::journal::writer::JournalWriter;

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
    }
}
