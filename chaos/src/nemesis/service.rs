//! Faults on the servers and the proxy by signals: killed, paused, restarted one after another. Each is a guard that heals on
//! drop and keeps what the kernel said about the victim. What they lack to live is in `starve.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::nemesis::kind::{Absence, Domain, Guard, Healing, Kind, Means, Parameter, Scene, Values, boxed};
use crate::nemesis::process::SIGKILL;
use crate::process::{Exit, poll_until};
use crate::stack::Service;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "R1",
        name: "server-kill",
        about: "SIGKILL of one server; healed by a start on the same journal",
        parameters: &[],
        needs: &[Means::Services],
        inject: |scene, _| boxed(async move { Killed::inject(scene.server()?.clone(), &scene).await }),
    },
    Kind {
        id: "R2",
        name: "proxy-kill",
        about: "SIGKILL of the proxy; healed by a start",
        parameters: &[],
        needs: &[Means::Services],
        inject: |scene, _| {
            boxed(async move {
                let Some(proxy) = scene.proxy.clone() else {
                    return Err(Error::state("kill the proxy", "the stack has none"));
                };
                Killed::inject(proxy, &scene).await
            })
        },
    },
    Kind {
        id: "C2",
        name: "server-pause",
        about: "SIGSTOP of one server, as a long pause of its machine; healed by SIGCONT",
        parameters: &[],
        needs: &[Means::Services],
        inject: |scene, _| boxed(Paused::inject(scene)),
    },
    Kind {
        id: "R1",
        name: "rolling-restart",
        about: "SIGTERM to one server after the other, in the midst of their requests, and a start each",
        parameters: &[
            Parameter {
                name: "gap",
                default: "500",
                domain: Domain::Whole(0, 60_000),
                about: "milliseconds from one start to the next end",
            },
            Parameter {
                name: "signal",
                default: "term",
                domain: Domain::Words(&["term", "kill"]),
                about: "whether they may drain",
            },
        ],
        needs: &[Means::Services],
        inject: |scene, with| boxed(Rolling::inject(scene, with)),
    },
];

/// How long the kernel may take to stop a process.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// Above the drain limit of the server.
const DRAIN_LIMIT: Duration = Duration::from_secs(35);

/// One process is dead.
#[derive(Debug)]
struct Killed {
    service: Service,
    exit: Option<Exit>,
    healed: bool,
}

impl Killed {
    async fn inject(service: Service, scene: &Scene) -> Result<Self, Error> {
        let exit = if scene.has_teeth() { Some(service.kill().await?) } else { None };
        Ok(Self { service, exit, healed: false })
    }
}

impl Guard for Killed {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            self.healed = true;
            let Some(exit) = self.exit else { return Ok(None) };
            let took = self.service.restart().await?.as_millis();
            let name = self.service.name();
            let witness = format!("{name} ended by {exit}, listened again {took} ms after its restart");
            Ok((exit.signal == Some(SIGKILL)).then_some(witness))
        })
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if !self.healed && self.exit.is_some() {
            self.service.restart_unwatched();
        }
    }
}

/// One server is stopped by a signal.
#[derive(Debug)]
pub(super) struct Paused {
    service: Service,
    toothless: bool,
}

impl Paused {
    pub(super) async fn inject(scene: Scene) -> Result<Self, Error> {
        let guard = Self { service: scene.server()?.clone(), toothless: scene.toothless };
        if scene.has_teeth() {
            guard.service.signal(Signal::STOP);
            let stopped = || guard.service.is_stopped().then_some(());
            let stopped = poll_until(STOP_LIMIT, stopped).await;
            stopped.ok_or(Error::Late { what: "pause a server".to_owned(), limit: STOP_LIMIT })?;
        }
        Ok(guard)
    }

    /// Whether it is stopped still, in words.
    pub(super) fn witness(&self) -> Option<String> {
        self.service.is_stopped().then(|| format!("{} was stopped to the end", self.service.name()))
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }
}

impl Guard for Paused {
    fn absence(&self) -> Option<Absence> {
        let process = self.service.name().to_owned();
        (!self.toothless).then(|| Absence { process, database: false, how: "paused by SIGSTOP".to_owned() })
    }

    fn heal(self: Box<Self>) -> Healing {
        let witness = self.witness();
        drop(self);
        Box::pin(std::future::ready(Ok(witness)))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if !self.toothless {
            self.service.signal(Signal::CONT);
        }
    }
}

/// One server after the other goes and comes.
#[derive(Debug)]
struct Rolling {
    servers: Vec<Service>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), Error>>,
    ends: Arc<Mutex<Vec<String>>>,
}

impl Rolling {
    async fn inject(scene: Scene, with: Values) -> Result<Self, Error> {
        scene.server()?;
        let (stop, mut stopped) = watch::channel(false);
        let ends: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut tasks = JoinSet::new();
        if scene.has_teeth() {
            let (servers, told) = (scene.servers.clone(), Arc::clone(&ends));
            let (gap, kill) = (with.millis("gap"), with.word("signal") == "kill");
            tasks.spawn(async move {
                for server in servers {
                    let exit = if kill { server.kill().await? } else { server.stop(DRAIN_LIMIT).await? };
                    let took = server.restart().await?.as_millis();
                    let end = format!("{} ended with {exit} and listened {took} ms later", server.name());
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(end);
                    // Each is restarted, also when it is enough; only the pauses are left out then.
                    let _ = tokio::time::timeout(gap, stopped.wait_for(|stop| *stop)).await;
                }
                Ok(())
            });
        }
        Ok(Self { servers: scene.servers, stop, tasks, ends })
    }
}

impl Guard for Rolling {
    fn heal(mut self: Box<Self>) -> Healing {
        Box::pin(async move {
            let _ = self.stop.send(true);
            while let Some(ended) = self.tasks.join_next().await {
                ended.map_err(|error| Error::state("restart the servers", error.to_string()))??;
            }
            let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner).join(", ");
            Ok((!ends.is_empty()).then_some(ends))
        })
    }
}

impl Drop for Rolling {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.tasks.abort_all();
            for server in self.servers.iter().filter(|server| server.pid().is_none()) {
                server.restart_unwatched();
            }
        }
    }
}
