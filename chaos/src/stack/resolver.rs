//! A name for PostgreSQL that servers have to look up, and the name server that they ask: what it says can change while
//! they run. The means are in `names.rs`; what is said when is up to `nemesis.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;

use crate::cluster::{self, Cluster};
use crate::error::Error;
use crate::folder::RunFolder;
use crate::names::{self, Answer, Names, Script};

/// The name by which servers know PostgreSQL; `.test` is nobody's.
pub(crate) const NAME: &str = "db.ridethrough.test";
/// Where the name leads.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Where it can move to: PostgreSQL listens there, too.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// What the fault is called in errors.
const MEANS: &str = "a name server of our own";
/// A lookup takes milliseconds, and one that gets no answer a second.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// The name server of a stack. Cheap to clone; it ends with the last clone.
#[derive(Debug, Clone)]
pub struct Resolver {
    names: Names,
    launcher: Vec<String>,
    _work: Arc<JoinSet<()>>,
}

impl Resolver {
    /// Opens the name server, and tries the way to it that the servers will have.
    pub(super) async fn open(run: &RunFolder, database: &mut cluster::Options) -> Result<Self, Error> {
        let (names, serving) = Names::open(names::ADDRESS)
            .await
            .map_err(|error| Error::no_means(MEANS, format!("failed to {error}")))?;
        let mut work = JoinSet::new();
        work.spawn(serving);
        let folder = run.private("resolver")?;
        let launcher = names.launcher(&folder)?;
        let launcher = launcher.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        names.say(NAME, leads_to(FIRST));
        let resolver = Self { names, launcher, _work: Arc::new(work) };
        resolver.prove().await?;
        // The harness goes its own way, past name and resolver.
        let addresses = [database.place.address, FIRST, SECOND].map(|address| address.to_string()).join(",");
        database.settings.push(("listen_addresses".to_owned(), addresses));
        Ok(resolver)
    }

    /// What is said about which name.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The URL of a cluster with the name in it.
    pub(super) fn url(cluster: &Cluster) -> String {
        let (address, port) = (cluster.address(), cluster.port());
        cluster.url().replace(&format!("{address}:{port}"), &format!("{NAME}:{port}"))
    }

    /// A program that looks its names up here.
    pub(super) fn lead(&self, program: PathBuf, args: Vec<String>) -> (PathBuf, Vec<String>) {
        let Some((first, rest)) = self.launcher.split_first() else { return (program, args) };
        let mut all = rest.to_vec();
        all.push(program.to_string_lossy().into_owned());
        all.extend(args);
        (PathBuf::from(first), all)
    }

    async fn prove(&self) -> Result<(), Error> {
        let (program, args) = self.lead(PathBuf::from("getent"), ["hosts", NAME].map(str::to_owned).to_vec());
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        let what = "look a name up";
        let ended = tokio::time::timeout(TRY_LIMIT, command.output()).await;
        let ended = ended.map_err(|_| Error::Late { what: what.to_owned(), limit: TRY_LIMIT })?;
        let ended = ended.map_err(Error::io(what))?;
        if String::from_utf8_lossy(&ended.stdout).starts_with(&FIRST.to_string()) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        Err(Error::no_means(MEANS, format!("a lookup ended with {}: {}", ended.status, said.trim())))
    }
}

/// What is said where the name leads to this address.
pub(crate) fn leads_to(address: Ipv4Addr) -> Script {
    Script::now(Answer::Addresses(vec![IpAddr::V4(address)]))
}

/// How many connections stand at an address and port of this network: the accepting ends.
pub(crate) fn standing(address: Ipv4Addr, port: u16) -> usize {
    let table = std::fs::read_to_string(Path::new("/proc/net/tcp")).unwrap_or_default();
    established(&table, address, port)
}

fn established(table: &str, address: Ipv4Addr, port: u16) -> usize {
    // As the kernel writes it: the address in the order of its bytes in memory, the state as number.
    let local = format!("{:08X}:{port:04X}", u32::from_ne_bytes(address.octets()));
    let is_one = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some(&local) && words.nth(1) == Some("01")
    };
    table.lines().filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_connections_at_the_very_address_and_port_are_counted() {
        let local = |octets: [u8; 4]| format!("{:08X}:1538", u32::from_ne_bytes(octets));
        let line =
            |local: &str, state: &str| format!("   0: {local} 0100007F:A1B2 {state} 00000000:00000000");
        let table = [
            "  sl  local_address rem_address   st".to_owned(),
            line(&local([127, 0, 0, 3]), "01"),
            line(&local([127, 0, 0, 3]), "0A"),
            line(&local([127, 0, 0, 2]), "01"),
        ]
        .join("\n");
        assert_eq!(established(&table, SECOND, 0x1538), 1);
        assert_eq!(established(&table, FIRST, 0x1538), 1);
        assert_eq!(established(&table, SECOND, 0x1539), 0);
    }
}
