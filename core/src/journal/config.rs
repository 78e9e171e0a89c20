//! The settings of a journal, their defaults and their limits. It opens nothing but the disk it names.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::journal::JournalError;
use crate::journal::disk::{Disk, RealDisk};
use crate::journal::record::PAYLOAD_BYTES_LIMIT;

/// Ten minutes of 500 writes a second with 800 bytes each.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The index holds about 200 bytes an entry, so this is about 200 MB at the most.
const ENTRIES_MAX: u64 = 1_000_000;
/// Small enough that space returns soon, large enough that making a file is rare.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// A command is a few hundred bytes; what is larger belongs elsewhere.
const PAYLOAD_BYTES: u64 = 1024 * 1024;
/// A sync takes about a millisecond and covers a thousand appends: four batches deep.
const QUEUE: usize = 4096;
/// Appends that one sync covers; bounds how long the first of them waits for the others.
const BATCH: usize = 1024;

/// Longer than outages last; a database that was away for a day is an incident of its own.
const AGE: Duration = Duration::from_secs(24 * 60 * 60);
const AGE_LEAST: Duration = Duration::from_secs(1);

/// Dead letters are rare, and held entries wait for a deployment.
const ASIDE_ENTRIES: u64 = 100_000;
const ASIDE_BYTES: u64 = 16 * 1024 * 1024;
/// What is gone takes as much room again in the file, which is read whole.
const ASIDE_BYTES_MOST: u64 = 32 * 1024 * 1024;

/// Room for what must not be refused, once a long outage has filled all the rest.
const RESERVE_PERCENT: u8 = 5;
/// Beyond this the bounds themselves are what should be larger.
const RESERVE_PERCENT_MOST: u8 = 90;

/// The least `segment_bytes`: a header and some records.
const SEGMENT_BYTES_LEAST: u64 = 4 * 1024;
/// The most: recovery reads a whole segment into memory.
const SEGMENT_BYTES_MOST: u64 = 64 * 1024 * 1024;

/// What happens once the oldest pending entry is older than [`JournalConfig::age_max`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum WhenTooOld {
    /// A warning is logged, once for each time it comes to that. The default.
    #[default]
    Warn,
    /// New appends are refused until that entry is settled, and a warning is logged.
    Refuse,
    /// Entries that are as old as that when their turn comes are not applied any more, unless an operator gives them back:
    /// the database records them as rejected, with the reason `too-old`, and they are set aside as dead letters. What turns
    /// out to have been applied before is not among them. Until the database is there they wait. A warning is logged.
    SetAside,
}

/// Settings of a [`Journal`](crate::journal::Journal).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// A folder that holds nothing else and belongs to one process. No default.
    pub dir: PathBuf,
    /// Bytes of pending entries beyond which appends are refused, as at every bound here: a write that cannot be kept must
    /// not be accepted, and none that was accepted makes room for it. Default 256 MiB. The folder may hold three
    /// `segment_bytes` more, since space returns by whole segments.
    pub bytes_max: u64,
    /// Pending entries beyond which appends are refused; default 1,000,000 (each takes about 200 bytes of memory).
    pub entries_max: u64,
    /// The part of both that is kept for writes that matter, in percent, at most 90; default 5. Beyond the rest ordinary
    /// writes are refused, while those go on that their service calls important, and those whose COMMIT was not answered:
    /// a refusal would leave nobody knowing. The store itself only [says](crate::journal::JournalHealth::Reserved) that it
    /// has come to that; who appends keeps to it.
    pub reserve_percent: u8,
    /// Length at which a new segment file is begun, 4 KiB to 64 MiB; default 16 MiB.
    pub segment_bytes: u64,
    /// The longest payload, at most 16 MiB; default 1 MiB.
    pub payload_bytes_max: u64,
    /// Appends that may wait for the writer; default 4096. Beyond that they are refused as busy.
    pub queue_max: usize,
    /// Appends that one sync may cover; default 1024.
    pub batch_max: usize,
    /// The age of a pending entry that calls for [`when_too_old`](Self::when_too_old), at least 1 s; default 24 h.
    pub age_max: Duration,
    /// Default [`WhenTooOld::Warn`].
    pub when_too_old: WhenTooOld,
    /// Entries that may be set aside; default 100,000. Beyond that setting aside is refused, and they stay pending.
    pub aside_entries_max: u64,
    /// Their bytes, at most 32 MiB; default 16 MiB. The file takes up to twice as much, and a mebibyte.
    pub aside_bytes_max: u64,
}

impl JournalConfig {
    /// The defaults, in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bytes_max: BYTES_MAX,
            entries_max: ENTRIES_MAX,
            reserve_percent: RESERVE_PERCENT,
            segment_bytes: SEGMENT_BYTES,
            payload_bytes_max: PAYLOAD_BYTES,
            queue_max: QUEUE,
            batch_max: BATCH,
            age_max: AGE,
            when_too_old: WhenTooOld::default(),
            aside_entries_max: ASIDE_ENTRIES,
            aside_bytes_max: ASIDE_BYTES,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`JournalError::Config`], which names the field.
    pub fn validate(&self) -> Result<(), JournalError> {
        let wrong = |field, what: String| Err(JournalError::Config { field, what });
        if self.dir.as_os_str().is_empty() {
            return wrong("dir", "must name a folder".to_owned());
        }
        if !(SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MOST).contains(&self.segment_bytes) {
            return wrong("segment_bytes", format!("must be {SEGMENT_BYTES_LEAST} to {SEGMENT_BYTES_MOST}"));
        }
        if self.payload_bytes_max > PAYLOAD_BYTES_LIMIT {
            return wrong("payload_bytes_max", format!("must be at most {PAYLOAD_BYTES_LIMIT}"));
        }
        if self.age_max < AGE_LEAST {
            return wrong("age_max", "must be at least 1 s".to_owned());
        }
        if self.reserve_percent > RESERVE_PERCENT_MOST {
            return wrong("reserve_percent", format!("must be at most {RESERVE_PERCENT_MOST}"));
        }
        if self.aside_bytes_max > ASIDE_BYTES_MOST {
            return wrong("aside_bytes_max", format!("must be at most {ASIDE_BYTES_MOST}"));
        }
        let counts = [
            ("aside_entries_max", self.aside_entries_max),
            ("aside_bytes_max", self.aside_bytes_max),
            ("bytes_max", self.bytes_max),
            ("entries_max", self.entries_max),
            ("queue_max", self.queue_max as u64),
            ("batch_max", self.batch_max as u64),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => wrong(field, "must be at least 1".to_owned()),
            None => Ok(()),
        }
    }

    /// Whether so many pending entries with so many bytes leave no more than the reserve.
    pub(crate) fn is_in_reserve(&self, entries: u64, bytes: u64) -> bool {
        // Limits of nearly everything a u64 holds are none, and have no reserve either.
        let ordinary = |all: u64| all - all.checked_mul(self.reserve_percent.into()).unwrap_or(0) / 100;
        entries >= ordinary(self.entries_max) || bytes >= ordinary(self.bytes_max)
    }

    /// The age beyond which entries are not to be applied, where there is one.
    pub(crate) fn max_age(&self) -> Option<Duration> {
        (self.when_too_old == WhenTooOld::SetAside).then_some(self.age_max)
    }

    /// The most that all segment files may take together, in bytes.
    pub(crate) fn disk_bytes_max(&self) -> u64 {
        self.bytes_max.saturating_add(3 * self.segment_bytes)
    }

    /// The disk that holds the folder.
    pub(crate) fn disk(&self) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(RealDisk::new(&self.dir)?))
    }
}
