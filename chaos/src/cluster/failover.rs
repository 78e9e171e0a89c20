//! A primary with its standby, and the failover between them: the primary is lost with a part of its WAL that the
//! standby never got, the standby is promoted, and later the old primary may come back as a second one.
//! How much was lost is measured here; which operations that were is in `cluster/ledger.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::cluster::replication::{STATEMENT_LIMIT, ask_text, flushed, received};
use crate::cluster::{Cluster, Hang, Lsn, Options, node};
use crate::error::Error;
use crate::process::{self, Exit, Handle};

/// How long the standby may lag behind before a failover.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at the primary's WAL. The window's beginning is known as exactly as this.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
/// Looks kept; at one every 5 ms this is the last five minutes.
const SAMPLES_MAX: usize = 60_000;
/// A question to a primary whose other processes are stopped: one of them may hold a lock that the answer needs.
const FROZEN_LIMIT: Duration = Duration::from_secs(2);

/// A primary and its standby. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pair {
    primary: Cluster,
    standby: Cluster,
    has_failed_over: Arc<AtomicBool>,
}

/// What a failover lost, in the WAL and in time.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Where the new timeline leaves the old one: up to here nothing is lost.
    pub fork: Lsn,
    /// Up to where the old primary had its WAL on disk when it died; what lies between is lost.
    pub end: Lsn,
    /// The new timeline.
    pub timeline: u32,
    /// An operation that was acknowledged before this must have survived.
    pub from: Instant,
    /// When the old primary could no longer acknowledge anything.
    pub until: Instant,
    /// When the new primary took writes.
    pub promoted: Instant,
    /// How the old primary's postmaster ended.
    pub exit: Exit,
}

impl Window {
    /// Bytes of WAL that are lost.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.since(self.fork)
    }

    /// What proves that the failover happened.
    #[must_use]
    pub fn witness(&self) -> String {
        format!(
            "the old primary ended by {} at {}; timeline {} goes on from {}: {} bytes of WAL and {} ms are lost",
            self.exit,
            self.end,
            self.timeline,
            self.fork,
            self.bytes(),
            if self.bytes() == 0 { 0 } else { self.until.saturating_duration_since(self.from).as_millis() },
        )
    }
}

impl Pair {
    /// Gives a running cluster a standby that follows it.
    ///
    /// # Errors
    /// As [`Cluster::standby`]; [`Error::Late`] when it does not catch up.
    ///
    /// # Cancel safety
    /// As [`Cluster::standby`].
    pub async fn of(primary: &Cluster) -> Result<Self, Error> {
        let standby = primary.standby("pg-standby").await?;
        let pair = Self { primary: primary.clone(), standby, has_failed_over: Arc::default() };
        let behind = pair.primary.flushed().await?;
        let client = pair.standby.connect(STATEMENT_LIMIT).await?;
        reaches(&client, behind).await?;
        Ok(pair)
    }

    /// The cluster that was the primary first.
    #[must_use]
    pub fn primary(&self) -> &Cluster {
        &self.primary
    }

    /// The cluster that was the standby first.
    #[must_use]
    pub fn standby(&self) -> &Cluster {
        &self.standby
    }

    /// The one that takes writes: after a failover the former standby.
    #[must_use]
    pub fn current(&self) -> &Cluster {
        if self.has_failed_over.load(Ordering::Acquire) { &self.standby } else { &self.primary }
    }

    /// The URL for the service, with both hosts, the first primary first.
    #[must_use]
    pub fn url(&self) -> String {
        let host = |cluster: &Cluster| format!("{}:{}", cluster.address(), cluster.port());
        let first = host(&self.primary);
        self.primary.url().replace(&first, &format!("{first},{}", host(&self.standby)))
    }

    /// Loses the primary, as when its machine burns, and promotes the standby. For `unshipped` before that the standby
    /// gets nothing, while the primary goes on to commit; zero loses nothing at all, because the primary's sessions are
    /// stopped and what they committed is shipped first.
    ///
    /// # Errors
    /// [`Error::State`] when there is no primary with a standby that follows it, [`Error::Late`] when the standby does
    /// not catch up or is not promoted in time.
    ///
    /// # Cancel safety
    /// Dropped before the loss, everything goes on as before. After it the old primary stays down, and the standby may
    /// still be promoted.
    pub async fn fail_over(&self, unshipped: Duration) -> Result<Window, Error> {
        let primary = self.primary.connect(STATEMENT_LIMIT).await?;
        let standby = self.standby.connect(STATEMENT_LIMIT).await?;
        let sender = Sender::find(&primary).await?;
        let mut samples = Samples::default();
        let begin = samples.look(&primary).await?;
        reaches(&standby, begin).await?;
        if !unshipped.is_zero() {
            // What it has sent already still arrives; the fork tells.
            sender.stop()?;
            let end = Instant::now() + unshipped;
            while Instant::now() < end {
                samples.look(&primary).await?;
                tokio::time::sleep(SAMPLE_EVERY.min(end.saturating_duration_since(Instant::now()))).await;
            }
        }
        let (frozen, end) = self.freeze(&primary, &sender).await?;
        let until = Instant::now();
        if unshipped.is_zero() {
            reaches(&standby, end).await?;
        }
        let killed = self.primary.lose().await?;
        drop(frozen);
        // Nobody is left to be woken.
        drop(sender);
        let promoted = self.standby.promote().await?;
        self.has_failed_over.store(true, Ordering::Release);
        // What was acknowledged before a look that saw no more than the fork is in the new timeline.
        let from = samples.last_within(promoted.fork).unwrap_or(until);
        Ok(Window {
            fork: promoted.fork,
            end,
            timeline: promoted.timeline,
            from: if promoted.fork >= end { until } else { from },
            until,
            promoted: Instant::now(),
            exit: killed.exit,
        })
    }

    /// Starts the old primary again after a failover, as an operator or a supervisor may who knows nothing of it: two
    /// primaries then take writes. Dropping the guard kills it.
    ///
    /// # Errors
    /// [`Error::State`] when it runs, or when it and the other are not two primaries of one origin then.
    ///
    /// # Cancel safety
    /// A drop leaves it starting.
    pub async fn return_old_primary(&self) -> Result<SplitBrain, Error> {
        let what = "return the old primary";
        if self.primary.pid().is_some() {
            return Err(Error::state(what, "it is running"));
        }
        // From here on the guard ends it on every way out.
        let split = SplitBrain { old: self.primary.clone(), new: self.standby.clone() };
        self.primary.start_again().await?;
        let (old, new) = (self.primary.identity().await?, self.standby.identity().await?);
        if old.0 != new.0 || old.1 || new.1 {
            let reason =
                format!("they are not two primaries of one origin (identity, standby): {old:?}, {new:?}");
            return Err(Error::state(what, reason));
        }
        Ok(split)
    }

    /// Stops all sessions of the primary and tells how far its WAL is on disk then. The harness's own session goes on,
    /// and so does the sender, stopped or not.
    async fn freeze(&self, primary: &Client, sender: &Sender) -> Result<(Hang, Lsn), Error> {
        let own = ask_text(primary, "SELECT pg_backend_pid()::text", STATEMENT_LIMIT).await?;
        let spared: Vec<u32> = own.parse().into_iter().chain(sender.pids()).collect();
        let frozen = self.primary.freeze(&spared).await?;
        let end = tokio::time::timeout(FROZEN_LIMIT, flushed(primary)).await;
        let end =
            end.map_err(|_| Error::Late { what: "ask a stopped primary".to_owned(), limit: FROZEN_LIMIT })?;
        Ok((frozen, end?))
    }
}

/// Whether this machine can do it, proven by a failover without a window; what was seen. Takes some seconds.
///
/// # Errors
/// [`Error::NoMeans`] without `pg_basebackup`; otherwise as [`Pair::fail_over`].
///
/// # Cancel safety
/// Dropping the future ends and removes what was started.
pub async fn probe(options: &Options) -> Result<String, Error> {
    let primary = Cluster::start(options).await?;
    let began = Instant::now();
    let pair = Pair::of(&primary).await?;
    let copied = began.elapsed();
    let window = pair.fail_over(Duration::ZERO).await?;
    let took = window.promoted.saturating_duration_since(window.until);
    let (copied, took) = (copied.as_millis(), took.as_millis());
    Ok(format!(
        "a standby followed after {copied} ms and was the primary {took} ms after the loss of the other"
    ))
}

/// Two primaries. The old one is killed when this is dropped.
#[derive(Debug)]
#[must_use = "the old primary is killed as soon as this is dropped"]
pub struct SplitBrain {
    old: Cluster,
    new: Cluster,
}

impl SplitBrain {
    /// What proves that it is so; `None` where one of the two is gone.
    #[must_use]
    pub fn witness(&self) -> Option<String> {
        let (old, new) = (self.old.pid()?, self.new.pid()?);
        Some(format!("two primaries of one origin took writes: processes {old} (old) and {new}"))
    }
}

impl Drop for SplitBrain {
    fn drop(&mut self) {
        self.old.lose_unwatched();
    }
}

/// The processes that ship WAL to standbys. They go on when this is dropped.
#[derive(Debug)]
struct Sender {
    handles: Vec<Handle>,
}

impl Sender {
    async fn find(primary: &Client) -> Result<Self, Error> {
        let ask = "SELECT coalesce(string_agg(pid::text, ','), '') FROM pg_stat_replication WHERE state = 'streaming'";
        let pids = ask_text(primary, ask, STATEMENT_LIMIT).await?;
        let pids = pids.split(',').filter_map(|pid| pid.parse().ok());
        let handles: Vec<Handle> = pids.filter_map(process::handle).collect();
        if handles.is_empty() {
            return Err(Error::state("fail over", "no standby follows the primary"));
        }
        Ok(Self { handles })
    }

    fn stop(&self) -> Result<(), Error> {
        if node::signal_all(&self.handles, Signal::STOP) == self.handles.len() {
            return Ok(());
        }
        Err(Error::state("hold the WAL back", "a process that ships it has just ended"))
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.handles.iter().map(Handle::pid)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        node::signal_all(&self.handles, Signal::CONT);
    }
}

/// How far the WAL was on disk at which time.
#[derive(Debug, Default)]
struct Samples(Vec<(Instant, Lsn)>);

impl Samples {
    /// Asked before the time is taken it would be too late: who was acknowledged before the question is within the answer.
    async fn look(&mut self, primary: &Client) -> Result<Lsn, Error> {
        let at = Instant::now();
        let position = flushed(primary).await?;
        if self.0.len() < SAMPLES_MAX {
            self.0.push((at, position));
        }
        Ok(position)
    }

    /// The last time at which no more than this was on disk.
    fn last_within(&self, fork: Lsn) -> Option<Instant> {
        self.0.iter().rev().find(|(_, position)| *position <= fork).map(|(at, _)| *at)
    }
}

/// Waits until a standby has received all up to a position.
async fn reaches(standby: &Client, position: Lsn) -> Result<(), Error> {
    let end = Instant::now() + CATCH_UP_LIMIT;
    while received(standby).await? < position {
        if Instant::now() >= end {
            return Err(Error::Late { what: "let the standby catch up".to_owned(), limit: CATCH_UP_LIMIT });
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_before_the_last_look_within_the_fork_is_safe() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let samples =
            Samples(vec![(at(0), Lsn(100)), (at(5), Lsn(200)), (at(10), Lsn(200)), (at(15), Lsn(300))]);
        assert_eq!(samples.last_within(Lsn(200)), Some(at(10)));
        assert_eq!(samples.last_within(Lsn(299)), Some(at(10)));
        assert_eq!(samples.last_within(Lsn(99)), None, "then nothing is known to be safe");
    }
}
