//! A write as an ordinary client does it: a transaction of a plain driver, one connection a write, no retry, no key. What
//! the driver says is taken as it is.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{Client, Config, NoTls};

use crate::cluster::Cluster;
use crate::error::{Error, describe_postgres};
use crate::explore::{ASK_LIMIT, Told, Wrote};

/// What the client gives its transaction. Without a limit it would wait for ever where nothing comes.
const LIMIT: Duration = Duration::from_millis(400);
/// Logging in takes a tenth of a second of hashing in an unoptimised build, and belongs to no boundary.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// An ordinary client.
#[derive(Debug)]
pub(super) struct Raw {
    config: Config,
}

/// Makes the table that it writes to.
pub(super) async fn prepare(cluster: &Cluster) -> Result<(), Error> {
    let client = cluster.connect(ASK_LIMIT).await?;
    // No key on purpose: a second row must be able to show.
    let sql = "CREATE TABLE public.explored (key text NOT NULL); GRANT ALL ON public.explored TO PUBLIC";
    client.batch_execute(sql).await.map_err(Error::postgres("make a table"))
}

impl Raw {
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let config = url.parse().map_err(Error::postgres("read the URL of the cluster"))?;
        Ok(Self { config })
    }

    /// Nothing is kept between two writes.
    pub(super) async fn warm(&self) -> Result<(), Error> {
        self.connect().await.map(drop)
    }

    /// The connection ends when the second part is dropped, also where the driver still waits for an answer.
    async fn connect(&self) -> Result<(Client, JoinSet<()>), Error> {
        let what = "connect to PostgreSQL";
        let late = |_| Error::Late { what: what.to_owned(), limit: CONNECT_LIMIT };
        let connecting = timeout(CONNECT_LIMIT, self.config.connect(NoTls)).await.map_err(late)?;
        let (client, connection) = connecting.map_err(Error::postgres(what))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its error is also that of the statement under way.
            let _ = connection.await;
        });
        Ok((client, driver))
    }

    pub(super) async fn write(&self, key: &str) -> Wrote {
        let (client, _driver) = match self.connect().await {
            Ok(connected) => connected,
            Err(error) => return Wrote { told: Told::Failed, saw: error.to_string() },
        };
        let deadline = Instant::now() + LIMIT;
        let mut commit_sent = false;
        let transaction = async {
            client.batch_execute("BEGIN").await?;
            client.execute("INSERT INTO explored (key) VALUES ($1)", &[&key]).await?;
            commit_sent = true;
            client.batch_execute("COMMIT").await
        };
        let ended = timeout_at(deadline, transaction).await;
        let step = if commit_sent { "at COMMIT" } else { "before COMMIT" };
        match ended {
            Ok(Ok(())) => Wrote { told: Told::Committed, saw: "committed".to_owned() },
            Ok(Err(error)) => {
                let saw = format!("{} {step}", describe_postgres(&error));
                // Of what was never sent, and of what the server itself calls failed and goes on, the end is known.
                let is_refusal = error.as_db_error().is_some_and(|server| server.severity() == "ERROR");
                let told = if commit_sent && !is_refusal { Told::Unknown } else { Told::Failed };
                Wrote { told, saw }
            }
            Err(_) => {
                let told = if commit_sent { Told::Unknown } else { Told::Failed };
                Wrote { told, saw: format!("no answer within {} ms {step}", LIMIT.as_millis()) }
            }
        }
    }
}
