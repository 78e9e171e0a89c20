//! The table of idempotency keys: what became of each write, in the same transaction as its effect.
//!
//! The row is the truth about a write. Whoever inserts the key first applies the command; everybody else finds the row.

use std::time::SystemTime;

use bytes::Bytes;
use tokio_postgres::{Error, Row};

use super::{
    asked::Question,
    command::{Applied, Command, Settled, WriteState, WriteStatus},
    statements::Statements,
};
use crate::sabotage::{self, Bug, Step};

/// The table, for the service's migrations. Running it again changes nothing.
pub const SCHEMA_SQL: &str = "\
CREATE TABLE IF NOT EXISTS ridethrough_writes (
    key         text PRIMARY KEY CHECK (octet_length(key) BETWEEN 1 AND 255),
    command     text NOT NULL,
    fingerprint bytea NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('applied', 'superseded', 'rejected')),
    answer      bytea,
    reason      text,
    payload     bytea,
    accepted_at timestamptz NOT NULL,
    settled_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS ridethrough_writes_settled_at ON ridethrough_writes (settled_at);
";

/// What the table says of a key that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) fingerprint: Vec<u8>,
    pub(super) status: WriteStatus,
}

/// Claims the key for this transaction. Waits for another transaction that holds it; `false` where it is settled.
pub(super) async fn claim(statements: &Statements<'_>, command: &Command) -> Result<bool, Error> {
    if sabotage::planted(Bug::NoIdempotency) {
        return Ok(true);
    }
    sabotage::reached(Step::BeforeClaim);
    let inserted = statements
        .run(
            "INSERT INTO ridethrough_writes (key, command, fingerprint, outcome, accepted_at) \
             VALUES ($1, $2, $3, 'applied', $4) ON CONFLICT (key) DO NOTHING",
            &[&command.key, &command.name, &command.fingerprint.as_slice(), &command.accepted_at],
        )
        .await?;
    sabotage::reached(Step::AfterClaim);
    Ok(inserted == 1)
}

/// Keeps the answer under the claimed key; `false` where nothing is claimed.
pub(super) async fn keep_answer(
    statements: &Statements<'_>,
    key: &str,
    applied: &Applied,
) -> Result<bool, Error> {
    let (outcome, answer) = match applied {
        Applied::Done(answer) => ("applied", answer),
        Applied::Superseded(answer) => ("superseded", answer),
    };
    let kept = statements
        .run(
            "UPDATE ridethrough_writes SET outcome = $2, answer = $3 WHERE key = $1",
            &[&key, &outcome, &answer.as_ref()],
        )
        .await?;
    Ok(kept == 1 || sabotage::planted(Bug::NoIdempotency))
}

/// Records a journaled command that can never be applied, payload included, so that a person can see to it; `false` where
/// the key is settled already.
pub(super) async fn record_rejected(
    statements: &Statements<'_>,
    key: &str,
    command: &Command,
    reason: &str,
) -> Result<bool, Error> {
    let recorded = statements
        .run(
            "INSERT INTO ridethrough_writes (key, command, fingerprint, outcome, reason, payload, accepted_at) \
             VALUES ($1, $2, $3, 'rejected', $4, $5, $6) ON CONFLICT (key) DO NOTHING",
            &[
                &key,
                &command.name,
                &command.fingerprint.as_slice(),
                &reason,
                &command.payload.as_ref(),
                &command.accepted_at,
            ],
        )
        .await?;
    Ok(recorded == 1)
}

/// What is recorded under the key.
pub(super) async fn look_up(statements: &Statements<'_>, key: &str) -> Result<Option<Known>, Error> {
    let row = statements
        .row("SELECT fingerprint, outcome, answer, reason FROM ridethrough_writes WHERE key = $1", &[&key])
        .await?;
    row.map(|row| known(&row)).transpose()
}

/// The same as a question.
pub(super) struct LookUp<'k>(pub(super) &'k str);

impl Question for LookUp<'_> {
    type Answer = Option<Known>;

    fn operation(&self) -> &'static str {
        "look"
    }

    /// It is asked rarely, and right after trouble.
    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(&'c self, statements: &'c Statements<'c>) -> Result<Self::Answer, Error> {
        look_up(statements, self.0).await
    }
}

fn known(row: &Row) -> Result<Known, Error> {
    let outcome: String = row.try_get("outcome")?;
    let answer: Option<Vec<u8>> = row.try_get("answer")?;
    let state = match outcome.as_str() {
        "superseded" => WriteState::Superseded,
        "rejected" => WriteState::Rejected,
        _ => WriteState::Applied,
    };
    let status = WriteStatus { state, answer: answer.map(Bytes::from), reason: row.try_get("reason")? };
    Ok(Known { fingerprint: row.try_get("fingerprint")?, status })
}

impl Known {
    /// Whether it is the same request as `command`.
    pub(super) fn is_same_request(&self, command: &Command) -> bool {
        self.fingerprint == command.fingerprint
    }

    /// How the command ended, as its hook wants it.
    pub(super) fn settled(&self) -> Settled {
        let answer = self.status.answer.clone().unwrap_or_default();
        match self.status.state {
            WriteState::Superseded => Settled::Superseded(answer),
            WriteState::Rejected => Settled::Refused(super::command::Refusal::new(
                self.status.reason.clone().unwrap_or_else(|| "rejected".to_owned()),
            )),
            WriteState::Applied | WriteState::Pending => Settled::Applied(answer),
        }
    }
}

/// `timestamptz` keeps microseconds, and the journal too: what is compared later must be cut the same way.
#[must_use]
pub fn to_microseconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH
        + std::time::Duration::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
