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

/// Where a note is.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoteAt {
    /// The number of its block since the start, from which it follows where that is now.
    block: u32,
    offset: u32,
}

impl NoteAt {
    /// Where it is once its notes were [joined](Notes::append) to others.
    pub(super) fn shifted(self, shift: u32) -> Self {
        Self { block: self.block.wrapping_add(shift), offset: self.offset }
    }
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
    /// The number of the front block.
    front: u32,
}

impl Notes {
    /// Notes the next entry, and says where.
    pub(super) fn push(&mut self, sequence: u64, file: &Arc<RecordFile>, note: &Note<'_>) -> NoteAt {
        let fits = |block: &Block| Arc::ptr_eq(&block.file, file) && block.bytes.len() < BLOCK_BYTES;
        if !self.blocks.back().is_some_and(fits) {
            let bytes = Vec::with_capacity(BLOCK_BYTES + NOTE_BYTES_MAX);
            self.blocks.push_back(Block { first: sequence, file: Arc::clone(file), bytes });
        }
        let newest = self.blocks.len() - 1;
        let block = self.blocks.back_mut().expect("a block was put there where none was");
        let at = NoteAt { block: self.front.wrapping_add(newest as u32), offset: block.bytes.len() as u32 };
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

    /// The note that [`push`](Self::push) put there, and the file of its entry.
    pub(super) fn get(&self, at: NoteAt) -> (&Arc<RecordFile>, Note<'_>) {
        let block = self.blocks.get(at.block.wrapping_sub(self.front) as usize);
        let block = block.expect("a note stays as long as its entry");
        let note = block.bytes.get(at.offset as usize..).and_then(note);
        (&block.file, note.expect("a note is read as it was written"))
    }

    /// Takes the notes of entries that follow; gives how far their blocks' numbers move.
    pub(super) fn append(&mut self, mut later: Self) -> u32 {
        let shift = self.front.wrapping_add(self.blocks.len() as u32).wrapping_sub(later.front);
        self.blocks.append(&mut later.blocks);
        shift
    }

    /// Lets go of what only entries before this one need.
    pub(super) fn forget_before(&mut self, sequence: u64) {
        while self.blocks.get(1).is_some_and(|next| next.first <= sequence) {
            self.blocks.pop_front();
            self.front = self.front.wrapping_add(1);
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
