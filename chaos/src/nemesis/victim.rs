//! A session of the service's own role that a fault does its harm to: what it meets is the witness on the victim's side.
//! It breaks nothing.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};

use crate::cluster::Cluster;
use crate::error::{Error, describe_postgres};
use crate::stack::Line;

/// A healthy database answers within milliseconds.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a witness of silence listens.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

/// An open session. It is closed when this is dropped.
#[derive(Debug)]
pub(super) struct Victim {
    client: Client,
    pid: u32,
    connection: JoinSet<String>,
}

/// What a question met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Met {
    Answer,
    /// An error, the SQLSTATE first where there is one.
    Error(String),
    /// Nothing, within the limit.
    Silence,
}

impl Met {
    /// The error where it has this SQLSTATE.
    pub(super) fn with(self, code: &str) -> Option<String> {
        match self {
            Self::Error(text) if text.starts_with(code) => Some(text),
            _ => None,
        }
    }
}

impl Victim {
    /// Opens a session as the service would.
    pub(super) async fn open(cluster: &Cluster) -> Result<Self, Error> {
        Self::open_by(&cluster.service()).await
    }

    async fn open_by(config: &Config) -> Result<Self, Error> {
        let what = "open a session as the service";
        let work = async {
            let (client, connection) = config.connect(NoTls).await.map_err(Error::postgres(what))?;
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                match connection.await {
                    Ok(()) => "closed".to_owned(),
                    Err(error) => describe_postgres(&error),
                }
            });
            let row =
                client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(Error::postgres(what))?;
            let pid: i32 = row.try_get(0).map_err(Error::postgres(what))?;
            Ok(Self { client, pid: pid.unsigned_abs(), connection: tasks })
        };
        let late = |_| Error::Late { what: what.to_owned(), limit: LIMIT };
        tokio::time::timeout(LIMIT, work).await.map_err(late)?
    }

    /// The pid of its backend.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What these statements meet.
    pub(super) async fn meets(&self, statements: &str, limit: Duration) -> Met {
        match tokio::time::timeout(limit, self.client.batch_execute(statements)).await {
            Err(_) => Met::Silence,
            Ok(Ok(())) => Met::Answer,
            Ok(Err(error)) => Met::Error(describe_postgres(&error)),
        }
    }

    /// The last word of the server on this session, where it ended within the limit.
    pub(super) async fn ended(&mut self, limit: Duration) -> Option<String> {
        tokio::time::timeout(limit, self.connection.join_next()).await.ok()??.ok()
    }
}

/// What a new session of the service's role meets with these statements.
pub(super) async fn newcomer(cluster: &Cluster, statements: &str, limit: Duration) -> Met {
    newcomer_by(&cluster.service(), statements, limit).await
}

/// As [`newcomer`], on the way that a server has to PostgreSQL.
pub(super) async fn newcomer_on(line: &Line, statements: &str, limit: Duration) -> Met {
    match line.url().parse() {
        Ok(config) => newcomer_by(&config, statements, limit).await,
        Err(error) => Met::Error(error.to_string()),
    }
}

async fn newcomer_by(config: &Config, statements: &str, limit: Duration) -> Met {
    let work = async {
        match Victim::open_by(config).await {
            Ok(victim) => victim.meets(statements, limit).await,
            Err(Error::Postgres { source, .. }) => Met::Error(describe_postgres(&source)),
            Err(Error::Late { .. }) => Met::Silence,
            Err(error) => Met::Error(error.to_string()),
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or(Met::Silence)
}

/// As [`newcomer`], again and again until it meets an error with this SQLSTATE, or the limit passes.
pub(super) async fn newcomer_with(
    cluster: &Cluster,
    statements: &str,
    code: &str,
    limit: Duration,
) -> Option<String> {
    let end = tokio::time::Instant::now() + limit;
    loop {
        if let Some(text) = newcomer(cluster, statements, limit).await.with(code) {
            return Some(text);
        }
        if tokio::time::Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a new session of the service's role is answered again.
pub(super) async fn serves(cluster: &Cluster) -> Result<(), Error> {
    /// As long as a start may take.
    const LIMIT: Duration = Duration::from_secs(30);
    let end = tokio::time::Instant::now() + LIMIT;
    while newcomer(cluster, "SELECT 1", Duration::from_secs(2)).await != Met::Answer {
        if tokio::time::Instant::now() >= end {
            return Err(Error::Late {
                what: "see PostgreSQL serve the service again".to_owned(),
                limit: LIMIT,
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_code_is_a_witness() {
        let met = || Met::Error("28P01 password authentication failed".into());
        assert!(met().with("28P01").is_some());
        assert_eq!(met().with("28000"), None);
        assert_eq!(Met::Silence.with(""), None);
        assert_eq!(Met::Answer.with(""), None);
    }
}
