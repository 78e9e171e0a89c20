//! How far a standby is behind: the instant up to which it surely has everything. Pure arithmetic.
//!
//! A standby that is cut off from its primary believes to be up to date (it has replayed all that it received), and a role
//! without privileges does not see when the primary last spoke to it. So the standby is not believed: its replayed
//! position is compared with those that the primary itself told. Where the primary had written no further than the
//! standby has replayed, the standby has all that was there when the primary was asked. That needs neither privileges
//! nor clocks that agree. Where the primary was never heard on this timeline, the time of the last replayed commit
//! bounds the lag from above, as far as the servers' clocks agree.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::roles::Sighting;

/// A minute of the primary's positions at two probes a second; a standby further behind than that is bounded by its clock.
const SAMPLES_MAX: usize = 128;

/// The positions of the primary over the last minute.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    timeline: Option<u32>,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    asked_at: Instant,
    position: u64,
}

impl Progress {
    /// The primary answered a question that was sent at `asked_at`.
    pub(crate) fn primary_told(&mut self, sighting: &Sighting, asked_at: Instant) {
        let (Some(timeline), Some(position)) = (sighting.timeline, sighting.position) else { return };
        if self.timeline != Some(timeline) {
            self.samples.clear();
            self.timeline = Some(timeline);
        }
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { asked_at, position });
    }

    /// The instant up to which a standby has everything that answered a question sent at `asked_at`; `None` where nobody
    /// knows.
    pub(crate) fn as_of(&self, standby: &Sighting, asked_at: Instant) -> Option<Instant> {
        let by_position =
            standby.position.filter(|_| standby.timeline == self.timeline).and_then(|replayed| {
                let covered = self.samples.iter().rev().find(|sample| sample.position <= replayed);
                covered.map(|sample| sample.asked_at)
            });
        let by_clock =
            standby.replayed_ago_ms.and_then(|ago| asked_at.checked_sub(Duration::from_millis(ago)));
        by_position.max(by_clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, position: u64) -> Sighting {
        Sighting { timeline: Some(timeline), position: Some(position), ..Sighting::default() }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The primary wrote 100 bytes a second, and was asked each second.
    fn busy(start: Instant) -> Progress {
        let mut progress = Progress::default();
        for second in 0..10 {
            progress.primary_told(&at(1, 1_000 + 100 * second), start + seconds(second));
        }
        progress
    }

    #[test]
    fn a_standby_has_what_the_primary_had_when_it_was_no_further() {
        let start = Instant::now();
        let progress = busy(start);
        let as_of = |position| progress.as_of(&at(1, position), start + seconds(10));
        assert_eq!(as_of(1_900), Some(start + seconds(9)));
        assert_eq!(as_of(5_000), Some(start + seconds(9)), "no further than the primary was heard");
        assert_eq!(as_of(1_899), Some(start + seconds(8)));
        assert_eq!(as_of(1_000), Some(start));
        assert_eq!(as_of(999), None, "further behind than anybody remembers");
    }

    /// `pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()` holds on a standby that hears nothing any more.
    #[test]
    fn a_standby_that_is_cut_off_falls_behind_as_the_primary_goes_on() {
        let start = Instant::now();
        let mut progress = busy(start);
        let cut_off = at(1, 1_900);
        for second in 10..40 {
            progress.primary_told(&at(1, 1_000 + 100 * second), start + seconds(second));
        }
        assert_eq!(progress.as_of(&cut_off, start + seconds(40)), Some(start + seconds(9)));
    }

    #[test]
    fn an_idle_primary_leaves_nobody_behind() {
        let start = Instant::now();
        let mut progress = Progress::default();
        for second in 0..1_000 {
            progress.primary_told(&at(1, 1_000), start + seconds(second));
        }
        let idle = Sighting { replayed_ago_ms: Some(1_000_000), ..at(1, 1_000) };
        assert_eq!(progress.as_of(&idle, start + seconds(3)), Some(start + seconds(999)));
    }

    #[test]
    fn a_primary_that_is_not_heard_any_more_proves_nothing_newer() {
        let start = Instant::now();
        let progress = busy(start);
        assert_eq!(progress.as_of(&at(1, 9_999), start + seconds(500)), Some(start + seconds(9)));
    }

    #[test]
    fn the_clock_of_the_last_commit_serves_where_positions_do_not() {
        let start = Instant::now() + seconds(100);
        let standby = Sighting { replayed_ago_ms: Some(2_000), ..at(1, 10) };
        assert_eq!(Progress::default().as_of(&standby, start), Some(start - seconds(2)));
        assert_eq!(Progress::default().as_of(&at(1, 10), start), None);
        let aeons = Sighting { replayed_ago_ms: Some(u64::MAX), ..at(1, 10) };
        let as_of = Progress::default().as_of(&aeons, start);
        assert!(as_of.is_none_or(|as_of| start - as_of > seconds(1_000_000)), "{as_of:?}");
    }

    /// After a promotion an old timeline can be longer than the new one; its standby would look up to date.
    #[test]
    fn positions_of_different_timelines_are_not_compared() {
        let start = Instant::now();
        let mut progress = busy(start);
        progress.primary_told(&at(2, 1_500), start + seconds(10));
        assert_eq!(progress.as_of(&at(1, 1_900), start + seconds(11)), None);
        assert_eq!(progress.as_of(&at(2, 1_500), start + seconds(11)), Some(start + seconds(10)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let start = Instant::now();
        let mut progress = Progress::default();
        for second in 0..10_000 {
            progress.primary_told(&at(1, second), start + seconds(second));
        }
        assert_eq!(progress.samples.len(), SAMPLES_MAX);
    }
}
