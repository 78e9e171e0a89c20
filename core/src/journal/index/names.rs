//! Which entry has a name (a key, or an ordering key): a table of hashes and sequences, without the names themselves. Whoever
//! asks compares names, and only where a hash is the same.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Hashes names, by a key of its own, since names come from clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Naming(RandomState);

impl Naming {
    pub(crate) fn hash(&self, name: &str) -> NameHash {
        // Half of it tells a million names apart well enough, and the rest costs memory.
        NameHash(self.0.hash_one(name) as u32)
    }
}

/// The hash of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameHash(u32);

impl NameHash {
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

/// One sequence for each name.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Of the sequences the low half: all that are here at a time lie closer together.
    table: HashTable<(NameHash, u32)>,
}

impl Names {
    pub(super) fn reserve(&mut self, names: usize) {
        self.table.reserve(names, |(hash, _)| hash.spread());
    }

    pub(super) fn shrink_to(&mut self, names: usize) {
        self.table.shrink_to(names, |(hash, _)| hash.spread());
    }

    /// The sequence under a name: of those with the hash, the one that is it. No sequence here is before `first`.
    pub(super) fn find(&self, hash: NameHash, first: u64, is_it: impl Fn(u64) -> bool) -> Option<u64> {
        let found =
            self.table.find(hash.spread(), |(other, low)| *other == hash && is_it(whole(*low, first)));
        found.map(|(_, low)| whole(*low, first))
    }

    /// Puts a sequence under a name, and gives the one that was there.
    pub(super) fn set(
        &mut self,
        hash: NameHash,
        sequence: u64,
        first: u64,
        is_it: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let same = |(other, low): &(NameHash, u32)| *other == hash && is_it(whole(*low, first));
        match self.table.entry(hash.spread(), same, |(hash, _)| hash.spread()) {
            Entry::Occupied(mut found) => {
                let (_, former) = std::mem::replace(found.get_mut(), (hash, sequence as u32));
                Some(whole(former, first))
            }
            Entry::Vacant(free) => {
                free.insert((hash, sequence as u32));
                None
            }
        }
    }

    /// Takes a sequence out, where its name still leads to it.
    pub(super) fn remove(&mut self, hash: NameHash, sequence: u64) {
        if let Ok(found) = self.table.find_entry(hash.spread(), |(_, low)| *low == sequence as u32) {
            found.remove();
        }
    }
}

/// The sequence with these low bits that is not before `first`.
fn whole(low: u32, first: u64) -> u64 {
    first + u64::from(low.wrapping_sub(first as u32))
}

#[cfg(test)]
mod tests {
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
