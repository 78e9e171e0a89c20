//! When events are published: by whichever replica holds the lock, batch by batch, through a breaker of their own. What a
//! batch is and how it is sent stands beside it.

use std::{sync::Arc, time::Duration};

use ridethrough::{
    Db,
    breaker::{Breaker, BreakerConfig, CallResult},
    drain::Draining,
    sabotage::{self, Step},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::{
    NatsSection,
    broker::{Broker, Failure, Stored},
    outbox::{self, Event, Leader, waves},
};
use crate::events::{self, Code};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For the events of one batch, a connection to the broker included. Far less than a stream remembers ids (2 min by
/// default), so that a batch which two replicas published is recognised.
const PUBLISH_MAX: Duration = Duration::from_secs(4);
/// For one transaction with all that is in it.
const ROUND_MAX: Duration = Duration::from_secs(20);
/// Between looks while there is no database, another replica publishes, or something failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is said that events are wanted.
const WANT_EVERY: Duration = Duration::from_secs(60);
/// How often what waits is counted, and given up where it is too much.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(2);

const CIRCUIT: &str = "nats";
const PUBLISHING: &str = "ridethrough_events_publishing";
const UNPUBLISHED: &str = "ridethrough_events_unpublished";
const UNPUBLISHED_OLDEST: &str = "ridethrough_events_unpublished_oldest_seconds";
const PUBLISHED: &str = "ridethrough_events_published_total";
const FAILURES: &str = "ridethrough_events_publish_failures_total";

/// The part that publishes, to be run beside the requests.
pub(crate) struct Publisher {
    db: Db,
    section: NatsSection,
    breaker: Arc<Breaker>,
    database: Option<Client>,
    broker: Option<Broker>,
    wanted: Option<Instant>,
    looked_after: Option<Instant>,
    /// What was said of the broker and of the database: once, and not each second.
    broker_failed: Option<Failure>,
    database_failed: Option<Code>,
    is_giving_up: bool,
}

impl Publisher {
    /// Nothing where nothing is to be published.
    pub(crate) fn new(db: &Db, section: &NatsSection) -> Option<Self> {
        // One batch at a time: there is no crowd to hold back.
        let config = BreakerConfig { ramp_max: 1, ..BreakerConfig::default() };
        section.is_on().then(|| Self {
            db: db.clone(),
            section: section.clone(),
            breaker: Breaker::new(CIRCUIT, config, Instant::now()),
            database: None,
            broker: None,
            wanted: None,
            looked_after: None,
            broker_failed: None,
            database_failed: None,
            is_giving_up: false,
        })
    }

    /// Publishes until the drain.
    ///
    /// # Cancel safety
    /// A batch that was cut is published again, with the same ids.
    pub(crate) async fn run(mut self, mut draining: Draining) {
        let rounds = async {
            loop {
                let pause = self.next().await;
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = draining.requested() => {}
            () = rounds => {}
        }
        follow();
    }

    /// One round; answers how long to wait for the next.
    async fn next(&mut self) -> Duration {
        if !events::is_there(&self.db) {
            self.database = None;
            follow();
            return PAUSE;
        }
        let ended = timeout(ROUND_MAX, self.round()).await.unwrap_or(Err(None));
        match ended {
            Ok(pause) => {
                self.database_failed = None;
                pause
            }
            Err(code) => {
                // Whatever it was about, the transaction is over, and another connection begins anew.
                self.database = None;
                self.wanted = None;
                follow();
                if self.database_failed.as_ref() != Some(&code) {
                    tell(code.as_deref());
                }
                self.database_failed = Some(code);
                PAUSE
            }
        }
    }

    async fn round(&mut self) -> Result<Duration, Code> {
        let mut client = match self.database.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.db.connect(CONNECT_MAX).await.map_err(|error| error.code().map(str::to_owned))?,
        };
        if is_due(&mut self.wanted, WANT_EVERY) {
            outbox::want(&client, self.section.keep_for, self.section.keep_max).await?;
        }
        let pause = match Leader::become_it(&mut client).await? {
            Some(leader) => self.lead(leader).await?,
            None => {
                follow();
                PAUSE
            }
        };
        self.database = Some(client);
        Ok(pause)
    }

    async fn lead(&mut self, leader: Leader<'_>) -> Result<Duration, Code> {
        metrics::gauge!(PUBLISHING).set(1.0);
        if is_due(&mut self.looked_after, LOOK_AFTER_EVERY) {
            self.look_after(&leader).await?;
        }
        let closed_for = self.breaker.retry_after(Instant::now());
        if !closed_for.is_zero() {
            leader.end(&[]).await?;
            return Ok(closed_for.min(PAUSE));
        }
        let events = leader.batch(self.section.batch).await?;
        if events.is_empty() {
            leader.end(&[]).await?;
            return Ok(self.section.every);
        }
        let (stored, all) = self.publish(&events).await;
        if !stored.is_empty() {
            sabotage::reached(Step::AfterPublish);
        }
        leader.end(&stored).await?;
        let is_full = events.len() == self.section.batch;
        Ok(if all && is_full { Duration::ZERO } else { self.section.every })
    }

    async fn look_after(&mut self, leader: &Leader<'_>) -> Result<(), Code> {
        let gone = leader.give_up().await?;
        metrics::counter!(events::GIVEN_UP).increment(gone);
        if gone > 0 && !self.is_giving_up {
            tracing::error!(
                gone,
                keep_max = self.section.keep_max,
                "more events wait to be published than may: the oldest are given up"
            );
        }
        self.is_giving_up = gone > 0;
        let waiting = leader.waiting().await?;
        metrics::gauge!(UNPUBLISHED).set(waiting.events as f64);
        metrics::gauge!(UNPUBLISHED_OLDEST).set(waiting.oldest_seconds);
        Ok(())
    }

    /// Answers what the broker has for certain now, and whether that is everything.
    async fn publish(&mut self, events: &[Event]) -> (Vec<i64>, bool) {
        let Ok(admission) = self.breaker.admit_owned(Instant::now()) else { return (Vec::new(), false) };
        let mut stored = Vec::with_capacity(events.len());
        let ended = timeout(PUBLISH_MAX, self.publish_waves(events, &mut stored)).await;
        let ended = ended.unwrap_or(Err(Failure::Timeout));
        for Stored { known, .. } in &stored {
            let outcome = if *known { "known" } else { "stored" };
            metrics::counter!(PUBLISHED, "outcome" => outcome).increment(1);
        }
        let result = if ended.is_ok() { CallResult::Success } else { CallResult::Failure };
        admission.record(result, Instant::now());
        self.note(ended.err());
        (stored.iter().map(|stored| stored.place).collect(), ended.is_ok())
    }

    async fn publish_waves(&mut self, events: &[Event], stored: &mut Vec<Stored>) -> Result<(), Failure> {
        let broker = match &mut self.broker {
            Some(broker) => broker,
            empty => empty.insert(Broker::connect(&self.section).await?),
        };
        for wave in waves(events) {
            broker.publish(&wave, stored).await?;
        }
        Ok(())
    }

    fn note(&mut self, failure: Option<Failure>) {
        match failure {
            Some(failure) => {
                self.broker = None;
                metrics::counter!(FAILURES, "reason" => failure.word()).increment(1);
                if self.broker_failed != Some(failure) {
                    let reason = failure.word();
                    tracing::warn!(reason, "events cannot be published; they wait in the database");
                }
            }
            None if self.broker_failed.is_some() => tracing::info!("events are published again"),
            None => {}
        }
        self.broker_failed = failure;
    }
}

fn tell(code: Option<&str>) {
    // No such table or function, or no right to it: that goes away with nobody but a person.
    match code.filter(|code| code.starts_with("42")) {
        Some(code) => tracing::warn!(
            code,
            "events cannot be published: the outbox is not there for this role; run `ridethrough-server migrate` and \
             server/sql/roles.sql"
        ),
        None => tracing::info!(code, "the outbox could not be read; it is tried again"),
    }
}

/// Whether it is time again, which it then was.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let now = Instant::now();
    let due = last.is_none_or(|last| now.duration_since(last) >= every);
    if due {
        *last = Some(now);
    }
    due
}

/// What waits is told by the one who publishes.
fn follow() {
    metrics::gauge!(PUBLISHING).set(0.0);
    metrics::gauge!(UNPUBLISHED).set(0.0);
    metrics::gauge!(UNPUBLISHED_OLDEST).set(0.0);
}
