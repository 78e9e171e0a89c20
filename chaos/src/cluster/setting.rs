//! A setting of a running cluster, changed for a while: a limit on temporary files, a timeout, a read-only default.
//! Through its file and a signal rather than by SQL, so that it can be taken back in a drop, also where nobody can
//! connect any more. What a setting does to users is up to the caller.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::replication::{STATEMENT_LIMIT, ask_text};
use crate::error::Error;

/// Between two looks whether the settings have been read.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A changed setting. It is as before when this is dropped; sessions follow at their next statement.
#[derive(Debug)]
#[must_use = "the setting is as before as soon as this is dropped"]
pub struct Changed {
    cluster: Cluster,
    file: PathBuf,
    lines: String,
}

impl Cluster {
    /// Changes a setting for all sessions that have not set it themselves, and waits until PostgreSQL has read it.
    ///
    /// # Errors
    /// [`Error::State`] when the cluster is down, or does not take the setting from its file: because it is unknown,
    /// takes a restart, has no such value, or is fixed by [`Options::settings`](crate::cluster::Options::settings).
    ///
    /// # Cancel safety
    /// Dropping the future takes the change back.
    pub async fn change(&self, name: &str, value: &str) -> Result<Changed, Error> {
        let what = || format!("set {name} to {value}");
        if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.".contains(letter)) {
            return Err(Error::state(what(), "that is no name of a setting"));
        }
        let client = self.connect(STATEMENT_LIMIT).await?;
        let id = fastrand::u64(..);
        let value = value.replace('\'', "''");
        let lines = format!("# change {id:016x}\n{name} = '{value}'\n");
        let file = self.data().join("postgresql.conf");
        // From here on it is taken back on every way out.
        let changed = Changed { cluster: self.clone(), file, lines };
        let opened = OpenOptions::new().append(true).open(&changed.file);
        opened.and_then(|mut file| file.write_all(changed.lines.as_bytes())).map_err(Error::io(what()))?;
        let text = fs::read_to_string(&changed.file).map_err(Error::io(what()))?;
        self.read_settings();
        let look = look(name, text.lines().count());
        let end = Instant::now() + STATEMENT_LIMIT;
        loop {
            match ask_text(&client, &look, STATEMENT_LIMIT).await?.as_str() {
                "taken" => return Ok(changed),
                "waiting" if Instant::now() < end => tokio::time::sleep(LOOK_EVERY).await,
                "waiting" => return Err(Error::Late { what: what(), limit: STATEMENT_LIMIT }),
                reason => return Err(Error::state(what(), reason)),
            }
        }
    }

    /// Lets the postmaster, and by it all its processes, read the settings again.
    fn read_settings(&self) {
        let mut state = self.lock();
        if let Some(process) = state.running() {
            process.signal(Signal::HUP);
        }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // A guard that heals on drop has nobody to tell. Written over, the file keeps its owner; a postmaster that is
        // down reads it when it starts.
        if let Ok(text) = fs::read_to_string(&self.file) {
            let _ = fs::write(&self.file, text.replace(&self.lines, ""));
        }
        self.cluster.read_settings();
    }
}

/// The statement that tells what became of the setting on a line of the file: "taken", "waiting", or why it is refused.
/// A session reads the settings again between two statements; a file with a mistake in it, nobody reads.
fn look(name: &str, line: usize) -> String {
    format!(
        "SELECT CASE WHEN now.context IN ('postmaster', 'internal') THEN 'it takes a restart' \
         WHEN file.error IS NOT NULL THEN file.error \
         WHEN now.source = 'command line' THEN 'the command line of the cluster fixes it' \
         WHEN now.sourceline = {line} THEN 'taken' ELSE 'waiting' END \
         FROM (SELECT) one \
         LEFT JOIN pg_settings now ON now.name = '{name}' \
         LEFT JOIN pg_file_settings file ON file.sourceline = {line} AND file.sourcefile LIKE '%/postgresql.conf'"
    )
}
