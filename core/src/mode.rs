//! The mode: what the process can do now, in one word, for probes, metrics, logs and proxies.
//!
//! Which mode it is follows from the parts (`health`); this file only names them and tells everybody of a change.

use std::fmt;

use tokio::sync::watch;

use crate::metrics;

/// What the process can do now. The words are those of the probe bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Not ready to do anything yet: the journal is being recovered.
    Starting,
    /// Up, but the database has not been seen and there is nothing to serve.
    Warming,
    /// Everything works.
    Normal,
    /// The database is back; accepted writes are being applied.
    Recovering,
    /// The database is away or unwell: labelled stale answers, journaled writes.
    Degraded,
    /// Stale answers, no writes.
    ReadOnly,
    /// Writes are accepted, nothing can be read.
    WriteOnly,
    /// Nothing can be served: honest refusals only.
    Empty,
    /// Everything works, but an outage now would find no journal.
    NoJournal,
    /// A schema migration is pending; the old schema is still usable.
    MigrationPending,
    /// The database is not the one this process may write to.
    Fenced,
    /// On the way out.
    Draining,
    /// A part died that the process cannot work without.
    Broken,
}

impl Mode {
    /// All modes, for the metric that has one series for each.
    pub const ALL: [Self; 13] = [
        Self::Starting,
        Self::Warming,
        Self::Normal,
        Self::Recovering,
        Self::Degraded,
        Self::ReadOnly,
        Self::WriteOnly,
        Self::Empty,
        Self::NoJournal,
        Self::MigrationPending,
        Self::Fenced,
        Self::Draining,
        Self::Broken,
    ];

    /// The word used outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Warming => "warming",
            Self::Normal => "normal",
            Self::Recovering => "recovering",
            Self::Degraded => "degraded",
            Self::ReadOnly => "read-only",
            Self::WriteOnly => "write-only",
            Self::Empty => "empty",
            Self::NoJournal => "no-journal",
            Self::MigrationPending => "migration-pending",
            Self::Fenced => "fenced",
            Self::Draining => "draining",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The current mode on a watch channel; a change is one log line and one metric.
#[derive(Debug)]
pub struct ModeBoard(watch::Sender<Mode>);

impl ModeBoard {
    /// A board that shows [`Mode::Starting`].
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Mode::Starting))
    }

    /// Shows `mode`; `reason` goes to the log where that is a change.
    pub fn show(&self, mode: Mode, reason: &str) {
        let changed = self.0.send_if_modified(|shown| {
            let changed = *shown != mode;
            *shown = mode;
            changed
        });
        if changed {
            tracing::info!(mode = mode.as_str(), reason, "mode changed");
            for one in Mode::ALL {
                metrics::mode(one.as_str(), one == mode);
            }
        }
    }

    /// A receiver of the changes to come; its current value is the mode now.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Mode> {
        self.0.subscribe()
    }
}

impl Default for ModeBoard {
    fn default() -> Self {
        Self::new()
    }
}
