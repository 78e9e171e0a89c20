//! What happens to entries that stay while all around them are settled: one of them would keep its whole segment and all
//! later ones on the disk. It moves them aside, where they are as pending as before.

use crate::journal::writer::JournalWriter;
use crate::journal::{Aside, JournalError};

/// Segments' worth of settled records that may be kept for the sake of pending ones between them.
const SEGMENTS_IN_VAIN: u64 = 2;
/// Entries that are moved at a time, so that appends wait for no more than that.
const ENTRIES_MAX: usize = 256;
/// Moved entries leave this part of the room to what is rejected or held.
const PART_OF_ROOM: u64 = 2;

impl JournalWriter {
    /// Takes the pending entries out of the oldest segment where they keep much more on the disk than themselves.
    pub(super) fn move_stuck(&mut self) {
        let Some(oldest) = self.sealed.front() else { return };
        let last = oldest.last;
        let on_disk: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        let in_vain = on_disk.saturating_sub(self.shared.with_index(|index| index.bytes()));
        if in_vain < SEGMENTS_IN_VAIN * self.shared.config.segment_bytes || self.shared.is_failed() {
            return;
        }
        let sequences = self.shared.with_index(|index| index.pending_through(last, ENTRIES_MAX));
        match self.keep_aside(&sequences, &Aside::moved(), PART_OF_ROOM) {
            Ok(()) => self.told_stuck = false,
            // They stay where they are, and so does the room they take.
            Err(_) if self.told_stuck => {}
            Err(error @ JournalError::AsideFull { .. }) => {
                self.told_stuck = true;
                tracing::warn!(%error, "writes that do not go through keep settled ones on the disk");
            }
            Err(error) => {
                self.told_stuck = true;
                tracing::warn!(%error, "could not move writes that do not go through");
            }
        }
    }
}
