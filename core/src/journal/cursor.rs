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

/// Why the bytes of a cursor's file are not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorFault {
    #[error("the file does not have the {CURSOR_BYTES} bytes of a cursor")]
    Length,
    #[error("the file does not begin as a cursor does")]
    Magic,
    #[error("the cursor has format version {0}, and this program reads version {CURSOR_VERSION} only")]
    Version(u16),
    #[error("the cursor's checksum does not match")]
    Checksum,
}

/// All entries up to and including `through` are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) journal_id: [u8; 16],
    pub(crate) through: u64,
}

impl Cursor {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CURSOR_BYTES);
        out.extend_from_slice(&CURSOR_MAGIC);
        out.extend_from_slice(&CURSOR_VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.journal_id);
        out.extend_from_slice(&self.through.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads the whole content of a cursor's file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CursorFault> {
        let bytes: &[u8; CURSOR_BYTES] = bytes.try_into().map_err(|_| CursorFault::Length)?;
        let cut = CursorFault::Length;
        let (covered, sum) = bytes.split_last_chunk::<4>().ok_or(cut)?;
        let (magic, rest) = covered.split_first_chunk::<8>().ok_or(cut)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
        let (_reserved, rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
        let (journal_id, rest) = rest.split_first_chunk::<16>().ok_or(cut)?;
        let (through, _) = rest.split_first_chunk::<8>().ok_or(cut)?;
        if *magic != CURSOR_MAGIC {
            return Err(CursorFault::Magic);
        }
        match u16::from_le_bytes(*version) {
            CURSOR_VERSION => {}
            other => return Err(CursorFault::Version(other)),
        }
        if crc32c::crc32c(covered) != u32::from_le_bytes(*sum) {
            return Err(CursorFault::Checksum);
        }
        Ok(Self { journal_id: *journal_id, through: u64::from_le_bytes(*through) })
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
        Ok(Self::decode(&bytes).ok())
    }
}
