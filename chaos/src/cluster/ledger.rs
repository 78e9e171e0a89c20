//! The ledger of a failover: of the operations that were acknowledged, which survived, which were lost within the
//! window that the failover admits, and which were lost outside it. Pure; the window is measured in
//! `cluster/failover.rs`.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::cluster::Window;

/// What became of acknowledged operations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// How many are there.
    pub kept: usize,
    /// Lost, as the loss window admits: acknowledged by the old primary while its WAL was not shipped.
    pub inside: Vec<u64>,
    /// Lost although the new timeline must have them: a fault of whoever acknowledged them.
    pub outside: Vec<u64>,
}

impl Losses {
    /// Sorts the acknowledged operations, each with the time of its acknowledgement as its client saw it, by whether
    /// the new primary has them. `old` is what the old primary has, where that is known: an operation that neither has
    /// was never committed, so its loss is none of the failover.
    #[must_use]
    pub fn count(
        window: &Window,
        acknowledged: impl IntoIterator<Item = (u64, Instant)>,
        new: &BTreeSet<u64>,
        old: Option<&BTreeSet<u64>>,
    ) -> Self {
        let mut losses = Self::default();
        for (operation, at) in acknowledged {
            let was_committed = old.is_none_or(|old| old.contains(&operation));
            // Its client may have seen the acknowledgement after the death of who sent it, but it was asked for before
            // anything was promoted. Where the fork is the end, nothing may be lost at any time.
            let in_time = window.bytes() > 0 && at >= window.from && at < window.promoted;
            if new.contains(&operation) {
                losses.kept += 1;
            } else if was_committed && in_time {
                losses.inside.push(operation);
            } else {
                losses.outside.push(operation);
            }
        }
        losses.inside.sort_unstable();
        losses.outside.sort_unstable();
        losses
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::Lsn;
    use crate::process::Exit;

    fn window(start: Instant, fork: u64) -> Window {
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        Window {
            fork: Lsn(fork),
            end: Lsn(500),
            timeline: 2,
            from: at(100),
            until: at(200),
            promoted: at(300),
            exit: Exit { code: None, signal: Some(9) },
        }
    }

    #[test]
    fn a_loss_counts_by_the_time_of_its_acknowledgement() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let acknowledged = [(1, at(50)), (2, at(99)), (3, at(100)), (4, at(150)), (5, at(300))];
        let losses = Losses::count(&window(start, 400), acknowledged, &BTreeSet::from([1]), None);
        assert_eq!(losses, Losses { kept: 1, inside: vec![3, 4], outside: vec![2, 5] });
    }

    #[test]
    fn what_neither_primary_has_was_not_lost_by_the_failover() {
        let start = Instant::now();
        let acknowledged = [(1, start + Duration::from_millis(150)), (2, start + Duration::from_millis(150))];
        let losses =
            Losses::count(&window(start, 400), acknowledged, &BTreeSet::new(), Some(&BTreeSet::from([1])));
        assert_eq!((losses.inside, losses.outside), (vec![1], vec![2]));
    }

    #[test]
    fn a_failover_that_shipped_everything_admits_no_loss() {
        let start = Instant::now();
        let acknowledged = [(1, start + Duration::from_millis(150))];
        let losses = Losses::count(&window(start, 500), acknowledged, &BTreeSet::new(), None);
        assert_eq!(losses.outside, [1]);
    }
}
