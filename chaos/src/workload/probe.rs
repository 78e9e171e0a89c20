//! Health probes at a fixed rate, each timed from the moment it was meant to be sent. Asks the way an
//! orchestrator does: a new connection each time. Does not judge the answers.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::history::{Event, Probe, Recorder};
use crate::workload::Target;
use crate::workload::client::{Client, Request};

/// Twenty probes per second for each process and path.
const PERIOD: Duration = Duration::from_millis(50);
/// A probe without an answer is given up after this time; far above any limit it is judged by.
const PROBE_MAX: Duration = Duration::from_secs(1);
/// What the two probes are called in the history, wherever a service answers them.
const LIVE: &str = "/livez";
const READY: &str = "/readyz";

/// Probes every target until `stop` turns true, on its main listener. Returns once the last probe ended.
///
/// # Cancel safety
/// Dropping it ends the probes in flight without a line in the history.
pub async fn probe_health(targets: Vec<Target>, recorder: Recorder, mut stop: watch::Receiver<bool>) {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for round in 0_u32.. {
        let due = start + PERIOD * round;
        tokio::select! {
            // An error means that the sender is gone, and with it the run.
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep_until(due) => {}
        }
        for target in &targets {
            for (kind, path) in [(LIVE, &target.live), (READY, &target.ready)] {
                let (name, address, recorder) = (target.name.clone(), target.main, recorder.clone());
                let request = Request::get(path.clone());
                running.spawn(async move { probe(name, address, kind, &request, due, &recorder).await });
            }
        }
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

async fn probe(
    process: String,
    address: SocketAddr,
    path: &str,
    request: &Request,
    due: Instant,
    recorder: &Recorder,
) {
    let exchange = Client::new(address, 1).send(request, due + PROBE_MAX).await;
    recorder.record(Event::Probe(Probe {
        process,
        path: path.into(),
        planned_us: recorder.us_of(due),
        at_us: recorder.now_us(),
        status: exchange.status,
        error: exchange.error,
    }));
}
