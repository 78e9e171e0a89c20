//! Namespaces of our own: a network and a mount table that nobody else sees, so that packets can be lost and disks can
//! be small without root and without touching the machine. A process cannot change its own user namespace once it has
//! threads, so the laboratory is started anew inside by [`command`], and everything it starts is inside with it.
//!
//! This file gets there; what can be done inside is in [`wire`] (a network that loses packets), [`dead_address`] and
//! [`small_disk`].

pub mod dead_address;
pub mod small_disk;
pub mod wire;

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::Error;
use crate::folder::RunFolder;
use crate::guardian;
use crate::process::on_path;

pub use dead_address::DeadAddress;
pub use small_disk::SmallDisk;
pub use wire::{Lost, Way, Wire};

/// Names the network namespace to those inside; without the right name it is a leftover of somebody's shell.
const MARK: &str = "RIDETHROUGH_CHAOS_NAMESPACE";
/// The hidden sub-command that tries everything from inside and prints what it saw.
pub(crate) const SUB_COMMAND: &str = "namespace-probe";
/// What the fault is called in errors.
const MEANS: &str = "namespaces of our own";
/// The programs it takes; `ip` is iproute2's, the others are util-linux'.
const PROGRAMS: [&str; 3] = ["unshare", "nsenter", "ip"];
/// Run inside, before the program: the loopback of a new network is down.
const OPENING: &str = "ip link set lo up && RIDETHROUGH_CHAOS_NAMESPACE=$(readlink /proc/self/ns/net) && \
                       export RIDETHROUGH_CHAOS_NAMESPACE && exec \"$@\"";

/// The command that runs `program` in new namespaces; its arguments are still to be added. The process stays the same
/// one from `unshare` to the program, so its pid and its exit code are the program's.
///
/// Root gets there directly; anybody else through a user namespace that keeps the account and adds its powers.
///
/// # Errors
/// [`Error::NoMeans`] where one of the programs it takes is missing, [`Error::Io`] where `program` is.
pub fn command(program: &Path) -> Result<Command, Error> {
    let missing = PROGRAMS.into_iter().find(|name| on_path(name).is_none());
    if let Some(name) = missing {
        return Err(Error::no_means(MEANS, format!("the program `{name}` is not on the PATH")));
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        // The same account inside: PostgreSQL refuses to run as root, also as one that is root nowhere else.
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command.args(["--net", "--mount", "--", "sh", "-c", OPENING, "sh"]);
    // `/proc/self/exe` would be the shell by the time it is executed.
    command.arg(program.canonicalize().map_err(Error::io(format!("find {}", program.display())))?);
    Ok(command)
}

/// Starts this program anew, with the same arguments, in namespaces of its own, in place of itself: it comes back only
/// where that fails.
///
/// # Errors
/// [`Error::State`] when it is inside already; otherwise as [`command`].
pub fn enter() -> Result<Infallible, Error> {
    if entered() {
        return Err(Error::state("enter namespaces of our own", "this process has them already"));
    }
    let mut command = command(Path::new(guardian::OWN_BINARY))?;
    let failed = command.args(std::env::args_os().skip(1)).exec();
    Err(Error::io("start this program in namespaces of its own")(failed))
}

/// Whether this process runs in namespaces that [`command`] made.
#[must_use]
pub fn entered() -> bool {
    let own = std::fs::read_link("/proc/self/ns/net");
    own.is_ok_and(|own| std::env::var_os(MARK).is_some_and(|named| named == own.as_os_str()))
}

/// For what works inside only.
fn must_be_inside(what: &str) -> Result<(), Error> {
    if entered() {
        return Ok(());
    }
    Err(Error::no_means(MEANS, format!("to {what} takes a start through `namespace::command`")))
}

/// Whether this machine can do it, proven from inside: a wire is laid and cut, a small disk is made and filled. Gives
/// what was seen. `guardian` is the `ridethrough-chaos` binary; `None` looks for it.
///
/// # Errors
/// [`Error::NoMeans`] with the reason where it cannot.
///
/// # Cancel safety
/// Dropping the future ends what it started.
pub async fn probe(guardian: Option<&Path>) -> Result<String, Error> {
    /// It takes some tenths of a second.
    const LIMIT: Duration = Duration::from_secs(20);

    let binary = guardian::binary(guardian)?;
    let mut command = tokio::process::Command::from(command(&binary)?);
    command.arg(SUB_COMMAND).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output =
        output.map_err(|_| Error::Late { what: "try namespaces of our own".to_owned(), limit: LIMIT })?;
    let output = output.map_err(Error::io("start a program in namespaces of our own"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    Err(Error::no_means(MEANS, format!("{} ({})", said(&output.stderr), output.status)))
}

/// The work of the hidden sub-command: tries everything once and gives what it saw. Blocking.
///
/// # Errors
/// [`Error`] that names what does not work here.
pub(crate) fn try_all() -> Result<String, Error> {
    let run = RunFolder::create(Some(Path::new(guardian::OWN_BINARY)))?;
    let wire = Wire::lay(&run)?;
    let lost = wire.cut(Way::Both)?;
    drop(lost);
    drop(DeadAddress::make(std::net::Ipv4Addr::new(127, 0, 0, 9))?);
    let disk = SmallDisk::for_postgresql(&run, "small", 1024 * 1024)?;
    let full = disk.fill()?;
    let left = disk.available()?;
    drop(full);
    Ok(format!(
        "a wire to {} was laid and cut, a disk of 1 MiB was filled up to {left} bytes",
        wire.address()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_not_started_inside_is_told_so() {
        assert!(!entered());
        let error = must_be_inside("lay a wire").unwrap_err().to_string();
        assert!(error.contains("namespace::command"), "{error}");
    }
}
