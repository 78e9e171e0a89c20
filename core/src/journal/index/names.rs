//! Which entry has a name (a key, or an ordering key): a table of hashes and sequences, without the names themselves. Whoever
//! asks compares names, and only where a hash is the same.

use std::hash::{BuildHasher as _, RandomState};

/// Hashes names, by a key of its own, since names come from clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Naming(RandomState);

impl Naming {
    pub(crate) fn hash(&self, name: &str) -> NameHash {
        // Half of it tells a million names apart well enough, and the rest costs memory. It is never 0.
        NameHash((self.0.hash_one(name) as u32).max(1))
    }
}

/// The hash of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameHash(u32);

impl NameHash {
    /// In which of so many equal ranges it is.
    pub(super) fn range(self, ranges: usize) -> usize {
        ((u64::from(self.0) * ranges as u64) >> 32) as usize
    }

    /// All bits of a word, as the table wants them.
    pub(crate) fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// The hashes of the names of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hashes {
    pub(crate) key: NameHash,
    pub(crate) ordering_key: NameHash,
}

/// Of the places in a table two thirds are taken at most: looking for a name that is not there then ends in the line of memory
/// where it began.
const TAKEN_MAX: (usize, usize) = (2, 3);
/// Places of the smallest table.
const PLACES_MIN: usize = 16;

/// One sequence for each name: at the place that its hash leads to, or behind it with no free one between. A general table
/// keeps its notes on which places are taken apart, which a million names at once make wait twice for memory.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Hash and low half of the sequence, since all that are here at a time lie closer together; 0 where free.
    places: Vec<u64>,
    taken: usize,
}

impl Names {
    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, names: usize) {
        let places = places_for(self.taken + names);
        if places > self.places.len() {
            self.resize(places.max(2 * self.places.len()));
        }
    }

    /// Gives back room beyond that for so many.
    pub(super) fn shrink_to(&mut self, names: usize) {
        let places = places_for(self.taken.max(names));
        if places < self.places.len() {
            self.resize(places);
        }
    }

    fn resize(&mut self, places: usize) {
        let former = std::mem::replace(&mut self.places, vec![0; places]);
        for name in former.into_iter().filter(|name| *name != 0) {
            let (free, _) = self.seek(hash_of(name), |_| false);
            self.put(free, name);
        }
    }

    /// The sequence under a name: of those with the hash, the one that is it. No sequence here is before `first`.
    pub(super) fn find(&self, hash: NameHash, first: u64, is_it: impl Fn(u64) -> bool) -> Option<u64> {
        let (_, found) = self.seek(hash, |low| is_it(whole(low, first)));
        found.map(|low| whole(low, first))
    }

    /// Puts a sequence under a name, and gives the one that was there.
    pub(super) fn set(
        &mut self,
        hash: NameHash,
        sequence: u64,
        first: u64,
        is_it: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        self.reserve(1);
        let (place, found) = self.seek(hash, |low| is_it(whole(low, first)));
        self.put(place, (u64::from(hash.0) << 32) | u64::from(sequence as u32));
        self.taken += usize::from(found.is_none());
        found.map(|low| whole(low, first))
    }

    /// Takes a sequence out, where its name still leads to it.
    pub(super) fn remove(&mut self, hash: NameHash, sequence: u64) {
        let (mut free, found) = self.seek(hash, |low| low == sequence as u32);
        if found.is_none() {
            return;
        }
        self.taken -= 1;
        self.put(free, 0);
        // Those behind it move up, as far as they may, so that nobody stops looking for them here.
        let mut place = self.after(free);
        while let Some(name) = self.places.get(place).copied().filter(|name| *name != 0) {
            if self.distance(self.home(hash_of(name)), place) >= self.distance(free, place) {
                self.put(free, name);
                self.put(place, 0);
                free = place;
            }
            place = self.after(place);
        }
    }

    /// Where a name is, with its sequence, or else the free place for it.
    fn seek(&self, hash: NameHash, is_it: impl Fn(u32) -> bool) -> (usize, Option<u32>) {
        let mut place = self.home(hash);
        while let Some(name) = self.places.get(place).copied().filter(|name| *name != 0) {
            if hash_of(name) == hash && is_it(name as u32) {
                return (place, Some(name as u32));
            }
            place = self.after(place);
        }
        (place, None)
    }

    fn put(&mut self, place: usize, name: u64) {
        if let Some(there) = self.places.get_mut(place) {
            *there = name;
        }
    }

    /// Where a hash leads to; the order of hashes is that of places, so a table that grows is gone through once.
    fn home(&self, hash: NameHash) -> usize {
        hash.range(self.places.len())
    }

    /// The next place; the first one follows the last.
    fn after(&self, place: usize) -> usize {
        if place + 1 < self.places.len() { place + 1 } else { 0 }
    }

    /// How many steps it is on from one place to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { self.places.len() - from + to }
    }
}

/// The least places of a table of so many names; at least one stays free.
fn places_for(names: usize) -> usize {
    let (taken, of) = TAKEN_MAX;
    (names.saturating_mul(of).div_ceil(taken) + 1).max(PLACES_MIN)
}

fn hash_of(name: u64) -> NameHash {
    NameHash((name >> 32) as u32)
}

/// The sequence with these low bits that is not before `first`.
fn whole(low: u32, first: u64) -> u64 {
    first + u64::from(low.wrapping_sub(first as u32))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_one_hash_are_told_apart() {
        let mut names = Names::default();
        let hash = NameHash(7);
        assert_eq!(names.set(hash, 10, 10, |_| false), None);
        assert_eq!(names.set(hash, 11, 10, |_| false), None);
        assert_eq!(names.find(hash, 10, |sequence| sequence == 11), Some(11));
        assert_eq!(names.set(hash, 12, 10, |sequence| sequence == 10), Some(10));
        names.remove(hash, 10);
        assert_eq!(names.find(hash, 10, |sequence| sequence == 12), Some(12));
        names.remove(hash, 12);
        assert_eq!(names.find(hash, 10, |sequence| sequence == 12), None);
        assert_eq!(names.find(hash, 10, |sequence| sequence == 11), Some(11));
    }

    proptest! {
        /// Few hashes, at the ends of their range too, so that names push each other on and round the table's end.
        #[test]
        fn names_are_found_whatever_came_and_went(
            steps in vec((prop_oneof![0..4_u32, u32::MAX - 4..=u32::MAX, any::<u32>()], 0..3_u64, any::<bool>()), 1..200),
        ) {
            let (mut names, mut model) = (Names::default(), BTreeMap::new());
            for (number, (hash, name, is_set)) in steps.iter().enumerate() {
                let (hash, number) = (*hash | 1, number as u64);
                // Sequences of the same name are the same modulo 3.
                let sequence = number * 3 + name;
                if *is_set {
                    let former = names.set(NameHash(hash), sequence, 0, |other| other % 3 == *name);
                    prop_assert_eq!(former, model.insert((hash, *name), sequence));
                } else if let Some(sequence) = model.remove(&(hash, *name)) {
                    names.remove(NameHash(hash), sequence);
                }
                for ((hash, name), sequence) in &model {
                    let found = names.find(NameHash(*hash), 0, |other| other % 3 == *name);
                    prop_assert_eq!(found, Some(*sequence));
                }
                prop_assert_eq!(names.find(NameHash(hash), 0, |other| other % 3 == 7), None);
                prop_assert_eq!(names.taken, model.len());
                if number % 7 == 0 {
                    names.shrink_to(0);
                }
            }
        }
    }

    #[test]
    fn sequences_beyond_32_bits_come_back_whole() {
        let first = u64::from(u32::MAX) * 5 - 1;
        let mut names = Names::default();
        for sequence in first..first + 1_000 {
            let hash = Naming::default().hash(&sequence.to_string());
            names.set(hash, sequence, first, |_| false);
            assert_eq!(names.find(hash, first, |found| found == sequence), Some(sequence));
        }
    }
}
