//! Where a call goes: a pure choice from what is known of the hosts. It asks nobody and waits for nothing.
//!
//! Writes go to the primary and nowhere else. Reads go to the primary first; where it does not take them, to the standby
//! that is least behind, within the bound; and where that fails too and the read set no bound of its own, to any
//! standby whose lag is known, because a labelled answer of a minute ago beats none.

use std::time::Duration;

use super::hosts::Role;

/// Hosts in one URL at the most: labels of metrics come from a closed list, and a set of hosts fits into a byte.
pub(super) const HOSTS_MAX: usize = 8;

/// What is known of one host at the moment of the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) role: Role,
    /// Its circuit for reads lets calls through.
    pub(super) takes_reads: bool,
    /// Of a standby: how far it is behind at the most; `None` where nobody knows.
    pub(super) lag: Option<Duration>,
}

/// How old an answer of a standby may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Only the primary will do.
    PrimaryOnly,
    /// No older than this.
    AtMost(Duration),
    /// Rather no older than this, but any known age beats none.
    Rather(Duration),
}

/// Where a read goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To a host that has the truth.
    Primary(usize),
    /// To one that is behind.
    Standby { host: usize, lag: Duration },
}

impl Route {
    pub(super) fn host(self) -> usize {
        match self {
            Self::Primary(host) | Self::Standby { host, .. } => host,
        }
    }
}

/// Hosts that were tried already and failed this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tried(u8);

impl Tried {
    pub(super) fn add(&mut self, host: usize) {
        self.0 |= 1 << (host % HOSTS_MAX);
    }

    pub(super) fn has(self, host: usize) -> bool {
        self.0 & (1 << (host % HOSTS_MAX)) != 0
    }
}

/// Chooses the host of a read among `candidates`, which stand in the order of the URL.
pub(super) fn for_read(
    candidates: impl ExactSizeIterator<Item = Candidate> + Clone,
    bound: Bound,
    tried: Tried,
) -> Option<Route> {
    let single = candidates.len() == 1;
    let mut open_to_us_or_tried = candidates.clone().filter(|candidate| candidate.takes_reads);
    let open_to_us =
        candidates.enumerate().filter(|(host, candidate)| candidate.takes_reads && !tried.has(*host));
    let has_truth = |candidate: &Candidate| match candidate.role {
        Role::Primary | Role::ReadOnly => true,
        // Before the first probe; with one host there is no wrong choice.
        Role::Unknown => single,
        Role::Standby | Role::Alias | Role::Fenced(_) => false,
    };
    if let Some((host, _)) = open_to_us.clone().find(|(_, candidate)| has_truth(candidate)) {
        return Some(Route::Primary(host));
    }
    let limit = match bound {
        Bound::PrimaryOnly => return None,
        Bound::AtMost(limit) => limit,
        // A primary that failed one call is worth a second one; one that takes no calls is not.
        Bound::Rather(limit) if open_to_us_or_tried.any(|candidate| has_truth(&candidate)) => limit,
        Bound::Rather(_) => Duration::MAX,
    };
    open_to_us
        .filter(|(_, candidate)| candidate.role == Role::Standby)
        .filter_map(|(host, candidate)| candidate.lag.map(|lag| (host, lag)))
        .filter(|(_, lag)| *lag <= limit)
        .min_by_key(|(_, lag)| *lag)
        .map(|(host, lag)| Route::Standby { host, lag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::hosts::Fence;

    const FIVE: Duration = Duration::from_secs(5);

    fn host(role: Role) -> Candidate {
        Candidate { role, takes_reads: true, lag: None }
    }

    fn standby(seconds: u64) -> Candidate {
        Candidate { lag: Some(Duration::from_secs(seconds)), ..host(Role::Standby) }
    }

    fn away(candidate: Candidate) -> Candidate {
        Candidate { takes_reads: false, ..candidate }
    }

    fn chosen(candidates: &[Candidate], bound: Bound) -> Option<Route> {
        for_read(candidates.iter().copied(), bound, Tried::default())
    }

    fn behind(host: usize, seconds: u64) -> Option<Route> {
        Some(Route::Standby { host, lag: Duration::from_secs(seconds) })
    }

    #[test]
    fn the_table_of_roles_circuits_and_bounds() {
        use Bound::{AtMost, PrimaryOnly, Rather};
        let primary = host(Role::Primary);
        let read_only = host(Role::ReadOnly);
        let fenced = host(Role::Fenced(Fence::OldTimeline));
        let unknown = host(Role::Unknown);
        let unknown_lag = host(Role::Standby);
        let first = Some(Route::Primary(0));
        let second = Some(Route::Primary(1));
        let table: &[(&[Candidate], Bound, Option<Route>)] = &[
            (&[primary], AtMost(FIVE), first),
            (&[primary], PrimaryOnly, first),
            (&[read_only], PrimaryOnly, first),
            (&[away(primary)], Rather(FIVE), None),
            (&[unknown], PrimaryOnly, first),
            (&[unknown, unknown], Rather(FIVE), None),
            (&[unknown, primary], Rather(FIVE), second),
            (&[fenced], Rather(FIVE), None),
            (&[fenced, primary], Rather(FIVE), second),
            (&[standby(0), primary], AtMost(FIVE), second),
            (&[standby(0), away(primary)], PrimaryOnly, None),
            (&[standby(0), away(primary)], AtMost(FIVE), behind(0, 0)),
            (&[standby(5), away(primary)], AtMost(FIVE), behind(0, 5)),
            (&[standby(6), away(primary)], AtMost(FIVE), None),
            (&[standby(6), away(primary)], AtMost(Duration::ZERO), None),
            (&[standby(0), away(primary)], AtMost(Duration::ZERO), behind(0, 0)),
            (&[standby(6), away(primary)], Rather(FIVE), behind(0, 6)),
            (&[standby(6), standby(3), away(primary)], Rather(FIVE), behind(1, 3)),
            (&[standby(4), standby(3), away(primary)], AtMost(FIVE), behind(1, 3)),
            (&[standby(4), away(standby(3)), away(primary)], AtMost(FIVE), behind(0, 4)),
            (&[unknown_lag, away(primary)], Rather(FIVE), None),
            (&[unknown_lag, standby(9), away(primary)], Rather(FIVE), behind(1, 9)),
            (&[unknown_lag], Rather(FIVE), None),
            (&[standby(2)], Rather(FIVE), behind(0, 2)),
            (&[fenced, standby(1)], AtMost(FIVE), behind(1, 1)),
            (&[], Rather(FIVE), None),
        ];
        for (row, (candidates, bound, expected)) in table.iter().enumerate() {
            assert_eq!(chosen(candidates, *bound), *expected, "row {row}: {candidates:?} {bound:?}");
        }
    }

    #[test]
    fn a_host_that_failed_the_call_is_not_asked_again() {
        let candidates = [host(Role::Primary), standby(1), standby(2)];
        let mut tried = Tried::default();
        let mut asked = Vec::new();
        while let Some(route) = for_read(candidates.iter().copied(), Bound::AtMost(FIVE), tried) {
            asked.push(route.host());
            tried.add(route.host());
        }
        assert_eq!(asked, [0, 1, 2]);
    }

    #[test]
    fn one_failed_call_to_the_primary_is_no_reason_to_read_what_is_old() {
        let candidates = [host(Role::Primary), standby(40)];
        let mut tried = Tried::default();
        tried.add(0);
        assert_eq!(for_read(candidates.iter().copied(), Bound::Rather(FIVE), tried), None);
        let lost = [away(host(Role::Primary)), standby(40)];
        assert_eq!(for_read(lost.iter().copied(), Bound::Rather(FIVE), tried), behind(1, 40));
    }
}
