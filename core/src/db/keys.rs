//! The table of idempotency keys: what became of each write, in the same transaction as its effect.
//!
//! The row is the truth about a write. Whoever inserts the key first applies the command; everybody else finds the row.
//! It opens and ends no transaction.

use std::{collections::HashMap, time::SystemTime};

use bytes::Bytes;
use tokio_postgres::{Error, Row};

use super::{
    asked::Question,
    command::{Applied, Command, Settled, WriteState, WriteStatus},
    statements::Statements,
};
use crate::sabotage::{self, Bug, Step};

/// The tables, for the service's migrations. Running it again changes nothing.
///
/// Several may run it at the same time, each as one message or in one transaction: `IF NOT EXISTS` does not see what
/// another session is just creating (23505), so whoever comes second waits for the first.
pub const SCHEMA_SQL: &str = "\
SELECT pg_advisory_xact_lock(5938387970420996467);
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
CREATE TABLE IF NOT EXISTS ridethrough_journals (
    journal_id  bytea PRIMARY KEY CHECK (octet_length(journal_id) = 16),
    epoch       bigint NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT now()
);
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

/// Removes the rows of commands that were rejected and that an operator wants tried again: the same request only.
pub(super) async fn forget_rejected(statements: &Statements<'_>, commands: &[&Command]) -> Result<(), Error> {
    let keys: Vec<&str> = commands.iter().map(|command| command.key.as_str()).collect();
    let fingerprints: Vec<&[u8]> = commands.iter().map(|command| command.fingerprint.as_slice()).collect();
    let sql = "DELETE FROM ridethrough_writes AS w \
               USING unnest($1::text[], $2::bytea[]) AS again (key, fingerprint) \
               WHERE w.key = again.key AND w.fingerprint = again.fingerprint AND w.outcome = 'rejected'";
    statements.run(sql, &[&keys, &fingerprints]).await.map(|_| ())
}

/// What is recorded under several keys.
pub(super) async fn look_up_many(
    statements: &Statements<'_>,
    keys: &[&str],
) -> Result<HashMap<String, Known>, Error> {
    let sql = "SELECT key, fingerprint, outcome, answer, reason FROM ridethrough_writes \
               WHERE key = ANY ($1::text[])";
    let rows = statements.rows(sql, &[&keys]).await?;
    rows.iter().map(|row| Ok((row.try_get("key")?, known(row)?))).collect()
}

/// Records how several commands ended, each under its key; answers how many rows that made. It is fewer where somebody
/// else has a key by now, and then nothing of this transaction may count.
pub(super) async fn record_many(
    statements: &Statements<'_>,
    ended: &[(&Command, Settled)],
) -> Result<u64, Error> {
    let keys: Vec<&str> = ended.iter().map(|(command, _)| command.key.as_str()).collect();
    let names: Vec<&str> = ended.iter().map(|(command, _)| command.name.as_str()).collect();
    let fingerprints: Vec<&[u8]> = ended.iter().map(|(command, _)| command.fingerprint.as_slice()).collect();
    let accepted: Vec<SystemTime> = ended.iter().map(|(command, _)| command.accepted_at).collect();
    let outcomes: Vec<&str> = ended.iter().map(|(_, settled)| settled.as_str()).collect();
    let answers: Vec<Option<&[u8]>> = ended
        .iter()
        .map(|(_, settled)| match settled {
            Settled::Applied(answer) | Settled::Superseded(answer) => Some(answer.as_ref()),
            Settled::Refused(_) => None,
        })
        .collect();
    let refused = |settled: &Settled| matches!(settled, Settled::Refused(_));
    let payloads: Vec<Option<&[u8]>> =
        ended.iter().map(|(command, settled)| refused(settled).then_some(command.payload.as_ref())).collect();
    let reasons: Vec<Option<&str>> = ended
        .iter()
        .map(|(_, settled)| match settled {
            Settled::Refused(refusal) => Some(refusal.code.as_str()),
            Settled::Applied(_) | Settled::Superseded(_) => None,
        })
        .collect();
    // Sorted, so that two replicas that settle the same keys cannot wait for each other.
    let sql = "INSERT INTO ridethrough_writes \
               (key, command, fingerprint, outcome, answer, reason, payload, accepted_at) \
               SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bytea[], $6::text[], \
               $7::bytea[], $8::timestamptz[]) AS ended (key) ORDER BY ended.key ON CONFLICT (key) DO NOTHING";
    statements
        .run(sql, &[&keys, &names, &fingerprints, &outcomes, &answers, &reasons, &payloads, &accepted])
        .await
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
pub(super) struct RecordRejected<'r> {
    pub(super) key: &'r str,
    pub(super) command: &'r Command,
    pub(super) reason: &'r str,
}

impl Question for RecordRejected<'_> {
    type Answer = bool;

    fn operation(&self) -> &'static str {
        "reject"
    }

    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(&'c self, statements: &'c Statements<'c>) -> Result<bool, Error> {
        let Self { key, command, reason } = self;
        let recorded = statements
            .run(
                "INSERT INTO ridethrough_writes \
                 (key, command, fingerprint, outcome, reason, payload, accepted_at) \
                 VALUES ($1, $2, $3, 'rejected', $4, $5, $6) ON CONFLICT (key) DO NOTHING",
                &[
                    key,
                    &command.name,
                    &command.fingerprint.as_slice(),
                    reason,
                    &command.payload.as_ref(),
                    &command.accepted_at,
                ],
            )
            .await?;
        Ok(recorded == 1)
    }
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
            WriteState::Applied | WriteState::Pending | WriteState::Unknown => Settled::Applied(answer),
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
