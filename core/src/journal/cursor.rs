//! The durable acknowledged position: one small file, replaced whole. It does not decide when to store; losing it
//! is harmless, because then entries are only replayed again.

use std::io;

use crate::journal::disk::Disk;
use crate::journal::segment::create_whole;

/// The cursor's file.
pub(crate) const CURSOR_NAME: &str = "cursor";

const CURSOR_MAGIC: [u8; 8] = *b"RTcursor";
const CURSOR_VERSION: u16 = 1;
const CURSOR_BYTES: usize = 8 + 2 + 2 + 16 + 8 + 4;

/// All entries up to and including `through` are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) journal_id: [u8; 16],
    pub(crate) through: u64,
}

impl Cursor {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CURSOR_BYTES);
        out.extend_from_slice(&CURSOR_MAGIC);
        out.extend_from_slice(&CURSOR_VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.journal_id);
        out.extend_from_slice(&self.through.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; CURSOR_BYTES]) -> Option<Self> {
        let (covered, sum) = bytes.split_last_chunk::<4>()?;
        let (magic, rest) = covered.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (_reserved, rest) = rest.split_first_chunk::<2>()?;
        let (journal_id, rest) = rest.split_first_chunk::<16>()?;
        let (through, _) = rest.split_first_chunk::<8>()?;
        let sound = *magic == CURSOR_MAGIC
            && u16::from_le_bytes(*version) == CURSOR_VERSION
            && crc32c::crc32c(covered) == u32::from_le_bytes(*sum);
        sound.then_some(Self { journal_id: *journal_id, through: u64::from_le_bytes(*through) })
    }

    /// Stores the position; it is durable when this returns.
    ///
    /// # Errors
    /// Whatever the disk says; the former position is then still there.
    pub(crate) fn store(&self, disk: &dyn Disk) -> io::Result<()> {
        create_whole(disk, CURSOR_NAME, &self.encode()).map(drop)
    }

    /// The stored position; `None` where the file cannot be understood, which means replaying from the start.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(crate) fn load(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = disk.open(CURSOR_NAME)?;
        if file.length()? != CURSOR_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = [0; CURSOR_BYTES];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self::decode(&bytes))
    }
}
