//! One process with HTTP listeners (a server or the proxy): start, kill, start again on the same ports and data.
//! It knows nothing of the other processes; `stack.rs` puts them together.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::error::Error;
use crate::folder::RunFolder;
use crate::ports;
use crate::process::{self, Exit, Launch, Process, poll_until};
use crate::stack::ready;
use crate::target::fill;

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Starts on other ports after a collision.
const PORT_TRIES: u32 = 8;
/// Lines of a log in an error text.
const TAIL_LINES: usize = 12;

/// Who listens on loopback takes a connection at once or never.
const LOOK_LIMIT: Duration = Duration::from_millis(100);

/// What to start, before its addresses are known. Arguments, environment and ready line may hold `{{main}}` and
/// `{{admin}}`, the listeners, `{{port}}`, that of the main one, and `{{dir}}`, its folder.
#[derive(Debug, Clone)]
pub(super) struct Blueprint {
    /// Its name in the history, such as `server-1`; also the name of its folder and logs.
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// A part of its output by which it says that it listens; `None` takes it at its port.
    pub(super) ready_line: Option<String>,
    /// What asks it to end.
    pub(super) stop_signal: Signal,
    /// The file, in its folder, by which its cache outlives it; `None` where none does, or nobody knows.
    pub(super) cache_file: Option<&'static str>,
    /// A fixed main listener; `None` takes a free port.
    pub(super) listen: Option<SocketAddr>,
    pub(super) start_timeout: Duration,
}

/// How our own binaries say that they listen.
pub(super) const LISTENING: &str = "listening main={{main}} admin={{admin}}";

/// How our own binaries are told where to listen.
pub(super) fn listeners() -> Vec<String> {
    ["--listen", "{{main}}", "--admin-listen", "{{admin}}"].map(str::to_owned).to_vec()
}

/// One life of the process, from a start to its end.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// Its pid.
    pub pid: u32,
    /// When it was begun.
    pub begun: Instant,
    /// Whether it began with nothing in its cache, as far as that is known.
    pub cold: bool,
    /// When it said that it listens; `None` when it died before.
    pub up: Option<Instant>,
    /// When it was seen to be gone, or signalled where that was meant; `None` while it lives.
    pub down: Option<Instant>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// When it was seen to be gone.
    pub gone: Option<Instant>,
    /// Whether it was meant to end.
    pub planned: bool,
    /// Whether it was asked to, so that it could finish what it had begun.
    pub drains: bool,
}

/// A running server or proxy. Cheap to clone; the last clone to go kills the process.
#[derive(Debug, Clone)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    blueprint: Blueprint,
    main: SocketAddr,
    admin: SocketAddr,
    home: PathBuf,
    stdout: PathBuf,
    log: PathBuf,
    run: RunFolder,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    lives: Vec<Life>,
}

impl State {
    /// Looks whether the process has ended, and notes it once.
    fn look(&mut self) -> Option<Exit> {
        let exit = self.process.as_mut()?.poll_exit()?;
        if let Some(life) = self.lives.last_mut().filter(|life| life.exit.is_none()) {
            life.exit = Some(exit);
            let gone = *life.gone.get_or_insert_with(Instant::now);
            life.down.get_or_insert(gone);
        }
        Some(exit)
    }

    fn plan_end(&mut self, drains: bool) {
        if let Some(life) = self.lives.last_mut().filter(|life| life.exit.is_none()) {
            (life.planned, life.drains) = (true, drains);
            life.down = Some(Instant::now());
        }
    }
}

impl Service {
    /// Starts it and waits until it says that it listens.
    pub(super) async fn start(run: &RunFolder, blueprint: Blueprint) -> Result<Self, Error> {
        if let Some(address) = blueprint.listen {
            must_be_free(&blueprint.name, address)?;
        }
        let home = run.private(&blueprint.name)?;
        let mut tries = 1;
        loop {
            let main = match blueprint.listen {
                Some(address) => address,
                None => ports::loopback(ports::free()?),
            };
            let service = Self(Arc::new(Inner {
                state: Mutex::default(),
                main,
                admin: ports::loopback(ports::free()?),
                home: home.clone(),
                stdout: run.path().join(format!("{}.out", blueprint.name)),
                log: run.path().join(format!("{}.log", blueprint.name)),
                blueprint: blueprint.clone(),
                run: run.clone(),
            }));
            match service.start_again().await {
                Ok(_) => return Ok(service),
                // Another program took the port between the look and the use.
                Err(Error::Start { log, .. }) if tries < PORT_TRIES && log.contains("in use") => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Its name, such as `server-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.blueprint.name
    }

    /// Its main listener; the same after each start.
    #[must_use]
    pub fn main(&self) -> SocketAddr {
        self.0.main
    }

    /// Its admin listener; the same after each start.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.0.admin
    }

    /// The file with its log (standard error).
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.0.log
    }

    /// Its own folder; a server keeps its journal in `data` below.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.0.home
    }

    /// The status that it answers a `GET` with; `None` where no answer comes.
    pub(crate) async fn status(&self, path: &str) -> Option<u16> {
        ready::status(self.main(), path).await
    }

    /// Its pid while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.lock();
        match state.look() {
            Some(_) => None,
            None => state.process.as_ref().map(Process::pid),
        }
    }

    /// Every start and end so far. Looks at the process first, so call it often enough to time an unplanned end.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        let mut state = self.lock();
        state.look();
        state.lives.clone()
    }

    /// Ends it as a crash would (SIGKILL) and reaps it.
    ///
    /// # Errors
    /// [`Error::State`] when it is not running, [`Error::Late`] when it does not die.
    ///
    /// # Cancel safety
    /// Once polled the kill has happened.
    pub async fn kill(&self) -> Result<Exit, Error> {
        self.end(Signal::KILL, KILL_LIMIT).await
    }

    /// Asks it to drain and end (SIGTERM, or as its blueprint says) and waits for that; kills it after `limit`.
    ///
    /// # Errors
    /// As [`Service::kill`].
    ///
    /// # Cancel safety
    /// A drop leaves it draining.
    pub async fn stop(&self, limit: Duration) -> Result<Exit, Error> {
        match self.end(self.0.blueprint.stop_signal, limit).await {
            Err(Error::Late { .. }) => self.end(Signal::KILL, KILL_LIMIT).await,
            ended => ended,
        }
    }

    /// Waits until it ends by itself; `None` when it lives on after `limit`.
    ///
    /// # Cancel safety
    /// Dropping it leaves nothing behind.
    pub async fn ended(&self, limit: Duration) -> Option<Exit> {
        poll_until(limit, || self.lock().look()).await
    }

    /// Starts it again on the same ports, arguments and folder, and waits until it listens. Gives the time it took.
    ///
    /// # Errors
    /// [`Error::State`] when it runs, [`Error::Start`] with the log when it does not come up.
    ///
    /// # Cancel safety
    /// A drop leaves it starting.
    pub async fn restart(&self) -> Result<Duration, Error> {
        self.start_again().await
    }

    /// Whether it is meant to end by itself, from now on: such an end is no surprise.
    pub(crate) fn foresee_end(&self, is_meant: bool) {
        if let Some(life) = self.lock().lives.last_mut() {
            life.planned = is_meant;
        }
    }

    /// Sends it a signal that does not end it; false where it is down.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.lock().process.as_mut().is_some_and(|process| process.signal(signal))
    }

    /// The kernel's word on whether it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let state = self.lock();
        state
            .process
            .as_ref()
            .and_then(|process| process.handle().entry())
            .is_some_and(|entry| entry.is_stopped())
    }

    /// The run folder it lives in.
    pub(crate) fn run(&self) -> &RunFolder {
        &self.0.run
    }

    /// Starts a second process on the same folder, on other ports, and gives how it ended, and its last words; no end
    /// where it lives after `limit`. It does not outlive this call.
    ///
    /// # Cancel safety
    /// Dropping the future kills it.
    pub(crate) async fn rival(&self, limit: Duration) -> Result<(Option<Exit>, String), Error> {
        let name = format!("{}-rival", self.name());
        let log = self.0.run.path().join(format!("{name}.log"));
        let stdout = self.0.run.path().join(format!("{name}.out"));
        let addresses = [ports::loopback(ports::free()?), ports::loopback(ports::free()?)];
        let mut rival = Process::start(&self.launch(name, addresses, stdout, log.clone()))?;
        self.0.run.guard(rival.handle())?;
        let exit = poll_until(limit, || rival.poll_exit()).await;
        Ok((exit, process::log_tail(&log, 2)))
    }

    /// Spawns it without waiting for anything: for drops.
    pub(crate) fn restart_unwatched(&self) {
        // A guard that heals on drop has nobody to tell; the probes see whether it worked.
        let _ = self.spawn();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn end(&self, signal: Signal, limit: Duration) -> Result<Exit, Error> {
        {
            let mut state = self.lock();
            if state.look().is_some() || state.process.is_none() {
                return Err(Error::state(format!("end {}", self.name()), "it is not running"));
            }
            state.plan_end(signal != Signal::KILL);
            if let Some(process) = state.process.as_mut() {
                process.signal(signal);
            }
        }
        let exit = poll_until(limit, || self.lock().look()).await;
        exit.ok_or_else(|| Error::Late { what: format!("end {}", self.name()), limit })
    }

    async fn start_again(&self) -> Result<Duration, Error> {
        let began = Instant::now();
        // The files grow over all lives; only what this life prints counts.
        let before =
            [&self.0.stdout, &self.0.log].map(|file| fs::metadata(file).map_or(0, |meta| meta.len()));
        self.spawn()?;
        let limit = self.0.blueprint.start_timeout;
        let outcome = poll_until(limit, || {
            if self.announced(before) {
                return Some(Ok(()));
            }
            self.lock().look().map(Err)
        });
        let failed = |reason: String| Error::Start {
            name: self.name().to_owned(),
            reason,
            log: process::log_tail(self.log(), TAIL_LINES),
        };
        match outcome.await {
            Some(Ok(())) => {
                if let Some(life) = self.lock().lives.last_mut() {
                    life.up = Some(Instant::now());
                }
                Ok(began.elapsed())
            }
            Some(Err(exit)) => Err(failed(format!("it ended with {exit} before it listened"))),
            None => Err(failed(format!("it does not listen after {} s", limit.as_secs()))),
        }
    }

    fn spawn(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.process.is_some() && state.look().is_none() {
            return Err(Error::state(format!("start {}", self.name()), "it is running already"));
        }
        let addresses = [self.0.main, self.0.admin];
        let launch =
            self.launch(self.name().to_owned(), addresses, self.0.stdout.clone(), self.0.log.clone());
        let cold = self.0.blueprint.cache_file.is_some_and(|file| !self.0.home.join(file).exists());
        let begun = Instant::now();
        let process = Process::start(&launch)?;
        self.0.run.guard(process.handle())?;
        state.lives.push(Life {
            pid: process.pid(),
            begun,
            cold,
            up: None,
            down: None,
            exit: None,
            gone: None,
            planned: false,
            drains: false,
        });
        state.process = Some(process);
        Ok(())
    }

    fn launch(&self, name: String, addresses: [SocketAddr; 2], stdout: PathBuf, log: PathBuf) -> Launch {
        let Blueprint { program, args, env, .. } = &self.0.blueprint;
        let filled = |text: &String| self.filled(text, addresses);
        Launch {
            name,
            program: program.clone(),
            args: args.iter().map(|text| OsString::from(filled(text))).collect(),
            env: env.iter().map(|(name, text)| (name.clone(), filled(text))).collect(),
            folder: self.0.home.clone(),
            stdin: None,
            stdout,
            log,
            account: None,
        }
    }

    fn filled(&self, text: &str, [main, admin]: [SocketAddr; 2]) -> String {
        let (port, main, admin) = (main.port().to_string(), main.to_string(), admin.to_string());
        let home = self.0.home.to_string_lossy();
        fill(text, &[("port", &port), ("main", &main), ("admin", &admin), ("dir", &home)])
    }

    /// Whether it listens: its ready line stands in the output of this life, or its port takes a connection.
    fn announced(&self, before: [u64; 2]) -> bool {
        let Some(line) = &self.0.blueprint.ready_line else {
            return TcpStream::connect_timeout(&self.0.main, LOOK_LIMIT).is_ok();
        };
        let expected = self.filled(line, [self.0.main, self.0.admin]);
        [&self.0.stdout, &self.0.log].into_iter().zip(before).any(|(file, before)| {
            let text = fs::read(file).unwrap_or_default();
            let skip = usize::try_from(before).unwrap_or(usize::MAX);
            let new = String::from_utf8_lossy(text.get(skip..).unwrap_or_default());
            new.lines().any(|line| line.contains(&expected))
        })
    }
}

/// Whether the port of an address that the caller chose is free; told with the way out where it is not.
pub(super) fn must_be_free(name: &str, address: SocketAddr) -> Result<(), Error> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) => Err(Error::state(
            format!("start the {name} on {address}"),
            format!("{source}; stop what listens there, or choose another address with --listen"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_told_with_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = must_be_free("proxy", address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
        drop(taken);
        assert!(must_be_free("proxy", address).is_ok());
    }
}
