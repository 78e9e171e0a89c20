//! One attempt at one command: claim the key, apply, keep the answer, COMMIT, and know at each step what a failure means.
//!
//! It neither retries nor journals; it answers what happened to this attempt.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::Error as DriverError;
use tracing::Instrument as _;

use super::{
    begin::{self, Kind, Limits, Mark, Marking},
    classify::{Circuit, Connection, Verdict},
    command::{Applied, ApplyError, Command, Commands, Refusal},
    config::PoolConfig,
    fence::Claim,
    guards::{self, AttemptTime, query_span},
    keys::{self, Known},
    listen::Telling,
    pool::Loan,
    resolve,
    statements::Statements,
};
use crate::{
    breaker::CallResult,
    bulkhead::{Ended as CallEnded, Priority},
    error::{Error, ErrorClass, Phase, Stage},
    metrics,
    sabotage::{self, Step},
};

/// COMMIT alone tells nothing: in an aborted transaction PostgreSQL answers it with ROLLBACK, and the driver reports
/// success. In one message with a statement before it, the statement fails first (25P02) and COMMIT is not reached. The tag
/// is looked at all the same: what stands in between may have ended the transaction.
pub(super) const COMMIT: &str = "SELECT 1; COMMIT";

/// Why the steps of an attempt came to no good end.
#[derive(Debug)]
pub(super) enum Stopped {
    Driver(DriverError),
    /// COMMIT was answered by ROLLBACK and no error.
    RolledBack,
    /// The command ended the transaction itself, against its promise.
    EndedByItself,
    /// The journal that the command comes from has another owner by now.
    Fenced,
}

impl From<DriverError> for Stopped {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

/// How an attempt ended that the database answered.
#[derive(Debug)]
pub(super) enum Attempted {
    /// Committed now.
    Committed(Applied),
    /// The key was settled before; nothing was done.
    Known(Known),
    /// The service said no; rolled back.
    Refused(Refusal),
}

/// An attempt that failed, and what it says about the server.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) breaker: CallResult,
}

/// How far an attempt came, kept outside of it because a cut can come at any moment.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    /// Its transaction, as soon as the server has named it.
    pub(super) mark: Option<Mark>,
    /// What the command did, once COMMIT is sent.
    pub(super) applied: Option<Applied>,
    /// An earlier attempt that may still run and hold the key: ended first, and kept until that is done.
    pub(super) ghost: Option<Mark>,
}

impl Progress {
    pub(super) fn after(ghost: Option<Mark>) -> Self {
        Self { phase: Phase::InTransaction, mark: None, applied: None, ghost }
    }
}

/// What every transaction needs to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) time: &'a AttemptTime,
    pub(super) config: &'a PoolConfig,
    pub(super) marking: &'a Marking,
    pub(super) telling: &'a Telling,
    /// What a replay's transaction must be allowed by.
    pub(super) claim: Option<Claim<'a>>,
}

impl Ground<'_> {
    pub(super) async fn begin(&self, loan: &Loan, kind: Kind) -> Result<Option<Mark>, DriverError> {
        let limits = Limits::within(self.time.deadline.remaining(Instant::now()), self.config);
        begin::begin(loan, kind, limits, self.marking).await
    }

    /// Makes sure that no other owner of the journal takes over before this transaction ends.
    pub(super) async fn hold_claim(&self, statements: &Statements<'_>) -> Result<(), Stopped> {
        match &self.claim {
            Some(claim) if !claim.hold(statements).await? => Err(Stopped::Fenced),
            _ => Ok(()),
        }
    }
}

/// Where a command comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// From its caller.
    Direct,
    /// Out of the journal.
    Journal {
        /// An operator gave it back after it was rejected.
        retried: bool,
        /// Of the permit that it needs, if it does.
        priority: Option<Priority>,
    },
}

/// Runs the attempt on a connection of its own until `deadline`; settles what becomes of the connection.
///
/// # Cancel safety
/// A dropped attempt destroys its connection: the server rolls back, unless COMMIT was on its way already.
pub(super) async fn attempt(
    loan: Loan,
    commands: &dyn Commands,
    command: &Command,
    origin: Origin,
    ground: Ground<'_>,
    progress: &mut Progress,
) -> Result<Attempted, Failed> {
    let steps = run(&loan, commands, command, origin, ground, progress);
    match timeout_at(ground.time.deadline.instant(), steps).await {
        Ok(Ok(attempted)) => {
            answered(loan);
            Ok(attempted)
        }
        Ok(Err(stopped)) => Err(failed(loan, stopped, progress.phase, ground.time).await),
        Err(_) => Err(expired(loan, progress.phase, ground.time)),
    }
}

pub(super) fn answered(loan: Loan) {
    loan.report(CallEnded::Answered, Instant::now());
    loan.give_back();
}

/// No answer in time: the session goes to the reaper.
pub(super) fn expired(loan: Loan, phase: Phase, time: &AttemptTime) -> Failed {
    loan.report(time.ended(), Instant::now());
    drop(loan);
    let error = Error::Timeout { stage: stage(phase), phase, limit: time.limit };
    Failed { error, breaker: time.on_expiry() }
}

async fn run(
    loan: &Loan,
    commands: &dyn Commands,
    command: &Command,
    origin: Origin,
    ground: Ground<'_>,
    progress: &mut Progress,
) -> Result<Attempted, Stopped> {
    let statements = loan.statements();
    if let Some(ghost) = &progress.ghost {
        resolve::end(&statements, ghost).await?;
        progress.ghost = None;
    }
    progress.mark = ground.begin(loan, Kind::default()).await?;
    ground.hold_claim(&statements).await?;
    if matches!(origin, Origin::Journal { retried: true, .. }) {
        keys::forget_rejected(&statements, &[command]).await?;
    }
    if !keys::claim(&statements, command).await? {
        let known = keys::look_up(&statements, &command.key).await?;
        statements.batch_execute("ROLLBACK").await?;
        // The row can only be missing where retention removed it within this moment; then nothing was done.
        let gone = || Attempted::Refused(Refusal::new("key-expired"));
        return Ok(known.map_or_else(gone, Attempted::Known));
    }
    let applying = commands.apply(&statements, command, origin != Origin::Direct);
    let applying = applying.instrument(query_span(&command.name)).await;
    // What the answer is kept by would stand alone, and COMMIT would be answered with success.
    if !matches!(applying, Err(ApplyError::Database(_))) && loan.is_outside_of_transaction() {
        return Err(Stopped::EndedByItself);
    }
    match applying {
        Ok(applied) => {
            // The key was claimed in another transaction than the one that is open now.
            if !keys::keep_answer(&statements, &command.key, &applied).await? {
                return Err(Stopped::EndedByItself);
            }
            progress.applied = Some(applied.clone());
            progress.phase = Phase::CommitSent;
            commit(loan, &ground.telling.commit(COMMIT, [&commands.tags(command)])).await?;
            Ok(Attempted::Committed(applied))
        }
        Err(ApplyError::Refused(refusal)) => {
            statements.batch_execute("ROLLBACK").await?;
            Ok(Attempted::Refused(refusal))
        }
        Err(ApplyError::Database(error)) => Err(error.into()),
    }
}

/// Sends COMMIT, and looks at what the driver does not: whether that is what was done.
pub(super) async fn commit(loan: &Loan, statements: &str) -> Result<(), Stopped> {
    sabotage::reached(Step::BeforeCommit);
    loan.begin_commit();
    loan.batch_execute(statements).instrument(query_span("commit")).await?;
    sabotage::reached(Step::AfterCommit);
    if loan.has_rolled_back() { Err(Stopped::RolledBack) } else { Ok(()) }
}

/// How a transaction of the service's own ended that the database answered.
#[derive(Debug)]
pub(super) enum Worked {
    Committed,
    /// The work ended the transaction itself, against its promise; which way, the server knows.
    EndedByItself,
    /// The service said no; rolled back.
    GivenUp(Refusal),
}

/// One attempt at a transaction of the service's own. What the work answers is kept outside, because the attempt can
/// end without knowing whether it counts.
///
/// # Cancel safety
/// As [`attempt`].
pub(super) async fn work_attempt<T, W>(
    loan: Loan,
    kind: Kind,
    ground: Ground<'_>,
    (progress, value): (&mut Progress, &mut Option<T>),
    work: &W,
) -> Result<Worked, Failed>
where
    W: AsyncFn(&Statements<'_>) -> Result<T, ApplyError>,
{
    let steps = async {
        let statements = loan.statements();
        progress.mark = ground.begin(&loan, kind).await?;
        match work(&statements).await {
            Ok(answer) => *value = Some(answer),
            Err(ApplyError::Refused(refusal)) => {
                statements.batch_execute("ROLLBACK").await?;
                return Ok(Worked::GivenUp(refusal));
            }
            Err(ApplyError::Database(error)) => return Err(error.into()),
        }
        // COMMIT would be answered with success, whatever the work did.
        if loan.is_outside_of_transaction() {
            return Ok(Worked::EndedByItself);
        }
        progress.phase = Phase::CommitSent;
        commit(&loan, COMMIT).await?;
        Ok::<_, Stopped>(Worked::Committed)
    };
    let ended = timeout_at(ground.time.deadline.instant(), steps).await;
    match ended {
        Ok(Ok(worked)) => {
            answered(loan);
            Ok(worked)
        }
        Ok(Err(stopped)) => Err(failed(loan, stopped, progress.phase, ground.time).await),
        Err(_) => Err(expired(loan, progress.phase, ground.time)),
    }
}

/// The server has answered already, so this is quick; where it is not, the connection is destroyed.
const ROLLBACK_LIMIT: Duration = Duration::from_millis(500);

/// Judges the error, and rolls back where the session goes on living.
pub(super) async fn failed(loan: Loan, stopped: Stopped, phase: Phase, time: &AttemptTime) -> Failed {
    /// The limit that was pushed to the server, or an operator.
    const CANCELLED: &str = "57014";

    /// A statement after another one that failed.
    const FAILED_BEFORE: &str = "25P02";

    let source = match stopped {
        Stopped::Driver(source) => source,
        Stopped::RolledBack => return undone(loan),
        Stopped::EndedByItself => return ended_by_itself(loan),
        Stopped::Fenced => return fenced(loan).await,
    };
    let is_own_limit = begin::is_own_limit(time, Instant::now());
    let (error, mut verdict) = loan.judge(source, stage(phase), phase);
    loan.report(guards::ended(&error), Instant::now());
    let phase = error.phase();
    if error.code() == Some(FAILED_BEFORE) {
        metrics::overlooked_error();
    }
    if verdict.connection == Connection::Keep {
        let rolled_back = tokio::time::timeout(ROLLBACK_LIMIT, loan.batch_execute("ROLLBACK")).await;
        if !matches!(rolled_back, Ok(Ok(()))) {
            verdict = Verdict { connection: Connection::Destroy, ..verdict };
        }
    }
    let breaker = verdict.breaker_for(Circuit::Writes);
    loan.settle(verdict);
    if error.code() == Some(CANCELLED) && phase != Phase::CommitSent && is_own_limit {
        let error = Error::Timeout { stage: stage(phase), phase, limit: time.limit };
        return Failed { error, breaker };
    }
    Failed { error, breaker }
}

/// COMMIT did the opposite: an answer of a living server, and no effect.
fn undone(loan: Loan) -> Failed {
    answered(loan);
    let error = Error::Database {
        stage: Stage::Commit,
        phase: Phase::InTransaction,
        class: ErrorClass::Transient,
        code: None,
        cause: None,
        source: "COMMIT was answered by ROLLBACK".into(),
    };
    Failed { error, breaker: CallResult::Success }
}

/// The journal is another owner's. Where the rollback does not come through, the loan is dropped with its connection.
async fn fenced(loan: Loan) -> Failed {
    let rolled_back = tokio::time::timeout(ROLLBACK_LIMIT, loan.batch_execute("ROLLBACK")).await;
    if matches!(rolled_back, Ok(Ok(()))) {
        answered(loan);
    }
    let error = Error::GivenUp { source: "the journal has another owner".into() };
    Failed { error, breaker: CallResult::Success }
}

/// The server did all that it was told. What of it counts, only the server knows; the session is in no known state.
fn ended_by_itself(loan: Loan) -> Failed {
    loan.report(CallEnded::Answered, Instant::now());
    drop(loan);
    let error = Error::GivenUp { source: "the command ended its transaction itself".into() };
    Failed { error, breaker: CallResult::Success }
}

fn stage(phase: Phase) -> Stage {
    if phase == Phase::CommitSent { Stage::Commit } else { Stage::Query }
}

impl Failed {
    /// Whether the same command may be tried again at once: it had no effect, and trying again can help.
    pub(super) fn may_retry(&self) -> bool {
        matches!(
            self.error.class(),
            ErrorClass::Transient | ErrorClass::Contention | ErrorClass::Heal | ErrorClass::Failover
        ) && !self.error.is_rejection()
    }
}
