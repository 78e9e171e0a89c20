//! A disk of a few megabytes: a tmpfs in the mount namespace of this run, which can be filled up. What lies on it is
//! the caller's choice: the files of PostgreSQL, its WAL alone, a server's journal. The shortage is the kernel's own,
//! so it is met by every program, however it writes; errors of a disk are in `shim.rs`.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::Error;
use crate::folder::RunFolder;
use crate::namespace::{MEANS, must_be_inside};
use crate::postgres;

/// The file that takes all the room.
const BALLAST: &str = ".ballast";
/// Written at a time.
const CHUNK: usize = 64 * 1024;

/// A small disk. It is taken away, with what is on it, when this is dropped; whoever works on it must end before.
#[derive(Debug)]
#[must_use = "the disk goes when this is dropped"]
pub struct SmallDisk {
    path: PathBuf,
    // Held, so that the folder above is not removed before the disk.
    _run: RunFolder,
}

impl SmallDisk {
    /// Makes a disk of so many bytes at `NAME` in the run folder, for PostgreSQL's account.
    ///
    /// # Errors
    /// As [`SmallDisk::mount_over`].
    pub fn for_postgresql(run: &RunFolder, name: &str, bytes: u64) -> Result<Self, Error> {
        let disk = Self::mount_over(run, &run.path().join(name), bytes)?;
        if let Some(account) = postgres::account()? {
            let given = chown(disk.path(), Some(account.uid), Some(account.gid));
            given.map_err(Error::io("hand a small disk to PostgreSQL's account"))?;
        }
        Ok(disk)
    }

    /// Makes a disk of so many bytes at `path` in the run folder, for this account. What is in a folder that is there
    /// already is hidden as long as the disk lives.
    ///
    /// # Errors
    /// [`Error::NoMeans`] outside namespaces of our own, and where the kernel refuses the mount,
    /// [`Error::Io`] where the folder cannot be made.
    pub fn mount_over(run: &RunFolder, path: &Path, bytes: u64) -> Result<Self, Error> {
        must_be_inside("make a small disk")?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(Error::io(format!("make the folder {}", path.display())))?;
        let options = CString::new(format!("size={bytes},mode=0700"));
        let options = options.map_err(|error| Error::state("make a small disk", error.to_string()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        // Noted first: were the harness killed in between, nothing would be mounted there, which does no harm.
        run.guard_mount(path)?;
        let mounted = rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str());
        mounted.map_err(|error| Error::no_means(MEANS, format!("the kernel mounts no tmpfs: {error}")))?;
        Ok(Self { path: path.to_owned(), _run: run.clone() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// [`Error::Io`] where the kernel does not tell.
    pub fn available(&self) -> Result<u64, Error> {
        let found = rustix::fs::statvfs(&self.path);
        let found = found.map_err(|error| Error::io("ask for the room on a small disk")(error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Fills it up to the last byte. Blocking, at the speed of memory.
    ///
    /// # Errors
    /// [`Error::Io`] where that fails for another reason than the disk being full, [`Error::State`] where it is full
    /// by another guard already.
    pub fn fill(&self) -> Result<Full, Error> {
        let ballast = self.path.join(BALLAST);
        if ballast.exists() {
            return Err(Error::state("fill a small disk", "it is full already"));
        }
        let full = Full { ballast };
        let what = "fill a small disk";
        let mut file = File::create(&full.ballast).map_err(Error::io(what))?;
        // What does not fit in one piece may in smaller ones.
        let mut length = CHUNK;
        let zeros = vec![0; CHUNK];
        while length > 0 {
            match file.write_all(zeros.get(..length).unwrap_or_default()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => length /= 2,
                Err(error) => return Err(Error::io(what)(error)),
            }
        }
        Ok(full)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

/// A disk without room. There is room again when this is dropped.
#[derive(Debug)]
#[must_use = "there is room again as soon as this is dropped"]
pub struct Full {
    ballast: PathBuf,
}

impl Drop for Full {
    fn drop(&mut self) {
        // A guard that heals on drop has nobody to tell; a file of our own can be removed.
        let _ = fs::remove_file(&self.ballast);
    }
}

/// Takes a mount away, also from under those who use it. Nothing where it is not mounted in this namespace.
pub(crate) fn detach(path: &Path) {
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
}
