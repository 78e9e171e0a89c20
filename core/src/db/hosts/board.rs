//! What is known of all hosts together, under one lock. It decides nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{lag::Progress, roles::Roles};

/// An alarm is repeated this often, not with every call or probe.
pub(in crate::db) const ALARM_REPEAT: Duration = Duration::from_secs(300);

/// How long after the start a host that has said nothing yet is waited for. One that is gone without a trace must not keep
/// the others from being written to.
const START_PATIENCE: Duration = Duration::from_millis(150);

/// The newest of each host.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) roles: Roles,
    pub(super) progress: Progress,
    pub(super) asked_at: Vec<Option<Instant>>,
    pub(super) standing: Vec<Standing>,
    /// When the host became doubted: not asked yet, lost, started anew, or it refused a write.
    pub(super) doubted_at: Vec<Option<Instant>>,
    /// Until when a host that was not asked yet is waited for.
    patient_until: Instant,
    /// When there was a primary last.
    pub(super) primary_until: Option<Instant>,
    /// When a write last found the disk full or the data damaged, and that was said.
    alarmed: Option<Instant>,
}

/// Whether a host answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    NotAsked,
    Answers,
    Away,
    /// It answers that it will not have us.
    Refuses,
}

/// Who is the primary: which host, on which timeline, where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::db) struct Reign {
    pub(super) host: usize,
    pub(super) timeline: Option<u32>,
}

impl Reign {
    /// Whether a standby was promoted between the two. One name may stand for both hosts, so that the timeline tells more
    /// than the host does.
    pub(in crate::db) fn is_another_than(self, before: Self) -> bool {
        match (self.timeline, before.timeline) {
            (Some(now), Some(before)) => now != before,
            _ => self.host != before.host,
        }
    }
}

impl Board {
    /// Nothing is known. With several hosts each is doubted until all were asked, as of `now`: the first that says it is the
    /// primary may be an old one.
    pub(super) fn new(count: usize, now: Instant) -> Self {
        Self {
            roles: Roles::new(count),
            progress: Progress::default(),
            asked_at: vec![None; count],
            standing: vec![Standing::NotAsked; count],
            doubted_at: vec![Some(now).filter(|_| count > 1); count],
            patient_until: now + START_PATIENCE,
            primary_until: None,
            alarmed: None,
        }
    }

    /// Whether something that a person must look at is to be said now.
    pub(super) fn is_time_for_alarm(&mut self, now: Instant) -> bool {
        let due = self.alarmed.is_none_or(|at| now.saturating_duration_since(at) >= ALARM_REPEAT);
        if due {
            self.alarmed = Some(now);
        }
        due
    }

    /// The host was down for a moment at least: where there are others, one of them may have been promoted meanwhile. Answers
    /// whether they are to be asked.
    pub(super) fn doubt(&mut self, host: usize, since: Instant) -> bool {
        let has_others = self.standing.len() > 1;
        if let Some(at) = self.doubted_at.get_mut(host).filter(|_| has_others) {
            *at = Some(since);
        }
        has_others
    }

    /// Whether the host was looked at since it became doubted, and so was every other one that answers: where it was away for
    /// a moment, somebody else may be the primary by now, and only that one knows.
    pub(super) fn is_cleared(&self, host: usize, now: Instant) -> bool {
        let Some(at) = self.doubted_at.get(host).copied().flatten() else { return true };
        let was_asked =
            |one: usize| self.asked_at.get(one).copied().flatten().is_some_and(|asked| asked >= at);
        let is_in_order = |(one, standing): (usize, &Standing)| match standing {
            Standing::Away | Standing::Refuses => one != host,
            Standing::NotAsked => now >= self.patient_until,
            Standing::Answers => was_asked(one),
        };
        self.standing.iter().enumerate().all(is_in_order)
    }

    pub(super) fn stands(&mut self, host: usize, standing: Standing) {
        if let Some(stands) = self.standing.get_mut(host) {
            *stands = standing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_shows_in_the_timeline_or_else_in_the_host() {
        let reign = |host, timeline| Reign { host, timeline };
        assert!(reign(0, Some(2)).is_another_than(reign(0, Some(1))), "one name for both hosts");
        assert!(!reign(1, Some(1)).is_another_than(reign(0, Some(1))), "two names for one host");
        assert!(reign(1, None).is_another_than(reign(0, Some(1))));
        assert!(!reign(0, Some(1)).is_another_than(reign(0, None)), "it was not known before");
    }
}
