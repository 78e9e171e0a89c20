//! What is seen of the database path: the parts for the health table, gauges, and the document under `/debug/state`.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Db;
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
        let seen = *self.0.database.borrow();
        let database = match (seen, self.0.breaker.state(now)) {
            (DatabasePart::Up, BreakerState::Open) => DatabasePart::Away,
            (DatabasePart::Up, BreakerState::HalfOpen) => DatabasePart::Slow,
            _ => seen,
        };
        let cache = if self.0.cache.is_warm(now) { CachePart::Warm } else { CachePart::Cold };
        let waiting = self.0.journal.backlog().entries > 0;
        let journal = match self.0.journal.health() {
            JournalHealth::Full | JournalHealth::Failed if waiting && database == DatabasePart::Up => {
                JournalPart::Blocked
            }
            JournalHealth::Full => JournalPart::Full,
            JournalHealth::Failed => JournalPart::Failed,
            JournalHealth::Ok if waiting => JournalPart::Backlog,
            JournalHealth::Ok => JournalPart::Ok,
        };
        (database, cache, journal, *self.0.schema.borrow())
    }

    /// Publishes what is a level rather than an event. Call it on a timer.
    pub fn publish_gauges(&self, now: Instant) {
        let backlog = self.0.journal.backlog();
        let (size, idle) = self.0.pool.size();
        metrics::publish_times();
        metrics::gauge("ridethrough_retry_budget_balance", self.0.budget.balance(now));
        metrics::gauge("ridethrough_bulkhead_in_use", self.0.bulkhead.in_use() as f64);
        metrics::gauge("ridethrough_bulkhead_limit", self.0.bulkhead.limit() as f64);
        metrics::gauge("ridethrough_bulkhead_queue", self.0.bulkhead.queued() as f64);
        metrics::pool_connections("idle", idle as f64);
        metrics::pool_connections("in_use", size.saturating_sub(idle) as f64);
        metrics::gauge("ridethrough_journal_depth", backlog.entries as f64);
        metrics::gauge("ridethrough_journal_bytes", backlog.bytes as f64);
        metrics::gauge("ridethrough_journal_oldest_seconds", age(backlog.oldest_accepted_at).as_secs_f64());
    }

    /// Everything this part knows about itself at `now`, from memory.
    #[cfg(feature = "serde")]
    #[must_use]
    pub fn state(&self, now: Instant) -> serde_json::Value {
        let backlog = self.0.journal.backlog();
        let (entries, weight) = self.0.cache.size();
        let (size, idle) = self.0.pool.size();
        let evidence = self.0.breaker.evidence();
        serde_json::json!({
            "database": format!("{:?}", *self.0.database.borrow()).to_lowercase(),
            "schema": format!("{:?}", *self.0.schema.borrow()).to_lowercase(),
            "breaker": {
                "state": self.0.breaker.state(now).as_str(),
                "reason": evidence.map(|(reason, _)| reason.to_string()),
                "open_for_seconds": evidence.map(|(_, since)| now.saturating_duration_since(since).as_secs_f64()),
                "retry_after_seconds": self.0.breaker.retry_after(now).as_secs_f64(),
            },
            "retry_budget": self.0.budget.balance(now),
            "bulkhead": {
                "in_use": self.0.bulkhead.in_use(),
                "limit": self.0.bulkhead.limit(),
                "queued": self.0.bulkhead.queued(),
            },
            "pool": { "connections": size, "idle": idle },
            "cache": { "entries": entries, "bytes": weight, "warm": self.0.cache.is_warm(now) },
            "journal": {
                "health": format!("{:?}", self.0.journal.health()).to_lowercase(),
                "entries": backlog.entries,
                "bytes": backlog.bytes,
                "oldest_seconds": age(backlog.oldest_accepted_at).as_secs_f64(),
                "replayed": self.0.replayed.load(std::sync::atomic::Ordering::Relaxed),
            },
        })
    }
}

fn age(accepted_at: Option<SystemTime>) -> Duration {
    accepted_at.and_then(|at| at.elapsed().ok()).unwrap_or_default()
}
