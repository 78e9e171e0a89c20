//! What a failover lost: writes that this replica saw committed and that the new primary does not have, because a standby
//! that follows asynchronously had not received them. After each change of the primary's timeline the newest keys are
//! looked up there.
//!
//! It finds out and tells. It brings nothing back: what was lost was acknowledged and may have been seen, and only the
//! service knows whether doing it again is right.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    db::{Db, asked::Question, hosts::Reign, statements::Statements},
    metrics,
};

/// Committed keys that are remembered: two minutes of a busy replica's writes, and far more than a standby that is worth
/// promoting is behind. The oldest are forgotten first.
const REMEMBERED_MAX: usize = 10_000;
/// Lost keys that are told; of more the oldest are forgotten, and only counted.
const TOLD_MAX: usize = 10_000;
/// Keys in one question.
const KEYS_AT_ONCE: usize = 1_000;
/// From the news of another primary to the question: the last answers of the old one may still be on their way to whoever
/// waits for them here.
const FIRST: Duration = Duration::from_secs(1);
/// Until a question that failed is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Writes that were committed, acknowledged, and taken back by a failover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostWrites {
    /// How many since the start.
    pub count: u64,
    /// Their idempotency keys, in the order of their commits; the last 10,000.
    pub keys: Vec<String>,
}

/// What this replica saw committed, and what of that is lost.
#[derive(Debug, Default)]
pub(in crate::db) struct Losses(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    committed: VecDeque<(Instant, String)>,
    count: u64,
    lost: VecDeque<String>,
}

impl Losses {
    /// The database said that the effect of `key` is committed.
    pub(in crate::db) fn committed(&self, key: &str, now: Instant) {
        let mut book = self.book();
        if book.committed.len() >= REMEMBERED_MAX {
            book.committed.pop_front();
        }
        book.committed.push_back((now, key.to_owned()));
    }

    fn told(&self) -> LostWrites {
        let book = self.book();
        LostWrites { count: book.count, keys: book.lost.iter().cloned().collect() }
    }

    /// The keys committed after `since`; earlier ones may be gone for their age alone.
    fn remembered(&self, since: Option<Instant>) -> Vec<String> {
        let book = self.book();
        let is_young = |at: &Instant| since.is_none_or(|since| *at > since);
        book.committed.iter().filter(|(at, _)| is_young(at)).map(|(_, key)| key.clone()).collect()
    }

    /// These are not there any more: told from now on, and never asked for again. Answers how many that are.
    fn missed(&self, missing: &HashSet<String>) -> u64 {
        let mut book = self.book();
        let Book { committed, count, lost } = &mut *book;
        let before = *count;
        committed.retain(|(_, key)| {
            let is_lost = missing.contains(key);
            if is_lost {
                if lost.len() >= TOLD_MAX {
                    lost.pop_front();
                }
                lost.push_back(key.clone());
                *count += 1;
            }
            !is_lost
        });
        *count - before
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those of the keys under which nothing is recorded.
struct Missing<'k>(&'k [String]);

impl Question for Missing<'_> {
    type Answer = Vec<String>;

    fn operation(&self) -> &'static str {
        "look-for-losses"
    }

    fn is_short(&self) -> bool {
        false
    }

    async fn ask<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Self::Answer, tokio_postgres::Error> {
        let sql = "SELECT asked.key FROM unnest($1::text[]) AS asked (key) \
                   WHERE NOT EXISTS (SELECT FROM ridethrough_writes AS w WHERE w.key = asked.key)";
        let rows = statements.rows(sql, &[&self.0]).await?;
        rows.iter().map(|row| row.try_get("key")).collect()
    }
}

impl Db {
    /// What failovers took back of the writes that this process saw committed, as far as it remembers them: a process that
    /// was started since knows of none.
    #[must_use]
    pub fn lost_writes(&self) -> LostWrites {
        self.0.losses.told()
    }

    /// Looks for losses after each failover. Never ends.
    pub(super) async fn look_for_losses(&self) {
        let mut news = self.0.hosts.news();
        let mut known: Option<Reign> = None;
        loop {
            if let Some(reign) = self.0.hosts.reign() {
                if known.is_some_and(|known| reign.is_another_than(known)) {
                    self.account_for_writes(reign).await;
                }
                known = Some(reign);
            }
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Asks the new primary for all that is remembered. Given up where yet another one takes its place, which is asked
    /// for all of it then.
    async fn account_for_writes(&self, reign: Reign) {
        sleep(FIRST).await;
        let since = Instant::now().checked_sub(self.0.config.write.retention / 2);
        let keys = self.0.losses.remembered(since);
        let mut missing = HashSet::new();
        for some in keys.chunks(KEYS_AT_ONCE) {
            missing.extend(loop {
                if self.0.hosts.reign().is_some_and(|now| now.is_another_than(reign)) {
                    return;
                }
                match self.ask_primary(&Missing(some)).await {
                    Ok(missing) => break missing,
                    Err(_) => sleep(AGAIN).await,
                }
            });
        }
        // Whoever sends one again is not told that it is settled.
        missing.iter().for_each(|key| drop(self.0.settled_keys.remove(key)));
        let (writes, looked_up) = (self.0.losses.missed(&missing), keys.len());
        if writes == 0 {
            tracing::info!(looked_up, "the new primary has every write that was committed here");
            return;
        }
        // What is kept may show what is not true any more.
        self.0.cache.doubt_before(Instant::now());
        metrics::writes_lost(writes);
        tracing::error!(writes, looked_up, "the failover took back committed writes; a person must look");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("k{number}")).collect()
    }

    #[test]
    fn what_is_missing_is_told_once_and_in_the_order_of_its_commits() {
        let (losses, now) = (Losses::default(), Instant::now());
        keys(4).iter().for_each(|key| losses.committed(key, now));
        assert_eq!(losses.remembered(None), keys(4));
        let missing = HashSet::from(["k3", "k1", "another's"].map(str::to_owned));
        assert_eq!((losses.missed(&missing), losses.missed(&missing)), (2, 0));
        assert_eq!(losses.told(), LostWrites { count: 2, keys: vec!["k1".into(), "k3".into()] });
        assert_eq!(losses.remembered(None), ["k0", "k2"]);
    }

    #[test]
    fn what_is_old_may_have_been_removed_and_is_not_asked_for() {
        let (losses, now) = (Losses::default(), Instant::now());
        let later = now + Duration::from_secs(10);
        losses.committed("old", now);
        losses.committed("new", later);
        assert_eq!(losses.remembered(Some(now + Duration::from_secs(5))), ["new"]);
    }

    #[test]
    fn memory_is_bounded_and_every_loss_is_counted() {
        let (losses, now) = (Losses::default(), Instant::now());
        let many = keys(REMEMBERED_MAX + 5);
        many.iter().for_each(|key| losses.committed(key, now));
        assert_eq!(losses.remembered(None), many[5..]);
        let all: HashSet<String> = many.iter().cloned().collect();
        assert_eq!(losses.missed(&all), REMEMBERED_MAX as u64);
        losses.committed("k0", now);
        losses.missed(&all);
        let told = losses.told();
        assert_eq!((told.count, told.keys.len()), (REMEMBERED_MAX as u64 + 1, TOLD_MAX));
        assert_eq!((&told.keys[0], &told.keys[TOLD_MAX - 1]), (&many[6], &many[0]));
    }
}
