//! What a write is: a command under an idempotency key, and what the service does for it inside the transaction.

mod shown;

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{overlay::Promise, statements::Statements};
use crate::{
    cache::{CacheFill, Tags},
    error::Error,
};

/// One write, complete enough to be applied later by another process.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// The caller's identity for this write, 1 to 255 bytes; its principal included where there are several.
    pub key: String,
    /// Which command it is; names what `payload` holds. At most 64 bytes.
    pub name: String,
    /// Which form of that command `payload` has: a program applies the forms up to the newest that it knows.
    pub version: u16,
    /// What it changes, at most 255 bytes: commands with the same one take effect in the order in which they were
    /// accepted, and those with different ones in any order. Empty is a key like any other.
    pub ordering_key: String,
    /// What the command needs, opaque to the library.
    pub payload: Bytes,
    /// Digest of the request, to tell a repetition from another request under the same key.
    pub fingerprint: [u8; 32],
    /// When it was accepted.
    pub accepted_at: SystemTime,
}

/// The write side of a service: how its commands change the database.
pub trait Commands: Send + Sync + 'static {
    /// Applies one command inside a transaction that also records its key, so that both happen or neither.
    ///
    /// It may run again after an attempt that was rolled back. `replayed` is true where the command comes out of the
    /// journal: others may have changed the same thing since it was accepted.
    /// It must neither begin nor end a transaction: such a command is never acknowledged.
    fn apply<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        command: &'c Command,
        replayed: bool,
    ) -> BoxFuture<'c, Result<Applied, ApplyError>>;

    /// What the command changes, in the words with which queries say of what their answers are made
    /// ([`Query::tags`](super::Query::tags)). Answers that are made of it are doubtful once the command is settled, here and,
    /// with [`DbConfig::notices`](super::DbConfig::notices), at other replicas; and while it waits in the journal it is laid
    /// over them ([`Query::overlay`](super::Query::overlay)). Default none.
    fn tags(&self, command: &Command) -> Tags {
        let _ = command;
        Tags::none()
    }

    /// What the command is to make true, for readers of this replica to see while it waits in the journal; in a form that
    /// [`Query::overlay`](super::Query::overlay) understands. Asked once, when the command is accepted or found in the
    /// journal at the start. Default `None`: they see it when it is applied.
    fn promise(&self, command: &Command) -> Option<Promise> {
        let _ = command;
        None
    }

    /// Applies several journaled commands of one name at once, inside one transaction: much faster than one after another.
    /// Their ordering keys differ from each other. Answers how each of them ended, in their order; a refused one must
    /// have left nothing behind, and an error undoes all of them, after which they are tried in smaller parts and at
    /// last alone, by [`apply`](Self::apply). Both forms must agree.
    ///
    /// The library calls it only for a name that [`applies_many`](Self::applies_many) says yes to. The same promise
    /// holds: it neither begins nor ends a transaction.
    fn apply_many<'c>(
        &'c self,
        statements: &'c Statements<'c>,
        commands: &'c [&'c Command],
    ) -> BoxFuture<'c, Result<Vec<Result<Applied, Refusal>>, ApplyError>> {
        Box::pin(async move {
            let mut ended = Vec::with_capacity(commands.len());
            for command in commands {
                ended.push(Ok(self.apply(statements, command, true).await?));
            }
            Ok(ended)
        })
    }

    /// Whether [`apply_many`](Self::apply_many) is made for the commands of this name. Default no: they are applied one
    /// after another.
    fn applies_many(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Whether this program can apply what it finds in the journal; else why not. What it cannot is kept, with all that
    /// follows under its ordering key, for a program that can. Default: it can.
    ///
    /// # Errors
    /// [`NotKnown`] where it cannot.
    fn knows(&self, command: &Command) -> Result<(), NotKnown> {
        let _ = command;
        Ok(())
    }

    /// Whether a command of this name is to be accepted into the journal's
    /// [reserve](crate::journal::JournalConfig::reserve_percent), where others are refused because a long outage has filled all
    /// the rest. Default no.
    fn is_important(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// The command was journaled: the moment to note what readers of this replica should see until it is settled. Replay
    /// is quick, so [`settled`](Self::settled) may have been called for it already.
    fn accepted(&self, command: &Command) {
        let _ = command;
    }

    /// The command is settled: applied, superseded, or refused after it had been journaled. What the cache holds of the
    /// things it changed must be replaced or removed here.
    fn settled(&self, command: &Command, settled: &Settled, cache: &CacheFill<'_>) {
        let _ = (command, settled, cache);
    }

    /// What the library calls at the end of a command: [`settled`](Self::settled), and then [`tags`](Self::tags). For those who
    /// read the payload only once for both.
    fn end(&self, command: &Command, settled: &Settled, cache: &CacheFill<'_>) -> Tags {
        self.settled(command, settled, cache);
        self.tags(command)
    }
}

/// Why this program cannot apply a journaled command, and another one might.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKnown {
    /// No command of that name.
    #[error("unknown-command")]
    Name,
    /// The command, in a newer form.
    #[error("newer-version")]
    Version,
}

/// What a command did.
#[derive(Clone, PartialEq, Eq)]
pub enum Applied {
    /// It had its effect; the answer is kept under its key.
    Done(Bytes),
    /// A newer change stands and was left alone; the answer is kept under its key.
    Superseded(Bytes),
}

/// How a command ended for good.
#[derive(Clone, PartialEq, Eq)]
pub enum Settled {
    /// It had its effect.
    Applied(Bytes),
    /// A newer change stands.
    Superseded(Bytes),
    /// It had no effect and never will.
    Refused(Refusal),
}

impl From<Applied> for Settled {
    fn from(applied: Applied) -> Self {
        match applied {
            Applied::Done(answer) => Self::Applied(answer),
            Applied::Superseded(answer) => Self::Superseded(answer),
        }
    }
}

impl Settled {
    /// The word used in metrics.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Superseded(_) => "superseded",
            Self::Refused(_) => "rejected",
        }
    }
}

/// The service's own no: the command makes no sense against what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused: {code}")]
pub struct Refusal {
    /// From the service's closed list, such as `not-found`.
    pub code: String,
}

impl Refusal {
    /// A refusal with this code.
    #[must_use]
    pub fn new(code: impl Into<String>) -> Self {
        Self { code: code.into() }
    }
}

/// Why a command was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The service's own no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database's.
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
}

/// An acknowledged write.
#[derive(Clone, PartialEq, Eq)]
pub enum Written {
    /// In the database.
    Committed {
        /// What [`Commands::apply`] answered.
        answer: Bytes,
        /// Whether this very key had been committed before.
        repeated: bool,
    },
    /// It was journaled earlier, and a newer change stands.
    Superseded {
        /// What [`Commands::apply`] answered.
        answer: Bytes,
    },
    /// Durable in the journal; will be applied once.
    Journaled {
        /// Its place in the journal.
        sequence: u64,
        /// Whether this very key had been journaled before.
        repeated: bool,
    },
}

/// A write that was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The service's own no; no effect.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key was used before for another request; no effect.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Nothing was accepted; no effect, now or later.
    #[error("the write was not accepted: {0}")]
    Rejected(#[source] Error),
    /// Nobody knows: the answer to COMMIT, or the journal's sync, was lost, or the command ended its transaction itself. The
    /// same request under the same key is safe and finds out.
    #[error("the outcome of the write is unknown: {0}")]
    Unknown(#[source] Error),
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteState {
    /// Journaled, not applied yet.
    Pending,
    /// Applied.
    Applied,
    /// A newer change stands.
    Superseded,
    /// Had no effect and never will.
    Rejected,
    /// On its way, or ended without anybody finding out: it may still have its effect. The same write under the same key
    /// finds out, and does nothing twice.
    Unknown,
}

/// What is known of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteStatus {
    /// What became of it.
    pub state: WriteState,
    /// The kept answer.
    pub answer: Option<Bytes>,
    /// Why it was rejected: a code.
    pub reason: Option<String>,
}
