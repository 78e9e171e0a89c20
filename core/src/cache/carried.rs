//! What of the cache is carried over a restart, and as what it comes back: with its age, and never fresh. It knows no files.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    CacheKey, ReadCache, Tags,
    entry::Known,
    snapshot::{self, Fault, Limits, Saved},
};

/// Where and how the cache is kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct SnapshotConfig {
    /// The folder of the file `cache-snapshot`, which belongs to this process alone and to nobody else to write: what lies
    /// there is served. Default `None`: nothing is kept.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub dir: Option<PathBuf>,
    /// Written this often, where anything changed, and at the drain. Default 60 s; less than 1 s counts as 1 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub every: Duration,
    /// Bytes of the file at the most; the newest answers go first. Default 32 MiB.
    pub bytes_max: u64,
    /// Answers in it at the most. Default 100,000.
    pub entries_max: usize,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { dir: None, every: Duration::from_secs(60), bytes_max: 32 * 1024 * 1024, entries_max: 100_000 }
    }
}

impl SnapshotConfig {
    fn limits(&self) -> Limits {
        Limits { bytes: self.bytes_max, entries: self.entries_max }
    }
}

impl ReadCache {
    /// How it is kept over a restart.
    #[must_use]
    pub fn snapshot_config(&self) -> &SnapshotConfig {
        &self.config.snapshot
    }

    /// The bytes of a snapshot at `now`, which the wall clock calls `wall` (microseconds since 1970).
    pub(crate) fn to_snapshot(&self, origin: u32, now: Instant, wall: i64) -> Vec<u8> {
        let mut kept: Vec<_> = self.kept().collect();
        kept.sort_unstable_by_key(|(_, entry)| std::cmp::Reverse(entry.as_of()));
        let saved = kept.into_iter().map(|(key, entry)| {
            let value = match &entry.known {
                Known::Answer(answer) => Some(answer.clone()),
                Known::Nothing | Known::Forgotten => None,
            };
            Saved {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value,
                as_of: wall.saturating_sub(micros(now.saturating_duration_since(entry.as_of()))),
                tags: entry.tags.names().map(Box::from).collect(),
                of_everything: entry.tags.is_everything(),
            }
        });
        snapshot::encode(saved, origin, wall, self.config.snapshot.limits())
    }

    /// Takes back what a snapshot holds, as it is at `now`, which the wall clock calls `wall`; answers how many answers.
    pub(crate) fn restore_snapshot(
        &self,
        bytes: &[u8],
        origin: u32,
        now: Instant,
        wall: i64,
    ) -> Result<usize, Fault> {
        let snapshot = snapshot::decode(bytes, origin, self.config.snapshot.limits())?;
        if wall < snapshot.written {
            tracing::warn!(
                "the clock went back since the cache snapshot was written, so nobody knows how old it is"
            );
            return Ok(0);
        }
        let before = self.size().0;
        // The newest last: what does not fit makes room for what comes later.
        for saved in snapshot.entries.into_iter().rev() {
            // An answer to a question from the future has no age that can be believed.
            let Some(age) = wall.checked_sub(saved.as_of).filter(|_| saved.as_of <= snapshot.written) else {
                continue;
            };
            let Some(key) = CacheKey::from_stored(&saved.key) else { return Err(Fault::Fields) };
            let tags = if saved.of_everything { Tags::everything() } else { Tags::of(saved.tags) };
            let known = saved.value.map_or(Known::Nothing, Known::Answer);
            // One more, because the clock was read in whole microseconds.
            let age = Duration::from_micros(age.unsigned_abs().saturating_add(1));
            self.restore(key, known, tags, age, now);
        }
        Ok(self.size().0.saturating_sub(before))
    }
}

fn micros(age: Duration) -> i64 {
    i64::try_from(age.as_micros()).unwrap_or(i64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheConfig, ReadPolicy, Usable};

    const SECOND: Duration = Duration::from_secs(1);
    const MICROS: i64 = 1_000_000;
    const WALL: i64 = 1_700_000_000 * MICROS;

    fn cache() -> ReadCache {
        ReadCache::new(CacheConfig { stale_max: SECOND * 60, ..CacheConfig::default() })
    }

    fn key(name: &str) -> CacheKey {
        CacheKey::shared(name)
    }

    /// A snapshot with `a`, ten seconds old, and `b`, which is known not to be there.
    fn saved() -> Vec<u8> {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put_tagged(&key("a"), Bytes::from_static(b"1"), || Tags::of(["t"]));
        cache.fill(now, now).put_nothing(&key("b"), Tags::everything);
        cache.fill(now, now).remove(&key("c"));
        cache.to_snapshot(7, now + SECOND * 10, WALL)
    }

    fn restored(bytes: &[u8], wall: i64) -> (ReadCache, usize, Instant) {
        let (cache, now) = (cache(), Instant::now());
        let count = cache.restore_snapshot(bytes, 7, now, wall).unwrap();
        (cache, count, now)
    }

    #[test]
    fn the_age_goes_on_over_the_restart_and_what_comes_back_is_never_fresh() {
        let (cache, count, now) = restored(&saved(), WALL + 20 * MICROS);
        assert_eq!(count, 2);
        let cached = cache.peek(&key("a"), now).unwrap();
        let age = cached.age();
        assert!(age >= SECOND * 30 && age < SECOND * 30 + Duration::from_micros(10), "{age:?}");
        let policy = ReadPolicy { fresh_for: SECOND * 60, ..ReadPolicy::default() };
        assert_eq!(cached.usable(&policy), Usable::IfError);
        assert_eq!(cached.value().unwrap(), "1");
        assert!(cache.is_warm(now));
    }

    #[test]
    fn what_expired_while_the_process_was_down_does_not_come_back() {
        let (cache, count, now) = restored(&saved(), WALL + 51 * MICROS);
        assert_eq!((count, cache.is_warm(now)), (0, false));
    }

    /// A clock that was set back made answers look younger than they were.
    #[test]
    fn nothing_comes_back_where_the_clock_went_back() {
        assert_eq!(restored(&saved(), WALL - 1).1, 0);
        assert_eq!(restored(&saved(), WALL).1, 2);
    }

    #[test]
    fn an_answer_from_the_future_does_not_come_back() {
        let of = |as_of| {
            let (key, value) = (key("a").as_bytes().to_vec().into(), Some(Bytes::from_static(b"1")));
            let saved = Saved { key, value, as_of, tags: Vec::new(), of_everything: false };
            snapshot::encode([saved], 7, WALL, SnapshotConfig::default().limits())
        };
        assert_eq!(restored(&of(WALL), WALL + 1).1, 1);
        for wrong in [WALL + 1, i64::MAX, i64::MIN] {
            assert_eq!(restored(&of(wrong), WALL + 1).1, 0, "{wrong}");
        }
    }

    #[test]
    fn an_answer_that_was_asked_for_since_the_start_is_not_replaced() {
        let (cache, now) = (cache(), Instant::now());
        cache.fill(now, now).put(&key("a"), Bytes::from_static(b"new"));
        cache.restore_snapshot(&saved(), 7, now, WALL).unwrap();
        assert_eq!(cache.peek(&key("a"), now).unwrap().value().unwrap(), "new");
    }
}
