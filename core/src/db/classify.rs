//! From SQLSTATE, severity and phase to what may be done: one table, nothing else.
//!
//! Source: PostgreSQL manual, appendix A (error codes). What a write becomes is decided in `writes`. Severity comes first,
//! because FATAL and PANIC end the session whatever the code says.

use tokio_postgres::error::{DbError, Severity};

use crate::{
    breaker::CallResult,
    error::{Error, ErrorClass, Phase, Stage},
};

/// What an error means for the call, the breaker and the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) class: ErrorClass,
    /// What the breaker counts. A statement error is contact with a living server.
    pub(crate) breaker: CallResult,
    pub(crate) connection: Connection,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    Keep,
    Destroy,
}

/// Judges an error of the driver that came in `phase`.
pub(crate) fn classify(error: &tokio_postgres::Error, phase: Phase) -> Verdict {
    match error.as_db_error() {
        Some(spoken) if is_outdated_plan(spoken) => {
            Verdict { class: ErrorClass::Heal, breaker: CallResult::Success, connection: Connection::Keep }
        }
        Some(spoken) => by_code(spoken.code().code(), is_fatal(spoken), phase),
        // No SQLSTATE and no broken connection: an answer of another type or shape than the program expects. The server
        // is well; the connection goes all the same, because the driver may have stopped in the middle of the answer.
        None if phase != Phase::NotSent && !is_broken(error) => {
            let class = if phase == Phase::CommitSent { ErrorClass::Unknown } else { ErrorClass::Permanent };
            Verdict { class, breaker: CallResult::Success, connection: Connection::Destroy }
        }
        // Refused, unreachable, name not found, handshake failed, or the connection broke.
        None => broken(phase),
    }
}

fn is_broken(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// The error for the caller.
pub(crate) fn error(source: tokio_postgres::Error, stage: Stage, phase: Phase) -> (Error, Verdict) {
    let verdict = classify(&source, phase);
    let code = source.code().map(|code| code.code().to_owned());
    (Error::Database { stage, phase, class: verdict.class, code, source: Box::new(source) }, verdict)
}

/// "cached plan must not change result type" shares its code with things that really are not supported; the name of
/// the function that raised it is not translated and tells them apart.
fn is_outdated_plan(error: &DbError) -> bool {
    error.code().code() == "0A000" && error.routine() == Some("RevalidateCachedQuery")
}

fn is_fatal(error: &DbError) -> bool {
    // Servers before 9.6 send no severity that is safe from translation; then the word itself must do.
    match error.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => matches!(error.severity(), "FATAL" | "PANIC"),
    }
}

/// A connection that broke, or never came to be.
fn broken(phase: Phase) -> Verdict {
    Verdict { class: lost(phase), breaker: CallResult::Failure, connection: Connection::Destroy }
}

/// The class of a lost answer: only after COMMIT, or after a statement of its own, may there be an effect.
fn lost(phase: Phase) -> ErrorClass {
    match phase {
        Phase::NotSent | Phase::InTransaction => ErrorClass::Transient,
        Phase::Sent | Phase::CommitSent => ErrorClass::Unknown,
    }
}

fn by_code(code: &str, fatal: bool, phase: Phase) -> Verdict {
    use CallResult::{Failure, Neutral, Success};
    use Connection::{Destroy, Keep};
    use ErrorClass::{Contention, Failover, Heal, Overload, Permanent, Transient, Unknown};
    let is = |class, breaker, connection| Verdict { class, breaker, connection };
    let verdict = match code {
        // The server says itself that it does not know.
        "08007" | "40003" => is(Unknown, Neutral, Destroy),
        "08P01" => is(Permanent, Neutral, Destroy),
        _ if code.starts_with("08") => is(lost(phase), Failure, Destroy),
        // A cached plan or a prepared statement is gone: works when prepared anew.
        "26000" => is(Heal, Success, Keep),
        // One circuit serves reads and writes, and reads still work: the prober reports the read-only host instead.
        "25006" => is(Failover, Neutral, Destroy),
        "25P03" | "25P04" => is(Transient, Neutral, Destroy),
        _ if code.starts_with("28") => is(Permanent, Failure, Destroy),
        "3D000" | "57P04" => is(Permanent, Failure, Destroy),
        "40001" | "40P01" | "40000" | "55P03" | "55006" | "72000" => is(Contention, Success, Keep),
        "53300" => is(Overload, Neutral, Destroy),
        _ if code.starts_with("53") => is(Overload, Neutral, Keep),
        // Our own statement_timeout, or an operator: rolled back, the session is fine.
        "57014" => is(Overload, Success, Keep),
        "57P01" | "57P02" => is(lost(phase), Failure, Destroy),
        "57P03" => is(Transient, Failure, Destroy),
        "57P05" => is(Transient, Neutral, Destroy),
        "XX001" | "XX002" => is(Permanent, Failure, Destroy),
        _ if code.starts_with("58") || code.starts_with("F0") || code == "XX000" => {
            is(lost(phase), Failure, Destroy)
        }
        _ if known(code) => is(Permanent, Success, Keep),
        // Nobody knows what it means: a read may be tried again, a write is not.
        _ if phase == Phase::Sent => is(Transient, Neutral, Keep),
        _ => is(Permanent, Neutral, Keep),
    };
    if fatal { ended(code, verdict, phase) } else { verdict }
}

/// FATAL and PANIC end the session: nothing is kept, an answer to COMMIT was not given, and a code that means "never"
/// for a statement says nothing about the next session, unless it is about credentials, the database, or its data.
fn ended(code: &str, verdict: Verdict, phase: Phase) -> Verdict {
    let lasting = code.starts_with("28") || matches!(code, "3D000" | "57P04" | "XX001" | "XX002");
    let class = match (verdict.class, phase) {
        (_, Phase::CommitSent) => ErrorClass::Unknown,
        (ErrorClass::Permanent | ErrorClass::Transient, _) if !lasting => lost(phase),
        (class, _) => class,
    };
    Verdict { class, connection: Connection::Destroy, ..verdict }
}

/// Classes of the manual that a living server answers to a wrong statement.
fn known(code: &str) -> bool {
    const STATEMENT_CLASSES: [&str; 28] = [
        "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "27", "2B", "2D",
        "2F", "34", "38", "39", "3B", "3F", "40", "42", "44", "54", "55",
    ];
    code.get(..2).is_some_and(|class| STATEMENT_CLASSES.contains(&class) || matches!(class, "HV" | "P0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass::{Contention, Failover, Heal, Overload, Permanent, Transient, Unknown};

    const PHASES: [Phase; 4] = [Phase::NotSent, Phase::Sent, Phase::InTransaction, Phase::CommitSent];

    fn classes(code: &str) -> [ErrorClass; 4] {
        PHASES.map(|phase| by_code(code, false, phase).class)
    }

    #[test]
    fn the_phase_decides_what_a_broken_connection_means() {
        let expected = [Transient, Unknown, Transient, Unknown];
        assert_eq!(PHASES.map(|phase| broken(phase).class), expected);
        for code in ["08006", "08000", "57P01", "57P02", "58030", "XX000"] {
            assert_eq!(classes(code), expected, "{code}");
        }
    }

    #[test]
    fn some_codes_mean_the_same_in_every_phase() {
        let table = [
            ("08007", Unknown),
            ("40003", Unknown),
            ("26000", Heal),
            ("23505", Permanent),
            ("42P01", Permanent),
            ("22001", Permanent),
            ("28P01", Permanent),
            ("3D000", Permanent),
            ("XX001", Permanent),
            ("25006", Failover),
            ("40001", Contention),
            ("40P01", Contention),
            ("55P03", Contention),
            ("53300", Overload),
            ("53100", Overload),
            ("57014", Overload),
            ("57P03", Transient),
            ("25P03", Transient),
        ];
        for (code, class) in table {
            assert_eq!(classes(code), [class; 4], "{code}");
        }
    }

    #[test]
    fn statement_errors_are_contact_and_connection_errors_are_not() {
        for code in ["23505", "42601", "40001", "57014", "22P02"] {
            assert_eq!(by_code(code, false, Phase::InTransaction).breaker, CallResult::Success, "{code}");
        }
        for code in ["57P01", "57P03", "08006", "28P01", "3D000"] {
            assert_eq!(by_code(code, false, Phase::InTransaction).breaker, CallResult::Failure, "{code}");
        }
        for code in ["53300", "53200", "ZZ999", "57P05", "25006"] {
            assert_eq!(by_code(code, false, Phase::InTransaction).breaker, CallResult::Neutral, "{code}");
        }
    }

    #[test]
    fn what_nobody_knows_may_be_read_again_and_not_written_again() {
        assert_eq!(classes("ZZ999"), [Permanent, Transient, Permanent, Permanent]);
    }

    /// PgBouncer ends sessions with FATAL 08P01 when it restarts: the statement was not wrong.
    #[test]
    fn a_session_that_was_ended_says_nothing_about_the_next_one() {
        for code in ["08P01", "ZZ999", "42601"] {
            let class = |phase| by_code(code, true, phase).class;
            assert_eq!(PHASES.map(class), [Transient, Unknown, Transient, Unknown], "{code}");
        }
        for code in ["28P01", "3D000", "57P04", "XX001"] {
            assert_eq!(by_code(code, true, Phase::InTransaction).class, Permanent, "{code}");
        }
    }

    #[test]
    fn a_fatal_answer_to_commit_is_no_answer() {
        for code in ["57P01", "53100", "23505", "ZZ999"] {
            let verdict = by_code(code, true, Phase::CommitSent);
            assert_eq!((verdict.class, verdict.connection), (Unknown, Connection::Destroy), "{code}");
        }
        // An ERROR at COMMIT, a deferred constraint say, is a definite abort.
        assert_eq!(by_code("23505", false, Phase::CommitSent).class, Permanent);
    }

    #[test]
    fn codes_that_are_no_codes_do_no_harm() {
        for code in ["", "Ü", "0", "08", "2"] {
            let _ = by_code(code, false, Phase::Sent);
        }
    }
}
