//! The configuration files of a running cluster, changed for a while: a setting, such as a limit on temporary files or a
//! read-only default, or a rule about who may come in. Through the file and a signal rather than by SQL, so that it can be
//! taken back in a drop, also where nobody can connect any more. What a change does to users is up to the caller.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::cluster::Cluster;
use crate::cluster::replication::{STATEMENT_LIMIT, ask_text};
use crate::error::Error;

/// Between two looks whether the files have been read.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A changed configuration file. It is as before when this is dropped; sessions follow at their next statement.
#[derive(Debug)]
#[must_use = "the configuration is as before as soon as this is dropped"]
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
        let what = format!("set {name} to {value}");
        if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.".contains(letter)) {
            return Err(Error::state(what, "that is no name of a setting"));
        }
        let client = self.connect_admin(STATEMENT_LIMIT).await?;
        let line = format!("{name} = '{}'", value.replace('\'', "''"));
        let changed = Changed::begin(self, "postgresql.conf", &line);
        // The last line of a setting wins.
        let opened = OpenOptions::new().append(true).open(&changed.file);
        let io = || Error::io(what.clone());
        opened.and_then(|mut file| file.write_all(changed.lines.as_bytes())).map_err(io())?;
        let place = fs::read_to_string(&changed.file).map_err(io())?.lines().count();
        changed.is_read(&client, &what, &setting_at(name, place)).await?;
        Ok(changed)
    }

    /// Puts a rule before all others of `pg_hba.conf`, and waits until PostgreSQL has read it.
    ///
    /// # Errors
    /// [`Error::State`] when the cluster is down or does not understand the rule.
    ///
    /// # Cancel safety
    /// Dropping the future takes the rule back.
    pub(crate) async fn admit_by(&self, rule: &str) -> Result<Changed, Error> {
        let what = format!("put the rule `{rule}` before all others");
        let client = self.connect_admin(STATEMENT_LIMIT).await?;
        let before = ask_text(&client, "SELECT pg_conf_load_time()::text", STATEMENT_LIMIT).await?;
        let changed = Changed::begin(self, "pg_hba.conf", rule);
        let io = || Error::io(what.clone());
        let text = fs::read_to_string(&changed.file).map_err(io())?;
        // Written over, the file keeps its owner.
        fs::write(&changed.file, format!("{}{text}", changed.lines)).map_err(io())?;
        changed.is_read(&client, &what, &rules_since(&before)).await?;
        Ok(changed)
    }

    /// Lets the postmaster, and by it all its processes, read its files again.
    fn read_settings(&self) {
        let mut state = self.lock();
        if let Some(process) = state.running() {
            process.signal(Signal::HUP);
        }
    }
}

impl Changed {
    /// From here on the line is taken back on every way out.
    fn begin(cluster: &Cluster, file: &str, line: &str) -> Self {
        // By its mark it is told from another one that says the same.
        let lines = format!("# change {:016x}\n{line}\n", fastrand::u64(..));
        Self { cluster: cluster.clone(), file: cluster.data().join(file), lines }
    }

    /// Has the files read again, and waits until a statement says "taken"; anything but "waiting" is why they were not.
    async fn is_read(&self, client: &Client, what: &str, look: &str) -> Result<(), Error> {
        self.cluster.read_settings();
        let end = Instant::now() + STATEMENT_LIMIT;
        loop {
            match ask_text(client, look, STATEMENT_LIMIT).await?.as_str() {
                "taken" => return Ok(()),
                "waiting" if Instant::now() < end => tokio::time::sleep(LOOK_EVERY).await,
                "waiting" => return Err(Error::Late { what: what.to_owned(), limit: STATEMENT_LIMIT }),
                reason => return Err(Error::state(what.to_owned(), reason)),
            }
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

/// The statement that tells what became of the setting on a line of the file. A session reads the settings again between
/// two statements; a file with a mistake in it, nobody reads.
fn setting_at(name: &str, line: usize) -> String {
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

/// The statement that tells whether the rules were read again since `before`.
fn rules_since(before: &str) -> String {
    format!(
        "SELECT CASE WHEN mistakes.told IS NOT NULL THEN mistakes.told \
         WHEN pg_conf_load_time() <> '{before}'::timestamptz THEN 'taken' ELSE 'waiting' END \
         FROM (SELECT string_agg(error, '; ') AS told FROM pg_hba_file_rules) mistakes"
    )
}
