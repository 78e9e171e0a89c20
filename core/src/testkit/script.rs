//! The script of faults: what goes wrong, at which moment, the how-manieth time. It strikes nothing itself.

use std::time::Duration;

use bytes::Bytes;

use super::sql::normal;

/// A moment in the life of the server at which a [`Fault`] can strike. Each has its own count, which begins when the fault
/// is put into the script.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// A client sent its startup packet; nothing is answered yet.
    Connect,
    /// A statement that begins with this (blanks and letter case aside) arrived; it is not executed yet.
    Statement(String),
    /// Such a statement was executed, and committed where it stands alone; its answer is not sent.
    AfterStatement(String),
    /// A COMMIT of a sound transaction arrived; nothing is committed yet.
    BeforeCommit,
    /// The transaction is committed; the answer is not sent.
    AfterCommit,
    /// Any message after the startup arrived. With a number from 1 to
    /// [`Counts::messages`](super::Counts::messages) a test walks through every message boundary of what it does.
    BeforeMessage,
    /// The message was handled; what it is answered with is not sent.
    AfterMessage,
    /// A request is answered in full, and the session waits outside of a transaction.
    Idle,
}

impl At {
    /// [`At::Statement`].
    #[must_use]
    pub fn statement(beginning: impl Into<String>) -> Self {
        Self::Statement(beginning.into())
    }

    /// [`At::AfterStatement`].
    #[must_use]
    pub fn after_statement(beginning: impl Into<String>) -> Self {
        Self::AfterStatement(beginning.into())
    }
}

/// What goes wrong. Codes are SQLSTATEs.
///
/// Where the connection ends, an open transaction is rolled back. At the moments called "after" the work is done, and the
/// fault takes the place of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The connection closes in good order, without a word.
    Drop,
    /// The connection is reset.
    Reset,
    /// The statement fails with this code; the session lives on, its transaction has failed.
    Error(&'static str),
    /// The session ends with a FATAL error of this code.
    Fatal(&'static str),
    /// The session ends with a PANIC of this code, as when the server crashes.
    Panic(&'static str),
    /// COMMIT rolls back, and answers ROLLBACK instead of an error. Only at [`At::BeforeCommit`]; elsewhere nothing happens.
    RollbackTag,
    /// The statement fails with 57014, though nobody cancelled it: somebody else's cancel request went astray.
    StrayCancel,
    /// A prepared statement no longer fits: 0A000, as the server says it after a change of the schema.
    StalePlan,
    /// The connection stays open, and nothing more comes: half-open. The client's bytes vanish; the transaction stays open
    /// with its locks until the client closes.
    Silence,
    /// It takes this long. A cancel request or the session's `statement_timeout` ends it with 57014.
    Delay(Duration),
    /// These bytes come instead of an answer, and the connection closes.
    Malformed(Bytes),
    /// Only this many bytes of the answer come, and the connection closes.
    Cut(usize),
}

impl Fault {
    /// FATAL 57P03, what a server says while it starts, recovers or stops. For [`At::Connect`].
    pub const STARTING_UP: Self = Self::Fatal("57P03");
    /// FATAL 53300, what a server says that has no place for another session. For [`At::Connect`].
    pub const TOO_MANY_CONNECTIONS: Self = Self::Fatal("53300");
}

/// Faults that wait for their moment.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<Line>);

#[derive(Debug)]
struct Line {
    at: At,
    fault: Fault,
    /// How many such moments pass first; `None` for a fault that strikes each time.
    before: Option<u64>,
}

impl Script {
    /// Adds a fault for the `nth` such moment from now, counted from 1.
    pub(super) fn add(&mut self, at: At, nth: u64, fault: Fault) {
        self.0.push(Line { at: tidy(at), fault, before: Some(nth.saturating_sub(1)) });
    }

    /// Adds a fault for every such moment from now.
    pub(super) fn add_always(&mut self, at: At, fault: Fault) {
        self.0.push(Line { at: tidy(at), fault, before: None });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// How many faults wait for a moment that has not come.
    pub(super) fn waiting(&self) -> usize {
        self.0.iter().filter(|line| line.before.is_some()).count()
    }

    /// Whether any fault waits for a moment like this, now or later.
    pub(super) fn expects(&self, moment: &At) -> bool {
        self.0.iter().any(|line| is_met(&line.at, moment))
    }

    /// Counts a moment, and answers the faults that strike at it, in the order of the script.
    pub(super) fn struck(&mut self, moment: &At) -> Vec<Fault> {
        let mut struck = Vec::new();
        self.0.retain_mut(|line| {
            if !is_met(&line.at, moment) {
                return true;
            }
            match &mut line.before {
                None => struck.push(line.fault.clone()),
                Some(0) => {
                    struck.push(line.fault.clone());
                    return false;
                }
                Some(before) => *before -= 1,
            }
            true
        });
        struck
    }
}

fn tidy(at: At) -> At {
    match at {
        At::Statement(beginning) => At::Statement(normal(&beginning)),
        At::AfterStatement(beginning) => At::AfterStatement(normal(&beginning)),
        other => other,
    }
}

/// Moments carry whole statements, scripts their beginnings; both in normal form.
fn is_met(line: &At, moment: &At) -> bool {
    match (line, moment) {
        (At::Statement(beginning), At::Statement(sql))
        | (At::AfterStatement(beginning), At::AfterStatement(sql)) => sql.starts_with(beginning.as_str()),
        (line, moment) => line == moment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_once_at_its_moment() {
        let mut script = Script::default();
        script.add(At::BeforeCommit, 2, Fault::Drop);
        assert!(script.struck(&At::BeforeCommit).is_empty());
        assert!(script.struck(&At::AfterCommit).is_empty());
        assert_eq!(script.struck(&At::BeforeCommit), [Fault::Drop]);
        assert!(script.struck(&At::BeforeCommit).is_empty());
        assert_eq!(script.waiting(), 0);
    }

    #[test]
    fn statements_are_met_by_their_beginning() {
        let mut script = Script::default();
        script.add_always(At::statement("select  Title"), Fault::Reset);
        for (sql, met) in [("SELECT title FROM todos", 1), ("SELECT 1", 0)] {
            assert_eq!(script.struck(&At::Statement(normal(sql))).len(), met, "{sql}");
            assert_eq!(script.struck(&At::AfterStatement(normal(sql))).len(), 0);
        }
    }
}
