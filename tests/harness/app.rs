//! One server or proxy of a test: start, signal, start again on the same folder and ports, ask how it is. It never
//! outlives the test. How processes are started at all is in `launch.rs`.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::{
    http::Client,
    launch::{Blueprint, Exit, free_address, read, spawn},
    logs::Secrets,
    until,
};

/// Until both listeners accept.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Until a server has a database and something to serve.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Until a killed process is gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A process with a main and an admin listener. Clones are the same process; the last to go kills it.
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blueprint: Blueprint,
    home: PathBuf,
    main: SocketAddr,
    admin: SocketAddr,
    secrets: Secrets,
    child: Mutex<Option<Child>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl App {
    /// Starts it in `home` on free ports and waits until it says that it listens.
    ///
    /// # Panics
    /// Where it does not, with what it logged.
    ///
    /// # Cancel safety
    /// Dropping it kills the process.
    pub async fn start(blueprint: Blueprint, home: &Path, secrets: Secrets) -> Self {
        std::fs::create_dir_all(home).expect("the folder of a process can be made");
        let app = Self(Arc::new(Inner {
            blueprint,
            home: home.to_owned(),
            main: free_address(),
            admin: free_address(),
            secrets,
            child: Mutex::default(),
        }));
        app.restart().await;
        app
    }

    /// Starts it again: same folder, arguments and ports.
    ///
    /// # Panics
    /// Where it runs, or does not come up.
    ///
    /// # Cancel safety
    /// A drop leaves it starting.
    pub async fn restart(&self) {
        self.restart_with(&[]).await;
    }

    /// Starts it again with additional environment, for this life only.
    ///
    /// # Panics
    /// As [`App::restart`].
    ///
    /// # Cancel safety
    /// As [`App::restart`].
    pub async fn restart_with(&self, env: &[(&str, String)]) {
        let before = read(&self.stdout()).len();
        self.spawn(env);
        let expected = format!("listening main={} admin={}", self.0.main, self.0.admin);
        let listening = async || {
            let printed = read(&self.stdout());
            if printed.get(before..).unwrap_or_default().lines().any(|line| line == expected) {
                return Some(());
            }
            let ended = self.exit();
            assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name(), read(&self.log()));
            None
        };
        until(&format!("{} listens", self.name()), START_LIMIT, listening).await;
    }

    /// Starts it again where it is expected to give up; gives how it ended and what it said from then on.
    ///
    /// # Panics
    /// Where it goes on.
    ///
    /// # Cancel safety
    /// A drop leaves it running.
    pub async fn restart_in_vain(&self) -> (Exit, String) {
        let before = read(&self.log()).len();
        self.spawn(&[]);
        let exit = until(&format!("{} gives up", self.name()), START_LIMIT, async || self.exit()).await;
        (exit, read(&self.log()).get(before..).unwrap_or_default().to_owned())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.blueprint.name
    }

    /// What was started.
    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.0.blueprint
    }

    /// Its folder; a server keeps its data in `data` below.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.0.home
    }

    /// Its log, over all its lives.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.home.join("log")
    }

    /// What it logged, over all its lives.
    #[must_use]
    pub fn logged(&self) -> String {
        read(&self.log())
    }

    /// The main listener, for users.
    #[must_use]
    pub fn main(&self) -> Client {
        Client::new(self.0.main, self.0.secrets.clone())
    }

    /// The admin listener.
    #[must_use]
    pub fn admin(&self) -> Client {
        Client::new(self.0.admin, self.0.secrets.clone())
    }

    /// Its pid while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        let child = child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    /// How it ended; nothing while it runs.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        let mut child = self.child();
        child.as_mut()?.try_wait().expect("a child can be looked at").map(Exit::from)
    }

    /// Asks it to drain.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to read again what it can.
    ///
    /// # Panics
    /// Where it is not running.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Ends it as a crash would, and reaps it.
    ///
    /// # Panics
    /// Where it is not running, or does not die.
    ///
    /// # Cancel safety
    /// Once polled the kill has happened.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        let exit = self.ended(KILL_LIMIT).await;
        assert_eq!(exit, Exit::Signal(9), "{} died of something else", self.name());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it lives on after `limit`.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn ended(&self, limit: Duration) -> Exit {
        until(&format!("{} ends", self.name()), limit, async || self.exit()).await
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// Where it does not.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn ready(&self) {
        let ready = async || (self.main().get("/readyz").await.status == 200).then_some(());
        until(&format!("{} is ready", self.name()), READY_LIMIT, ready).await;
    }

    /// The mode that its health tells.
    ///
    /// # Panics
    /// Where it tells none.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn mode(&self) -> String {
        let health = self.main().get("/readyz").await.json();
        health.get("mode").and_then(Value::as_str).expect("health tells a mode").to_owned()
    }

    /// Waits for a mode.
    ///
    /// # Panics
    /// Where it does not come.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn mode_becomes(&self, mode: &str) {
        let look = async || (self.mode().await == mode).then_some(());
        until(&format!("the mode of {} becomes {mode}", self.name()), READY_LIMIT, look).await;
    }

    /// How many writes wait in its journal.
    ///
    /// # Panics
    /// Where it does not say.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn backlog(&self) -> u64 {
        let state = self.admin().get("/debug/state").await.expect(200).json();
        let entries = state.get("journal").and_then(|journal| journal.get("entries")).and_then(Value::as_u64);
        entries.unwrap_or_else(|| panic!("no journal in {state}"))
    }

    /// Waits until nothing waits in its journal.
    ///
    /// # Panics
    /// Where something goes on waiting.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn journal_is_empty(&self) {
        let look = async || (self.backlog().await == 0).then_some(());
        until(&format!("the journal of {} is empty", self.name()), READY_LIMIT, look).await;
    }

    fn stdout(&self) -> PathBuf {
        self.0.home.join("out")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, env: &[(&str, String)]) {
        assert!(self.pid().is_none(), "{} runs already", self.name());
        let mut blueprint = self.0.blueprint.clone();
        blueprint.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        for (option, address) in [("--listen", self.0.main), ("--admin-listen", self.0.admin)] {
            blueprint.args.extend([OsString::from(option), address.to_string().into()]);
        }
        *self.child() = Some(spawn(&blueprint, &self.0.home));
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child();
        let child = child.as_mut().expect("a process was started");
        let running = matches!(child.try_wait(), Ok(None));
        assert!(running, "{} is not running", self.0.blueprint.name);
        // Not reaped yet, so the pid is still its own.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        rustix::process::kill_process(pid, signal).expect("a child can be signalled");
    }
}
