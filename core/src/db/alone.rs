//! One connection for a program that is no service: a migration by hand, a check. It uses nothing of what keeps a service
//! going but the way a connection is made and secured.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, config::TargetSessionAttrs};

use super::{
    config::{ConfigInvalid, DbConfig},
    dial::{Dialler, HostTarget, single_hosts},
};
use crate::error::{Error, RejectReason};

impl DbConfig {
    /// A connection to the first host of the URL that is no standby; where none answers, to a standby. It closes when the
    /// client is dropped.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use ridethrough::db::DbConfig;
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let url = "postgres://owner@one:5432,two:5432/todos?sslmode=require".to_owned();
    /// let client = DbConfig { url, ..DbConfig::default() }.connect(Duration::from_secs(5))?.await?;
    /// client.batch_execute("CREATE TABLE IF NOT EXISTS todos (id uuid PRIMARY KEY)").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Names the setting that cannot be used; the future fails where no host answers within `limit`.
    pub fn connect(
        &self,
        limit: Duration,
    ) -> Result<impl Future<Output = Result<Client, Error>> + Send + 'static, ConfigInvalid> {
        let target = self.validate()?;
        let mut pool = self.pool.clone();
        pool.tls = self.tls()?;
        let hosts = single_hosts(&target).into_iter().enumerate().map(move |(index, mut config)| {
            config.target_session_attrs(TargetSessionAttrs::Any);
            Dialler::new(&HostTarget { config, index }, &pool, 1)
        });
        let hosts: Vec<Dialler> = hosts.collect();
        Ok(first_primary(hosts, limit))
    }
}

async fn first_primary(hosts: Vec<Dialler>, limit: Duration) -> Result<Client, Error> {
    let end = Instant::now() + limit;
    let mut failed = Error::rejected(RejectReason::DeadlinePassed, limit);
    let mut standby = None;
    for host in hosts {
        let client = match host.dial(end.saturating_duration_since(Instant::now())).await {
            Ok((client, _driver)) => client,
            Err(error) => {
                failed = error;
                continue;
            }
        };
        let asked = timeout_at(end, client.query_one("SELECT pg_is_in_recovery()", &[])).await;
        if matches!(asked, Ok(Ok(row)) if matches!(row.try_get(0), Ok(false))) {
            return Ok(client);
        }
        standby = Some(client);
    }
    standby.ok_or(failed)
}
