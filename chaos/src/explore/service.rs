//! A write as a user of our server does it: over HTTP, under a key, asked about afterwards and sent again.

use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::explore::table::After;
use crate::explore::{LOOK_EVERY, Told, Wrote};
use crate::folder::RunFolder;
use crate::history::Got;
use crate::stack::{self, Stack};
use crate::workload::client::{Client, Request};
use crate::workload::{Target, journal_entries_of};

/// What a user gives a write; the server's own deadline ends before.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A small journal is replayed within milliseconds, after the database was found to be there.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// How long the server may take until ordinary writes are committed again.
const WARM_LIMIT: Duration = Duration::from_secs(15);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Where the server says nothing of a write.
const NO_ANSWER: &str = "no answer";
/// Requests at one time; there is one.
const CONNECTIONS: usize = 2;

/// Where the server has limits of seconds, a run would only wait. A broken connection is the subject here and no sign of
/// an outage, so that nothing opens the breaker.
const SETTINGS: [(&str, &str); 9] = [
    ("RIDETHROUGH_DATABASE__WRITE__ATTEMPT", "300ms"),
    ("RIDETHROUGH_DATABASE__POOL__LOCK", "150ms"),
    ("RIDETHROUGH_DATABASE__POOL__IDLE_IN_TRANSACTION", "300ms"),
    ("RIDETHROUGH_DATABASE__PROBE__AWAY_FIRST", "20ms"),
    ("RIDETHROUGH_DATABASE__PROBE__AWAY_MAX", "50ms"),
    ("RIDETHROUGH_DATABASE__BREAKER__CONSECUTIVE_FAILURES", "1000000"),
    ("RIDETHROUGH_DATABASE__BREAKER__SAMPLES_MIN", "1000000"),
    ("RIDETHROUGH_DATABASE__BUDGET__FLOOR_PER_SECOND", "1000"),
    ("RIDETHROUGH_DATABASE__BULKHEAD__PERMITS", "40"),
];

/// All that the server is told beside its database. The caller's own settings stand last, so that they win.
pub(super) fn settings(options: &stack::Options) -> Vec<(String, String)> {
    let ours = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ours.into_iter().chain(options.server_env.iter().cloned()).collect()
}

/// A server behind a proxy.
pub(super) struct Served {
    // Ends the processes when it goes.
    _stack: Stack,
    target: Target,
    client: Client,
}

impl Served {
    pub(super) async fn start(cluster: &Cluster, url: &str, options: &stack::Options) -> Result<Self, Error> {
        let folder = RunFolder::create(options.cluster.guardian.as_deref())?;
        let mut server_env = vec![("DATABASE_URL".to_owned(), url.to_owned())];
        server_env.extend(settings(options));
        let options = stack::Options { servers: 1, server_env, ..options.clone() };
        let stack = Stack::start_on(folder, cluster.clone(), &options).await?;
        stack.ready(READY_LIMIT).await?;
        let target = stack.targets().into_iter().next();
        let target = target.ok_or_else(|| Error::state("explore a write", "the stack has no server"))?;
        let client = Client::new(target.main, CONNECTIONS);
        Ok(Self { _stack: stack, target, client })
    }

    /// Writes until one is committed: then there is a connection, and its statements are prepared.
    pub(super) async fn warm(&self) -> Result<(), Error> {
        let end = Instant::now() + WARM_LIMIT;
        loop {
            let wrote = self.write(&super::new_key()).await;
            match wrote.told {
                Told::Committed => return Ok(()),
                _ if Instant::now() >= end => {
                    return Err(Error::state("write where nothing is cut", wrote.saw));
                }
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// One write, whose key is its title.
    pub(super) async fn write(&self, key: &str) -> Wrote {
        let request = Request {
            method: Method::POST,
            path: "/api/todos".to_owned(),
            key: Some(key.to_owned()),
            headers: Vec::new(),
            body: format!("{{\"title\":\"{key}\"}}"),
        };
        let exchange = self.client.send(&request, Instant::now() + ANSWER_LIMIT).await;
        let outcome = exchange.headers.get("ridethrough-outcome").and_then(|value| value.to_str().ok());
        let told = match (exchange.got, exchange.status, outcome) {
            (Got::Answer, Some(200 | 201), Some("committed")) => Told::Committed,
            (Got::Answer, Some(202), Some("journaled")) => Told::Journaled,
            (Got::Answer, Some(_), Some("rejected")) => Told::Failed,
            _ => Told::Unknown,
        };
        let saw = match exchange.status {
            Some(status) => format!("{status} {}", outcome.unwrap_or("without outcome")),
            None => exchange.error.unwrap_or_else(|| "no answer".to_owned()),
        };
        Wrote { told, saw }
    }

    /// Waits until nothing waits in the journal.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        let end = Instant::now() + SETTLE_LIMIT;
        while journal_entries_of(&self.target).await != Some(0) {
            if Instant::now() >= end {
                return Err(Error::Late { what: "see the journal empty".to_owned(), limit: SETTLE_LIMIT });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What is said of the write afterwards, and when it is sent again.
    pub(super) async fn after(&self, key: &str, settled: i64) -> Result<After, Error> {
        let status = self.status(key).await;
        let is_true = match status.as_str() {
            "applied" => settled == 1,
            "never seen" | "rejected" => settled == 0,
            // That it cannot say is never false.
            "unknown" | NO_ANSWER => true,
            _ => false,
        };
        let again = self.write(key).await;
        self.settle().await?;
        let is_accepted = matches!(again.told, Told::Committed | Told::Journaled);
        Ok(After { status, status_is_true: is_true, again: again.saw, again_is_accepted: is_accepted })
    }

    /// What the server says of a write; the question may meet what is left of a lost connection, and is asked again.
    async fn status(&self, key: &str) -> String {
        let request = Request::get(format!("/api/writes/{key}"));
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            let exchange = self.client.send(&request, end).await;
            let body: Option<Value> = serde_json::from_slice(&exchange.body).ok();
            let said = body.as_ref().and_then(|body| body.get("status")).and_then(Value::as_str);
            match (exchange.status, said) {
                (Some(404), _) => return "never seen".to_owned(),
                (Some(200), Some(said)) => return said.to_owned(),
                _ if Instant::now() >= end => return NO_ANSWER.to_owned(),
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }
}
