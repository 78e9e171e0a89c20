//! Ways to take back what a fault changed, on drop too: edited configuration files, and statements.
//! What is changed is up to the faults.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::error::Error;

/// One statement, or the wait for a reload.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// A line that was put into one of PostgreSQL's configuration files. It is taken out on drop.
#[derive(Debug)]
pub(super) struct Edit {
    cluster: Cluster,
    path: PathBuf,
    line: String,
}

impl Edit {
    /// Sets a parameter of the server, for all sessions that do not set it themselves.
    pub(super) async fn setting(cluster: &Cluster, name: &str, value: &str) -> Result<Self, Error> {
        let path = cluster.data().join("postgresql.auto.conf");
        // The last line of a parameter wins.
        Self::put(cluster, path, format!("{name} = '{value}'"), false).await
    }

    /// Puts a rule before all others of `pg_hba.conf`.
    pub(super) async fn rule(cluster: &Cluster, rule: &str) -> Result<Self, Error> {
        Self::put(cluster, cluster.data().join("pg_hba.conf"), rule.to_owned(), true).await
    }

    async fn put(cluster: &Cluster, path: PathBuf, line: String, first: bool) -> Result<Self, Error> {
        let client = cluster.connect_admin(LIMIT).await?;
        let before = load_time(&client).await?;
        let text = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
        if text.lines().any(|known| known == line) {
            return Err(Error::state(format!("put `{line}` into {}", path.display()), "it is there already"));
        }
        let text = if first { format!("{line}\n{text}") } else { format!("{text}\n{line}\n") };
        overwrite(&path, &text).map_err(Error::io(format!("write {}", path.display())))?;
        // From here on the guard takes it out, should this future be dropped.
        let edit = Self { cluster: cluster.clone(), path, line };
        cluster.signal(Signal::HUP);
        let end = tokio::time::Instant::now() + LIMIT;
        while load_time(&client).await? == before {
            if tokio::time::Instant::now() >= end {
                let what = "reload the configuration of PostgreSQL".to_owned();
                return Err(Error::Late { what, limit: LIMIT });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(edit)
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        let Ok(text) = fs::read_to_string(&self.path) else { return };
        let kept: String =
            text.lines().filter(|line| *line != self.line).map(|line| format!("{line}\n")).collect();
        // A guard that heals on drop has nobody to tell; the canary sees whether it worked.
        let _ = overwrite(&self.path, &kept);
        self.cluster.signal(Signal::HUP);
    }
}

/// In place, so that the file stays with its owner.
fn overwrite(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())
}

async fn load_time(client: &tokio_postgres::Client) -> Result<String, Error> {
    let what = "ask PostgreSQL for its configuration";
    let asked = tokio::time::timeout(LIMIT, client.query_one("SELECT pg_conf_load_time()::text", &[])).await;
    let row = asked.map_err(|_| Error::Late { what: what.to_owned(), limit: LIMIT })?;
    row.and_then(|row| row.try_get(0)).map_err(Error::postgres(what))
}

/// Where statements are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// In the service's database.
    Service,
    /// In the harness's own, which is there whatever happens to the other.
    Beside,
}

/// Executes statements as superuser, within [`LIMIT`].
pub(super) async fn execute(cluster: &Cluster, place: Where, statements: &str) -> Result<(), Error> {
    let what = "carry out a fault by SQL";
    let work = async {
        let client = match place {
            Where::Service => cluster.connect(LIMIT).await?,
            Where::Beside => cluster.connect_admin(LIMIT).await?,
        };
        // A fault must not fall victim to another one.
        let free = "SET default_transaction_read_only = off; SET synchronous_commit = local; SET lock_timeout = '4s'";
        client.batch_execute(free).await.map_err(Error::postgres(what))?;
        for statement in statements.split(";\n") {
            client.batch_execute(statement).await.map_err(Error::postgres(what))?;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, work)
        .await
        .map_err(|_| Error::Late { what: what.to_owned(), limit: LIMIT })?
}

/// Statements that take a change back. They are executed on drop too, where there is a runtime to do it.
#[derive(Debug)]
pub(super) struct Undo {
    cluster: Cluster,
    place: Where,
    statements: String,
    done: bool,
}

impl Undo {
    pub(super) fn by(cluster: &Cluster, place: Where, statements: impl Into<String>) -> Self {
        Self { cluster: cluster.clone(), place, statements: statements.into(), done: false }
    }

    pub(super) async fn now(mut self) -> Result<(), Error> {
        let undone = execute(&self.cluster, self.place, &self.statements).await;
        self.done = undone.is_ok();
        undone
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (cluster, place, statements) =
            (self.cluster.clone(), self.place, std::mem::take(&mut self.statements));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Bounded in time by itself; where the cluster is being taken down it fails, and nothing is lost.
            runtime.spawn(async move {
                let _ = execute(&cluster, place, &statements).await;
            });
        }
    }
}
