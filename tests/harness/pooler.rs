//! A PgBouncer in transaction mode in front of a test's PostgreSQL. It knows what the pooler is told, not what it should do.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ridethrough_chaos::RunFolder;
use rustix::process::Signal;

use crate::{
    daemon::{self, Daemon},
    launch::free_address,
};

const START_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(10);

/// A pooler on a port of its own. Killed when it goes.
#[derive(Debug)]
pub struct PgBouncer {
    folder: RunFolder,
    program: PathBuf,
    address: SocketAddr,
    url: String,
    daemon: Daemon,
}

impl PgBouncer {
    /// A pooler with `server_connections` to the database of `url`; `None` where it is not installed.
    ///
    /// # Panics
    /// Where it does not start.
    ///
    /// # Cancel safety
    /// Dropping it ends what was started.
    pub async fn before(url: &str, folder: &RunFolder, server_connections: usize) -> Option<Self> {
        let program = daemon::find("pgbouncer")?;
        let target: tokio_postgres::Config = url.parse().expect("a URL of PostgreSQL");
        let port = target.get_ports().first().copied().expect("the URL names a port");
        let user = target.get_user().expect("the URL names a user");
        let name = target.get_dbname().expect("the URL names a database");
        let password = String::from_utf8_lossy(target.get_password().unwrap_or_default()).into_owned();
        let address = free_address();
        let home = daemon::home(folder, "pgbouncer");
        daemon::write_private(&home.join("users.txt"), &format!("\"{user}\" \"{password}\"\n"));
        let settings = format!(
            "[databases]\n{name} = host=127.0.0.1 port={port} dbname={name}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = users.txt\npool_mode = transaction\n\
             default_pool_size = {server_connections}\nmax_client_conn = 400\n\
             server_login_retry = 0.5\nserver_connect_timeout = 3\nquery_wait_timeout = 5\n",
            address.port()
        );
        daemon::write_private(&home.join("pgbouncer.ini"), &settings);
        let url = url.replace(&format!("127.0.0.1:{port}"), &address.to_string());
        let daemon = start(folder, &program, address).await;
        Some(Self { folder: folder.clone(), program, address, url, daemon })
    }

    /// The URL for the service, through the pooler.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Kills it as a crash would.
    ///
    /// # Panics
    /// Where it does not die.
    ///
    /// # Cancel safety
    /// Once polled the kill has happened.
    pub async fn kill(&mut self) {
        self.daemon.signal(Signal::KILL);
        let _ = self.daemon.ended(END_LIMIT).await;
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// Where it does not start.
    ///
    /// # Cancel safety
    /// A drop leaves it dead or starting.
    pub async fn start_again(&mut self) {
        self.daemon = start(&self.folder, &self.program, self.address).await;
    }
}

async fn start(folder: &RunFolder, program: &std::path::Path, address: SocketAddr) -> Daemon {
    let mut daemon = Daemon::start(folder, "pgbouncer", program, &["pgbouncer.ini"], &[]);
    daemon.listens(address, START_LIMIT).await;
    daemon
}
