//! What can go wrong with the journal, said for the caller of an append and for the operator. It handles nothing.

use std::io;
use std::path::PathBuf;

/// The journal as a whole cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A field of [`JournalConfig`](crate::journal::JournalConfig) is out of range.
    #[error("journal configuration: {field} {what}")]
    Config {
        /// The name of the field.
        field: &'static str,
        /// What it must be.
        what: String,
    },
    /// Another process, or another part of this one, has the folder.
    #[error("journal folder {} is in use by another owner; each server needs a folder of its own", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// There is nothing of a journal in the folder, or no folder.
    #[error("no journal in {}", folder.display())]
    Absent {
        /// The folder.
        folder: PathBuf,
    },
    /// The content cannot be trusted. Nothing was changed.
    #[error(
        "journal file {} is damaged at byte {offset}: {what}; nothing was changed; look at it with \
         `ridethrough-server journal inspect --data-dir {}`",
        file.display(), data_dir.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        what: String,
        /// The folder to give to the command that helps.
        data_dir: PathBuf,
    },
    /// As much is set aside as the configuration allows. Nothing was changed.
    #[error(
        "the journal keeps {entries} entries with {bytes} bytes aside, and takes no more; `ridethrough-server journal \
         export`, `retry` and `discard` see to them"
    )]
    AsideFull {
        /// Entries that are aside.
        entries: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The journal was closed, or its writer is gone.
    #[error("journal is closed")]
    Closed,
    /// The journal's writer has too much to do already. Nothing was changed.
    #[error("too much waits for the journal's writer already")]
    Busy,
    /// The operating system refused something.
    #[error("journal: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk is full, or `bytes_max` or `entries_max` is reached. The entry has no effect.
    #[error("journal is full")]
    Full,
    /// The oldest pending entry is older than `age_max`, and `when_too_old` says to refuse. The entry has no effect.
    #[error(
        "the oldest entry of the journal has waited too long, and nothing more is taken until it is applied"
    )]
    TooOld,
    /// A write or sync failed earlier, so nothing is taken until a restart. The entry has no effect.
    #[error("journal failed earlier and takes nothing until a restart")]
    Poisoned,
    /// A write or sync failed while this entry was in it. The entry may be found, and replayed, after a restart.
    #[error("journal failed while it wrote this entry, which may or may not be durable")]
    Unknown,
    /// A field of the entry is longer than the journal takes. The entry has no effect.
    #[error("journal entry: {field} has {bytes} bytes, allowed are {bytes_min} to {bytes_max}")]
    TooLarge {
        /// The name of the field.
        field: &'static str,
        /// Its length.
        bytes: u64,
        /// The least that is allowed.
        bytes_min: u64,
        /// The most that is allowed.
        bytes_max: u64,
    },
    /// As many appends wait already as `queue_max` allows. The entry has no effect.
    #[error("too many journal appends wait already")]
    Busy,
    /// An entry with this key is durable and not yet replayed. This entry has no effect of its own.
    #[error("an entry with this key is pending already, as number {sequence}")]
    KeyPending {
        /// The durable entry's sequence.
        sequence: u64,
        /// Whether it has the fingerprint of this one: a repetition, not another request under the same key.
        same_fingerprint: bool,
    },
    /// The journal was closed, or its writer is gone. The entry has no effect.
    #[error("journal is closed")]
    Closed,
}

impl AppendError {
    /// The value of the label `reason` of the metric `journal_refused_total`; a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooOld => "too_old",
            Self::Poisoned => "poisoned",
            Self::Unknown => "unknown",
            Self::TooLarge { .. } => "too_large",
            Self::Busy => "busy",
            Self::KeyPending { .. } => "key_pending",
            Self::Closed => "closed",
        }
    }

    /// Whether the entry may be durable all the same: the caller must then not claim that it had no effect.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

/// Why a dead letter was not given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] JournalError),
    /// The journal does not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
}
