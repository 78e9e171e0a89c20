//! Whether the operations on one register could have happened one after the other: Gibbons and Korach's zones. Knows
//! nothing of histories.
//!
//! Each value is written once, so a write and the reads that show it form a group, and in any order that explains the
//! history the operations of a group stand side by side. Group A must come before group B if some operation of A ended
//! before some operation of B began: if A's first end lies before B's last beginning. Two groups that must each come
//! before the other are a proof that no order exists, and if there are none, one does. The time between first end and
//! last beginning is the group's zone; a proof is always a zone that runs forward in time and a zone that meets it.
//! Equal times count as overlap.

use std::collections::HashSet;

/// One value's group: what it takes to order it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Zone {
    /// When the first operation of the group ended.
    pub(crate) first_end: u64,
    /// When the last operation of the group began.
    pub(crate) last_begin: u64,
}

impl Zone {
    fn forward(&self) -> bool {
        self.first_end < self.last_begin
    }

    /// Whether each of the two must come before the other.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        self.first_end < other.last_begin && other.first_end < self.last_begin
    }
}

/// Pairs of groups, by their places, that contradict each other. Empty if and only if there is an order. A group that
/// reaches across many others comes with one of them only, so that one wrong answer counts as one. Takes as long as
/// sorting does.
pub(crate) fn conflicts(zones: &[Zone]) -> Vec<(usize, usize)> {
    let at = |place: usize| zones.get(place).copied();
    let mut forward: Vec<(u64, usize)> = Vec::new();
    let mut backward = Vec::new();
    for (place, zone) in zones.iter().enumerate() {
        if zone.forward() { forward.push((zone.first_end, place)) } else { backward.push(place) }
    }
    forward.sort_unstable();
    // For each forward zone, the one that reaches furthest among it and all that begin earlier.
    let mut furthest: Vec<usize> = Vec::with_capacity(forward.len());
    let mut found = Vec::new();
    for &(_, place) in &forward {
        let before = furthest.last().copied();
        let Some((zone, reach)) = at(place).map(|zone| (zone, before.and_then(at))) else { continue };
        if let (Some(before), Some(reach)) = (before, reach)
            && reach.conflicts(&zone)
        {
            found.push((before, place));
        }
        let further = reach.is_some_and(|reach| reach.last_begin >= zone.last_begin);
        furthest.push(if further { before.unwrap_or(place) } else { place });
    }
    for place in backward {
        let Some(zone) = at(place) else { continue };
        // Only one that ends first before this group's last beginning can conflict; the furthest of them does if any.
        let earlier = forward.partition_point(|(first_end, _)| *first_end < zone.last_begin);
        let widest = earlier.checked_sub(1).and_then(|last| furthest.get(last).copied());
        if let Some(widest) = widest
            && at(widest).is_some_and(|wide| wide.conflicts(&zone))
        {
            found.push((widest, place));
        }
    }
    let mut blamed = HashSet::new();
    found.retain(|(widest, _)| blamed.insert(*widest));
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(first_end: u64, last_begin: u64) -> Zone {
        Zone { first_end, last_begin }
    }

    #[test]
    fn forward_zones_may_touch_and_not_overlap() {
        assert_eq!(conflicts(&[zone(1, 5), zone(5, 9)]), []);
        assert_eq!(conflicts(&[zone(1, 6), zone(5, 9)]), [(0, 1)]);
        assert_eq!(conflicts(&[zone(1, 9), zone(2, 3), zone(5, 6)]), [(0, 1)]);
    }

    #[test]
    fn a_backward_zone_may_lie_across_an_end_and_not_inside() {
        assert_eq!(conflicts(&[zone(3, 8), zone(9, 4)]), []);
        assert_eq!(conflicts(&[zone(3, 8), zone(6, 2)]), []);
        assert_eq!(conflicts(&[zone(3, 8), zone(6, 5)]), [(0, 1)]);
        assert_eq!(conflicts(&[zone(9, 1), zone(8, 2)]), []);
    }

    proptest! {
        #[test]
        fn it_finds_something_where_comparing_every_pair_does(
            zones in prop::collection::vec((0_u64..30, 0_u64..30), 0..12)
        ) {
            let zones: Vec<Zone> = zones.into_iter().map(|(end, begin)| zone(end, begin)).collect();
            let pairs = zones.iter().enumerate().any(|(place, a)| {
                zones.iter().skip(place + 1).any(|b| a.conflicts(b))
            });
            let found = conflicts(&zones);
            prop_assert_eq!(!found.is_empty(), pairs);
            for (a, b) in found {
                prop_assert!(zones[a].conflicts(&zones[b]));
            }
        }
    }
}
