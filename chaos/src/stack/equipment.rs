//! What a stack is fitted with beside its parts, so that faults have something to act on: proxies between each server and
//! PostgreSQL, the preload shim inside programs, a standby, a wire that can be cut, a name server. It is put up here; what
//! is done with it is up to `nemesis.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::cluster::{self, Cluster, Pair};
use crate::error::Error;
use crate::folder::RunFolder;
use crate::namespace::Wire;
use crate::pgwire;
use crate::shim::{self, Shim};
use crate::stack::resolver::Resolver;
use crate::toxic;

/// By this name servers are told where the database is.
pub(super) const URL: &str = "DATABASE_URL";

/// What a stack is to be fitted with. Default nothing: servers and PostgreSQL as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fitting {
    /// Before PostgreSQL a proxy for each server that knows its protocol, and counts.
    pub messages: bool,
    /// Before PostgreSQL a proxy for each server that takes toxics.
    pub bytes: bool,
    /// TLS between each server and its proxy for messages, which has to be there, too.
    pub tls: bool,
    /// The preload shim in PostgreSQL.
    pub database_shim: bool,
    /// The preload shim in each server.
    pub server_shim: bool,
    /// A standby, and servers that know both hosts. Not together with a proxy, which leads to one host.
    pub standby: bool,
    /// PostgreSQL at the other end of a wire. Only in namespaces of our own.
    pub wire: bool,
    /// Servers that know PostgreSQL by its name, and a name server for them. Only in namespaces of our own, and with
    /// nothing else on their way to it.
    pub names: bool,
}

impl Fitting {
    /// Whether a stack with this fitting has all that one with the other has.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.and(other) == self
    }

    /// Whether it takes namespaces of our own.
    #[must_use]
    pub fn needs_namespaces(self) -> bool {
        self.wire || self.names
    }

    /// What both together need.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages || other.messages,
            bytes: self.bytes || other.bytes,
            tls: self.tls || other.tls,
            database_shim: self.database_shim || other.database_shim,
            server_shim: self.server_shim || other.server_shim,
            standby: self.standby || other.standby,
            wire: self.wire || other.wire,
            names: self.names || other.names,
        }
    }

    /// Whether a stack can have all of it at once.
    #[must_use]
    pub fn is_possible(self) -> bool {
        self.check().is_ok()
    }

    fn check(self) -> Result<(), Error> {
        if self.tls && !self.messages {
            let reason = "TLS begins at the proxy for messages, which is not wanted";
            return Err(Error::state("fit a stack", reason));
        }
        if self.standby && (self.messages || self.bytes) {
            let reason = "a proxy before PostgreSQL leads to one host, and a standby is the second";
            return Err(Error::state("fit a stack", reason));
        }
        if self.names && (self.messages || self.bytes || self.standby || self.wire) {
            let reason = "the name leads to one PostgreSQL, and to nothing before or beside it";
            return Err(Error::state("fit a stack", reason));
        }
        Ok(())
    }
}

/// What a stack is fitted with. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Equipment {
    lines: Vec<Line>,
    database_shim: Option<shim::Victim>,
    server_shims: Vec<shim::Victim>,
    pair: Option<Pair>,
    wire: Option<Wire>,
    resolver: Option<Resolver>,
}

/// The way of one server to PostgreSQL, where proxies stand in it.
#[derive(Debug, Clone)]
pub struct Line {
    server: String,
    url: String,
    server_url: String,
    messages: Option<pgwire::Proxy>,
    bytes: Option<Arc<toxic::proxy::Proxy>>,
    /// The work of the proxy for messages, which ends with the line.
    _work: Arc<JoinSet<()>>,
}

impl Line {
    async fn lay(
        run: &RunFolder,
        server: &str,
        cluster: &Cluster,
        fitting: Fitting,
        seed: u64,
    ) -> Result<Self, Error> {
        let database = SocketAddr::from((cluster.address(), cluster.port()));
        let mut end = database;
        let mut bytes = None;
        if fitting.bytes {
            let settings = toxic::proxy::Settings {
                name: server.to_owned(),
                listen: String::new(),
                upstream: end.to_string(),
                seed,
                reach: toxic::address::Reach::default(),
            };
            let proxy = toxic::proxy::Proxy::open(settings).await?;
            end = proxy.address().unwrap_or(end);
            bytes = Some(Arc::new(proxy));
        }
        let mut work = JoinSet::new();
        let mut messages = None;
        if fitting.messages {
            let tls = if fitting.tls { pgwire::Tls::Offered } else { pgwire::Tls::Refused };
            let options = pgwire::Options { server: end, tls, ..pgwire::Options::before(end.port()) };
            let (proxy, accepting) = pgwire::Proxy::start(&options).await?;
            work.spawn(accepting);
            end = proxy.address();
            messages = Some(proxy);
        }
        let url = cluster.url().replace(&database.to_string(), &end.to_string());
        let mut server_url = url.clone();
        if let Some(proxy) = messages.as_ref().filter(|_| fitting.tls) {
            let path = run.path().join(format!("{server}.authority.pem"));
            std::fs::write(&path, proxy.authority()).map_err(Error::io("write a certificate"))?;
            server_url += &format!("?sslmode=verify-full&sslrootcert={}", path.display());
        }
        Ok(Self { server: server.to_owned(), url, server_url, messages, bytes, _work: Arc::new(work) })
    }

    /// Whose way it is.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The URL that leads this way, without TLS.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The proxy that knows the protocol.
    #[must_use]
    pub fn messages(&self) -> Option<&pgwire::Proxy> {
        self.messages.as_ref()
    }

    /// The proxy that takes toxics.
    #[must_use]
    pub fn bytes(&self) -> Option<&toxic::proxy::Proxy> {
        self.bytes.as_deref()
    }
}

impl Equipment {
    /// What has to be there before PostgreSQL starts; it changes how that is started.
    pub(super) async fn before(
        run: &RunFolder,
        fitting: Fitting,
        options: &mut cluster::Options,
    ) -> Result<Self, Error> {
        fitting.check()?;
        let mut equipment = Self::default();
        if fitting.database_shim {
            let victim = shimmed(run, "postgresql").await?;
            options.env.extend(victim.env().map(|(name, value)| (name.to_owned(), value)));
            equipment.database_shim = Some(victim);
        }
        if fitting.wire {
            let run = run.clone();
            let laid = tokio::task::spawn_blocking(move || Wire::lay(&run)).await;
            let wire = laid.map_err(|error| Error::state("lay a wire", error.to_string()))??;
            options.place = wire.place()?;
            equipment.wire = Some(wire);
        }
        if fitting.names {
            equipment.resolver = Some(Resolver::open(run, options).await?);
        }
        Ok(equipment)
    }

    /// What comes when PostgreSQL runs and no server does.
    pub(super) async fn between(&mut self, cluster: &Cluster, fitting: Fitting) -> Result<(), Error> {
        fitting.check()?;
        if fitting.standby {
            self.pair = Some(Pair::of(cluster).await?);
        }
        Ok(())
    }

    /// What one server needs: the environment it is started with, its way to PostgreSQL included.
    pub(super) async fn server(
        &mut self,
        run: &RunFolder,
        cluster: &Cluster,
        fitting: Fitting,
        name: &str,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut url = match (&self.pair, &self.resolver) {
            (Some(pair), _) => pair.url(),
            (None, Some(_)) => Resolver::url(cluster),
            (None, None) => cluster.url(),
        };
        if fitting.messages || fitting.bytes {
            let seed = u64::try_from(self.lines.len()).unwrap_or(0);
            let line = Line::lay(run, name, cluster, fitting, seed).await?;
            line.server_url.clone_into(&mut url);
            self.lines.push(line);
        }
        let mut env = vec![(URL.to_owned(), url)];
        if fitting.server_shim {
            let victim = shimmed(run, name).await?;
            env.extend(victim.env().map(|(name, value)| (name.to_owned(), value)));
            self.server_shims.push(victim);
        }
        Ok(env)
    }

    /// How a server is started, so that it looks its names up where it shall.
    pub(super) fn lead(&self, program: PathBuf, args: Vec<String>) -> (PathBuf, Vec<String>) {
        match &self.resolver {
            Some(resolver) => resolver.lead(program, args),
            None => (program, args),
        }
    }

    /// The ways of the servers, in their order; none where nothing stands between.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What makes PostgreSQL obey.
    #[must_use]
    pub fn database_shim(&self) -> Option<&shim::Victim> {
        self.database_shim.as_ref()
    }

    /// What makes the servers obey, in their order.
    #[must_use]
    pub fn server_shims(&self) -> &[shim::Victim] {
        &self.server_shims
    }

    /// The wire to PostgreSQL.
    #[must_use]
    pub fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// The name server that the servers ask for PostgreSQL.
    #[must_use]
    pub fn resolver(&self) -> Option<&Resolver> {
        self.resolver.as_ref()
    }

    /// PostgreSQL and its standby.
    #[must_use]
    pub fn pair(&self) -> Option<&Pair> {
        self.pair.as_ref()
    }
}

/// A victim of the shim, which is compiled the first time.
async fn shimmed(run: &RunFolder, name: &str) -> Result<shim::Victim, Error> {
    let (run, name) = (run.clone(), name.to_owned());
    let made = tokio::task::spawn_blocking(move || Shim::build(&run)?.victim(&name)).await;
    made.map_err(|error| Error::state("compile the shim", error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fitting_covers_what_it_has_and_nothing_more() {
        let (nothing, both) =
            (Fitting::default(), Fitting { messages: true, bytes: true, ..Fitting::default() });
        assert!(both.covers(both) && both.covers(nothing) && nothing.covers(nothing));
        assert!(!nothing.covers(both) && !both.covers(Fitting { standby: true, ..nothing }));
    }

    #[test]
    fn a_standby_and_a_proxy_before_one_host_are_refused_together() {
        let standby = Fitting { standby: true, ..Fitting::default() };
        assert!(standby.check().is_ok());
        assert!(Fitting { messages: true, ..standby }.check().is_err());
        assert!(Fitting { bytes: true, ..standby }.check().is_err());
        let names = Fitting { names: true, ..Fitting::default() };
        assert!(names.is_possible() && !names.and(standby).is_possible());
    }
}
