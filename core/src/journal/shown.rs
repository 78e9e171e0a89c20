//! How entries look in a log line: without keys and payload, which are users'.

use std::fmt::{Debug, Formatter, Result};

use crate::journal::{Entry, NewEntry};

impl Debug for NewEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("NewEntry")
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("payload_bytes", &self.payload.len())
            .field("accepted_at", &self.accepted_at)
            .field("retried", &self.retried)
            .finish_non_exhaustive()
    }
}

impl Debug for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Entry")
            .field("sequence", &self.sequence)
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("payload_bytes", &self.payload.len())
            .field("accepted_at", &self.accepted_at)
            .field("retried", &self.retried)
            .finish_non_exhaustive()
    }
}
