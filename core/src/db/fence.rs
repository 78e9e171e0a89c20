//! The fence: which process owns a journal, as PostgreSQL has it. A resumed zombie, or a process on a copied folder, must
//! not replay beside the owner.
//!
//! Each owner takes the next epoch of its journal before it replays, and each transaction of replay holds the row of that
//! epoch, shared, until it ends: so a new owner waits for what the old one has begun, and the old one can begin nothing
//! more. Idempotency keys alone keep effects single; the fence keeps the order, and tells an owner that is none any more.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio_postgres::Error;

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
pub(super) struct Take<'a>(pub(super) Claim<'a>);

impl Question for Take<'_> {
    type Answer = ();

    fn operation(&self) -> &'static str {
        "take-journal"
    }

    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(&'c self, statements: &'c Statements<'c>) -> Result<(), Error> {
        let sql = "INSERT INTO ridethrough_journals AS known (journal_id, epoch) VALUES ($1, 1) \
                   ON CONFLICT (journal_id) DO UPDATE SET epoch = known.epoch + 1, taken_at = now() \
                   RETURNING epoch";
        if let Some(row) = statements.row(sql, &[&self.0.journal.as_slice()]).await? {
            let epoch: i64 = row.try_get(0)?;
            let own = &self.0.fence.0;
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
        self.0.see(statements, "SELECT epoch FROM ridethrough_journals WHERE journal_id = $1").await
    }
}

impl Claim<'_> {
    /// Holds the epoch until the end of the transaction; `false` where it is not this owner's.
    pub(super) async fn hold(&self, statements: &Statements<'_>) -> Result<bool, Error> {
        self.see(statements, "SELECT epoch FROM ridethrough_journals WHERE journal_id = $1 FOR SHARE").await
    }

    async fn see(&self, statements: &Statements<'_>, sql: &str) -> Result<bool, Error> {
        let row = statements.row(sql, &[&self.journal.as_slice()]).await?;
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
