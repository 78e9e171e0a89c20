//! Fault ride-through for services on PostgreSQL.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod deadline;
pub mod drain;
#[cfg(feature = "serde")]
pub mod duration_text;
pub mod health;
#[cfg(feature = "http")]
pub mod http;
pub mod metrics;
pub mod mode;
#[cfg(feature = "service")]
pub mod service;

pub use crate::deadline::Deadline;
