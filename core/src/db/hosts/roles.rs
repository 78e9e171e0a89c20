//! Which host is what: primary, standby, or fenced. Pure; it remembers what was seen and decides from it.
//!
//! A host is the primary only if it is not in recovery, belongs to the database system that was seen first, and no host was
//! ever seen on a higher timeline: a promotion raises the timeline, so an old primary that comes back is told apart and
//! nothing is written to it, nor read from it. What is not known (a role may be forbidden to ask) is not held against a
//! host.

/// What one host says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sighting {
    /// A standby, or a primary that is starting.
    pub(crate) in_recovery: bool,
    /// Sessions are read-only by default.
    pub(crate) read_only: bool,
    /// The system identifier: the same on a primary and its standbys, and on nothing else.
    pub(crate) system: Option<u64>,
    /// The timeline it writes to, or the least that it is known to follow.
    pub(crate) timeline: Option<u32>,
    /// How far its WAL goes: written on a primary, replayed on a standby.
    pub(crate) position: Option<u64>,
    /// When the server was started, in microseconds since 1970: with the system, it tells one server from another.
    pub(crate) started_us: Option<u64>,
    /// On a standby: milliseconds since the last commit that it replayed, by the server's own clock.
    pub(crate) replayed_ago_ms: Option<u64>,
}

impl Sighting {
    /// The same server under another name: same system, started at the same moment. Where that is not known: no.
    pub(crate) fn is_of_same_server(&self, other: &Self) -> bool {
        let is_known = self.system.is_some() && self.started_us.is_some() && self.timeline.is_some();
        let of = |seen: &Self| (seen.system, seen.started_us, seen.timeline, seen.in_recovery);
        is_known && of(self) == of(other)
    }

    /// The same name, and the server was started anew in between. Where one of the two is not known: no.
    pub(crate) fn is_restart_of(&self, before: &Self) -> bool {
        matches!((self.started_us, before.started_us), (Some(is), Some(was)) if is != was)
    }

    /// Another database system, or the same after a promotion. Where one of the two is not known: no.
    pub(crate) fn is_of_another_server(&self, before: &Self) -> bool {
        let differs =
            |is: Option<u64>, was: Option<u64>| matches!((is, was), (Some(is), Some(was)) if is != was);
        let timelines = !self.in_recovery && !before.in_recovery;
        differs(self.system, before.system)
            || (timelines && differs(self.timeline.map(u64::from), before.timeline.map(u64::from)))
    }
}

/// What a host is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Role {
    /// Has not answered yet.
    #[default]
    Unknown,
    /// Takes writes.
    Primary,
    /// Not in recovery, but refuses writes.
    ReadOnly,
    /// Replays the primary's WAL.
    Standby,
    /// Another name of the primary, as where one name stands for writes and one for reads. Used only when the first is lost.
    Alias,
    /// Must be neither written to nor read from.
    Fenced(Fence),
}

/// Why a host is fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Another database system than the one seen first.
    OtherSystem,
    /// An old primary: somebody was promoted after it.
    OldTimeline,
    /// Another host is the primary of the same timeline.
    SecondPrimary,
}

impl Role {
    /// The word used in logs and `/debug/state`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::ReadOnly => "read-only",
            Self::Standby => "standby",
            Self::Alias => "alias",
            Self::Fenced(_) => "fenced",
        }
    }

    /// Why it is fenced, in words.
    pub(crate) fn fence(self) -> Option<&'static str> {
        match self {
            Self::Fenced(Fence::OtherSystem) => Some("another database system"),
            Self::Fenced(Fence::OldTimeline) => Some("an old primary"),
            Self::Fenced(Fence::SecondPrimary) => Some("a second primary"),
            _ => None,
        }
    }

    /// A small number for an atomic, and back.
    pub(crate) fn to_u8(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Primary => 1,
            Self::ReadOnly => 2,
            Self::Standby => 3,
            Self::Fenced(Fence::OtherSystem) => 4,
            Self::Fenced(Fence::OldTimeline) => 5,
            Self::Fenced(Fence::SecondPrimary) => 6,
            Self::Alias => 7,
        }
    }

    pub(crate) fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Primary,
            2 => Self::ReadOnly,
            3 => Self::Standby,
            4 => Self::Fenced(Fence::OtherSystem),
            5 => Self::Fenced(Fence::OldTimeline),
            6 => Self::Fenced(Fence::SecondPrimary),
            7 => Self::Alias,
            _ => Self::Unknown,
        }
    }
}

/// What was seen of all hosts, and what follows.
#[derive(Debug)]
pub(crate) struct Roles {
    seen: Vec<Seen>,
    system: Option<u64>,
    /// The highest that any host was ever seen on.
    timeline_max: Option<u32>,
    primary: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    last: Option<Sighting>,
    answers: bool,
}

impl Roles {
    pub(crate) fn new(hosts: usize) -> Self {
        Self { seen: vec![Seen::default(); hosts], system: None, timeline_max: None, primary: None }
    }

    /// The host answered.
    pub(crate) fn saw(&mut self, host: usize, sighting: Sighting) {
        self.system = self.system.or(sighting.system);
        if self.is_ours(&sighting) {
            self.timeline_max = self.timeline_max.max(sighting.timeline);
        }
        if let Some(seen) = self.seen.get_mut(host) {
            *seen = Seen { last: Some(sighting), answers: true };
        }
        self.elect();
    }

    /// The host does not answer. It keeps its role until another takes its place.
    pub(crate) fn lost(&mut self, host: usize) {
        if let Some(seen) = self.seen.get_mut(host) {
            seen.answers = false;
        }
        self.elect();
    }

    /// The primary, be it reachable or not.
    pub(crate) fn primary(&self) -> Option<usize> {
        self.primary
    }

    /// What the host said last.
    pub(crate) fn last(&self, host: usize) -> Option<Sighting> {
        self.seen.get(host).and_then(|seen| seen.last)
    }

    pub(crate) fn answers(&self, host: usize) -> bool {
        self.seen.get(host).is_some_and(|seen| seen.answers)
    }

    pub(crate) fn role(&self, host: usize) -> Role {
        let Some(sighting) = self.last(host) else { return Role::Unknown };
        if !self.is_ours(&sighting) {
            Role::Fenced(Fence::OtherSystem)
        } else if sighting.in_recovery {
            Role::Standby
        } else if self.is_outdated(&sighting) {
            Role::Fenced(Fence::OldTimeline)
        } else if self.primary.is_some_and(|primary| primary != host) {
            if self.primary.is_some_and(|primary| self.are_same_server(primary, host)) {
                Role::Alias
            } else {
                // Also where it is read-only: only one of them has the truth.
                Role::Fenced(Fence::SecondPrimary)
            }
        } else if sighting.read_only {
            Role::ReadOnly
        } else {
            Role::Primary
        }
    }

    fn is_ours(&self, sighting: &Sighting) -> bool {
        match (self.system, sighting.system) {
            (Some(ours), Some(its)) => ours == its,
            _ => true,
        }
    }

    fn is_outdated(&self, sighting: &Sighting) -> bool {
        matches!((sighting.timeline, self.timeline_max), (Some(its), Some(highest)) if its < highest)
    }

    fn are_same_server(&self, one: usize, other: usize) -> bool {
        let sightings = self.last(one).zip(self.last(other));
        sightings.is_some_and(|(one, other)| one.is_of_same_server(&other))
    }

    fn could_be_primary(&self, seen: &Seen) -> bool {
        seen.last.is_some_and(|sighting| {
            self.is_ours(&sighting)
                && !sighting.in_recovery
                && !sighting.read_only
                && !self.is_outdated(&sighting)
        })
    }

    /// The primary stays while nothing speaks against it; when it is lost, another that takes writes follows.
    fn elect(&mut self) {
        let is_candidate = |host: usize| self.seen.get(host).is_some_and(|seen| self.could_be_primary(seen));
        let stays = self.primary.filter(|host| is_candidate(*host));
        if let Some(host) = stays.filter(|host| self.answers(*host)) {
            // Of two names of one server the first, whichever was seen first.
            let is_first_name = |other: &usize| {
                self.answers(*other) && is_candidate(*other) && self.are_same_server(*other, host)
            };
            self.primary = (0..host).find(is_first_name).or(stays);
            return;
        }
        // A promotion raises the timeline. Who claims to be the primary on that of the lost one was not promoted but copied,
        // or is the lost one under another name; and what it wrote, the lost one will not have when it is back.
        let timeline_of = |host: usize| self.last(host).and_then(|sighting| sighting.timeline);
        let lost = stays.and_then(timeline_of);
        let is_other =
            |host: usize| stays.is_some_and(|lost| lost != host && !self.are_same_server(lost, host));
        let is_copy = |host: usize| is_other(host) && lost.is_some() && timeline_of(host) == lost;
        let mut candidates = (0..self.seen.len()).filter(|host| self.answers(*host) && is_candidate(*host));
        self.primary = candidates.find(|host| !is_copy(*host)).or(stays);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(timeline: u32) -> Sighting {
        Sighting { system: Some(7), timeline: Some(timeline), ..Sighting::default() }
    }

    fn standby(timeline: u32) -> Sighting {
        Sighting { in_recovery: true, read_only: true, ..primary(timeline) }
    }

    fn roles(sightings: &[Sighting]) -> Roles {
        let mut roles = Roles::new(sightings.len());
        for (host, sighting) in sightings.iter().enumerate() {
            roles.saw(host, *sighting);
        }
        roles
    }

    #[test]
    fn a_primary_and_its_standby_are_told_apart() {
        let roles = roles(&[standby(1), primary(1)]);
        assert_eq!((roles.role(0), roles.role(1)), (Role::Standby, Role::Primary));
        assert_eq!(roles.primary(), Some(1));
    }

    #[test]
    fn nobody_is_primary_before_being_seen() {
        let roles = Roles::new(2);
        assert_eq!((roles.role(0), roles.primary()), (Role::Unknown, None));
        assert_eq!(roles.role(9), Role::Unknown, "no such host");
    }

    #[test]
    fn a_promoted_standby_follows_and_the_old_primary_that_comes_back_is_fenced() {
        let mut roles = roles(&[primary(1), standby(1)]);
        roles.lost(0);
        assert_eq!(roles.primary(), Some(0), "nobody took its place yet");
        roles.saw(1, primary(2));
        assert_eq!(roles.primary(), Some(1));
        roles.saw(0, primary(1));
        assert_eq!((roles.role(0), roles.role(1)), (Role::Fenced(Fence::OldTimeline), Role::Primary));
        roles.lost(1);
        assert_eq!(roles.role(0), Role::Fenced(Fence::OldTimeline), "also while the new one is away");
        roles.saw(0, standby(2));
        assert_eq!(roles.role(0), Role::Standby, "rewound, it follows");
    }

    #[test]
    fn a_promotion_beside_a_living_primary_takes_the_writes() {
        let mut roles = roles(&[primary(1), standby(1)]);
        roles.saw(1, primary(2));
        assert_eq!(roles.primary(), Some(1));
        assert_eq!(roles.role(0), Role::Fenced(Fence::OldTimeline));
    }

    #[test]
    fn a_standby_of_a_higher_timeline_gives_an_old_primary_away() {
        let roles = roles(&[primary(1), standby(2)]);
        assert_eq!((roles.role(0), roles.primary()), (Role::Fenced(Fence::OldTimeline), None));
    }

    #[test]
    fn a_timeline_that_goes_down_fences_a_single_host_too() {
        let mut roles = roles(&[primary(3)]);
        roles.saw(0, primary(2));
        assert_eq!(roles.role(0), Role::Fenced(Fence::OldTimeline));
        assert_eq!(roles.primary(), None);
    }

    #[test]
    fn another_database_system_is_fenced_as_primary_and_as_standby() {
        let mut roles = roles(&[primary(1), standby(1)]);
        let foreign = Sighting { system: Some(8), ..primary(9) };
        roles.saw(1, foreign);
        assert_eq!(roles.role(1), Role::Fenced(Fence::OtherSystem));
        assert_eq!(roles.role(0), Role::Primary, "a foreign timeline says nothing about ours");
        roles.saw(1, Sighting { in_recovery: true, ..foreign });
        assert_eq!(roles.role(1), Role::Fenced(Fence::OtherSystem));
    }

    #[test]
    fn two_primaries_of_one_timeline_are_never_both_written_to() {
        let mut roles = roles(&[primary(1), primary(1)]);
        assert_eq!((roles.role(0), roles.role(1)), (Role::Primary, Role::Fenced(Fence::SecondPrimary)));
        roles.saw(1, primary(1));
        assert_eq!(roles.primary(), Some(0), "it stays");
    }

    /// The primary missed two probes, and writes went to the other one, which was a copy that had never been promoted: two
    /// servers with writes that the other does not have.
    #[test]
    fn a_second_primary_of_the_same_timeline_does_not_follow_a_lost_one() {
        let mut roles = roles(&[primary(1), primary(1)]);
        roles.lost(0);
        roles.saw(1, primary(1));
        assert_eq!((roles.primary(), roles.role(1)), (Some(0), Role::Fenced(Fence::SecondPrimary)));
        roles.saw(1, primary(2));
        assert_eq!((roles.primary(), roles.role(1)), (Some(1), Role::Primary), "promoted, it does");
    }

    /// Reads from it were labelled as the truth while the primary was away.
    #[test]
    fn a_second_primary_that_takes_no_writes_is_fenced_too() {
        let mut roles = roles(&[primary(1), Sighting { read_only: true, ..primary(1) }]);
        assert_eq!(roles.role(1), Role::Fenced(Fence::SecondPrimary));
        roles.lost(0);
        assert_eq!(roles.role(1), Role::Fenced(Fence::SecondPrimary));
    }

    /// One server under a name for writes and one for reads raised the alarm of a second primary every five minutes.
    #[test]
    fn two_names_of_one_server_are_one_primary_and_the_first_is_used() {
        let named = Sighting { started_us: Some(5), ..primary(1) };
        let mut roles = Roles::new(2);
        roles.saw(1, named);
        assert_eq!(roles.primary(), Some(1), "as long as the first was not seen");
        roles.saw(0, named);
        assert_eq!((roles.role(0), roles.role(1)), (Role::Primary, Role::Alias));
        roles.lost(0);
        assert_eq!((roles.role(0), roles.role(1)), (Role::Alias, Role::Primary), "only the name is away");
        roles.saw(0, named);
        assert_eq!(roles.primary(), Some(0));
        roles.saw(1, Sighting { started_us: Some(6), ..named });
        assert_eq!(roles.role(1), Role::Fenced(Fence::SecondPrimary), "started apart: two servers");
        roles.saw(1, standby(1));
        assert_eq!(roles.role(1), Role::Standby, "the name for reads leads elsewhere now");
    }

    #[test]
    fn a_read_only_primary_gives_way_and_comes_back() {
        let mut roles = roles(&[primary(1)]);
        roles.saw(0, Sighting { read_only: true, ..primary(1) });
        assert_eq!((roles.role(0), roles.primary()), (Role::ReadOnly, None));
        roles.saw(0, primary(1));
        assert_eq!((roles.role(0), roles.primary()), (Role::Primary, Some(0)));
    }

    #[test]
    fn a_server_that_tells_no_identity_works() {
        let mut roles = roles(&[Sighting::default(), Sighting { in_recovery: true, ..Sighting::default() }]);
        assert_eq!((roles.role(0), roles.role(1)), (Role::Primary, Role::Standby));
        roles.lost(0);
        roles.saw(1, Sighting::default());
        roles.saw(0, Sighting::default());
        assert_eq!(roles.primary(), Some(1), "the one that came back does not take over");
    }

    #[test]
    fn roles_survive_their_number() {
        use Fence::{OldTimeline, OtherSystem, SecondPrimary};
        let fenced = [OtherSystem, OldTimeline, SecondPrimary].map(Role::Fenced);
        for role in [Role::Unknown, Role::Primary, Role::ReadOnly, Role::Standby, Role::Alias]
            .into_iter()
            .chain(fenced)
        {
            assert_eq!(Role::from_u8(role.to_u8()), role);
        }
    }
}
