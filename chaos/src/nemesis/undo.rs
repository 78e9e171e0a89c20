//! Statements that carry out a fault, and such that take it back, on drop too. What is changed is up to the faults; changed
//! configuration files take themselves back (`cluster/setting.rs`).

use std::time::Duration;

use crate::cluster::Cluster;
use crate::error::Error;

/// One fault by SQL, all its statements together.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

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
