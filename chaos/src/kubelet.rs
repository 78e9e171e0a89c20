//! What Kubernetes does to our processes, in small: probes them, restarts those that fail, ends them with a grace period,
//! and tells the routers of all that too late. START HERE. It breaks nothing by itself, and judges nothing.
//!
//! - [`Worker`]: from results of one probe to what is believed (`worker`). How a probe is sent is in `probe`.
//! - A pod (`pod`) is one process with its three workers; an end and a start make a new container of it.
//! - [`Router`]: the way from clients to the endpoints, which hears of changes late (`router`).
//!
//! Periods, thresholds and orders are those of Kubernetes' kubelet, endpoint controller and StatefulSets. Not imitated:
//! probes that are no HTTP, init and sidecar containers, surge, eviction.

mod pod;
mod probe;
mod router;
mod worker;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Error;
use crate::process::{Exit, poll_until};
use crate::stack::Service;

use self::pod::Pod;
pub use self::router::Router;
pub use self::worker::{Kind, Thresholds, Worker};

/// Events that are remembered; a pod makes a handful in a minute.
const EVENTS_MAX: usize = 10_000;

/// How one kind of probe is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The path, on the main listener.
    pub path: String,
    /// Between two probes.
    pub period: Duration,
    /// Without an answer for this long it has failed.
    pub timeout: Duration,
    /// How many equal results in a row are believed.
    pub thresholds: Thresholds,
}

/// How pods are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Until it succeeds the other two wait. Default `/startupz` every second, timeout 1 s, 120 failures.
    pub startup: Probe,
    /// Default `/livez` every second, timeout 1 s, 3 failures.
    pub liveness: Probe,
    /// Default `/readyz` every second, timeout 1 s, 3 failures, 1 success.
    pub readiness: Probe,
    /// From SIGTERM to SIGKILL. Default 45 s.
    pub grace: Duration,
    /// A router hears of a change after a time by chance between these two. Default 100 ms and 1.5 s.
    pub route_delay: (Duration, Duration),
    /// Of everything that is left to chance.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        let probe = |path: &str, failures| Probe {
            path: path.to_owned(),
            period: second,
            timeout: second,
            thresholds: Thresholds { failures, successes: 1 },
        };
        Self {
            startup: probe("/startupz", 120),
            liveness: probe("/livez", 3),
            readiness: probe("/readyz", 3),
            grace: Duration::from_secs(45),
            route_delay: (Duration::from_millis(100), Duration::from_millis(1_500)),
            seed: 0,
        }
    }
}

/// What happened to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Its startup probe succeeded.
    Started,
    /// It became an endpoint that gets traffic.
    Ready,
    /// It is none any more.
    NotReady,
    /// Its deletion was asked for.
    Deleted,
    /// Its process ended after a deletion.
    Ended(Exit),
    /// A probe that must not fail failed: its process is killed and started again.
    Condemned(Kind),
    /// Its process was gone, unasked.
    Crashed,
    /// A new container of it was begun.
    Begun,
    /// That could not be done.
    NotBegun,
}

/// An event in the life of a pod.
#[derive(Debug, Clone)]
pub struct Event {
    /// When, counted from the start of the kubelet.
    pub at: Duration,
    /// Whose.
    pub pod: String,
    /// What.
    pub what: What,
    /// How many endpoints got traffic from then on.
    pub ready: usize,
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, ready) = (self.at.as_secs_f64(), self.ready);
        write!(out, "{at:8.3} s {} {:?}, {ready} ready", self.pod, self.what)
    }
}

/// What was seen from some moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Containers that were started again because a probe or the process itself failed.
    pub restarts: usize,
    /// How many endpoints got traffic when they were fewest.
    pub fewest_ready: usize,
}

/// Looks after some processes as a kubelet would. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kubelet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    pods: Vec<Pod>,
    router: Router,
    log: Log,
}

/// The events so far.
#[derive(Debug)]
struct Log {
    start: Instant,
    events: Mutex<Vec<Event>>,
}

impl Kubelet {
    /// A kubelet of running `services`, with a router before them, and its work: drive the future, for it never ends by
    /// itself. A drop of it ends the probing and leaves the processes as they are.
    ///
    /// # Errors
    /// [`Error::Io`] where the router finds no port.
    pub fn of(
        services: &[Service],
        options: Options,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), Error> {
        let (router, routing) = Router::bind(options.route_delay, options.seed)?;
        let kubelet = Self(Arc::new(Inner {
            pods: services.iter().cloned().map(Pod::new).collect(),
            router,
            options,
            log: Log { start: Instant::now(), events: Mutex::default() },
        }));
        let work = {
            let kubelet = kubelet.clone();
            async move {
                let mut workers = JoinSet::new();
                workers.spawn(routing);
                for index in 0..kubelet.0.pods.len() {
                    for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                        workers.spawn(kubelet.clone().probe(index, kind));
                    }
                    workers.spawn(kubelet.clone().keep_running(index));
                }
                while workers.join_next().await.is_some() {}
            }
        };
        Ok((kubelet, work))
    }

    /// Where clients of the service connect.
    #[must_use]
    pub fn door(&self) -> SocketAddr {
        self.0.router.address()
    }

    /// Waits until every pod is an endpoint and the router knows it.
    ///
    /// # Errors
    /// [`Error::Late`] after `limit`.
    ///
    /// # Cancel safety
    /// Dropping it only stops the waiting.
    pub async fn all_ready(&self, limit: Duration) -> Result<(), Error> {
        let all = self.0.pods.len();
        let ready = poll_until(limit, || {
            (self.endpoints().len() == all && self.0.router.known().len() == all).then_some(())
        });
        let late = || Error::Late { what: "see every pod ready".to_owned(), limit };
        ready.await.ok_or_else(late)
    }

    /// Replaces every pod by a new container of it, one after another, the last first; the next when the one before is
    /// ready again. Gives how each ended.
    ///
    /// # Errors
    /// [`Error`] where one is not running, does not come up, or is not ready within `limit`.
    ///
    /// # Cancel safety
    /// A drop leaves one pod on its way out or in.
    pub async fn rolling_restart(&self, limit: Duration) -> Result<Vec<Exit>, Error> {
        let mut exits = Vec::new();
        for pod in self.0.pods.iter().rev() {
            exits.push(self.replace(pod).await?);
            let ready = poll_until(limit, || pod.is_endpoint().then_some(()));
            let late = || Error::Late { what: format!("see {} ready again", pod.name()), limit };
            ready.await.ok_or_else(late)?;
        }
        Ok(exits)
    }

    /// What was seen since `from`.
    #[must_use]
    pub fn seen(&self, from: Instant) -> Seen {
        let from = from.saturating_duration_since(self.0.log.start);
        let events = self.events();
        let before = events.iter().rev().find(|event| event.at < from);
        let since: Vec<&Event> = events.iter().filter(|event| event.at >= from).collect();
        let counts = before.into_iter().chain(since.iter().copied()).map(|event| event.ready);
        let restarted = |event: &&&Event| matches!(event.what, What::Condemned(_) | What::Crashed);
        Seen {
            restarts: since.iter().filter(restarted).count(),
            fewest_ready: counts.min().unwrap_or_else(|| self.endpoints().len()),
        }
    }

    /// Everything that happened so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.log.lock().clone()
    }

    /// Deletes a pod and begins a new container of it in its place: endpoints first, because nobody waits for them.
    async fn replace(&self, pod: &Pod) -> Result<Exit, Error> {
        pod.delete();
        self.note(pod, What::Deleted);
        let exit = pod.service().stop(self.0.options.grace).await?;
        self.note(pod, What::Ended(exit));
        pod.begin();
        pod.service().restart().await?;
        self.note(pod, What::Begun);
        Ok(exit)
    }

    /// One kind of probe of one pod, for ever.
    async fn probe(self, index: usize, kind: Kind) {
        let Some(pod) = self.0.pods.get(index) else { return };
        let how = match kind {
            Kind::Startup => &self.0.options.startup,
            Kind::Liveness => &self.0.options.liveness,
            Kind::Readiness => &self.0.options.readiness,
        };
        let mut worker = Worker::new(kind, how.thresholds);
        let mut of = 0;
        let mut ticks = tokio::time::interval(how.period);
        loop {
            ticks.tick().await;
            let container = pod.container();
            if of != container {
                (of, worker) = (container, Worker::new(kind, how.thresholds));
            }
            if !pod.wants(kind) {
                continue;
            }
            let is_good = probe::ask(pod.service().main(), &how.path, how.timeout).await;
            // What was asked of the process before says nothing about this one.
            if pod.container() != container {
                continue;
            }
            match (worker.take(is_good), kind) {
                (Some(true), Kind::Startup) => {
                    pod.started();
                    self.note(pod, What::Started);
                }
                (Some(is_ready), Kind::Readiness) => {
                    pod.ready(is_ready);
                    self.note(pod, if is_ready { What::Ready } else { What::NotReady });
                }
                (Some(false), Kind::Startup | Kind::Liveness) => {
                    self.note(pod, What::Condemned(kind));
                    self.restart(pod).await;
                }
                (Some(true), Kind::Liveness) | (None, _) => {}
            }
        }
    }

    /// Sees to it that a process that ends by itself comes back.
    async fn keep_running(self, index: usize) {
        let Some(pod) = self.0.pods.get(index) else { return };
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            if pod.service().pid().is_none() && pod.may_be_restarted() {
                self.note(pod, What::Crashed);
                self.restart(pod).await;
            }
        }
    }

    async fn restart(&self, pod: &Pod) {
        let Some(back_off) = pod.condemn() else { return };
        self.note(pod, What::NotReady);
        // It may be gone already.
        let _ = pod.service().stop(self.0.options.grace).await;
        tokio::time::sleep(back_off).await;
        pod.begin();
        let begun = pod.service().restart().await.is_ok();
        self.note(pod, if begun { What::Begun } else { What::NotBegun });
    }

    /// Remembers an event, and tells the router what follows from it.
    fn note(&self, pod: &Pod, what: What) {
        let endpoints = self.endpoints();
        let mut events = self.0.log.lock();
        if events.len() < EVENTS_MAX {
            let at = self.0.log.start.elapsed();
            events.push(Event { at, pod: pod.name().to_owned(), what, ready: endpoints.len() });
        }
        drop(events);
        self.0.router.tell(if endpoints.is_empty() { self.last_resort() } else { endpoints });
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        self.addresses(Pod::is_endpoint)
    }

    /// Where no endpoint is ready, those get the traffic that are on their way out and still serve.
    fn last_resort(&self) -> Vec<SocketAddr> {
        self.addresses(Pod::serves_while_ending)
    }

    fn addresses(&self, which: impl Fn(&Pod) -> bool) -> Vec<SocketAddr> {
        self.0.pods.iter().filter(|pod| which(pod)).map(|pod| pod.service().main()).collect()
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
