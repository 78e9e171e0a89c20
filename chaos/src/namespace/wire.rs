//! A wire between this network namespace and a second one for PostgreSQL, on which packets can be lost: no refusal, no
//! reset, no error, just silence, as when a switch dies or a NAT forgets. What a program of the run then sees is its
//! kernel's own TCP: retransmissions, keepalives, and whatever deadline it has itself.
//!
//! Nothing but `ip` is needed. A packet is lost by sending it to a hardware address that nobody has, and the NAT
//! forgets a client by a route that leads nowhere; filters (`nft`) and queues (`netem`) are missing on many machines.

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Place;
use crate::error::Error;
use crate::folder::RunFolder;
use crate::namespace::{MEANS, must_be_inside};
use crate::postgres;
use crate::process::{Launch, Process};

/// Our end.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// PostgreSQL's end.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Our end, as a NAT shows it after it forgot the first address.
const NEAR_AGAIN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// The names of the two ends.
const NEAR_END: &str = "rt-near";
const FAR_END: &str = "rt-far";
/// A hardware address that nobody has ("locally administered").
const NOBODY: &str = "02:00:00:00:de:ad";
/// How long the second namespace may take to be there. It takes milliseconds.
const HOLDER_LIMIT: Duration = Duration::from_secs(5);

/// The way packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the servers to PostgreSQL.
    ToDatabase,
    /// From PostgreSQL to the servers.
    FromDatabase,
    /// Both.
    Both,
}

impl Way {
    fn covers(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::ToDatabase => "to the database",
            Self::FromDatabase => "from the database",
            Self::Both => "both ways",
        })
    }
}

/// A wire to a network namespace for PostgreSQL; one in a run. The namespace goes when this, and everything that was
/// started inside, is gone. Cheap to clone.
#[derive(Debug, Clone)]
#[must_use = "the wire is gone when its last clone is dropped"]
pub struct Wire(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A sleeping program that keeps the namespace.
    holder: Process,
    near_hardware: String,
    far_hardware: String,
    /// Whether packets are being lost: two faults on one wire would heal each other.
    busy: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // With its namespace it would go by itself, a moment later: too late for the next wire of this process.
        let _ = near(&["link", "delete", "dev", NEAR_END]);
    }
}

impl Wire {
    /// Lays the wire. Blocking: some 0.1 s.
    ///
    /// # Errors
    /// [`Error::NoMeans`] outside namespaces of our own, and where the kernel refuses a step.
    pub fn lay(run: &RunFolder) -> Result<Self, Error> {
        must_be_inside("lay a wire")?;
        let mut holder = hold(run)?;
        wait_for_namespace(&mut holder)?;
        let pid = holder.pid();
        near(&[
            "link",
            "add",
            "name",
            NEAR_END,
            "type",
            "veth",
            "peer",
            "name",
            FAR_END,
            "netns",
            &pid.to_string(),
        ])?;
        for address in [NEAR, NEAR_AGAIN] {
            near(&["address", "add", &format!("{address}/24"), "dev", NEAR_END])?;
        }
        near(&["link", "set", NEAR_END, "up"])?;
        far(pid, &["link", "set", "lo", "up"])?;
        far(pid, &["address", "add", &format!("{FAR}/24"), "dev", FAR_END])?;
        far(pid, &["link", "set", FAR_END, "up"])?;
        let near_hardware = hardware(&near(&["-oneline", "link", "show", "dev", NEAR_END])?)?;
        let far_hardware = hardware(&far(pid, &["-oneline", "link", "show", "dev", FAR_END])?)?;
        let wire =
            Self(Arc::new(Inner { holder, near_hardware, far_hardware, busy: AtomicBool::new(false) }));
        // Both ends know each other for good: who has to ask first is not heard while packets are lost.
        wire.send(Way::Both, true)?;
        Ok(wire)
    }

    /// The address of PostgreSQL's end.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        FAR
    }

    /// Where a cluster is put so that it stands at the other end.
    ///
    /// # Errors
    /// [`Error::State`] when there is no account that PostgreSQL may run as.
    pub fn place(&self) -> Result<Place, Error> {
        let mut entry: Vec<OsString> = vec!["nsenter".into(), namespace(self.holder()).into()];
        // Entering takes powers that PostgreSQL's account has not, so the account is changed inside.
        if let Some(account) = postgres::account()? {
            entry.extend([
                format!("--setuid={}", account.uid).into(),
                format!("--setgid={}", account.gid).into(),
            ]);
        }
        entry.push("--".into());
        Ok(Place { address: FAR, entry })
    }

    /// Loses every packet on that way, of sessions and of new connections, until the guard is dropped. What TCP has
    /// not given up by then goes on.
    ///
    /// # Errors
    /// [`Error::State`] while packets are lost already, [`Error::NoMeans`] where the kernel refuses.
    pub fn cut(&self, way: Way) -> Result<Lost, Error> {
        let lost = Lost::begin(self, Kind::Cut(way))?;
        self.send(way, false)?;
        Ok(lost)
    }

    /// Forgets the sessions there are, as a NAT does that was restarted: their packets are lost both ways, and neither
    /// end is told. New connections go through.
    ///
    /// # Errors
    /// As [`Wire::cut`].
    pub fn forget_sessions(&self) -> Result<Lost, Error> {
        let lost = Lost::begin(self, Kind::Forgotten)?;
        near(&["route", "add", &route(FAR), "dev", NEAR_END, "src", &NEAR_AGAIN.to_string()])?;
        far(self.holder(), &["route", "add", "blackhole", &route(NEAR)])?;
        Ok(lost)
    }

    /// Lets packets arrive, or not.
    fn send(&self, way: Way, arrive: bool) -> Result<(), Error> {
        let to = |hardware: &str| if arrive { hardware.to_owned() } else { NOBODY.to_owned() };
        let set = |address: Ipv4Addr, hardware: String, end: &str| {
            let address = address.to_string();
            ["neighbour", "replace", &address, "lladdr", &hardware, "dev", end, "nud", "permanent"]
                .map(str::to_owned)
        };
        if way.covers(Way::ToDatabase) {
            near(&texts(&set(FAR, to(&self.0.far_hardware), NEAR_END)))?;
        }
        if way.covers(Way::FromDatabase) {
            for address in [NEAR, NEAR_AGAIN] {
                far(self.holder(), &texts(&set(address, to(&self.0.near_hardware), FAR_END)))?;
            }
        }
        Ok(())
    }

    /// Segments that TCP sent again at either end, connection attempts included.
    fn retransmitted(&self) -> u64 {
        let at = |who: &str| {
            let text = std::fs::read_to_string(format!("/proc/{who}/net/snmp")).unwrap_or_default();
            retransmitted(&text).unwrap_or(0)
        };
        at("self") + at(&self.holder().to_string())
    }

    /// The pid that names the far namespace.
    fn holder(&self) -> u32 {
        self.0.holder.pid()
    }
}

/// What is done to the packets.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Cut(Way),
    Forgotten,
}

/// Packets are being lost. They arrive again when this is dropped.
#[derive(Debug)]
#[must_use = "packets arrive again as soon as this is dropped"]
pub struct Lost {
    wire: Wire,
    kind: Kind,
    /// Counted before.
    retransmitted: u64,
}

impl Lost {
    fn begin(wire: &Wire, kind: Kind) -> Result<Self, Error> {
        if wire.0.busy.swap(true, Ordering::AcqRel) {
            return Err(Error::state("lose packets", "packets are lost on this wire already"));
        }
        Ok(Self { wire: wire.clone(), kind, retransmitted: wire.retransmitted() })
    }

    /// How many segments TCP has sent again since, at both ends together: each was not answered.
    #[must_use]
    pub fn retransmitted(&self) -> u64 {
        self.wire.retransmitted().saturating_sub(self.retransmitted)
    }

    /// What proves that it bit; `None` while TCP has missed nothing.
    #[must_use]
    pub fn witness(&self) -> Option<String> {
        let count = self.retransmitted();
        let what = match self.kind {
            Kind::Cut(way) => format!("packets were lost {way}"),
            Kind::Forgotten => "packets of old sessions were lost".to_owned(),
        };
        (count > 0).then(|| format!("{what}: TCP sent {count} segments again"))
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        // A guard that heals on drop has nobody to tell; what was set a moment ago can be set back.
        match self.kind {
            Kind::Cut(way) => {
                let _ = self.wire.send(way, true);
            }
            Kind::Forgotten => {
                let _ = far(self.wire.holder(), &["route", "delete", "blackhole", &route(NEAR)]);
                let _ = near(&["route", "delete", &route(FAR), "dev", NEAR_END]);
            }
        }
        self.wire.0.busy.store(false, Ordering::Release);
    }
}

fn hold(run: &RunFolder) -> Result<Process, Error> {
    let log = run.path().join("wire.log");
    let process = Process::start(&Launch {
        name: "a second network namespace".to_owned(),
        program: PathBuf::from("unshare"),
        args: ["--net", "--", "sleep", "infinity"].map(Into::into).to_vec(),
        env: Vec::new(),
        folder: run.path().to_owned(),
        stdin: None,
        stdout: log.clone(),
        log,
        account: None,
    })?;
    run.guard(process.handle())?;
    Ok(process)
}

/// Until the holder has left our namespace, an interface that is sent to it would come back to us.
fn wait_for_namespace(holder: &mut Process) -> Result<(), Error> {
    let own = std::fs::read_link("/proc/self/ns/net").map_err(Error::io("look at our own namespace"))?;
    let end = Instant::now() + HOLDER_LIMIT;
    loop {
        let its = std::fs::read_link(format!("/proc/{}/ns/net", holder.pid()));
        if its.is_ok_and(|its| its != own) {
            return Ok(());
        }
        if let Some(exit) = holder.poll_exit() {
            return Err(Error::no_means(MEANS, format!("`unshare --net` ended with {exit}")));
        }
        if Instant::now() >= end {
            return Err(Error::Late {
                what: "make a second network namespace".to_owned(),
                limit: HOLDER_LIMIT,
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `ip` at our end.
pub(super) fn near(args: &[&str]) -> Result<String, Error> {
    run_ip(Command::new("ip"), args)
}

/// Runs `ip` at the far end.
fn far(holder: u32, args: &[&str]) -> Result<String, Error> {
    let mut command = Command::new("nsenter");
    command.arg(namespace(holder)).args(["--", "ip"]);
    run_ip(command, args)
}

fn namespace(holder: u32) -> String {
    format!("--net=/proc/{holder}/ns/net")
}

/// `ip` asks the kernel and ends; it waits for nobody.
fn run_ip(mut command: Command, args: &[&str]) -> Result<String, Error> {
    let output = command.args(args).stdin(Stdio::null()).output().map_err(Error::io("run `ip`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::no_means(MEANS, format!("`ip {}` says: {}", args.join(" "), said.trim())))
}

fn texts(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn route(address: Ipv4Addr) -> String {
    format!("{address}/32")
}

/// "…: link/ether 1a:2b:3c:4d:5e:6f brd …" gives the address.
fn hardware(shown: &str) -> Result<String, Error> {
    let found = shown.split_once("link/ether ").and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    let found =
        found.ok_or_else(|| Error::no_means(MEANS, format!("`ip link` shows no address: {shown}")))?;
    Ok(found.to_owned())
}

/// `RetransSegs` of the two lines that start with `Tcp:`, names and numbers.
fn retransmitted(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let place = lines.next()?.split_ascii_whitespace().position(|name| name == "RetransSegs")?;
    lines.next()?.split_ascii_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_texts_are_read() {
        let link = "3: rt-near@if2: <BROADCAST,UP> mtu 1500 qdisc noqueue \\    link/ether 1a:2b:3c:4d:5e:6f brd ff:ff:ff:ff:ff:ff link-netnsid 0";
        assert_eq!(hardware(link).unwrap(), "1a:2b:3c:4d:5e:6f");
        assert!(hardware("nonsense").is_err());
        let snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin OutSegs RetransSegs InErrs\nTcp: 200 10 7 0\nUdp: x\n";
        assert_eq!(retransmitted(snmp), Some(7));
        assert_eq!(retransmitted("Tcp: RtoMin\nTcp: 200\n"), None);
    }

    #[test]
    fn a_cut_of_both_ways_covers_each() {
        assert!(Way::Both.covers(Way::ToDatabase) && Way::Both.covers(Way::FromDatabase));
        assert!(Way::ToDatabase.covers(Way::ToDatabase) && !Way::ToDatabase.covers(Way::FromDatabase));
    }
}
