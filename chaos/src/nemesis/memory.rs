//! A server that may have no more memory: the kernel refuses it, and it ends as its allocator sees fit. Taken from it by a
//! limit on what it may write to, since groups of the kernel (cgroups) take root. Other things that it may lack are in
//! `starve.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::error::Error;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::starve::{hard_limit, raw};
use crate::nemesis::victim::SILENCE;
use crate::process::{self, Exit};
use crate::stack::Service;

pub(super) const KINDS: &[Kind] = &[Kind {
    id: "C2",
    name: "memory-exhausted",
    about: "one server may have no more memory than it has, is asked for much, and ends; healed by a start",
    parameters: &[Parameter {
        name: "spare",
        default: "1",
        domain: Domain::Whole(0, 1_000),
        about: "megabytes that it may have beyond what it has",
    }],
    needs: &[Means::ProcessLimits, Means::Services],
    inject: |scene, with| boxed(MemoryExhausted::inject(scene, with)),
}];

const MEGABYTE: u64 = 1024 * 1024;
/// Requests that are begun and not ended: each is a head that the server has to keep, below the limits of most servers.
const REQUESTS_MAX: usize = 600;
const HEAD_BYTES: usize = 24 * 1024;
/// How long a server is asked.
const LIMIT: Duration = Duration::from_secs(6);

/// One server has no memory left.
#[derive(Debug)]
struct MemoryExhausted {
    server: Service,
    pid: u32,
    before: Option<Rlimit>,
    exit: Option<Exit>,
    spare: u64,
    healed: bool,
}

impl MemoryExhausted {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let what = "limit the memory of a server";
        let server = scene.server()?.clone();
        let pid = server.pid().ok_or_else(|| Error::state(what, "it is down"))?;
        let spare = with.whole("spare");
        let mut guard = Self { server, pid, before: None, exit: None, spare, healed: false };
        if scene.has_teeth() {
            let has = private_memory(pid).ok_or_else(|| Error::state(what, "the kernel does not tell"))?;
            let limit = Rlimit {
                current: Some(has.saturating_add(spare.saturating_mul(MEGABYTE))),
                maximum: hard_limit(pid, "Max data size"),
            };
            guard.server.foresee_end(true);
            let before = prlimit(raw(pid), Resource::Data, limit);
            guard.before = Some(before.map_err(|error| Error::state(what, error.to_string()))?);
            let asking = ask_for_much(guard.server.main(), Instant::now() + LIMIT);
            tokio::select! {
                exit = guard.server.ended(LIMIT) => guard.exit = exit,
                () = asking => guard.exit = guard.server.ended(Duration::from_secs(1)).await,
            }
            guard.server.foresee_end(guard.exit.is_some());
        }
        Ok(guard)
    }

    fn restore(&mut self) {
        if let Some(before) = self.before.take() {
            // The process may be gone; then so is its limit.
            let _ = prlimit(raw(self.pid), Resource::Data, before);
        }
    }
}

/// How much a process may write to that is its own alone, in bytes. Its whole address space would say nothing: allocators
/// reserve far more of that than they use.
fn private_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Begins one request after the other and ends none, until nothing more is taken.
async fn ask_for_much(address: SocketAddr, end: Instant) {
    let mut held = Vec::new();
    let head = format!("GET / HTTP/1.1\r\nHost: server\r\nX-Filler: {}", "x".repeat(HEAD_BYTES));
    while held.len() < REQUESTS_MAX && Instant::now() < end {
        let begin = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(head.as_bytes()).await?;
            std::io::Result::Ok(stream)
        };
        match tokio::time::timeout(SILENCE, begin).await {
            Ok(Ok(stream)) => held.push(stream),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    // They are kept open until the server has ended, or for the time that is left.
    tokio::time::sleep_until(end).await;
}

impl Guard for MemoryExhausted {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.restore();
            self.healed = true;
            let Some(exit) = self.exit else { return Ok(None) };
            let log = process::log_tail(self.server.log(), 20);
            let took = self.server.restart().await?.as_millis();
            let last = log.lines().rfind(|line| line.to_lowercase().contains("memory")).map(str::trim);
            Ok(last.map(|last| {
                let (name, spare) = (self.server.name(), self.spare);
                format!("{name} could have {spare} MB more and ended with {exit}: {last}; it listened {took} ms after its start")
            }))
        })
    }
}

impl Drop for MemoryExhausted {
    fn drop(&mut self) {
        self.restore();
        if !self.healed && self.server.pid().is_none() {
            self.server.restart_unwatched();
        }
    }
}
