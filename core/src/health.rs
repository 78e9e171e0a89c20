//! Health: the states of the parts in, the answers of the three probes out.
//!
//! A pure function, [`decide`], of the table in `docs/health.md`. It asks nobody: whoever owns a part says how it is.
//!
//! Liveness asks whether a restart would help, startup whether starting is over, readiness whether sending traffic
//! here beats sending none. A database that is away is helped by no restart, so liveness and startup never look at it.
//! [`Steady`] keeps readiness from following what flaps.

mod steady;

pub use self::steady::Steady;
use crate::mode::Mode;

/// How far the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Configuration, listeners, journal recovery.
    Starting,
    /// Started.
    Running,
    /// Asked to stop.
    Draining,
    /// A part died, or the runtime stopped making progress.
    Broken,
}

/// What is known of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabasePart {
    /// Not answered yet.
    Unknown,
    /// Answers.
    Up,
    /// Answers slowly, or the breaker is half-open.
    Slow,
    /// Answers reads, refuses writes (25006).
    ReadOnly,
    /// Away but for a standby, which answers reads with what may be behind.
    Standby,
    /// Does not answer.
    Away,
    /// Refuses our credentials or database name: as away, but a person must look.
    Refused,
}

/// Whether there is anything to serve without the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePart {
    /// Nothing, or only expired entries.
    Cold,
    /// At least one usable entry.
    Warm,
}

/// What the journal can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalPart {
    /// Accepts writes; nothing waits.
    Ok,
    /// Accepts writes; some wait to be applied.
    Backlog,
    /// At its bound.
    Full,
    /// Its disk failed it, or another owner has taken it over.
    Failed,
}

/// Whether the schema is the one this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaPart {
    /// Not seen yet.
    Unknown,
    /// As it should be.
    Ok,
    /// A migration is pending; the old schema can be used.
    Pending,
    /// Not ours: wrong system, too old, or newer than we accept.
    Mismatch,
}

/// The states of all parts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The process itself.
    pub life: Life,
    /// Whether it was ready at any time before.
    pub was_ready: bool,
    /// PostgreSQL.
    pub database: DatabasePart,
    /// The read cache.
    pub cache: CachePart,
    /// The write journal.
    pub journal: JournalPart,
    /// The schema.
    pub schema: SchemaPart,
}

/// What a replica must be able to do to count as ready in spite of a fault of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum Require {
    /// Anything at all.
    #[default]
    Any,
    /// Answer reads.
    Reads,
    /// Accept writes.
    Writes,
    /// Both.
    All,
}

/// What a replica does that was ready and now can serve nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
pub enum OnEmpty {
    /// Stays ready: an honest 503 beats a refused connection.
    #[default]
    Stay,
    /// Leaves, for fleets where other replicas may be better off.
    Leave,
}

/// The operator's choices about readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct ReadyPolicy {
    /// Default [`Require::Any`].
    pub require: Require,
    /// Default [`OnEmpty::Stay`].
    pub on_empty: OnEmpty,
}

/// One word on top of the mode, as health documents have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Pass,
    /// Works, but somebody may want to look.
    Warn,
    /// Does not work.
    Fail,
}

/// What a read gets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Answers from PostgreSQL.
    Fresh,
    /// Labelled stale answers.
    Stale,
    /// An honest refusal.
    None,
}

/// What a write gets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Committed in PostgreSQL.
    Committed,
    /// Accepted into the journal.
    Journaled,
    /// An honest refusal.
    None,
}

/// The answers of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// `/livez` answers 200.
    pub live: bool,
    /// `/readyz` answers 200.
    pub ready: bool,
    /// `/startupz` answers 200.
    pub started: bool,
    /// One word.
    pub status: Status,
    /// What the process can do.
    pub mode: Mode,
    /// What a read gets; `/readyz/reads` answers 200 where ready and not [`Reads::None`].
    pub reads: Reads,
    /// What a write gets; `/readyz/writes` answers 200 where ready and not [`Writes::None`].
    pub writes: Writes,
}

/// The table: what the probes answer for these parts.
#[must_use]
pub fn decide(parts: &Parts, policy: &ReadyPolicy) -> Health {
    match parts.life {
        Life::Broken => Health { live: false, ..out_of_service(Mode::Broken) },
        Life::Starting => Health { started: false, ..out_of_service(Mode::Starting) },
        Life::Draining => {
            Health { reads: reads(parts), writes: writes(parts), ..out_of_service(Mode::Draining) }
        }
        Life::Running if parts.schema == SchemaPart::Mismatch => out_of_service(Mode::Fenced),
        Life::Running => in_service(parts, policy),
    }
}

/// Live, started, not ready, serving nothing.
fn out_of_service(mode: Mode) -> Health {
    Health {
        live: true,
        ready: false,
        started: true,
        status: Status::Fail,
        mode,
        reads: Reads::None,
        writes: Writes::None,
    }
}

fn in_service(parts: &Parts, policy: &ReadyPolicy) -> Health {
    let (reads, writes) = (reads(parts), writes(parts));
    let mode =
        if usable(parts) { mode_with_database(parts) } else { mode_without_database(parts, reads, writes) };
    let ready = ready(parts, policy, reads, writes);
    let status = match mode {
        Mode::Normal | Mode::Recovering => Status::Pass,
        Mode::Warming => Status::Fail,
        _ => Status::Warn,
    };
    Health { live: true, ready, started: true, status, mode, reads, writes }
}

/// Whether PostgreSQL takes reads and writes of this program now.
fn usable(parts: &Parts) -> bool {
    matches!(parts.database, DatabasePart::Up | DatabasePart::Slow)
        && matches!(parts.schema, SchemaPart::Ok | SchemaPart::Pending)
}

fn reads(parts: &Parts) -> Reads {
    let answers =
        usable(parts) || (parts.database == DatabasePart::ReadOnly && parts.schema == SchemaPart::Ok);
    let standby = parts.database == DatabasePart::Standby && parts.schema == SchemaPart::Ok;
    match (answers, parts.cache) {
        (true, _) => Reads::Fresh,
        (false, _) if standby => Reads::Stale,
        (false, CachePart::Warm) => Reads::Stale,
        (false, CachePart::Cold) => Reads::None,
    }
}

fn writes(parts: &Parts) -> Writes {
    match (usable(parts), parts.journal) {
        (true, JournalPart::Backlog) => Writes::Journaled,
        (true, _) => Writes::Committed,
        (false, JournalPart::Ok | JournalPart::Backlog) => Writes::Journaled,
        (false, JournalPart::Full | JournalPart::Failed) => Writes::None,
    }
}

fn mode_with_database(parts: &Parts) -> Mode {
    match (parts.schema, parts.journal, parts.database) {
        (SchemaPart::Pending, _, _) => Mode::MigrationPending,
        (_, JournalPart::Full | JournalPart::Failed, _) => Mode::NoJournal,
        (_, _, DatabasePart::Slow) => Mode::Degraded,
        (_, JournalPart::Backlog, _) => Mode::Recovering,
        _ => Mode::Normal,
    }
}

fn mode_without_database(parts: &Parts, reads: Reads, writes: Writes) -> Mode {
    match (reads, writes) {
        (Reads::None, _) if !parts.was_ready => Mode::Warming,
        (Reads::None, Writes::None) => Mode::Empty,
        (Reads::None, _) => Mode::WriteOnly,
        (_, Writes::None) => Mode::ReadOnly,
        _ => Mode::Degraded,
    }
}

/// Losing what all replicas share never makes a ready replica unready; having nothing to serve keeps a new one out.
fn ready(parts: &Parts, policy: &ReadyPolicy, reads: Reads, writes: Writes) -> bool {
    if !parts.was_ready {
        return reads != Reads::None;
    }
    if reads == Reads::None && writes == Writes::None && policy.on_empty == OnEmpty::Leave {
        return false;
    }
    let own_fault = parts.journal == JournalPart::Failed && writes == Writes::None;
    !own_fault || matches!(policy.require, Require::Any | Require::Reads)
}

impl Life {
    /// The word used outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Broken => "broken",
        }
    }
}

impl Parts {
    /// One word on each part beside the process itself, from closed lists: for the checks of a probe and the reason of a
    /// mode.
    #[must_use]
    pub fn codes(&self) -> [(&'static str, &'static str); 4] {
        let database = match self.database {
            DatabasePart::Unknown => "unknown",
            DatabasePart::Up => "up",
            DatabasePart::Slow => "slow",
            DatabasePart::ReadOnly => "read-only",
            DatabasePart::Standby => "standby",
            DatabasePart::Away => "away",
            DatabasePart::Refused => "refused",
        };
        let cache = match self.cache {
            CachePart::Cold => "cold",
            CachePart::Warm => "warm",
        };
        let journal = match self.journal {
            JournalPart::Ok => "ok",
            JournalPart::Backlog => "backlog",
            JournalPart::Full => "full",
            JournalPart::Failed => "failed",
        };
        let schema = match self.schema {
            SchemaPart::Unknown => "unknown",
            SchemaPart::Ok => "ok",
            SchemaPart::Pending => "pending",
            SchemaPart::Mismatch => "mismatch",
        };
        [("database", database), ("cache", cache), ("journal", journal), ("schema", schema)]
    }
}

impl Status {
    /// The word used outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Reads {
    /// The word used outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::None => "none",
        }
    }
}

impl Writes {
    /// The word used outside.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Journaled => "journaled",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests;
