//! What is asked of entries without reading their files: names, fingerprint, time, and which file it is. Packed into blocks of
//! many entries each, so that an entry costs no allocation and a block goes as a whole.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::journal::index::RecordFile;

/// A block that is longer takes no further note.
const BLOCK_BYTES: usize = 64 * 1024;
/// Fingerprint, time, and the lengths of two names.
const FIXED_BYTES: usize = 32 + 8 + 1 + 1;
/// The longest note.
const NOTE_BYTES_MAX: usize = FIXED_BYTES + 255 + 255;

/// What is noted of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note<'a> {
    pub(crate) key: &'a str,
    pub(crate) ordering_key: &'a str,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) accepted_micros: i64,
}

/// The notes of entries whose sequences follow each other, all in one file.
#[derive(Debug)]
struct Block {
    /// The sequence of the first one.
    first: u64,
    file: Arc<RecordFile>,
    bytes: Vec<u8>,
}

/// All notes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notes {
    blocks: VecDeque<Block>,
}

impl Notes {
    /// Notes the next entry, and says where in its block.
    pub(super) fn push(&mut self, sequence: u64, file: &Arc<RecordFile>, note: &Note<'_>) -> u32 {
        let fits = |block: &&mut Block| Arc::ptr_eq(&block.file, file) && block.bytes.len() < BLOCK_BYTES;
        let block = match self.blocks.back_mut().filter(fits) {
            Some(block) => block,
            None => {
                let bytes = Vec::with_capacity(BLOCK_BYTES + NOTE_BYTES_MAX);
                self.blocks.push_back(Block { first: sequence, file: Arc::clone(file), bytes });
                self.blocks.back_mut().expect("a block was just put there")
            }
        };
        let at = block.bytes.len() as u32;
        let mut fixed = [0; FIXED_BYTES];
        let (fingerprint, rest) = fixed.split_at_mut(32);
        fingerprint.copy_from_slice(&note.fingerprint);
        let (micros, lengths) = rest.split_at_mut(8);
        micros.copy_from_slice(&note.accepted_micros.to_le_bytes());
        let names = [note.key, note.ordering_key]
            .map(|name| u8::try_from(name.len()).expect("a name has at most 255 bytes"));
        lengths.copy_from_slice(&names);
        block.bytes.extend_from_slice(&fixed);
        block.bytes.extend_from_slice(note.key.as_bytes());
        block.bytes.extend_from_slice(note.ordering_key.as_bytes());
        at
    }

    /// The note at a place that [`push`](Self::push) gave for this sequence, and the file of the entry.
    pub(super) fn get(&self, sequence: u64, at: u32) -> (&Arc<RecordFile>, Note<'_>) {
        let newest = self.blocks.back().filter(|block| block.first <= sequence);
        let found = || {
            let after = self.blocks.partition_point(|block| block.first <= sequence);
            self.blocks.get(after.checked_sub(1)?)
        };
        let block = newest.or_else(found).expect("a note stays as long as its entry");
        let note = block.bytes.get(at as usize..).and_then(note);
        (&block.file, note.expect("a note is read as it was written"))
    }

    /// Lets go of what only entries before this one need.
    pub(super) fn forget_before(&mut self, sequence: u64) {
        while self.blocks.get(1).is_some_and(|next| next.first <= sequence) {
            self.blocks.pop_front();
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }
}

/// The note at the start of these bytes.
fn note(bytes: &[u8]) -> Option<Note<'_>> {
    let (fingerprint, rest) = bytes.split_first_chunk()?;
    let (micros, rest) = rest.split_first_chunk()?;
    let ([key_bytes, ordering_key_bytes], rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked((*key_bytes).into())?;
    let ordering_key = rest.get(..(*ordering_key_bytes).into())?;
    Some(Note {
        key: std::str::from_utf8(key).ok()?,
        ordering_key: std::str::from_utf8(ordering_key).ok()?,
        fingerprint: *fingerprint,
        accepted_micros: i64::from_le_bytes(*micros),
    })
}
