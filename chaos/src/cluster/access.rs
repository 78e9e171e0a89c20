//! Ways into a cluster beside the ordinary one: as the service, as superuser beside its database, and to its files.
//! It changes nothing.

use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{ADMIN_DATABASE, Cluster, connect, template};
use crate::error::Error;
use crate::process::{Exit, Process, poll_until};

impl Cluster {
    /// As [`Cluster::connect`], to the harness's own database: there also while the service's is renamed or locked.
    pub(crate) async fn connect_admin(&self, limit: Duration) -> Result<tokio_postgres::Client, Error> {
        connect(&self.admin(&self.0.admin_password, ADMIN_DATABASE), limit).await
    }

    /// What the service itself connects with.
    pub(crate) fn service(&self) -> tokio_postgres::Config {
        let mut config = self.base();
        config.user(template::APP).password(&self.0.app_password).dbname(template::APP);
        config
    }

    /// The password of the service's role, to set it again.
    pub(crate) fn service_password(&self) -> &str {
        &self.0.app_password
    }

    /// Sends a signal to the postmaster alone; false where none runs.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.lock().postmaster.as_mut().is_some_and(|process: &mut Process| process.signal(signal))
    }

    /// Waits until the postmaster ends by itself; `None` where it goes on.
    pub(crate) async fn ended(&self, limit: Duration) -> Option<Exit> {
        poll_until(limit, || self.poll_exit()).await
    }
}
