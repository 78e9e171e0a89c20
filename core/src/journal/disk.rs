//! The journal's only way to files: one folder, a few operations, each of which may fail or be lost.
//! It knows nothing of segments, records or the cursor, and it never retries anything.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "postgres")]
pub(crate) use crate::journal::segment::create_whole;

#[cfg(test)]
pub(crate) mod memory;

#[cfg(any(test, feature = "testkit", feature = "fuzzing"))]
pub(crate) mod scratch;

/// Keeps the folder locked while it lives.
pub(crate) type FolderLock = Box<dyn Any + Send + Sync>;

/// One folder of files. Names are plain file names inside the folder.
///
/// What survives a power cut is what the contract of POSIX gives: bytes after a successful `sync_*` of their file,
/// names after a successful [`Disk::sync_folder`].
pub(crate) trait Disk: Debug + Send + Sync {
    /// Takes the folder for this owner alone; `WouldBlock` where another owner has it.
    fn lock(&self) -> io::Result<FolderLock>;
    /// The names of all files in the folder, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates the file, or empties the one that is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_folder(&self) -> io::Result<()>;
}

/// One open file, shared by the writer and by readers.
pub(crate) trait DiskFile: Debug + Send + Sync {
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills the buffer from `offset`; `UnexpectedEof` where the file ends before that.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes at `offset`; after an error any part of them may be in the file.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Asks for room up to this length, which then reads as zeros; where the disk cannot give it, nothing happens.
    fn reserve(&self, length: u64);
    /// Writes zeros over reserved room from here to there; where the disk cannot, nothing that matters happens. A sync of
    /// bytes in room that was written before has no metadata to write.
    fn zero(&self, from: u64, to: u64);
    /// Makes the content durable, with as much of the metadata as reading it back needs.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes content and all metadata durable.
    fn sync_all(&self) -> io::Result<()>;
}

/// One folder of files to look at, by a way on which nothing can be changed or made.
pub(crate) trait DiskView: Debug {
    /// Whether an owner has the folder now.
    fn owned(&self) -> io::Result<bool>;
    /// The names of all files in the folder, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// The length of a file, and its bytes where they are at most `bytes_max`.
    fn read(&self, name: &str, bytes_max: u64) -> io::Result<(u64, Option<Vec<u8>>)>;
}

/// The name of the file that carries the folder lock; it is never removed, since removing it would let two owners in.
pub(crate) const LOCK_NAME: &str = "lock";

/// The file system of the machine.
#[derive(Debug)]
pub(crate) struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// Opens the folder, and makes it (durably) where it is missing. Files made in it are for their owner alone: they hold
    /// what users wrote.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        create_folder(folder)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A folder exists after a power cut only if its parent was synced, so every level that is new gets that.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<FolderLock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path(LOCK_NAME))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        names_in(&self.folder)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        // One that is there already would keep the rights that it has.
        match std::fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(RealFile(options.open(self.path(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for item in std::fs::read_dir(folder)? {
        // A name that is not UTF-8 cannot be one of ours.
        if let Ok(name) = item?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// A folder of the machine's file system, to look at; it needs no right to write there.
#[derive(Debug)]
pub(crate) struct RealView {
    folder: PathBuf,
}

impl RealView {
    /// Names the folder, and opens nothing yet.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }
}

impl DiskView for RealView {
    /// Asks for a shared lock and gives it back at once: an owner that starts in that moment would find the folder
    /// taken, so the lock must not be kept while files are read.
    fn owned(&self) -> io::Result<bool> {
        let file = match File::open(self.folder.join(LOCK_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        names_in(&self.folder)
    }

    fn read(&self, name: &str, bytes_max: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
        let file = File::open(self.folder.join(name))?;
        let length = file.metadata()?.len();
        if length > bytes_max {
            return Ok((length, None));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        // An owner may append meanwhile; what came after the length was taken is left out.
        file.take(length).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64, Some(bytes)))
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn reserve(&self, length: u64) {
        // Some file systems cannot, and a full disk will say so when it matters.
        let _ = rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, length);
    }

    fn zero(&self, from: u64, to: u64) {
        let zeros = [0; 64 * 1024];
        for offset in (from..to).step_by(zeros.len()) {
            let length = usize::try_from(to - offset).unwrap_or(usize::MAX).min(zeros.len());
            if self.0.write_all_at(zeros.get(..length).unwrap_or_default(), offset).is_err() {
                return;
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}
