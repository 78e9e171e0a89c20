//! Faults by what a server lacks: processor time, file descriptors. Both are taken from it by means that are given back
//! on drop. What it lacks in memory is in `memory.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit, setpriority_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::nemesis::kind::{Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::victim::SILENCE;
use crate::process::{Launch, Process};
use crate::stack::Service;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "C2",
        name: "cpu-starved",
        about: "programs that do nothing but compute take processor time from everything",
        parameters: &[
            Parameter {
                name: "spinners",
                default: "4",
                domain: Domain::Whole(1, 64),
                about: "how many programs",
            },
            Parameter {
                name: "nice",
                default: "0",
                domain: Domain::Whole(0, 19),
                about: "how far they give way; 19 takes what nobody wants",
            },
        ],
        needs: &[Means::Shell, Means::Services],
        inject: |scene, with| boxed(Starved::inject(scene, with)),
    },
    Kind {
        id: "C2",
        name: "files-exhausted",
        about: "one server may open no more files or connections than it has open",
        parameters: &[Parameter {
            name: "spare",
            default: "0",
            domain: Domain::Whole(0, 10_000),
            about: "how many more it may",
        }],
        needs: &[Means::ProcessLimits, Means::Services],
        inject: |scene, with| boxed(FilesExhausted::inject(scene, with)),
    },
];

/// Other programs compute.
#[derive(Debug)]
struct Starved {
    spinners: Vec<Process>,
    servers: Vec<Service>,
    waited_before: u64,
}

impl Starved {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let server = scene.server()?;
        let folder = server.run().path().to_owned();
        let nice = i32::try_from(with.whole("nice")).unwrap_or(0);
        let mut guard = Self {
            spinners: Vec::new(),
            waited_before: waited(&scene.servers),
            servers: scene.servers.clone(),
        };
        let count = if scene.has_teeth() { with.whole("spinners") } else { 0 };
        for number in 1..=count {
            let spinner = Process::start(&Launch {
                name: format!("spinner {number}"),
                program: "/bin/sh".into(),
                args: vec!["-c".into(), "while :; do :; done".into()],
                env: Vec::new(),
                folder: folder.clone(),
                stdin: None,
                stdout: folder.join("spinner.out"),
                log: folder.join("spinner.log"),
                account: None,
            })?;
            server.run().guard(spinner.handle())?;
            if nice > 0 {
                let set = setpriority_process(raw(spinner.pid()), nice);
                set.map_err(|error| Error::state("make a spinner give way", error.to_string()))?;
            }
            guard.spinners.push(spinner);
        }
        Ok(guard)
    }
}

impl Guard for Starved {
    fn heal(self: Box<Self>) -> Healing {
        Box::pin(async move {
            let ticks: u64 =
                self.spinners.iter().filter_map(|one| one.handle().entry()).map(|entry| entry.ticks).sum();
            let waited = Duration::from_nanos(waited(&self.servers).saturating_sub(self.waited_before));
            let count = self.spinners.len();
            // Ending them takes a moment each; nobody else is to wait for it.
            let ended = tokio::task::spawn_blocking(move || drop(self)).await;
            ended.map_err(|error| Error::state("end the spinners", error.to_string()))?;
            let witness = format!(
                "{count} spinners used {ticks} hundredths of a second; the servers waited {} ms for a processor",
                waited.as_millis()
            );
            Ok((ticks > 0 && !waited.is_zero()).then_some(witness))
        })
    }
}

/// For how many nanoseconds all threads of the servers were ready to run and did not.
fn waited(servers: &[Service]) -> u64 {
    let of = |pid: u32| -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
        texts.filter_map(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    servers.iter().filter_map(Service::pid).map(of).sum()
}

pub(super) fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// One server has no file descriptor left.
#[derive(Debug)]
struct FilesExhausted {
    pid: u32,
    name: String,
    before: Option<Rlimit>,
    met: Option<String>,
}

impl FilesExhausted {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        let server = scene.server()?;
        let what = "limit the files of a server";
        let pid = server.pid().ok_or_else(|| Error::state(what, "it is down"))?;
        let mut guard = Self { pid, name: server.name().to_owned(), before: None, met: None };
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(Error::io(what))?.count();
        let limit = u64::try_from(open).unwrap_or(u64::MAX).saturating_add(with.whole("spare"));
        if scene.has_teeth() {
            let old = rustix::process::prlimit(
                raw(pid),
                Resource::Nofile,
                Rlimit { current: Some(limit), maximum: hard_limit(pid, "Max open files") },
            );
            guard.before = Some(old.map_err(|error| Error::state(what, error.to_string()))?);
        }
        // One more than the spare ones cannot be accepted; some may be taken over from others that ended.
        let tries = with.whole("spare").saturating_add(8).min(200);
        let mut held = Vec::new();
        for _ in 0..tries {
            match ask(server.main(), &mut held).await {
                true => {}
                false => {
                    guard.met =
                        Some(format!("{} answered no new connection with {limit} files open", guard.name));
                    break;
                }
            }
        }
        Ok(guard)
    }

    fn restore(&mut self) {
        if let Some(before) = self.before.take() {
            // The process may be gone; then so is its limit.
            let _ = prlimit(raw(self.pid), Resource::Nofile, before);
        }
    }
}

/// The hard limit as it is, so that only the soft one changes: what is lowered there cannot be raised again.
pub(super) fn hard_limit(pid: u32, name: &str) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether a new connection is answered; it is kept, so that it holds its descriptor.
async fn ask(address: SocketAddr, held: &mut Vec<TcpStream>) -> bool {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: server\r\n\r\n").await?;
        let mut byte = [0_u8; 1];
        stream.read_exact(&mut byte).await?;
        held.push(stream);
        std::io::Result::Ok(())
    };
    matches!(tokio::time::timeout(SILENCE, work).await, Ok(Ok(())))
}

impl Guard for FilesExhausted {
    fn heal(mut self: Box<Self>) -> Healing {
        self.restore();
        let met = self.met.take();
        Box::pin(std::future::ready(Ok(met)))
    }
}

impl Drop for FilesExhausted {
    fn drop(&mut self) {
        self.restore();
    }
}
