//! A name server that answers what an experiment says: addresses, none, an error, late, or nothing at all (D18). It
//! forwards nothing to anybody.
//!
//! A process is pointed at it by a launcher, which gives it a mount namespace with a `resolv.conf` of its own; that needs
//! no root. The resolver knows no port but 53, which does: so the server is for an experiment that has a network
//! namespace of its own, or runs as root. [`Names::open`] tells.

mod message;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::error::Error;
use crate::names::message::Question;

/// An address of the loopback that no other name server sits on. All of 127.0.0.0/8 is local.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 53, 53, 53)), 53);
/// Answers that wait for their time; what would come beyond them is never answered.
const WAITING_MAX: usize = 256;
/// Questions of the resolver are far shorter.
const QUESTION_BYTES_MAX: usize = 512;

/// What is said about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, of the kind that is asked for.
    Addresses(Vec<IpAddr>),
    /// There is no such name (NXDOMAIN).
    Unknown,
    /// The server has failed (SERVFAIL).
    Failure,
    /// Nothing; the resolver runs into its timeout.
    Silence,
}

/// What is said about a name, and how long after the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What.
    pub answer: Answer,
    /// How late. Zero is at once.
    pub after: Duration,
}

impl Script {
    /// At once.
    #[must_use]
    pub fn now(answer: Answer) -> Self {
        Self { answer, after: Duration::ZERO }
    }
}

/// What was asked since something was last said about a name: the proof that somebody did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Questions for the name.
    pub questions: u64,
}

impl fmt::Display for Asked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} questions for the name", self.questions)
    }
}

#[derive(Debug)]
struct Entry {
    script: Script,
    asked: Asked,
}

/// Names in lower case, without the last dot.
type Scripts = Arc<Mutex<BTreeMap<String, Entry>>>;

/// A name server. Cheap to clone; all clones share.
#[derive(Debug, Clone)]
pub struct Names {
    address: SocketAddr,
    scripts: Scripts,
}

impl Names {
    /// A name server at `address`, [`ADDRESS`] for a launcher to lead to it, and its work: drive the future, for it
    /// never ends by itself. It knows no name yet.
    ///
    /// # Errors
    /// [`Error::Io`] where the port cannot be had, as for port 53 outside a network namespace of one's own and without
    /// root.
    ///
    /// # Cancel safety
    /// Nothing is left.
    pub async fn open(address: SocketAddr) -> Result<(Self, impl Future<Output = ()> + Send + use<>), Error> {
        let what = || format!("open a name server at {address}");
        let socket = UdpSocket::bind(address).await.map_err(Error::io(what()))?;
        let address = socket.local_addr().map_err(Error::io(what()))?;
        let names = Self { address, scripts: Scripts::default() };
        let work = serve(socket, Arc::clone(&names.scripts));
        Ok((names, work))
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says this about a name from now on.
    pub fn say(&self, name: &str, script: Script) {
        self.lock().insert(key(name), Entry { script, asked: Asked::default() });
    }

    /// Says this about a name until the guard is dropped, and then again what was said before.
    pub fn put(&self, name: &str, script: Script) -> Said {
        let before = self.lock().insert(key(name), Entry { script, asked: Asked::default() });
        Said { names: self.clone(), name: key(name), before: before.map(|entry| entry.script) }
    }

    /// How often a name was asked for since something was last said about it.
    #[must_use]
    pub fn asked(&self, name: &str) -> Asked {
        self.lock().get(&key(name)).map(|entry| entry.asked).unwrap_or_default()
    }

    /// What to put before a command so that its names are looked up here. The files it needs are written to `folder`,
    /// which has to live as long as the command.
    ///
    /// # Errors
    /// [`Error::State`] where the server is not on port 53, which a `resolv.conf` cannot say; [`Error::Io`] where the
    /// files cannot be written.
    pub fn launcher(&self, folder: &Path) -> Result<Vec<OsString>, Error> {
        if self.address.port() != ADDRESS.port() {
            return Err(Error::state("lead a process to a name server", "the resolver asks on port 53 only"));
        }
        let (resolver, order) = (folder.join("resolv.conf"), folder.join("nsswitch.conf"));
        // One try of a second, so that silence is a failed lookup and not a minute.
        let text = format!("nameserver {}\noptions timeout:1 attempts:1\n", self.address.ip());
        std::fs::write(&resolver, text).map_err(Error::io("write a resolv.conf"))?;
        std::fs::write(&order, "hosts: files dns\n").map_err(Error::io("write an nsswitch.conf"))?;
        let mount = "mount --bind \"$0\" /etc/resolv.conf && mount --bind \"$1\" /etc/nsswitch.conf && shift && exec \"$@\"";
        let words = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", mount];
        let mut launcher: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        launcher.extend([resolver.into_os_string(), order.into_os_string()]);
        Ok(launcher)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is said about a name for a while. When it is dropped, what was said before is said again.
#[derive(Debug)]
#[must_use = "it is unsaid as soon as this is dropped"]
pub struct Said {
    names: Names,
    name: String,
    before: Option<Script>,
}

impl Said {
    /// How often the name was asked for meanwhile.
    #[must_use]
    pub fn witness(&self) -> Asked {
        self.names.asked(&self.name)
    }

    /// Says again what was said before, and how often the name was asked for meanwhile.
    #[must_use]
    pub fn heal(self) -> Asked {
        self.witness()
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        match self.before.take() {
            Some(script) => self.names.say(&self.name, script),
            None => drop(self.names.lock().remove(&self.name)),
        }
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// An answer on its way.
struct Waiting {
    due: Instant,
    bytes: Vec<u8>,
    to: SocketAddr,
}

async fn serve(socket: UdpSocket, scripts: Scripts) {
    let mut buffer = [0; QUESTION_BYTES_MAX];
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        let due = waiting.iter().map(|answer| answer.due).min();
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((bytes, from)) = received else {
                    // A client that is gone shows here too; anything else must not spin.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                let answer = buffer.get(..bytes).and_then(|question| answer(question, &scripts));
                if let Some((bytes, after)) = answer && waiting.len() < WAITING_MAX {
                    waiting.push(Waiting { due: Instant::now() + after, bytes, to: from });
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let now = Instant::now();
        let ripe: Vec<Waiting>;
        (ripe, waiting) = waiting.into_iter().partition(|answer| answer.due <= now);
        for answer in ripe {
            // Whoever asked may have given up.
            let _ = socket.send_to(&answer.bytes, answer.to).await;
        }
    }
}

/// The answer to a question and how late it is; `None` for silence, and for what is no question.
fn answer(bytes: &[u8], scripts: &Scripts) -> Option<(Vec<u8>, Duration)> {
    let question = Question::read(bytes)?;
    let mut scripts = scripts.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(entry) = scripts.get_mut(&question.name) else {
        return Some((question.reply(&Answer::Unknown)?, Duration::ZERO));
    };
    entry.asked.questions += 1;
    Some((question.reply(&entry.script.answer)?, entry.script.after))
}

#[cfg(test)]
mod tests;
