//! Two PostgreSQL servers under Patroni, with etcd as its memory: a cluster that fails over by itself. It starts and kills
//! them; what should happen then is for the tests.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ridethrough_chaos::{RunFolder, postgres::Binaries};
use rustix::process::{Pid, Signal};
use tokio_postgres::{Client, NoTls};

use crate::{
    daemon::{self, Daemon},
    launch::free_address,
    until,
};

/// initdb, first start, copy, streaming: some 10 s where nobody else builds.
const START_LIMIT: Duration = Duration::from_secs(60);
const MEMBERS: usize = 2;

/// The cluster. Everything ends when it goes, at the latest with its run folder.
#[derive(Debug)]
pub struct Patroni {
    members: Vec<Member>,
    password: String,
    _etcd: Daemon,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    data: PathBuf,
    daemon: Daemon,
}

impl Patroni {
    /// A primary and a standby in step with it; `Err` names the program that is not installed.
    ///
    /// # Errors
    /// The missing program.
    ///
    /// # Panics
    /// Where the cluster does not form.
    ///
    /// # Cancel safety
    /// Dropping it ends what was started.
    pub async fn start(folder: &RunFolder) -> Result<Self, &'static str> {
        let patroni = daemon::find("patroni").ok_or("patroni")?;
        let etcd = daemon::find("etcd").ok_or("etcd")?;
        let binaries = Binaries::find(None).unwrap_or_else(|error| panic!("failed to {error}"));
        let password = format!("{:016x}", fastrand::u64(..));
        let store = free_address();
        let peer = free_address();
        let mut etcd = start_etcd(folder, &etcd, store, peer);
        etcd.listens(store, START_LIMIT).await;
        let mut members = Vec::new();
        for number in 1..=MEMBERS {
            let name = format!("member-{number}");
            let address = free_address();
            let home = daemon::home(folder, &name);
            let settings = settings(&name, &home, address, store, binaries.folder(), &password);
            daemon::write_private(&home.join("patroni.yml"), &settings);
            let daemon = Daemon::start(folder, &name, &patroni, &["patroni.yml"], &[("LC_ALL", "C")]);
            members.push(Member { address, data: home.join("data"), daemon });
        }
        let cluster = Self { members, password, _etcd: etcd };
        cluster.in_step().await;
        Ok(cluster)
    }

    /// All members in one URL, for `user` and `database`, the primary wanted.
    #[must_use]
    pub fn url(&self, user: &str, database: &str) -> String {
        let hosts: Vec<String> = self.members.iter().map(|member| member.address.to_string()).collect();
        format!(
            "postgres://{user}:{}@{}/{database}?target_session_attrs=read-write",
            self.password,
            hosts.join(",")
        )
    }

    /// A connection to the primary as superuser; `None` while there is none.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection.
    pub async fn primary(&self, database: &str) -> Option<Client> {
        let url = self.url("postgres", database);
        let connecting =
            tokio::time::timeout(Duration::from_secs(2), tokio_postgres::connect(&url, NoTls)).await;
        let (client, connection) = connecting.ok()?.ok()?;
        // Ends with the client.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Some(client)
    }

    /// Kills the primary and its Patroni as the loss of a machine would; says on which port it was.
    ///
    /// # Panics
    /// Where there is no primary.
    ///
    /// # Cancel safety
    /// Once the primary is known the kill happens at once.
    pub async fn kill_primary(&self) -> u16 {
        let client = self.primary("postgres").await.expect("there is a primary");
        let row = client.query_one("SELECT inet_server_port()", &[]).await.expect("it answers");
        let port = u16::try_from(row.get::<_, i32>(0)).expect("a port");
        let member = self.members.iter().find(|member| member.address.port() == port).expect("one of ours");
        // The manager first: it would start the server again.
        member.daemon.signal(Signal::KILL);
        let file = std::fs::read_to_string(member.data.join("postmaster.pid")).expect("it runs");
        let pid = file.lines().next().and_then(|line| Pid::from_raw(line.trim().parse().ok()?));
        rustix::process::kill_process(pid.expect("a pid"), Signal::KILL).expect("it can be killed");
        port
    }

    async fn in_step(&self) {
        let synchronous = async || {
            let client = self.primary("postgres").await?;
            let sql = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
            client.query_opt(sql, &[]).await.ok()?.map(|_| ())
        };
        let waiting = tokio::time::timeout(START_LIMIT, until("in step", START_LIMIT * 2, synchronous)).await;
        let logs: Vec<String> = self.members.iter().map(|member| member.daemon.log_tail()).collect();
        assert!(waiting.is_ok(), "the cluster does not form:\n{}", logs.join("\n---\n"));
    }
}

fn start_etcd(folder: &RunFolder, program: &Path, client: SocketAddr, peer: SocketAddr) -> Daemon {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let cluster = format!("store={peer}");
    let args = [
        ["--name", "store"],
        ["--data-dir", "data"],
        ["--listen-client-urls", &client],
        ["--advertise-client-urls", &client],
        ["--listen-peer-urls", &peer],
        ["--initial-advertise-peer-urls", &peer],
        ["--initial-cluster", &cluster],
    ];
    Daemon::start(folder, "etcd", program, args.as_flattened(), &[])
}

/// The shortest times that Patroni takes: a lost primary is missed after 20 s. Synchronous, so that nothing that was
/// committed is lost with its machine.
fn settings(
    name: &str,
    home: &Path,
    address: SocketAddr,
    store: SocketAddr,
    programs: &Path,
    password: &str,
) -> String {
    let (home, programs, api) = (home.display(), programs.display(), free_address());
    format!(
        "scope: ridethrough\nname: {name}\nrestapi: {{listen: '{api}', connect_address: '{api}'}}\n\
         etcd3: {{host: '{store}'}}\n\
         bootstrap:\n  dcs:\n    ttl: 20\n    loop_wait: 1\n    retry_timeout: 3\n    synchronous_mode: true\n\
         \x20   postgresql:\n      use_pg_rewind: false\n      parameters: {{max_connections: 60, shared_buffers: 16MB}}\n\
         \x20 initdb: [{{encoding: UTF8}}, {{locale: C}}, no-sync, {{wal-segsize: '1'}}]\n\
         postgresql:\n  listen: '{address}'\n  connect_address: '{address}'\n  data_dir: {home}/data\n\
         \x20 bin_dir: {programs}\n  pgpass: {home}/pgpass\n\
         \x20 authentication:\n    superuser: {{username: postgres, password: '{password}'}}\n\
         \x20   replication: {{username: replicator, password: '{password}'}}\n\
         \x20 parameters: {{unix_socket_directories: '', dynamic_shared_memory_type: mmap}}\n\
         \x20 pg_hba: ['host all all 127.0.0.1/32 scram-sha-256', 'host replication all 127.0.0.1/32 scram-sha-256']\n"
    )
}
