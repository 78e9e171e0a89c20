//! One fault of the preload shim: which calls it meets, on which files, and what becomes of them. Also its bytes in
//! the control file, which `shim/shim.c` reads; putting it there is in `shim.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::error::Error;

/// Bits of the calls.
const WRITE: u64 = 1;
const SYNC: u64 = 2;
const ALLOCATE: u64 = 4;
const CLOCK: u64 = 8;

/// Numbers of the effects.
const FAIL: u64 = 1;
const SHORT: u64 = 2;
const DELAY: u64 = 3;
const SHIFT: u64 = 4;

/// Numbers before the path: active, calls, effect, amount, growing, the most hits, hits, unused.
const NUMBERS: usize = 8;
/// Bytes of a path, its closing zero included.
const PATH_BYTES: usize = 448;

/// A fault of disk or clock, to be put on by [`Victim::apply`](super::Victim::apply).
///
/// The disk faults meet calls on files below one folder, and no others.
#[derive(Debug, Clone)]
pub struct Rule {
    calls: u64,
    effect: u64,
    amount: i64,
    growing: bool,
    /// 0 is without end.
    hits_max: u64,
    below: Option<PathBuf>,
    about: &'static str,
}

impl Rule {
    /// The disk is full: writes that make a file longer, and reservations of room, fail with ENOSPC. Writes over what
    /// is there go through.
    #[must_use]
    pub fn full(below: &Path) -> Self {
        let fails = Self::fails(WRITE | ALLOCATE, Errno::NOSPC, below, "ENOSPC where a file would grow");
        Self { growing: true, ..fails }
    }

    /// The disk takes no write: each fails with ENOSPC, also one over what is there. For files that got their room
    /// in advance, as a journal's segments do.
    #[must_use]
    pub fn full_to_the_brim(below: &Path) -> Self {
        Self::fails(WRITE | ALLOCATE, Errno::NOSPC, below, "ENOSPC at each write")
    }

    /// Writes fail with EIO.
    #[must_use]
    pub fn write_fails(below: &Path) -> Self {
        Self::fails(WRITE | ALLOCATE, Errno::IO, below, "EIO at each write")
    }

    /// Syncs (`fsync`, `fdatasync`) fail with EIO, without syncing.
    #[must_use]
    pub fn sync_fails(below: &Path) -> Self {
        Self::fails(SYNC, Errno::IO, below, "EIO at each sync")
    }

    /// Each sync takes longer by `delay`, in whole milliseconds.
    #[must_use]
    pub fn slow_sync(below: &Path, delay: Duration) -> Self {
        let amount = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        Self { effect: DELAY, amount, ..Self::fails(SYNC, Errno::IO, below, "a slow sync") }
    }

    /// Writes of more than one byte write the first half only, and say so.
    #[must_use]
    pub fn short_writes(below: &Path) -> Self {
        Self { effect: SHORT, ..Self::fails(WRITE, Errno::IO, below, "a short write") }
    }

    /// Writes fail with EINTR. To be used with [`Rule::at_most`]: a correct program tries again, without end.
    #[must_use]
    pub fn interrupted(below: &Path) -> Self {
        Self::fails(WRITE, Errno::INTR, below, "EINTR at a write")
    }

    /// The wall clock is off by so many milliseconds, forward or back. The monotonic clock is not touched.
    #[must_use]
    pub fn clock_jump(milliseconds: i64) -> Self {
        Self {
            calls: CLOCK,
            effect: SHIFT,
            amount: milliseconds,
            growing: false,
            hits_max: 0,
            below: None,
            about: "a look at the shifted wall clock",
        }
    }

    /// The same, for that many calls only (at least 1).
    #[must_use]
    pub fn at_most(self, hits: u64) -> Self {
        Self { hits_max: hits.max(1), ..self }
    }

    fn fails(calls: u64, error: Errno, below: &Path, about: &'static str) -> Self {
        let amount = i64::from(error.raw_os_error());
        Self {
            calls,
            effect: FAIL,
            amount,
            growing: false,
            hits_max: 0,
            below: Some(below.to_owned()),
            about,
        }
    }

    /// What one hit is, for a witness.
    pub(super) fn about(&self) -> String {
        let below = self.below.as_ref().map(|below| format!(" below {}", below.display()));
        format!("{}{}", self.about, below.unwrap_or_default())
    }

    /// Its bytes, not yet active.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let hits = 0;
        let amount = u64::from_ne_bytes(self.amount.to_ne_bytes());
        let numbers: [u64; NUMBERS] =
            [0, self.calls, self.effect, amount, u64::from(self.growing), self.hits_max, hits, 0];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let head = bytes.len();
        if let Some(below) = &self.below {
            // The shim compares with what the kernel calls an open file: no links, no `..`.
            let below = below.canonicalize();
            let below = below.map_err(Error::io("find the folder that a disk fault is for"))?;
            bytes.extend_from_slice(below.as_os_str().as_encoded_bytes());
            // With its slash, `pg` is not taken for the beginning of `pg2`.
            bytes.push(b'/');
        }
        let end = head + PATH_BYTES;
        if bytes.len() >= end {
            let reason = format!("its folder's path is longer than {} bytes", PATH_BYTES - 1);
            return Err(Error::state("put a fault on a program", reason));
        }
        bytes.resize(end, 0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], place: usize) -> u64 {
        u64::from_ne_bytes(bytes[place * 8..][..8].try_into().unwrap())
    }

    #[test]
    fn a_rule_is_one_block_with_the_folder_s_real_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("data"), folder.path().join("link")).unwrap();
        let bytes = Rule::full(&folder.path().join("link")).at_most(3).encode().unwrap();
        assert_eq!(bytes.len(), 512);
        assert_eq!((number(&bytes, 0), number(&bytes, 1), number(&bytes, 2)), (0, WRITE | ALLOCATE, FAIL));
        assert_eq!((number(&bytes, 3), number(&bytes, 4), number(&bytes, 5)), (28, 1, 3), "ENOSPC is 28");
        let real = folder.path().canonicalize().unwrap().join("data/");
        let path = bytes[64..].split(|byte| *byte == 0).next().unwrap();
        assert_eq!(path, real.as_os_str().as_encoded_bytes());
    }

    #[test]
    fn a_clock_can_go_back() {
        let bytes = Rule::clock_jump(-1).encode().unwrap();
        assert_eq!((number(&bytes, 1), number(&bytes, 3)), (CLOCK, u64::MAX));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Rule::sync_fails(&folder.path().join("none")).encode().is_err());
    }
}
