//! What all connections of one proxy share: where they lead, whether anything passes, the rules, and the counts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::pgwire::follow::Asked;
use crate::pgwire::frame::{Frame, Kind};
use crate::pgwire::plan::{Bite, Fired, Plans};
use crate::pgwire::sql::Statement;
use crate::pgwire::tally::{Counts, Tally, Traffic};
use crate::pgwire::tls::{Certificates, Connector, Tls};
use crate::pgwire::trigger::Passing;

/// How many want that nothing passes, and in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Road {
    /// Connections end, and new ones at once.
    pub(super) shut: usize,
    /// Connections stay, new ones are accepted, and nothing passes.
    pub(super) still: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) target: SocketAddr,
    pub(super) connector: Option<Connector>,
    pub(super) certificates: Certificates,
    pub(super) tls: Mutex<Tls>,
    pub(super) road: watch::Sender<Road>,
    /// Changes with every bite, and with every rule that comes or goes.
    pub(super) changed: watch::Sender<()>,
    pub(super) traffic: Traffic,
    plans: Mutex<Plans>,
    tally: Mutex<Tally>,
    /// The rules that have shut the road.
    shut_by: Mutex<BTreeSet<u64>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        target: SocketAddr,
        connector: Option<Connector>,
        certificates: Certificates,
        tls: Tls,
    ) -> Self {
        Self {
            target,
            connector,
            certificates,
            tls: Mutex::new(tls),
            road: watch::Sender::new(Road::default()),
            changed: watch::Sender::new(()),
            traffic: Traffic::default(),
            plans: Mutex::default(),
            tally: Mutex::default(),
            shut_by: Mutex::default(),
        }
    }

    pub(super) fn plans(&self) -> MutexGuard<'_, Plans> {
        lock(&self.plans)
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = self.tally().counts;
        self.traffic.put_into(&mut counts);
        counts
    }

    /// A message passes: it is counted, and the rules that it is meant by are answered.
    pub(super) fn passes(&self, session: u64, frame: &Frame, statement: Option<&Statement>) -> Vec<Fired> {
        self.tally().passes(session, frame, statement);
        self.fire(Some(session), frame, statement)
    }

    /// These reads have their answers, or will never have them.
    pub(super) fn answered(&self, reads: impl IntoIterator<Item = Asked>) {
        let mut reads = reads.into_iter().peekable();
        if reads.peek().is_some() {
            self.tally().answered(reads, Instant::now());
        }
    }

    pub(super) fn fire(
        &self,
        session: Option<u64>,
        frame: &Frame,
        statement: Option<&Statement>,
    ) -> Vec<Fired> {
        self.plans().fire(Passing { session, frame, statement })
    }

    /// A rule is about to have its effect.
    pub(super) fn bit(&self, id: u64, session: Option<u64>, message: Kind) {
        let process = {
            let mut tally = self.tally();
            tally.counts.bites += 1;
            session.and_then(|session| tally.process_of(session))
        };
        self.plans().bit(id, Bite { at: Instant::now(), session, process, message });
        self.changed.send_replace(());
    }

    /// Waits while packets vanish. Whatever they let pass later arrives late, as on a real network.
    pub(super) async fn passable(&self) {
        // The sender lives as long as this.
        let _ = self.road.subscribe().wait_for(|road| road.still == 0).await;
    }

    /// Waits until nobody gets through. What is seen holds the road's lock, so it is let go before whoever waits beside this
    /// ends a session, which takes the lock of the plans: a rule that is taken back takes both the other way round.
    pub(super) async fn impassable(&self) {
        let _ = self.road.subscribe().wait_for(|road| road.shut > 0).await;
    }

    /// Waits until a rule is taken back.
    pub(super) async fn taken_back(&self, id: u64) {
        let _ = self.changed.subscribe().wait_for(|()| !self.plans().has(id)).await;
    }

    /// Nobody gets through until this rule is taken back.
    pub(super) fn shut_by(&self, id: u64) {
        // Under the lock of the plans, so that the rule cannot be taken back meanwhile and leave the road shut for ever.
        let plans = self.plans();
        if plans.has(id) && lock(&self.shut_by).insert(id) {
            self.road.send_modify(|road| road.shut += 1);
        }
    }

    /// Takes a rule back, with what it does until then.
    pub(super) fn take_back(&self, id: u64) {
        let mut plans = self.plans();
        plans.remove(id);
        if lock(&self.shut_by).remove(&id) {
            self.road.send_modify(|road| road.shut = road.shut.saturating_sub(1));
        }
        drop(plans);
        self.changed.send_replace(());
    }
}
