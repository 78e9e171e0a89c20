//! A set of sequences as one bit each, from which the next one is found quickly. It knows nothing of entries.

use std::collections::VecDeque;

const BITS: u64 = u64::BITS as u64;

/// Sequences in a window that only moves forward.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// The number of the front word; its first bit is the sequence `base * 64`.
    base: u64,
    words: VecDeque<u64>,
}

impl Heads {
    fn position(&self, sequence: u64) -> Option<usize> {
        usize::try_from((sequence / BITS).checked_sub(self.base)?).ok()
    }

    /// Puts a sequence in; one before the window is ignored.
    pub(crate) fn set(&mut self, sequence: u64) {
        if self.words.is_empty() {
            self.base = sequence / BITS;
        }
        let Some(position) = self.position(sequence) else { return };
        if self.words.len() <= position {
            self.words.resize(position + 1, 0);
        }
        if let Some(word) = self.words.get_mut(position) {
            *word |= 1 << (sequence % BITS);
        }
    }

    /// Takes a sequence out; whether it was in.
    pub(crate) fn clear(&mut self, sequence: u64) -> bool {
        let bit = 1 << (sequence % BITS);
        let word = self.position(sequence).and_then(|position| self.words.get_mut(position));
        let Some(word) = word.filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        true
    }

    /// The least sequence in the set that is not before this one.
    pub(crate) fn at_or_after(&self, sequence: u64) -> Option<u64> {
        let from = sequence.max(self.base * BITS);
        let position = self.position(from)?;
        let mut mask = u64::MAX << (from % BITS);
        for (offset, word) in (position as u64..).zip(self.words.range(position.min(self.words.len())..)) {
            let rest = word & mask;
            if rest != 0 {
                return Some((self.base + offset) * BITS + u64::from(rest.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    /// Moves the window on; nothing before this sequence is asked for again.
    pub(crate) fn forget_before(&mut self, sequence: u64) {
        while self.base < sequence / BITS && self.words.pop_front().is_some() {
            self.base += 1;
        }
    }
}
