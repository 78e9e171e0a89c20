//! Standbys: a copy of a running cluster that follows it, its promotion, and positions in the WAL. How a failover goes,
//! with what loss, is in `cluster/failover.rs`.

use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::cluster::node::Node;
use crate::cluster::{Cluster, Inner, blocking, template};
use crate::error::Error;
use crate::ports;
use crate::process::{self, Exit, Launch, Process};

/// A copy of a small cluster takes some tenths of a second.
const COPY_LIMIT: Duration = Duration::from_secs(60);
/// One statement of the harness on a cluster that is well.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
/// A promotion takes some 0.1 s. In whole seconds for `pg_promote`.
const PROMOTE_LIMIT: Duration = Duration::from_secs(30);

/// A position in the WAL, in bytes since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes lie between an earlier position and this one; 0 where it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    /// As PostgreSQL writes it, such as `0/3000148`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let halves = text.split_once('/').and_then(|(high, low)| {
            Some((u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?))
        });
        let halves =
            halves.ok_or_else(|| Error::state("read a position in the WAL", format!("got `{text}`")))?;
        Ok(Self(u64::from(halves.0) << 32 | u64::from(halves.1)))
    }
}

/// What a promotion made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline; the first of a cluster is 1.
    pub timeline: u32,
    /// Where it leaves the old one: what the old primary has beyond this is lost.
    pub fork: Lsn,
}

impl Cluster {
    /// Copies this running cluster into the same run folder and lets the copy follow it: a hot standby on a port of
    /// its own with the same settings, roles and passwords. `name` is unique in the run. It is a cluster like any other,
    /// and can be killed, hung and started again.
    ///
    /// # Errors
    /// [`Error::NoMeans`] without `pg_basebackup`, [`Error::Start`] with the log where the copy fails or does not come
    /// up.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started; the copy goes with the run folder.
    pub async fn standby(&self, name: &str) -> Result<Self, Error> {
        let Inner { node, admin_password, app_password, start_timeout, folder, .. } = &*self.0;
        let data = node.data.with_file_name(name);
        let primary = self.clone();
        let target = data.clone();
        blocking("copy a cluster", move || primary.copy_base(target)).await?;
        let cluster = Self(Arc::new(Inner {
            state: Mutex::default(),
            node: Node {
                binaries: node.binaries.clone(),
                data,
                log: folder.path().join(format!("{name}.log")),
                place: node.place.clone(),
                port: ports::free()?,
                account: node.account,
                env: node.env.clone(),
                settings: node.settings.clone(),
            },
            admin_password: admin_password.clone(),
            app_password: app_password.clone(),
            start_timeout: *start_timeout,
            folder: folder.clone(),
        }));
        cluster.first_start().await
    }

    /// Makes this standby the primary of a new timeline.
    ///
    /// # Errors
    /// [`Error::Postgres`] when it is no standby, [`Error::Late`] when it does not become one in time.
    ///
    /// # Cancel safety
    /// Once polled, the promotion goes on.
    pub async fn promote(&self) -> Result<Promoted, Error> {
        let client = self.connect(STATEMENT_LIMIT).await?;
        let ask = format!("SELECT pg_promote(true, {})::text", PROMOTE_LIMIT.as_secs());
        let promoted = ask_text(&client, &ask, PROMOTE_LIMIT + STATEMENT_LIMIT).await?;
        if promoted != "true" {
            return Err(Error::Late { what: "promote the standby".to_owned(), limit: PROMOTE_LIMIT });
        }
        // The control file tells the new timeline only after the next checkpoint; the name of the file in use does now.
        let file =
            ask_text(&client, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())", STATEMENT_LIMIT).await?;
        let timeline = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let timeline =
            timeline.ok_or_else(|| Error::state("read the new timeline", format!("got `{file}`")))?;
        let history = format!("SELECT pg_read_file('pg_wal/{timeline:08X}.history')");
        let fork = fork(&ask_text(&client, &history, STATEMENT_LIMIT).await?)?;
        Ok(Promoted { timeline, fork })
    }

    /// How far the WAL of a primary is safely on its disk.
    ///
    /// # Errors
    /// [`Error::Postgres`] on a standby; otherwise as [`Cluster::connect`].
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn flushed(&self) -> Result<Lsn, Error> {
        flushed(&self.connect(STATEMENT_LIMIT).await?).await
    }

    /// How far a standby has received the WAL of its primary.
    ///
    /// # Errors
    /// [`Error::State`] on a primary that never was a standby; otherwise as [`Cluster::connect`].
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn received(&self) -> Result<Lsn, Error> {
        received(&self.connect(STATEMENT_LIMIT).await?).await
    }

    /// The identity that a cluster shares with its copies, and whether it is a standby now.
    ///
    /// # Errors
    /// As [`Cluster::connect`].
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn identity(&self) -> Result<(String, bool), Error> {
        let client = self.connect(STATEMENT_LIMIT).await?;
        let identity = "SELECT system_identifier::text FROM pg_control_system()";
        let identity = ask_text(&client, identity, STATEMENT_LIMIT).await?;
        let standby = ask_text(&client, "SELECT pg_is_in_recovery()::text", STATEMENT_LIMIT).await? == "true";
        Ok((identity, standby))
    }

    /// Runs `pg_basebackup` to the end.
    fn copy_base(&self, target: PathBuf) -> Result<(), Error> {
        let Inner { node, admin_password, folder, .. } = &*self.0;
        let program = node.binaries.program("pg_basebackup");
        if !program.is_file() {
            let reason = format!("`pg_basebackup` is not in {}", node.binaries.folder().display());
            return Err(Error::no_means("a standby", reason));
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&target)
            .map_err(Error::io("make a standby's data directory"))?;
        template::own(&target, node.account)
            .map_err(Error::io("hand a data directory to PostgreSQL's account"))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let log = folder.path().join(format!("{name}-copy.log"));
        let (host, port) = (node.place.address.to_string(), node.port.to_string());
        // `-R` writes the password into the standby's settings, in a folder that only its account can enter.
        let args = [
            "-h",
            &host,
            "-p",
            &port,
            "-U",
            template::ADMIN,
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-R",
            "-D",
        ];
        let mut args: Vec<_> = args.into_iter().map(Into::into).collect();
        args.push(target.into());
        let mut process = Process::start(&Launch {
            name: "pg_basebackup".to_owned(),
            program,
            args,
            env: vec![
                ("LC_ALL".to_owned(), "C".to_owned()),
                ("PGPASSWORD".to_owned(), admin_password.clone()),
                // Where it would look for a password file and find one of the caller's.
                ("HOME".to_owned(), "/nonexistent".to_owned()),
            ],
            folder: folder.path().to_owned(),
            stdin: None,
            stdout: log.clone(),
            log: log.clone(),
            account: node.account,
        })?;
        folder.guard(process.handle())?;
        match process.wait_blocking(COPY_LIMIT) {
            Some(Exit { code: Some(0), .. }) => Ok(()),
            Some(exit) => {
                let reason = format!("it ended with {exit}");
                Err(Error::Start {
                    name: "pg_basebackup".to_owned(),
                    reason,
                    log: process::log_tail(&log, 12),
                })
            }
            None => Err(Error::Late { what: "copy a cluster".to_owned(), limit: COPY_LIMIT }),
        }
    }
}

pub(super) async fn flushed(client: &Client) -> Result<Lsn, Error> {
    ask_text(client, "SELECT pg_current_wal_flush_lsn()::text", STATEMENT_LIMIT).await?.parse()
}

/// What it has replayed counts where it has received nothing by streaming yet.
pub(super) async fn received(client: &Client) -> Result<Lsn, Error> {
    let ask = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text";
    ask_text(client, ask, STATEMENT_LIMIT).await?.parse()
}

/// Asks for one text. Null is the empty text.
pub(super) async fn ask_text(client: &Client, statement: &str, limit: Duration) -> Result<String, Error> {
    let what = || format!("ask PostgreSQL `{statement}`");
    let began = Instant::now();
    let asked = tokio::time::timeout(limit, client.query_one(statement, &[])).await;
    let row = asked.map_err(|_| Error::Late { what: what(), limit: began.elapsed() })?;
    let text: Option<String> = row.and_then(|row| row.try_get(0)).map_err(Error::postgres(what()))?;
    Ok(text.unwrap_or_default())
}

/// The last line of a timeline's history: `PARENT<tab>LSN<tab>reason`.
fn fork(history: &str) -> Result<Lsn, Error> {
    let last = history.lines().rfind(|line| !line.trim().is_empty());
    let position = last.and_then(|line| line.split('\t').nth(1));
    position
        .ok_or_else(|| Error::state("read a timeline's history", format!("got `{}`", history.trim())))?
        .parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_postgresql_writes_it() {
        let position: Lsn = "1/3000148".parse().unwrap();
        assert_eq!(position, Lsn(0x1_0300_0148));
        assert_eq!(position.to_string(), "1/3000148");
        assert_eq!(position.since(Lsn(0x1_0300_0000)), 0x148);
        assert_eq!(Lsn(1).since(position), 0);
        assert!("0/xyz".parse::<Lsn>().is_err() && "12".parse::<Lsn>().is_err());
    }

    #[test]
    fn the_last_fork_of_a_history_counts() {
        let history =
            "1\t0/3000148\tno recovery target specified\n\n2\t0/5000060\tno recovery target specified\n";
        assert_eq!(fork(history).unwrap(), Lsn(0x500_0060));
        assert!(fork("").is_err());
    }
}
