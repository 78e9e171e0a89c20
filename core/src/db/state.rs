//! What is seen of the database path: the parts for the health table, gauges, and the document under `/debug/state`.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

#[cfg(feature = "serde")]
use super::hosts::Host;
use super::{Db, classify::Circuit};
#[cfg(feature = "serde")]
use crate::breaker::Breaker;
use crate::{
    breaker::BreakerState,
    health::{CachePart, DatabasePart, JournalPart, SchemaPart},
    journal::JournalHealth,
    metrics,
};

impl Db {
    /// How the parts are at `now`, for the health table.
    #[must_use]
    pub fn parts(&self, now: Instant) -> (DatabasePart, CachePart, JournalPart, SchemaPart) {
        let database = self.database_part(now);
        let cache = if self.0.cache.is_warm(now) { CachePart::Warm } else { CachePart::Cold };
        let waiting = self.0.journal.backlog().entries > 0;
        let health = if self.0.fence.is_lost() { JournalHealth::Failed } else { self.0.journal.health() };
        let journal = match health {
            // What is left is not for everybody.
            JournalHealth::Reserved | JournalHealth::Full => JournalPart::Full,
            JournalHealth::Failed => JournalPart::Failed,
            JournalHealth::Ok if waiting => JournalPart::Backlog,
            JournalHealth::Ok => JournalPart::Ok,
        };
        (database, cache, journal, *self.0.schema.borrow())
    }

    /// What the probers say, and what the circuits of the primary make of it.
    fn database_part(&self, now: Instant) -> DatabasePart {
        let seen = *self.0.database.borrow();
        let hosts = &self.0.hosts;
        let state =
            |circuit| hosts.main_circuit(circuit).map_or(BreakerState::Closed, |breaker| breaker.state(now));
        match (seen, state(Circuit::Reads), state(Circuit::Writes)) {
            (DatabasePart::Up, BreakerState::Open, BreakerState::Open) => DatabasePart::Away,
            (DatabasePart::Up, BreakerState::Closed, BreakerState::Open) => DatabasePart::ReadOnly,
            (DatabasePart::Up, BreakerState::Closed, BreakerState::Closed) => DatabasePart::Up,
            (DatabasePart::Up, _, _) => DatabasePart::Slow,
            _ => seen,
        }
    }

    /// Connections of all pools: that exist, and those of them that are idle. Lanes are not among them.
    fn connections(&self) -> (usize, usize) {
        let sizes = self.0.hosts.iter().map(|host| host.pool.size());
        sizes.fold((0, 0), |(size, idle), (more, more_idle)| (size + more, idle + more_idle))
    }

    /// Lanes of all hosts: that are open, and the questions on them.
    fn lanes(&self) -> (usize, usize) {
        let sizes = self.0.hosts.iter().map(|host| host.lanes.size());
        sizes.fold((0, 0), |(open, in_use), (more, more_in_use)| (open + more, in_use + more_in_use))
    }

    /// Publishes what is a level rather than an event, and with [`metrics::publish`] the calls that went well since the last
    /// time. Call it on a timer: what a scrape sees of those is as old as that.
    pub fn publish_gauges(&self, now: Instant) {
        let backlog = self.0.journal.backlog();
        let (size, idle) = self.connections();
        let (lanes, questions) = self.lanes();
        metrics::publish();
        metrics::gauge("ridethrough_retry_budget_balance", self.0.budget.balance(now));
        metrics::gauge("ridethrough_bulkhead_in_use", self.0.bulkhead.in_use() as f64);
        metrics::gauge("ridethrough_bulkhead_limit", self.0.bulkhead.limit() as f64);
        metrics::gauge("ridethrough_bulkhead_queue", self.0.bulkhead.queued() as f64);
        metrics::pool_connections("idle", idle as f64);
        metrics::pool_connections("in_use", size.saturating_sub(idle) as f64);
        metrics::gauge("ridethrough_lanes_open", lanes as f64);
        metrics::gauge("ridethrough_lanes_in_use", questions as f64);
        metrics::gauge("ridethrough_journal_depth", backlog.entries as f64);
        metrics::gauge("ridethrough_journal_bytes", backlog.bytes as f64);
        let aside = self.0.journal.aside_counts();
        metrics::gauge("ridethrough_journal_rejected", aside.rejected as f64);
        metrics::journal_set_aside("rejected", aside.rejected as f64);
        metrics::journal_set_aside("held", aside.held as f64);
        metrics::journal_set_aside("moved", aside.moved as f64);
        metrics::gauge("ridethrough_journal_fenced", f64::from(u8::from(self.0.fence.is_lost())));
        metrics::gauge("ridethrough_journal_oldest_seconds", age(backlog.oldest_accepted_at).as_secs_f64());
    }

    /// Everything this part knows about itself at `now`, from memory.
    #[cfg(feature = "serde")]
    #[must_use]
    pub fn state(&self, now: Instant) -> serde_json::Value {
        let backlog = self.0.journal.backlog();
        let aside = self.0.journal.aside_counts();
        let (entries, weight) = self.0.cache.size();
        let (size, idle) = self.connections();
        let lost = self.lost_writes();
        let hosts: Vec<serde_json::Value> =
            self.0.hosts.iter().enumerate().map(|(index, host)| self.host_state(index, host, now)).collect();
        // The worse circuit of the host that counts: what somebody wants to see who looks for trouble.
        let worst = [Circuit::Writes, Circuit::Reads]
            .into_iter()
            .filter_map(|circuit| self.0.hosts.main_circuit(circuit))
            .max_by_key(|breaker| severity(breaker.state(now)));
        serde_json::json!({
            "database": format!("{:?}", *self.0.database.borrow()).to_lowercase(),
            "schema": format!("{:?}", *self.0.schema.borrow()).to_lowercase(),
            "breaker": worst.map(|breaker| breaker_state(breaker, now)),
            "primary": self.0.hosts.primary().map(|host| host + 1),
            "hosts": hosts,
            "retry_budget": self.0.budget.balance(now),
            "retry_budget_frozen": self.0.budget.is_frozen(),
            "bulkhead": {
                "in_use": self.0.bulkhead.in_use(),
                "limit": self.0.bulkhead.limit(),
                "queued": self.0.bulkhead.queued(),
            },
            "pool": { "connections": size, "idle": idle },
            "cache": { "entries": entries, "bytes": weight, "warm": self.0.cache.is_warm(now) },
            "lost": { "writes": lost.count, "keys": lost.keys },
            "journal": {
                "health": format!("{:?}", self.0.journal.health()).to_lowercase(),
                "entries": backlog.entries,
                "bytes": backlog.bytes,
                "oldest_seconds": age(backlog.oldest_accepted_at).as_secs_f64(),
                "rejected": aside.rejected,
                "held": aside.held,
                "moved": aside.moved,
                "replayed": self.0.replayed.load(std::sync::atomic::Ordering::Relaxed),
                "fenced": self.0.fence.is_lost(),
            },
        })
    }

    #[cfg(feature = "serde")]
    fn host_state(&self, index: usize, host: &Host, now: Instant) -> serde_json::Value {
        let (sighting, lag) = self.0.hosts.last(index, now);
        let (size, idle) = host.pool.size();
        let (lanes, questions) = host.lanes.size();
        let role = host.role();
        serde_json::json!({
            "host": index + 1,
            "role": role.as_str(),
            "fenced": role.fence(),
            "answers": self.0.hosts.answers(index),
            // As text: a number of this size does not survive every JSON reader.
            "system": sighting.and_then(|seen| seen.system).map(|system| system.to_string()),
            "timeline": sighting.and_then(|seen| seen.timeline),
            "lag_seconds": lag.map(|lag| lag.as_secs_f64()),
            "pool": { "connections": size, "idle": idle },
            "lanes": { "connections": lanes, "in_use": questions },
            "reads": breaker_state(host.circuit(Circuit::Reads), now),
            "writes": breaker_state(host.circuit(Circuit::Writes), now),
        })
    }
}

#[cfg(feature = "serde")]
fn breaker_state(breaker: &Breaker, now: Instant) -> serde_json::Value {
    let evidence = breaker.evidence();
    let counts = breaker.explain(now).evidence;
    serde_json::json!({
        "successes": counts.successes,
        "failures": counts.failures,
        "ramp": breaker.ramp(now),
        "state": breaker.state(now).as_str(),
        "reason": evidence.map(|(reason, _)| reason.to_string()),
        "open_for_seconds": evidence.map(|(_, since)| now.saturating_duration_since(since).as_secs_f64()),
        "retry_after_seconds": breaker.retry_after(now).as_secs_f64(),
    })
}

#[cfg(feature = "serde")]
fn severity(state: BreakerState) -> u8 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    }
}

fn age(accepted_at: Option<SystemTime>) -> Duration {
    accepted_at.and_then(|at| at.elapsed().ok()).unwrap_or_default()
}
