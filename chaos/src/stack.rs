//! The whole stack as child processes on free loopback ports: a private PostgreSQL, servers, and the proxy.
//! It starts and stops; load is in `workload.rs`, faults are in `nemesis.rs`.

mod binaries;
mod equipment;
mod ready;
pub(crate) mod resolver;
mod service;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use tokio::time::Instant;

use crate::cluster::{self, Cluster, Pair};
use crate::error::Error;
use crate::folder::RunFolder;
use crate::process::{self, Exit};
use crate::shim::Shim;
use crate::stack::service::Blueprint;
use crate::target::{self, StopSignal, fill};
use crate::workload::Target;

pub(crate) use binaries::{binaries, sabotaged};
pub use equipment::{Equipment, Fitting, Line};
pub use resolver::Resolver;
pub use service::{Life, Service};

/// How long a process may drain before it is killed; above the drain limits of both binaries.
const DRAIN_LIMIT: Duration = Duration::from_secs(35);

/// How long a target's own statements may take before its first start.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// Between two questions whether a part is ready.
const READY_EVERY: Duration = Duration::from_millis(20);

/// How a stack is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's binary; `None` looks in `bin_dir`. Default `None`.
    pub server_bin: Option<PathBuf>,
    /// Where `ridethrough-server` and `ridethrough-proxy` are; `None` is beside the current program, or a folder
    /// above (which is where cargo puts them for a test). Default `None`.
    pub bin_dir: Option<PathBuf>,
    /// Somebody else's service in the place of our servers, with nothing in front of it. Default `None`.
    pub target: Option<Arc<target::Target>>,
    /// How many servers, at least 1. Default 2.
    pub servers: usize,
    /// Added to the environment of each server. Default none.
    pub server_env: Vec<(String, String)>,
    /// Added to the command line of each server. Default none.
    pub server_args: Vec<String>,
    /// Where the proxy listens; `None` takes a free loopback port. Default `None`.
    pub listen: Option<SocketAddr>,
    /// How long a server or the proxy may take until it listens. Default 20 s.
    pub start_timeout: Duration,
    /// Whether the servers' disks forget what was not synced when a server ends, as in a power cut. Default false.
    pub forgetful_disks: bool,
    /// What faults need beside the parts. Default nothing.
    pub fitting: Fitting,
    /// The database.
    pub cluster: cluster::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server_bin: None,
            bin_dir: None,
            target: None,
            servers: 2,
            server_env: Vec::new(),
            server_args: Vec::new(),
            listen: None,
            start_timeout: Duration::from_secs(20),
            forgetful_disks: false,
            fitting: Fitting::default(),
            cluster: cluster::Options::default(),
        }
    }
}

/// A running stack. What it started ends, and its folder goes, when it is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), ridethrough_chaos::Error> {
/// use ridethrough_chaos::{Stack, stack::Options};
/// let stack = Stack::start(&Options::default()).await?;
/// for server in stack.servers() {
///     server.kill().await?;
///     server.restart().await?; // same ports, same data folder
/// }
/// let stopped = stack.stop().await?;
/// assert!(stopped.is_clean());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the stack ends when it is dropped"]
pub struct Stack {
    proxy: Option<Service>,
    servers: Vec<Service>,
    equipment: Equipment,
    cluster: Cluster,
    health: target::Health,
    folder: RunFolder,
}

/// How each part of a stack ended when it was asked to.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// Name and end of each process that was running, in the order of stopping.
    pub exits: Vec<(String, Exit)>,
}

impl Stopped {
    /// Whether all ended with exit code 0.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exits.iter().all(|(_, exit)| exit.code == Some(0))
    }
}

impl Stack {
    /// Starts PostgreSQL, then the servers, then the proxy, and waits for each until it listens.
    ///
    /// # Errors
    /// [`Error`] that names the part; where a process failed, with the last lines of its log.
    ///
    /// # Cancel safety
    /// Dropping the future ends and removes what was started, possibly a moment later.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        // Looked at first: a missing binary or a taken port should not cost the start of a database.
        if options.target.is_none() {
            binaries(options)?;
        }
        if let Some(address) = options.listen {
            service::must_be_free("proxy", address)?;
        }
        let folder = RunFolder::create(options.cluster.guardian.as_deref())?;
        let mut database = options.cluster.clone();
        let equipment = Equipment::before(&folder, options.fitting, &mut database).await?;
        let cluster = Cluster::start_in(&folder, &database).await?;
        Self::put_together(folder, cluster, equipment, options).await
    }

    /// As [`Stack::start`] on a cluster that is there already, running or not; it gets no shim any more.
    ///
    /// # Errors
    /// As [`Stack::start`].
    ///
    /// # Cancel safety
    /// As [`Stack::start`].
    pub async fn start_on(folder: RunFolder, cluster: Cluster, options: &Options) -> Result<Self, Error> {
        Self::put_together(folder, cluster, Equipment::default(), options).await
    }

    async fn put_together(
        folder: RunFolder,
        cluster: Cluster,
        mut equipment: Equipment,
        options: &Options,
    ) -> Result<Self, Error> {
        if let Some(target) = &options.target {
            return Self::start_target(folder, cluster, equipment, target, options).await;
        }
        let (server_bin, proxy_bin) = binaries(options)?;
        equipment.between(&cluster, options.fitting).await?;
        let mut servers = Vec::new();
        for number in 1..=options.servers.max(1) {
            let name = format!("server-{number}");
            let env = equipment.server(&folder, &cluster, options.fitting, &name).await?;
            servers.push(start_server(&folder, options, &equipment, &server_bin, name, env).await?);
        }
        let mut args = service::listeners();
        for server in &servers {
            args.extend(["--backend".to_owned(), format!("http://{}", server.main())]);
        }
        let proxy = Blueprint {
            name: "proxy".to_owned(),
            program: proxy_bin,
            args,
            env: vec![no_drain_delay()],
            ready_line: Some(service::LISTENING.to_owned()),
            stop_signal: Signal::TERM,
            cache_file: None,
            listen: options.listen,
            start_timeout: options.start_timeout,
        };
        let proxy = Some(Service::start(&folder, proxy).await?);
        Ok(Self { proxy, servers, equipment, cluster, health: target::Health::default(), folder })
    }

    async fn start_target(
        folder: RunFolder,
        cluster: Cluster,
        mut equipment: Equipment,
        target: &target::Target,
        options: &Options,
    ) -> Result<Self, Error> {
        if let Some(statements) = &target.database.prepare {
            prepare(&cluster, statements).await?;
        }
        equipment.between(&cluster, options.fitting).await?;
        let (program, args) = target.command();
        let mut servers = Vec::new();
        for number in 1..=options.servers.max(1) {
            let name = format!("{}-{number}", target.service.name);
            let mut env = equipment.server(&folder, &cluster, options.fitting, &name).await?;
            let url = env.iter().position(|(name, _)| name == equipment::URL).map(|at| env.swap_remove(at).1);
            let url = url.unwrap_or_else(|| cluster.url());
            let told = |text: &String| fill(text, &[("database_url", &url)]);
            env.extend(target.service.environment.iter().map(|(name, text)| (name.clone(), told(text))));
            env.extend(options.server_env.iter().cloned());
            let (program, args) = equipment.lead(program.clone(), args.iter().map(told).collect());
            let blueprint = Blueprint {
                name,
                program,
                args,
                env,
                ready_line: target.service.ready_line.clone(),
                stop_signal: match target.service.stop_signal {
                    StopSignal::Term => Signal::TERM,
                    StopSignal::Int => Signal::INT,
                    StopSignal::Quit => Signal::QUIT,
                },
                cache_file: None,
                listen: None,
                start_timeout: target.service.start_timeout,
            };
            servers.push(Service::start(&folder, blueprint).await?);
        }
        Ok(Self { proxy: None, servers, equipment, cluster, health: target.health.clone(), folder })
    }

    /// The database; after a failover the one that took over.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.equipment.pair().map_or(&self.cluster, Pair::current)
    }

    /// What faults have to act on beside the parts.
    #[must_use]
    pub fn equipment(&self) -> &Equipment {
        &self.equipment
    }

    /// The servers, `server-1` first.
    #[must_use]
    pub fn servers(&self) -> &[Service] {
        &self.servers
    }

    /// The proxy in front of them; none before somebody else's service.
    #[must_use]
    pub fn proxy(&self) -> Option<&Service> {
        self.proxy.as_ref()
    }

    /// Where users connect: the proxy, or each server where there is none. With their names in a history.
    #[must_use]
    pub fn doors(&self) -> Vec<(String, SocketAddr)> {
        match &self.proxy {
            Some(proxy) => vec![(proxy.name().to_owned(), proxy.main())],
            None => self.servers.iter().map(|server| (server.name().to_owned(), server.main())).collect(),
        }
    }

    /// Where logs and data lie while the stack lives.
    #[must_use]
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The servers as targets of probes and questions.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let target = |service: &Service| Target {
            name: service.name().to_owned(),
            main: service.main(),
            // Somebody else's service has none, and what listens on that port may be another program.
            admin: if self.proxy.is_some() { service.admin() } else { service.main() },
            live: self.health.live.clone(),
            ready: self.health.ready.clone(),
        };
        self.servers.iter().map(target).collect()
    }

    /// Waits until each server calls itself ready and the proxy passes a read through to one.
    ///
    /// # Errors
    /// [`Error::Start`] that names the part that is not ready after `limit`, with the last lines of its log.
    ///
    /// # Cancel safety
    /// Dropping it only stops the asking.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let end = Instant::now() + limit;
        let asks = self
            .servers
            .iter()
            .map(|server| (server, self.health.ready.as_str()))
            .chain(self.proxy.iter().map(|proxy| (proxy, "/api/todos?limit=1")));
        for (service, path) in asks {
            loop {
                let status = ready::status(service.main(), path).await;
                if status == Some(200) {
                    break;
                }
                if Instant::now() >= end || service.pid().is_none() {
                    let got =
                        status.map_or_else(|| "no answer".to_owned(), |status| format!("status {status}"));
                    let reason = format!("GET {path} gave {got}");
                    let log = process::log_tail(service.log(), 12);
                    return Err(Error::Start { name: service.name().to_owned(), reason, log });
                }
                tokio::time::sleep(READY_EVERY).await;
            }
        }
        Ok(())
    }

    /// Stops all in order, from the proxy to the database; what is down already is left out.
    ///
    /// # Errors
    /// [`Error::Late`] when a process does not even die of SIGKILL.
    ///
    /// # Cancel safety
    /// A drop ends the rest by force.
    pub async fn stop(self) -> Result<Stopped, Error> {
        let mut exits = Vec::new();
        // One after another: each drains into a part that is still there.
        for service in self.proxy.iter().chain(&self.servers) {
            if service.pid().is_some() {
                exits.push((service.name().to_owned(), service.stop(DRAIN_LIMIT).await?));
            }
        }
        // A standby first: a primary waits for it to have received all.
        let standby = self.equipment.pair().map(|pair| ("the standby", pair.standby()));
        for (name, cluster) in standby.into_iter().chain([("PostgreSQL", &self.cluster)]) {
            if cluster.pid().is_some() {
                exits.push((name.to_owned(), cluster.stop().await?));
            }
        }
        Ok(Stopped { exits })
    }
}

/// Carries out statements as the service's own role, so that the tables are its own.
async fn prepare(cluster: &Cluster, statements: &str) -> Result<(), Error> {
    let what = "prepare the database of the target";
    let work = async {
        let client = cluster::connect(&cluster.service(), PREPARE_LIMIT).await?;
        client.batch_execute(statements).await.map_err(Error::postgres(what))
    };
    let late = |_| Error::Late { what: what.to_owned(), limit: PREPARE_LIMIT };
    tokio::time::timeout(PREPARE_LIMIT, work).await.map_err(late)?
}

async fn start_server(
    folder: &RunFolder,
    options: &Options,
    equipment: &Equipment,
    program: &Path,
    name: String,
    equipped: Vec<(String, String)>,
) -> Result<Service, Error> {
    // Relative to the server's own folder, where it works.
    let mut args = service::listeners();
    args.extend(["--data-dir".to_owned(), "data".to_owned()]);
    args.extend(options.server_args.iter().cloned());
    // In the environment and not on the command line, which every user of the machine can read.
    let mut env = vec![no_drain_delay()];
    if options.forgetful_disks {
        env.extend(Shim::forgetful(folder, &name, &folder.path().join(&name).join("data"))?);
    }
    env.extend(equipped.into_iter().chain(options.server_env.iter().cloned()));
    let (program, args) = equipment.lead(program.to_owned(), args);
    let blueprint = Blueprint {
        name,
        program,
        args,
        env,
        ready_line: Some(service::LISTENING.to_owned()),
        stop_signal: Signal::TERM,
        cache_file: Some("data/cache-snapshot"),
        listen: None,
        start_timeout: options.start_timeout,
    };
    Service::start(folder, blueprint).await
}

/// The delay lets balancers notice a drain before connections are refused. Here the proxy is stopped first, so that
/// nobody is left to notice it.
fn no_drain_delay() -> (String, String) {
    ("RIDETHROUGH_LIMITS__DRAIN_DELAY".to_owned(), "0s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_clean_only_when_every_part_ended_with_0() {
        let exit = |code| ("part".to_owned(), Exit { code, signal: None });
        assert!(Stopped { exits: vec![exit(Some(0))] }.is_clean());
        assert!(!Stopped { exits: vec![exit(Some(0)), exit(Some(2))] }.is_clean());
    }
}
