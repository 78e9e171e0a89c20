//! The keeper: carries the read cache over a restart, so that a replica that starts during an outage has something to show.
//! It writes a snapshot now and then and at the drain; [`Db::new`](super::Db::new) reads it. What its bytes mean is in
//! `cache::snapshot`.
//!
//! A snapshot that cannot be trusted whole is set aside with a warning. Nothing here is fatal: without a snapshot a replica
//! merely starts cold.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep};

use super::Db;
use crate::{
    cache::{ReadCache, SnapshotConfig},
    drain::Draining,
    journal::disk::{Disk as _, DiskView as _, RealDisk, RealView, create_whole},
};

/// The file in the folder.
const NAME: &str = "cache-snapshot";
/// One that could not be read, for a person to look at. One is kept.
const DAMAGED_NAME: &str = "cache-snapshot.damaged";

/// More often would keep a disk busy for nothing.
const EVERY_MIN: Duration = Duration::from_secs(1);

/// Keeps a snapshot of the read cache on disk until the drain, and writes the last one then. Made by
/// [`Db::new`](super::Db::new).
#[derive(Debug)]
#[must_use = "without the keeper a replica that is started during an outage knows nothing"]
pub struct Keeper {
    db: Db,
}

impl Keeper {
    pub(super) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Writes snapshots until the drain begins, and one more then. Without a folder it only waits for that.
    ///
    /// # Cancel safety
    /// A snapshot that is being written is finished or leaves no trace; the one before it is there until then.
    pub async fn run(self, mut draining: Draining) {
        let settings = self.db.0.cache.snapshot_config().clone();
        let Some(folder) = settings.dir.clone() else {
            draining.requested().await;
            return;
        };
        let mut written = self.db.0.cache.revision();
        loop {
            let is_last = tokio::select! {
                () = sleep(settings.every.max(EVERY_MIN)) => false,
                () = draining.requested() => true,
            };
            let revision = self.db.0.cache.revision();
            if revision != written && self.write(folder.clone()).await {
                written = revision;
            }
            if is_last {
                return;
            }
        }
    }

    /// Encoding and disk stay off the runtime that answers requests.
    async fn write(&self, folder: PathBuf) -> bool {
        let (db, started) = (self.db.clone(), Instant::now());
        let writing = tokio::task::spawn_blocking(move || save(&db.0.cache, db.0.origin, &folder));
        match writing.await {
            Ok(Ok(bytes)) => {
                tracing::debug!(bytes, took = ?started.elapsed(), "cache snapshot written");
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the cache snapshot cannot be written; the one before it stays");
                false
            }
            Err(_) => false,
        }
    }
}

/// Writes the snapshot; it is durable under its name when this returns, or the one before it is still there.
fn save(cache: &ReadCache, origin: u32, folder: &Path) -> io::Result<usize> {
    let bytes = cache.to_snapshot(origin, Instant::now(), since_1970(SystemTime::now()));
    // Answers are their principals' own, so nobody but this user may read the file.
    let disk = RealDisk::new(folder)?;
    create_whole(&disk, NAME, &bytes)?;
    Ok(bytes.len())
}

/// Fills the cache from the snapshot in the folder, if there is one that can be trusted; answers the number of answers.
pub(super) fn load(cache: &ReadCache, origin: u32) -> usize {
    let settings: SnapshotConfig = cache.snapshot_config().clone();
    let Some(folder) = settings.dir else { return 0 };
    let read = match RealView::new(&folder).read(NAME, settings.bytes_max) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return 0,
        Err(error) => {
            tracing::warn!(%error, "the cache snapshot cannot be read; this replica starts cold");
            return 0;
        }
    };
    let (now, wall) = (Instant::now(), since_1970(SystemTime::now()));
    let restored = match read {
        (_, Some(bytes)) => {
            cache.restore_snapshot(&bytes, origin, now, wall).map_err(|fault| fault.to_string())
        }
        (length, None) => Err(format!("it has {length} bytes, more than the bound")),
    };
    match restored {
        Ok(answers) => {
            tracing::info!(answers, "cache snapshot loaded");
            answers
        }
        Err(reason) => {
            set_aside(&folder, &reason);
            0
        }
    }
}

fn set_aside(folder: &Path, reason: &str) {
    let moved = RealDisk::new(folder).and_then(|disk| {
        disk.rename(NAME, DAMAGED_NAME)?;
        disk.sync_folder()
    });
    match moved {
        Ok(()) => {
            tracing::warn!(
                reason,
                kept_as = DAMAGED_NAME,
                "the cache snapshot is not trusted and was set aside"
            );
        }
        Err(error) => {
            tracing::warn!(reason, %error, "the cache snapshot is not trusted, and cannot be set aside")
        }
    }
}

/// Microseconds, negative before 1970.
fn since_1970(time: SystemTime) -> i64 {
    let micros = |since: Duration| i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -micros(before.duration()), micros)
}

/// Tells snapshots of different databases and roles apart, which may share a folder one after the other: answers of one are
/// none for the other.
pub(super) fn origin(target: &tokio_postgres::Config) -> u32 {
    let text = format!(
        "{:?}\0{:?}\0{:?}\0{:?}\0{:?}",
        target.get_user(),
        target.get_dbname(),
        target.get_hosts(),
        target.get_hostaddrs(),
        target.get_ports()
    );
    crc32c::crc32c(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use bytes::Bytes;

    use super::*;
    use crate::cache::{CacheConfig, CacheKey, Tags};

    const ORIGIN: u32 = 7;

    fn cache(folder: &Path) -> ReadCache {
        let snapshot = SnapshotConfig { dir: Some(folder.to_owned()), ..SnapshotConfig::default() };
        ReadCache::new(CacheConfig { snapshot, ..CacheConfig::default() })
    }

    fn key() -> CacheKey {
        CacheKey::shared("a")
    }

    fn filled(folder: &Path) -> ReadCache {
        let (cache, now) = (cache(folder), Instant::now());
        cache.fill(now, now).put_tagged(&key(), Bytes::from_static(b"1"), || Tags::of(["t"]));
        cache
    }

    fn files(folder: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_and_only_its_owner_may_read_the_file() {
        let folder = tempfile::tempdir().unwrap();
        save(&filled(folder.path()), ORIGIN, folder.path()).unwrap();
        assert_eq!(files(folder.path()), [NAME]);
        let mode = std::fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let after = cache(folder.path());
        assert_eq!(load(&after, ORIGIN), 1);
        assert!(after.is_warm(Instant::now()) && after.peek(&key(), Instant::now()).is_some());
    }

    /// A snapshot was read again and again after each restart and warned of for ever.
    #[test]
    fn one_that_is_not_trusted_is_set_aside_and_the_start_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        for content in [&b"nonsense"[..], b"", b"RTcached"] {
            std::fs::write(folder.path().join(NAME), content).unwrap();
            let after = cache(folder.path());
            assert_eq!(load(&after, ORIGIN), 0);
            assert_eq!(files(folder.path()), [DAMAGED_NAME]);
            assert_eq!(std::fs::read(folder.path().join(DAMAGED_NAME)).unwrap(), content);
        }
        save(&filled(folder.path()), ORIGIN, folder.path()).unwrap();
        assert_eq!(load(&cache(folder.path()), ORIGIN + 1), 0, "another database's");
        assert_eq!(files(folder.path()), [DAMAGED_NAME]);
        assert_eq!(load(&cache(folder.path()), ORIGIN), 0, "there is none");
    }

    #[test]
    fn a_file_that_is_larger_than_the_bound_is_not_even_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(NAME), vec![0; 2_000]).unwrap();
        let snapshot = SnapshotConfig {
            dir: Some(folder.path().to_owned()),
            bytes_max: 1_000,
            ..SnapshotConfig::default()
        };
        let small = ReadCache::new(CacheConfig { snapshot, ..CacheConfig::default() });
        assert_eq!(load(&small, ORIGIN), 0);
        assert_eq!(files(folder.path()), [DAMAGED_NAME]);
    }

    #[test]
    fn a_leftover_that_others_may_read_does_not_lend_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        let leftover = folder.path().join(format!("{NAME}.unfinished"));
        std::fs::write(&leftover, "left by a crash").unwrap();
        std::fs::set_permissions(&leftover, std::fs::Permissions::from_mode(0o644)).unwrap();
        save(&filled(folder.path()), ORIGIN, folder.path()).unwrap();
        let mode = std::fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, files(folder.path())), (0o600, vec![NAME.to_owned()]));
    }

    #[test]
    fn databases_and_roles_are_told_apart_and_passwords_are_not() {
        let of = |url: &str| origin(&url.parse().unwrap());
        let one = of("postgres://app:a@one/todos");
        assert_eq!(one, of("postgres://app:b@one/todos"));
        for other in
            ["postgres://app:a@two/todos", "postgres://app:a@one/other", "postgres://you:a@one/todos"]
        {
            assert_ne!(one, of(other), "{other}");
        }
    }

    #[tokio::test]
    async fn an_unwritable_folder_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(save(&filled(folder.path()), ORIGIN, &file).is_err());
    }
}
