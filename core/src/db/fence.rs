//! The fence: which process owns a journal, as PostgreSQL has it. A resumed zombie, or a process on a copied folder, must
//! not replay beside the owner.
//!
//! Each owner takes the next epoch of its journal before it replays, and each transaction of replay holds the row of that
//! epoch, shared, until it ends: so a new owner waits for what the old one has begun, and the old one can begin nothing
//! more. Idempotency keys alone keep effects single; the fence keeps the order, and tells an owner that is none any more.
//!
//! Epochs grow by random steps: a failover can lose the newest one, and whoever takes one after that must not come to the
//! same number. And they are taken behind a lock with a queue: those who share a row let each other pass for ever, in front
//! of whoever wants to change it.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio_postgres::{Error, Row};

use super::{asked::Question, statements::Statements};

/// Why a fenced owner journals nothing: a reason as those of [`AppendError`](crate::journal::AppendError).
pub(super) const FENCED: &str = "fenced";

/// No epoch was taken yet.
const NOT_TAKEN: i64 = 0;
/// Somebody else has a newer one.
const LOST: i64 = -1;

/// The epoch of this process.
#[derive(Debug, Default)]
pub(super) struct Fence(AtomicI64);

/// What a transaction of replay must hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) fence: &'a Fence,
    pub(super) journal: [u8; 16],
}

impl Claim<'_> {
    /// The number under which all who hold or take this journal's epoch queue up; it is made of random bytes. Where another
    /// lock of the database has the same, one waits for the other for a moment.
    fn queue(&self) -> i64 {
        i64::from_le_bytes(self.journal.first_chunk().copied().unwrap_or_default())
    }
}

impl Fence {
    pub(super) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire) > NOT_TAKEN
    }

    /// Whether another owner was seen; that never ends.
    pub(super) fn is_lost(&self) -> bool {
        self.0.load(Ordering::Acquire) == LOST
    }

    /// What the database says of the journal's epoch; `None` where it knows of none. Answers whether it is this owner's.
    fn see(&self, found: Option<i64>) -> bool {
        let own = self.0.load(Ordering::Acquire);
        match found {
            _ if own == LOST => false,
            Some(epoch) if epoch == own => true,
            Some(epoch) if own > NOT_TAKEN && epoch > own => {
                if self.0.swap(LOST, Ordering::AcqRel) != LOST {
                    tracing::error!(
                        own,
                        epoch,
                        "this journal has another owner now: nothing of it is replayed here any more"
                    );
                }
                false
            }
            // A failover lost it, or somebody removed it: it is taken anew. Whoever else held it does the same, and the
            // last one stays.
            _ => {
                let _ = self.0.compare_exchange(own, NOT_TAKEN, Ordering::AcqRel, Ordering::Acquire);
                false
            }
        }
    }
}

/// Takes the next epoch; every owner before this one is fenced from then on.
pub(super) struct Take<'a> {
    claim: Claim<'a>,
    step: i64,
}

impl<'a> Take<'a> {
    /// With a number that nobody else draws.
    pub(super) fn new(claim: Claim<'a>, drawn: u32) -> Self {
        Self { claim, step: 1 + i64::from(drawn) }
    }
}

impl Question for Take<'_> {
    type Answer = ();

    fn operation(&self) -> &'static str {
        "take-journal"
    }

    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(&'c self, statements: &'c Statements<'c>) -> Result<(), Error> {
        // It waits for as long as a transaction of the owner before may last, which is longer than sessions wait for locks
        // else; the arithmetic makes the one come before the other.
        let sql = "INSERT INTO ridethrough_journals AS known (journal_id, epoch) \
                   SELECT $1::bytea, $2::bigint FROM set_config('lock_timeout', '4500', true) AS patient, \
                   LATERAL pg_advisory_xact_lock($3::bigint + 0 * length(patient)) \
                   ON CONFLICT (journal_id) DO UPDATE SET epoch = known.epoch + excluded.epoch, taken_at = now() \
                   RETURNING epoch";
        let Self { claim, step } = self;
        if let Some(row) = statements.row(sql, &[&claim.journal.as_slice(), step, &claim.queue()]).await? {
            let epoch: i64 = row.try_get(0)?;
            let own = &claim.fence.0;
            let _ = own.compare_exchange(NOT_TAKEN, epoch, Ordering::AcqRel, Ordering::Acquire);
        }
        Ok(())
    }
}

/// Whether the epoch is still this owner's.
pub(super) struct Look<'a>(pub(super) Claim<'a>);

impl Question for Look<'_> {
    type Answer = bool;

    fn operation(&self) -> &'static str {
        "look-at-journal"
    }

    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(&'c self, statements: &'c Statements<'c>) -> Result<bool, Error> {
        let sql = "SELECT epoch FROM ridethrough_journals WHERE journal_id = $1";
        let row = statements.row(sql, &[&self.0.journal.as_slice()]).await?;
        self.0.see(row)
    }
}

impl Claim<'_> {
    /// Holds the epoch until the end of the transaction; `false` where it is not this owner's.
    pub(super) async fn hold(&self, statements: &Statements<'_>) -> Result<bool, Error> {
        // The lock of the row too: it shows the newest epoch, however long the queue was, and older programs know no queue.
        let sql = "SELECT epoch FROM ridethrough_journals AS known, \
                   LATERAL pg_advisory_xact_lock_shared($2::bigint) \
                   WHERE journal_id = $1 FOR SHARE OF known";
        let row = statements.row(sql, &[&self.journal.as_slice(), &self.queue()]).await?;
        self.see(row)
    }

    fn see(&self, row: Option<Row>) -> Result<bool, Error> {
        Ok(self.fence.see(row.map(|row| row.try_get(0)).transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(epoch: i64) -> Fence {
        Fence(AtomicI64::new(epoch))
    }

    #[test]
    fn an_owner_is_fenced_by_a_newer_one_and_for_good() {
        let fence = owner(3);
        assert!(fence.see(Some(3)) && fence.is_taken());
        assert!(!fence.see(Some(4)) && fence.is_lost());
        assert!(!fence.see(Some(3)) && fence.is_lost());
        assert!(!fence.see(None) && fence.is_lost());
    }

    /// A failover to a standby that lacked the last transactions is no other owner.
    #[test]
    fn an_epoch_that_went_back_is_taken_anew() {
        for found in [None, Some(2)] {
            let fence = owner(3);
            assert!(!fence.see(found) && !fence.is_lost() && !fence.is_taken(), "{found:?}");
        }
    }

    #[test]
    fn who_took_none_is_not_fenced() {
        let fence = Fence::default();
        assert!(!fence.see(Some(7)) && !fence.is_lost());
    }
}
