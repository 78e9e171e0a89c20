//! The run folder: the one place where everything of a run lies, locked while the run lives, removed at its end.
//! It owns the guardian and sweeps what dead runs left; what is in the folder is up to `cluster.rs` and `stack.rs`.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::guardian::{self, Guardian};
use crate::process::{self, Handle};

/// Held by the run that owns the folder; a folder whose lock is free belongs to a dead run.
const LOCK: &str = "lock";
/// What the run owns outside the process table: read by the guardian and by the sweep.
pub(crate) const BELONGINGS: &str = "belongings";
/// Run folders start with this.
const PREFIX: &str = "run-";
/// Below the limit of 108 bytes for a socket's path there must be room for `run-…/control/socket`.
const BASE_BYTES_MAX: usize = 64;
/// Another harness holds the base lock only while it makes or sweeps folders.
const BASE_LOCK_LIMIT: Duration = Duration::from_secs(20);

/// A folder of one run, with a guardian that removes it and ends its processes should the harness die.
///
/// Cheap to clone; the last clone to go removes the folder and whatever still runs in it.
#[derive(Debug, Clone)]
pub struct RunFolder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    belongings: Mutex<File>,
    // Order matters: the folder is removed in `drop`, before the guardian's pipe closes and the lock is let go.
    _guardian: Guardian,
    _lock: File,
}

impl RunFolder {
    /// Makes a new run folder and starts its guardian; first sweeps away what dead runs left.
    ///
    /// `guardian` is the `ridethrough-chaos` binary; `None` looks for it beside the current program and in the
    /// folders above (which is where cargo puts it for a test).
    ///
    /// # Errors
    /// [`Error::NoBinary`] without that binary, [`Error::Io`] when a folder cannot be made.
    pub fn create(guardian: Option<&Path>) -> Result<Self, Error> {
        process::become_subreaper();
        let binary = guardian::binary(guardian)?;
        let (path, base_lock) = new_run_folder()?;
        let lock = new_file(&path.join(LOCK))?;
        lock.try_lock().map_err(|error| Error::state("lock a new run folder", error.to_string()))?;
        let belongings = new_file(&path.join(BELONGINGS))?;
        drop(base_lock);
        let guardian = Guardian::start(&binary, &path)?;
        Ok(Self(Arc::new(Inner {
            path,
            belongings: Mutex::new(belongings),
            _guardian: guardian,
            _lock: lock,
        })))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Tells the guardian of a child that the caller started itself; its descendants are found by themselves. A child
    /// that is gone already is nobody's business.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be noted.
    pub fn guard_child(&self, pid: u32) -> Result<(), Error> {
        process::handle(pid).map_or(Ok(()), |handle| self.guard(&handle))
    }

    /// Makes a folder in it that only this user can enter.
    pub(crate) fn private(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.0.path.join(name);
        make_folder(&path, 0o700)?;
        Ok(path)
    }

    /// Tells the guardian of a process; its descendants are found by themselves.
    pub(crate) fn guard(&self, handle: &Handle) -> Result<(), Error> {
        self.note(&format!("process {} {}\n", handle.pid(), handle.started()))
    }

    /// Tells the guardian of a folder outside the run folder that must not outlive the run.
    pub(crate) fn guard_folder(&self, folder: &Path) -> Result<(), Error> {
        self.note(&format!("folder {}\n", folder.display()))
    }

    /// Tells the guardian of a disk that is mounted in the run folder.
    pub(crate) fn guard_mount(&self, path: &Path) -> Result<(), Error> {
        self.note(&format!("mount {}\n", path.display()))
    }

    // One short write in append mode, so that a reader never sees half of an older line.
    fn note(&self, line: &str) -> Result<(), Error> {
        let mut file = self.0.belongings.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes()).map_err(Error::io("note a process for the guardian"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        guardian::clean_up(&self.path, guardian::CLEAN_UP_LIMIT);
        remove_base_of(&self.path);
    }
}

/// Makes the folder of a new run, and holds the base locked: until the run's own lock is taken it looks like a dead one.
fn new_run_folder() -> Result<(PathBuf, File), Error> {
    let (base, lock) = locked_base()?;
    sweep_locked(&base);
    let name = format!("{PREFIX}{}-{:06x}", std::process::id(), fastrand::u32(..) & 0x00ff_ffff);
    let path = base.join(name);
    make_folder(&path, open_mode())?;
    Ok((path, lock))
}

/// The folder above all run folders, locked: nobody else makes, sweeps or removes there.
fn locked_base() -> Result<(PathBuf, File), Error> {
    /// The last run to end removes the base, perhaps just now.
    const TRIES: usize = 50;

    for _ in 1..TRIES {
        let base = base()?;
        if let Some(lock) = lock_base(&base)? {
            return Ok((base, lock));
        }
    }
    Err(Error::state("lock the folder for runs", "other runs remove it again and again".to_owned()))
}

/// The folder above all run folders of this user.
///
/// # Errors
/// [`Error::Io`] when it cannot be made, [`Error::State`] when it belongs to somebody else.
pub(crate) fn base() -> Result<PathBuf, Error> {
    let temp = std::env::temp_dir();
    let name = format!("ridethrough-{}", rustix::process::geteuid().as_raw());
    let fits = temp.as_os_str().len() + name.len() < BASE_BYTES_MAX;
    // PostgreSQL may run as another account, which must get through every folder above its own.
    let usable = fits && (!rustix::process::geteuid().is_root() || open_to_others(&temp));
    let base = if usable { temp } else { PathBuf::from("/tmp") }.join(name);
    if let Err(error) = make_mode(&base, open_mode())
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(Error::io(format!("make the folder {}", base.display()))(error));
    }
    let meta = base.symlink_metadata().map_err(Error::io(format!("look at {}", base.display())))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        let reason = format!("{} belongs to somebody else; remove it or set TMPDIR", base.display());
        return Err(Error::state("use the folder for runs", reason));
    }
    Ok(base)
}

/// Run folders in which a run is alive now.
pub(crate) fn living() -> Result<Vec<PathBuf>, Error> {
    // To look, a run's lock is taken for a moment; one that is just being made must not meet that.
    let (base, _lock) = locked_base()?;
    let living = run_folders(&base).into_iter().filter(|path| !is_stale(path)).collect();
    let _ = std::fs::remove_dir(&base);
    Ok(living)
}

/// Removes what dead runs left; says how many folders.
pub(crate) fn sweep() -> Result<usize, Error> {
    let (base, _lock) = locked_base()?;
    let swept = sweep_locked(&base);
    let _ = std::fs::remove_dir(&base);
    Ok(swept)
}

fn sweep_locked(base: &Path) -> usize {
    let stale = run_folders(base).into_iter().filter(|path| is_stale(path));
    stale.filter(|path| guardian::clean_up(path, guardian::CLEAN_UP_LIMIT)).count()
}

fn run_folders(base: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .collect()
}

/// To be called under the base lock only.
fn is_stale(path: &Path) -> bool {
    match File::open(path.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Made under the base lock together with its folder: without it, the folder is half removed.
        Err(_) => true,
    }
}

/// Locks the folder itself, so that no lock file stays behind when the last run is over. None where that has removed the
/// folder meanwhile.
fn lock_base(base: &Path) -> Result<Option<File>, Error> {
    let folder = match File::open(base) {
        Ok(folder) => folder,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("open {}", base.display()))(error)),
    };
    lock_within(&folder, BASE_LOCK_LIMIT)?;
    Ok(is_that(&folder, base).then_some(folder))
}

/// Whether what was opened still is what has the name: a lock on what is gone would hold nobody off from the next one.
fn is_that(opened: &File, path: &Path) -> bool {
    let place = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let (opened, named) = (opened.metadata().map(place), path.symlink_metadata().map(place));
    matches!((opened, named), (Ok(one), Ok(other)) if one == other)
}

/// Removes the folder above a run that has ended, if that was the last one. Who holds its lock goes on there, and removes it
/// himself.
pub(crate) fn remove_base_of(run: &Path) {
    let Some(base) = run.parent() else { return };
    let Ok(folder) = File::open(base) else { return };
    if folder.try_lock().is_ok() {
        // A base with other runs in it is not empty and stays.
        let _ = std::fs::remove_dir(base);
    }
}

/// Waits for a file lock by looking again: a blocking lock call could not be given up.
pub(crate) fn lock_within(file: &File, limit: Duration) -> Result<(), Error> {
    let end = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::Error(error)) => return Err(Error::io("lock a file")(error)),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::Late { what: "get a lock that another run holds".to_owned(), limit });
            }
        }
    }
}

fn new_file(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path);
    file.map_err(Error::io(format!("make {}", path.display())))
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    make_mode(path, mode).map_err(Error::io(format!("make the folder {}", path.display())))
}

/// The mode is set once more: the mask of a careful user would keep PostgreSQL's account out.
fn make_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Root lets others through (not in), because PostgreSQL then runs as another account.
fn open_mode() -> u32 {
    if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 }
}

fn open_to_others(path: &Path) -> bool {
    path.ancestors().all(|folder| folder.metadata().is_ok_and(|meta| meta.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stale_folder(base: &Path, name: &str) -> PathBuf {
        let path = base.join(name);
        std::fs::create_dir(&path).unwrap();
        drop(new_file(&path.join(LOCK)).unwrap());
        path
    }

    #[test]
    fn the_sweep_takes_dead_runs_and_leaves_living_ones() {
        let base = tempfile::tempdir().unwrap();
        let dead = stale_folder(base.path(), "run-1-aaaaaa");
        let half_removed = base.path().join("run-2-bbbbbb");
        std::fs::create_dir(&half_removed).unwrap();
        let alive = stale_folder(base.path(), "run-3-cccccc");
        let lock = File::open(alive.join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        let other = base.path().join("template");
        std::fs::create_dir(&other).unwrap();

        assert_eq!(sweep_locked(base.path()), 2);
        assert!(!dead.exists() && !half_removed.exists());
        assert!(alive.exists() && other.exists());
    }

    /// A run that waited for the lock while the last one removed the folder once went on with the lock of what was gone: a
    /// third, with the lock of the new folder, took its half-made run for a dead one and swept it away.
    #[test]
    fn the_lock_of_a_base_that_was_removed_and_made_again_is_no_lock() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let waited_for = File::open(&base).unwrap();
        assert!(is_that(&waited_for, &base));
        std::fs::remove_dir(&base).unwrap();
        assert!(!is_that(&waited_for, &base) && lock_base(&base).unwrap().is_none());
        std::fs::create_dir(&base).unwrap();
        assert!(!is_that(&waited_for, &base));
        assert!(lock_base(&base).unwrap().is_some());
    }

    #[test]
    fn a_base_in_use_is_left_to_who_holds_it() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let holder = lock_base(&base).unwrap();
        remove_base_of(&base.join("run-1-aaaaaa"));
        assert!(base.exists());
        drop(holder);
        remove_base_of(&base.join("run-1-aaaaaa"));
        assert!(!base.exists());
    }

    #[test]
    fn a_lock_held_by_another_run_is_waited_for_only_so_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        let first = new_file(&path).unwrap();
        first.try_lock().unwrap();
        let second = File::open(&path).unwrap();
        assert!(matches!(lock_within(&second, Duration::ZERO), Err(Error::Late { .. })));
        drop(first);
        assert!(lock_within(&second, Duration::ZERO).is_ok());
    }
}
