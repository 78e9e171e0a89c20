//! A cluster as a victim: killed, brought back, hung. Each call does one thing and says what it saw.
//! Start, access and orderly stop are in `cluster.rs`; when to break it is up to `nemesis.rs`.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::cluster::{Cluster, node};
use crate::error::Error;
use crate::process::{self, Entry, Exit, Handle, poll_until};

/// How long a killed postmaster may take to be gone. It takes milliseconds.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long backends of a killed postmaster may go on before the next start ends them: they notice the death at
/// their next wait, and only one that computes goes on.
const SURVIVOR_LIMIT: Duration = Duration::from_secs(2);
/// A postmaster is told of a backend's end by a signal, and acts on it within milliseconds.
const NOTICE_LIMIT: Duration = Duration::from_millis(200);
/// How long the kernel may take to stop a process.
const HANG_LIMIT: Duration = Duration::from_secs(2);
/// A start that recovers takes some tenths of a second; one that is over before it was seen is made again.
const HELD_LIMIT: Duration = Duration::from_secs(3);
const HELD_TRIES: u32 = 5;
/// Looks at the process table at the most, until it shows no process that is not stopped.
const HANG_ROUNDS: u32 = 20;

/// What a kill found and left.
#[derive(Debug, Clone, Copy)]
pub struct Killed {
    /// The postmaster that was killed.
    pub pid: u32,
    /// How it ended; signal 9.
    pub exit: Exit,
    /// Processes of the cluster before the kill, the postmaster included.
    pub processes: usize,
}

/// Every process of a cluster stopped by SIGSTOP. They go on when this is dropped.
#[derive(Debug)]
#[must_use = "the cluster goes on as soon as this guard is dropped"]
pub struct Hang {
    handles: Vec<Handle>,
}

impl Hang {
    /// How many processes it holds. One that was just ending when it was stopped ends all the same, and is not counted.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.entries().count()
    }

    /// How many of them are stopped now, as the kernel says.
    #[must_use]
    pub fn stopped_now(&self) -> usize {
        self.entries().filter(Entry::is_stopped).count()
    }

    /// Waits until the kernel has stopped all: a sleeping process is stopped only when it gets to handle the signal.
    async fn complete(&self) -> Result<(), Error> {
        let all = poll_until(HANG_LIMIT, || (self.stopped_now() == self.processes()).then_some(())).await;
        all.ok_or(Error::Late { what: "stop every process of PostgreSQL".to_owned(), limit: HANG_LIMIT })
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.handles.iter().filter_map(Handle::entry).filter(Entry::is_alive)
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        node::signal_all(&self.handles, Signal::CONT);
    }
}

impl Cluster {
    /// Kills the postmaster as a crash would (SIGKILL) and reaps it. Its backends end by themselves a moment later,
    /// except one that computes: that may still commit.
    ///
    /// # Errors
    /// [`Error::State`] when it is not running, [`Error::Late`] when it does not die.
    ///
    /// # Cancel safety
    /// Once polled the kill has happened; a drop only leaves the reaping to the next call.
    pub async fn kill(&self) -> Result<Killed, Error> {
        let (pid, processes) = {
            let mut state = self.lock();
            let Some(process) = state.running() else {
                return Err(Error::state("kill PostgreSQL", "it is not running"));
            };
            let processes = self.0.node.tree(Some(process)).len();
            process.signal(Signal::KILL);
            (process.pid(), processes)
        };
        let exit = poll_until(KILL_LIMIT, || self.poll_exit()).await;
        let exit = exit.ok_or(Error::Late { what: "kill PostgreSQL".to_owned(), limit: KILL_LIMIT })?;
        process::reap_orphans("postgres");
        Ok(Killed { pid, exit, processes })
    }

    /// Kills every process at once, stopped ones too, as when the machine is lost: no backend outlives the postmaster,
    /// and nothing more is committed or sent.
    ///
    /// # Errors
    /// As [`Cluster::kill`].
    ///
    /// # Cancel safety
    /// As [`Cluster::kill`].
    pub async fn lose(&self) -> Result<Killed, Error> {
        let (pid, processes) = {
            let mut state = self.lock();
            let Some(process) = state.running() else {
                return Err(Error::state("lose PostgreSQL", "it is not running"));
            };
            // The postmaster is the first of the tree, so that it starts nobody in place of a killed one.
            let tree = self.0.node.tree(Some(process));
            node::signal_all(&tree, Signal::KILL);
            (process.pid(), tree.len())
        };
        let exit = poll_until(KILL_LIMIT, || self.poll_exit()).await;
        let exit = exit.ok_or(Error::Late { what: "lose PostgreSQL".to_owned(), limit: KILL_LIMIT })?;
        process::reap_orphans("postgres");
        Ok(Killed { pid, exit, processes })
    }

    /// As [`Cluster::lose`] without waiting or telling: for drops.
    pub(crate) fn lose_unwatched(&self) {
        let mut state = self.lock();
        if let Some(process) = state.running() {
            node::signal_all(&self.0.node.tree(Some(process)), Signal::KILL);
        }
    }

    /// Sees to it that PostgreSQL serves again: waits where it recovers by itself, starts it where it gave up. Gives
    /// the time it took.
    ///
    /// # Errors
    /// As [`Cluster::start_again`].
    ///
    /// # Cancel safety
    /// As [`Cluster::start_again`].
    pub async fn revive(&self) -> Result<Duration, Error> {
        let began = Instant::now();
        let end = began + self.0.start_timeout;
        loop {
            // It may give up while it is waited for, once: what made it fail is gone.
            if self.pid().is_none() || self.serve().await.is_err() {
                self.start_again().await?;
            }
            // A postmaster that has not yet noticed how a backend ended serves on for a moment, and then ends all.
            if self.stays().await {
                return Ok(began.elapsed());
            }
            if Instant::now() >= end {
                return Err(Error::Late {
                    what: "let PostgreSQL recover".to_owned(),
                    limit: self.0.start_timeout,
                });
            }
        }
    }

    /// Whether a session lives for longer than a postmaster takes to notice a crash.
    async fn stays(&self) -> bool {
        let Ok(client) = super::connect(&self.canary(), KILL_LIMIT).await else { return false };
        tokio::time::sleep(NOTICE_LIMIT).await;
        let asked = tokio::time::timeout(KILL_LIMIT, client.simple_query("SELECT 1")).await;
        matches!(asked, Ok(Ok(_)))
    }

    /// Starts PostgreSQL again on the same port and data, and waits until it serves connections. Gives the time it
    /// took, about 0.5 s after a crash.
    ///
    /// # Errors
    /// [`Error::State`] when it is running, [`Error::Start`] with the log when it does not come up.
    ///
    /// # Cancel safety
    /// A drop leaves PostgreSQL starting; it then comes up unwatched.
    pub async fn start_again(&self) -> Result<Duration, Error> {
        let began = Instant::now();
        self.end_survivors().await;
        self.spawn()?;
        self.serve().await?;
        Ok(began.elapsed())
    }

    /// Starts PostgreSQL after a crash and stops (SIGSTOP) the process that recovers it: it goes on starting, and refuses
    /// everybody with 57P03, until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::State`] when it is running, or when it was quicker than the look, over and over.
    ///
    /// # Cancel safety
    /// A drop leaves PostgreSQL starting; it then comes up unwatched.
    pub async fn start_held(&self) -> Result<Hang, Error> {
        for _ in 0..HELD_TRIES {
            self.end_survivors().await;
            self.spawn()?;
            let found = poll_until(HELD_LIMIT, || {
                let recovering = self.tree().into_iter().find(|handle| is_recovering(handle.pid()))?;
                recovering.signal(Signal::STOP).then_some(recovering)
            });
            if let Some(handle) = found.await {
                let hang = Hang { handles: vec![handle] };
                hang.complete().await?;
                if hang.stopped_now() == 1 {
                    return Ok(hang);
                }
            }
            self.kill().await?;
        }
        Err(Error::state(
            "hold PostgreSQL while it starts",
            "each time it was up before it was seen starting",
        ))
    }

    /// As [`Cluster::start_again`] without waiting for anything: for drops, where there is no time.
    pub(crate) fn start_again_unwatched(&self) {
        node::signal_all(&self.0.node.tree(None), Signal::KILL);
        process::reap_orphans("postgres");
        // A guard that heals on drop has nobody to tell; the canary sees whether it worked.
        let _ = self.spawn();
    }

    /// Stops every process of the cluster by SIGSTOP: connections stay open, the kernel still accepts new ones, and
    /// nobody answers. They go on when the guard is dropped.
    ///
    /// # Errors
    /// [`Error::State`] when the cluster is not running, [`Error::Late`] when the kernel does not stop it.
    ///
    /// # Cancel safety
    /// Dropping the future lets everything go on.
    pub async fn hang(&self) -> Result<Hang, Error> {
        self.freeze(&[]).await
    }

    /// As [`Cluster::hang`], of these processes alone; others go on.
    ///
    /// # Errors
    /// [`Error::State`] where one is no process of the cluster, else as [`Cluster::hang`].
    ///
    /// # Cancel safety
    /// Dropping the future lets them go on.
    pub async fn hang_only(&self, pids: &[u32]) -> Result<Hang, Error> {
        let chosen: Vec<Handle> =
            self.tree().into_iter().filter(|handle| pids.contains(&handle.pid())).collect();
        if chosen.len() != pids.len() {
            return Err(Error::state("hang a process of PostgreSQL", "it is gone"));
        }
        node::signal_all(&chosen, Signal::STOP);
        let hang = Hang { handles: chosen };
        hang.complete().await?;
        Ok(hang)
    }

    /// Kills one process of the cluster (SIGKILL); the postmaster then ends all others and recovers.
    ///
    /// # Errors
    /// [`Error::State`] where it is no process of the cluster.
    pub fn kill_only(&self, pid: u32) -> Result<(), Error> {
        let killed = self.tree().iter().any(|handle| handle.pid() == pid && handle.signal(Signal::KILL));
        if killed { Ok(()) } else { Err(Error::state("kill a process of PostgreSQL", "it is gone")) }
    }

    /// Stops every process but the spared ones, and waits until the kernel has done so.
    pub(super) async fn freeze(&self, spared: &[u32]) -> Result<Hang, Error> {
        let mut hang = Hang { handles: Vec::new() };
        for _ in 0..HANG_ROUNDS {
            let new = self.still_going(&hang, spared)?;
            if new.is_empty() {
                break;
            }
            node::signal_all(&new, Signal::STOP);
            hang.handles.extend(new);
            // Looked at again only then: a postmaster that was making a backend as it was told to stop still makes it.
            hang.complete().await?;
        }
        Ok(hang)
    }

    /// Processes that are neither held nor spared.
    fn still_going(&self, hang: &Hang, spared: &[u32]) -> Result<Vec<Handle>, Error> {
        let mut state = self.lock();
        let Some(process) = state.running() else {
            return Err(Error::state("hang PostgreSQL", "it is not running"));
        };
        let held = |pid: u32| spared.contains(&pid) || hang.handles.iter().any(|held| held.pid() == pid);
        Ok(self.0.node.tree(Some(process)).into_iter().filter(|handle| !held(handle.pid())).collect())
    }

    /// Waits for the backends of a dead postmaster, and kills those that go on: while one lives, a new postmaster
    /// refuses to start because of the shared memory they hold.
    pub(super) async fn end_survivors(&self) {
        let gone = || {
            process::reap_orphans("postgres");
            let down = self.poll_exit().is_some();
            (!down || self.0.node.tree(None).is_empty()).then_some(())
        };
        if poll_until(SURVIVOR_LIMIT, gone).await.is_none() {
            let survivors = self.0.node.tree(None);
            node::signal_all(&survivors, Signal::CONT);
            node::signal_all(&survivors, Signal::KILL);
            poll_until(KILL_LIMIT, gone).await;
        }
    }
}

/// Whether a process of PostgreSQL is the one that brings the data in order at a start, as its title says.
fn is_recovering(pid: u32) -> bool {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    title.starts_with(b"postgres: startup")
}
