//! From SQLSTATE, severity and phase to what may be done: one table, nothing else.
//!
//! Source: PostgreSQL manual, appendix A (error codes). What a write becomes is decided in `writes`. Severity comes first,
//! because FATAL and PANIC end the session whatever the code says.

use tokio_postgres::error::{DbError, Severity};

use crate::{
    breaker::CallResult,
    error::{Error, ErrorClass, LastWords, Phase, Stage},
};

/// What an error means for the call, the circuits and the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) class: ErrorClass,
    /// What a circuit counts. A statement error is contact with a living server.
    pub(crate) breaker: CallResult,
    /// What the circuit of reads counts instead, where the error says different things about reads and writes.
    pub(crate) reads: Option<CallResult>,
    pub(crate) connection: Connection,
}

/// The circuit that is told of a result: reads and writes fail apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circuit {
    Reads,
    Writes,
}

impl Circuit {
    /// The word used in traces.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
        }
    }
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    Keep,
    Destroy,
}

/// What a SQLSTATE says beyond "failed": how long it will last, and who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TripHint {
    #[default]
    Nothing,
    /// It is starting up or shutting down: probe faster.
    Starting,
    /// It refuses our credentials: waiting does not help, a person does.
    Authentication,
    /// No such database: waiting does not help, a person does.
    Configuration,
    /// Its certificate is not trusted: waiting does not help, a person does.
    Distrust,
    /// The disk is full: a person must look.
    DiskFull,
    /// The data are damaged: a person must look.
    Damaged,
}

impl TripHint {
    pub(crate) fn of(error: &Error) -> Self {
        let is_distrust = || error.stage() == Stage::Connect && error.class() == ErrorClass::Permanent;
        match error.code() {
            Some(code) => hint(code),
            None if is_distrust() => Self::Distrust,
            None => Self::Nothing,
        }
    }

    /// It answers that it will not have us, or we will not have it.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Self::Authentication | Self::Configuration | Self::Distrust)
    }
}

/// What is known about an error beyond the error itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hearing<'a> {
    /// PgBouncer stands in between and speaks with SQLSTATE 08P01 for its own troubles.
    pub(crate) behind_pooler: bool,
    /// No byte of the request was handed to the socket.
    pub(crate) unsent: bool,
    /// What the connection heard last.
    pub(crate) cause: Option<&'a LastWords>,
}

impl Verdict {
    /// What this circuit counts.
    pub(crate) fn breaker_for(&self, circuit: Circuit) -> CallResult {
        match circuit {
            Circuit::Reads => self.reads.unwrap_or(self.breaker),
            // A host that takes no writes is as good as gone for them.
            Circuit::Writes if self.class == ErrorClass::Failover => CallResult::Failure,
            Circuit::Writes => self.breaker,
        }
    }
}

/// Judges an error of the driver that came in `phase`, with what the connection heard.
pub(crate) fn judge(error: &tokio_postgres::Error, phase: Phase, hearing: Hearing<'_>) -> Verdict {
    match error.as_db_error() {
        Some(spoken) if is_outdated_plan(spoken) => by_code("26000", is_fatal(spoken), phase, false),
        Some(spoken) => by_code(spoken.code().code(), is_fatal(spoken), phase, hearing.behind_pooler),
        // No SQLSTATE and no broken connection: an answer of another type or shape than the program expects. The server
        // is well; the connection goes all the same, because the driver may have stopped in the middle of the answer.
        None if phase != Phase::NotSent && !is_broken(error) => {
            let class = if phase == Phase::CommitSent { ErrorClass::Unknown } else { ErrorClass::Permanent };
            is(class, CallResult::Success, Connection::Destroy)
        }
        // Refused, unreachable, name not found, handshake failed, or the connection broke.
        None => ended_silently(if hearing.unsent { Phase::NotSent } else { phase }, hearing),
    }
}

fn is_broken(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    error.is_closed()
        || error.source().is_some_and(|source| source.is::<std::io::Error>()) && !is_unspeakable(error)
}

/// The driver could not put the request into bytes: a zero in the text, more values than the protocol counts. It wraps
/// that as it wraps a broken socket, and tells its kinds of errors apart by their text alone.
fn is_unspeakable(error: &tokio_postgres::Error) -> bool {
    error.to_string().starts_with("error encoding message to server")
}

/// The error for the caller.
pub(crate) fn error(source: tokio_postgres::Error, stage: Stage, phase: Phase) -> (Error, Verdict) {
    error_heard(source, stage, phase, Hearing::default())
}

/// As [`error`], with what the connection heard.
pub(crate) fn error_heard(
    source: tokio_postgres::Error,
    stage: Stage,
    phase: Phase,
    hearing: Hearing<'_>,
) -> (Error, Verdict) {
    let verdict = judge(&source, phase, hearing);
    let code = source.code().map(|code| code.code().to_owned());
    // Where the server answered this very request, its answer is the cause.
    let cause = if code.is_none() { hearing.cause.cloned() } else { None };
    let unsent = hearing.unsent && code.is_none();
    let phase = if unsent { Phase::NotSent } else { phase };
    (Error::Database { stage, phase, class: verdict.class, code, cause, source: Box::new(source) }, verdict)
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

/// The driver knows only that the connection ended; what was heard before says why, and that decides more than the phase
/// where it is about credentials, room, or an idle session that was ended on purpose.
fn ended_silently(phase: Phase, hearing: Hearing<'_>) -> Verdict {
    match hearing.cause {
        Some(LastWords { code, severity, .. }) if severity.ends_session() => {
            let said = by_code(code, true, phase, hearing.behind_pooler);
            // Words that were heard before the request say nothing about what became of it.
            Verdict { class: lost(phase), ..said }
        }
        _ => broken(phase),
    }
}

fn is(class: ErrorClass, breaker: CallResult, connection: Connection) -> Verdict {
    Verdict { class, breaker, reads: None, connection }
}

/// A connection that broke, or never came to be.
fn broken(phase: Phase) -> Verdict {
    is(lost(phase), CallResult::Failure, Connection::Destroy)
}

/// The class of a lost answer: only after COMMIT, or after a statement of its own, may there be an effect.
fn lost(phase: Phase) -> ErrorClass {
    match phase {
        Phase::NotSent | Phase::InTransaction => ErrorClass::Transient,
        Phase::Sent | Phase::CommitSent => ErrorClass::Unknown,
    }
}

pub(super) fn by_code(code: &str, fatal: bool, phase: Phase, behind_pooler: bool) -> Verdict {
    let verdict = by_table(code, phase, behind_pooler);
    if fatal { ended(code, verdict, phase) } else { verdict }
}

fn hint(code: &str) -> TripHint {
    match code {
        "57P03" => TripHint::Starting,
        "3D000" | "57P04" => TripHint::Configuration,
        "53100" => TripHint::DiskFull,
        "XX001" | "XX002" => TripHint::Damaged,
        _ if code.starts_with("28") => TripHint::Authentication,
        _ => TripHint::Nothing,
    }
}

fn by_table(code: &str, phase: Phase, behind_pooler: bool) -> Verdict {
    use CallResult::{Failure, Neutral, Success};
    use Connection::{Destroy, Keep};
    use ErrorClass::{Contention, Failover, Heal, Overload, Permanent, Transient, Unknown};
    match code {
        // These come while a session is made, or where there is none: nothing was done.
        "08001" | "08003" | "08004" => is(Transient, Failure, Destroy),
        // The server says itself that it does not know.
        "08007" | "40003" => is(Unknown, Neutral, Destroy),
        // PgBouncer says this for a crash of the server, a wait that was too long, and a login that failed.
        "08P01" if behind_pooler => broken(phase),
        "08P01" => is(Permanent, Neutral, Destroy),
        _ if code.starts_with("08") => broken(phase),
        // A cached plan or a prepared statement is gone: works when prepared anew.
        "26000" => is(Heal, Success, Keep),
        // Reads still work there; writes do not, which `breaker_for` knows. Where one circuit serves both, the prober
        // reports the read-only host instead.
        "25006" => Verdict { reads: Some(Success), ..is(Failover, Neutral, Destroy) },
        "25P03" | "25P04" => is(Transient, Neutral, Destroy),
        _ if code.starts_with("28") => is(Permanent, Failure, Destroy),
        "3D000" | "57P04" => is(Permanent, Failure, Destroy),
        "40001" | "40P01" | "40000" | "55P03" | "55006" | "72000" => is(Contention, Success, Keep),
        "53300" => is(Overload, Neutral, Destroy),
        _ if code.starts_with("53") => is(Overload, Neutral, Keep),
        // Our own statement_timeout, or an operator: rolled back, the session is fine.
        "57014" => is(Overload, Success, Keep),
        "57P01" | "57P02" => broken(phase),
        "57P03" => is(Transient, Failure, Destroy),
        "57P05" => is(Transient, Neutral, Destroy),
        "XX001" | "XX002" => is(Permanent, Failure, Destroy),
        // A proxy that has no more sessions to give says it this way while one is made.
        "XX000" if phase == Phase::NotSent => is(Overload, Neutral, Destroy),
        _ if code.starts_with("58") || code.starts_with("F0") || code == "XX000" => broken(phase),
        _ if known(code) => is(Permanent, Success, Keep),
        // Nobody knows what it means: a read may be tried again, a write is not.
        _ if phase == Phase::Sent => is(Transient, Neutral, Keep),
        _ => is(Permanent, Neutral, Keep),
    }
}

/// FATAL and PANIC end the session: nothing is kept, an answer to COMMIT was not given, and a code that means "never"
/// for a statement says nothing about the next session, unless it is about credentials, the database, or its data.
fn ended(code: &str, verdict: Verdict, phase: Phase) -> Verdict {
    const STATED_TRANSIENT: [&str; 7] = ["08001", "08003", "08004", "25P03", "25P04", "57P03", "57P05"];
    let lasting = code.starts_with("28") || matches!(code, "3D000" | "57P04" | "XX001" | "XX002");
    let class = match (verdict.class, phase) {
        (_, Phase::CommitSent) => ErrorClass::Unknown,
        // The session was over, or had not begun, when the request came.
        (ErrorClass::Transient, _) if STATED_TRANSIENT.contains(&code) => ErrorClass::Transient,
        (ErrorClass::Permanent | ErrorClass::Transient, _) if !lasting => lost(phase),
        (class, _) => class,
    };
    Verdict { class, connection: Connection::Destroy, ..verdict }
}

/// Classes of the manual that a living server answers to a wrong statement.
fn known(code: &str) -> bool {
    const STATEMENT_CLASSES: [&str; 32] = [
        "00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25",
        "27", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "54", "55",
    ];
    code.get(..2).is_some_and(|class| STATEMENT_CLASSES.contains(&class) || matches!(class, "HV" | "P0"))
}

#[cfg(test)]
mod tests;
