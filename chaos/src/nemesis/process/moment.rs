//! What a session of the harness is doing when PostgreSQL is killed, and what of it is there afterwards: open
//! transaction, commit after commit, or a long computation that outlives its postmaster. It kills nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::process::poll_until;

/// The moments, as they are written.
pub(super) const WORDS: &[&str] = &["idle", "transaction", "commit", "computing"];

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A first commit takes milliseconds.
const COMMIT_LIMIT: Duration = Duration::from_secs(2);
/// More than this are not asked for in one kill.
const COMMITS_MAX: u64 = 100_000;

/// A moment to kill at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Idle,
    /// A row is inserted and not committed.
    Transaction,
    /// One commit follows another.
    Commit,
    /// A statement computes for a second, inserts, and so may commit after its postmaster has died.
    Computing,
}

/// A session in that moment. Its rows carry a time of their own, long ago, by which they are found again.
#[derive(Debug)]
pub(super) struct Occupied {
    moment: Moment,
    mark: u32,
    acknowledged: Arc<AtomicU64>,
    // Held for the open transaction; the others own theirs in a task.
    _client: Option<Client>,
    tasks: JoinSet<()>,
}

impl Moment {
    pub(super) fn of(word: &str) -> Self {
        match word {
            "transaction" => Self::Transaction,
            "commit" => Self::Commit,
            "computing" => Self::Computing,
            _ => Self::Idle,
        }
    }

    /// Brings a session into this moment.
    pub(super) async fn occupy(self, cluster: &Cluster) -> Result<Occupied, Error> {
        let mut occupied = Occupied {
            moment: self,
            mark: fastrand::u32(1..1_000_000_000),
            acknowledged: Arc::default(),
            _client: None,
            tasks: JoinSet::new(),
        };
        if self == Self::Idle {
            return Ok(occupied);
        }
        let client = cluster.connect_admin(CONNECT_LIMIT).await?;
        let insert = format!("INSERT INTO public.canary (at) VALUES (to_timestamp({}))", occupied.mark);
        let acknowledged = Arc::clone(&occupied.acknowledged);
        match self {
            Self::Transaction => {
                let begun = client.batch_execute(&format!("BEGIN; {insert}")).await;
                begun.map_err(Error::postgres("leave a transaction open"))?;
                occupied._client = Some(client);
            }
            Self::Commit => {
                occupied.tasks.spawn(async move {
                    for _ in 0..COMMITS_MAX {
                        if client.batch_execute(&insert).await.is_err() {
                            break;
                        }
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let counter = &occupied.acknowledged;
                poll_until(COMMIT_LIMIT, || (counter.load(Ordering::Relaxed) > 0).then_some(())).await;
            }
            Self::Computing | Self::Idle => {
                let computing = format!(
                    "INSERT INTO public.canary (at) SELECT to_timestamp({}) FROM \
                     (SELECT count(*) FROM generate_series(1, 3000) AS a, generate_series(1, 4000) AS b) AS long",
                    occupied.mark
                );
                occupied.tasks.spawn(async move {
                    if client.batch_execute(&computing).await.is_ok() {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                });
                // It must have begun to compute before its postmaster dies.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(occupied)
    }
}

impl Occupied {
    /// What is there after PostgreSQL came back, in words to follow the witness.
    ///
    /// # Errors
    /// [`Error::State`] where PostgreSQL lost what it had acknowledged: then no verdict on a service is worth anything.
    pub(super) async fn left(mut self, cluster: &Cluster) -> Result<String, Error> {
        if self.moment == Moment::Idle {
            return Ok(String::new());
        }
        self.tasks.shutdown().await;
        self._client = None;
        let what = "count the rows of a killed session";
        let client = cluster.connect_admin(CONNECT_LIMIT).await?;
        let count = format!("SELECT count(*) FROM public.canary WHERE at = to_timestamp({})", self.mark);
        let row = client.query_one(&count, &[]).await.map_err(Error::postgres(what))?;
        let rows: i64 = row.try_get(0).map_err(Error::postgres(what))?;
        let rows = u64::try_from(rows).unwrap_or(0);
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        if rows < acknowledged {
            let reason = format!("PostgreSQL acknowledged {acknowledged} commits and kept {rows}");
            return Err(Error::state("trust the database", reason));
        }
        Ok(match self.moment {
            Moment::Idle => String::new(),
            Moment::Transaction => format!("; of an open transaction {rows} rows are there"),
            Moment::Commit => format!("; {acknowledged} commits were acknowledged and {rows} are there"),
            Moment::Computing => {
                let answered = if acknowledged > 0 { "answered" } else { "not answered" };
                format!("; a statement that computed on was {answered}, {rows} rows of it are there")
            }
        })
    }
}
