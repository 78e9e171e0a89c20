//! A streaming standby of a test's PostgreSQL, which can be promoted and killed. It decides nothing by itself.

use std::time::Duration;

use ridethrough_chaos::{Cluster, RunFolder};
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use crate::{
    daemon::{self, Daemon},
    launch::free_address,
    until, within,
};

/// A copy of a small cluster takes about a second.
const COPY_LIMIT: Duration = Duration::from_secs(60);
/// From the start of the program to the first answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// One connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The superuser of primary and standby that this file makes.
const HARNESS: &str = "harness";

/// A standby on a port of its own. Killed when it goes.
#[derive(Debug)]
pub struct Standby {
    daemon: Daemon,
    port: u16,
    password: String,
    url: String,
}

impl Standby {
    /// Copies the cluster and follows it.
    ///
    /// # Panics
    /// Where the copy fails or does not serve reads.
    ///
    /// # Cancel safety
    /// Dropping it ends what was started; the copy goes with the run folder.
    pub async fn of(cluster: &Cluster, folder: &RunFolder, name: &str) -> Self {
        let password = format!("{:016x}", fastrand::u64(..));
        let admin = cluster.connect(CONNECT_LIMIT).await.unwrap_or_else(|error| panic!("failed to {error}"));
        let role = format!(
            "DROP ROLE IF EXISTS {HARNESS}; CREATE ROLE {HARNESS} SUPERUSER REPLICATION LOGIN PASSWORD '{password}'"
        );
        admin.batch_execute(&role).await.expect("a role can be made");
        let data = daemon::home(folder, name).join("data").display().to_string();
        let bin = cluster.binaries().folder();
        let port = cluster.port().to_string();
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", HARNESS, "-D", &data];
        let how = ["-X", "stream", "-c", "fast", "--no-sync", "-R"];
        let args = [from.as_slice(), how.as_slice()].concat();
        let env = [("PGPASSWORD", password.as_str()), ("LC_ALL", "C")];
        let copy = bin.join("pg_basebackup");
        daemon::run(folder, &format!("{name}-copy"), &copy, &args, &env, COPY_LIMIT).await;
        let address = free_address();
        let listen = format!("port={}", address.port());
        let settings = [
            "listen_addresses=127.0.0.1",
            &listen,
            "unix_socket_directories=",
            "shared_buffers=16MB",
            "dynamic_shared_memory_type=mmap",
            "max_connections=80",
            "recovery_init_sync_method=syncfs",
        ];
        let mut args = vec!["-D", &data];
        args.extend(settings.iter().flat_map(|setting| ["-c", setting]));
        let daemon = Daemon::start(folder, name, &bin.join("postgres"), &args, &[("LC_ALL", "C")]);
        let direct = format!("127.0.0.1:{}", cluster.port());
        let url = cluster.url().replace(&direct, &address.to_string());
        let standby = Self { daemon, port: address.port(), password, url };
        until("the standby serves reads", START_LIMIT, async || standby.try_connect().await).await;
        standby
    }

    /// The port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL for the service, as [`Cluster::url`].
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection to the service's database as superuser.
    ///
    /// # Panics
    /// Where it cannot be made.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn sql(&self) -> Client {
        within("connect to the standby", CONNECT_LIMIT, self.try_connect())
            .await
            .expect("the standby answers")
    }

    /// Makes it the primary.
    ///
    /// # Panics
    /// Where it stays a standby.
    ///
    /// # Cancel safety
    /// Once polled, the promotion goes on.
    pub async fn promote(&self) {
        let client = self.sql().await;
        let promoted = client.query_one("SELECT pg_promote(true, 30)", &[]).await.expect("it can be asked");
        assert!(promoted.get::<_, bool>(0), "not promoted: {}", self.daemon.log_tail());
    }

    /// Kills it as a crash would.
    pub fn kill(&self) {
        self.daemon.signal(Signal::KILL);
    }

    async fn try_connect(&self) -> Option<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(HARNESS).password(&self.password).dbname("app");
        let (client, connection) = config.connect(NoTls).await.ok()?;
        // Ends with the client.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Some(client)
    }
}
