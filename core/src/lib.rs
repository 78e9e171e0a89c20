//! Fault ride-through for services on PostgreSQL: a breaker, retries, deadlines, a bulkhead, labelled stale reads, and a
//! durable journal that accepts writes during an outage and applies each of them exactly once.
//!
//! Read [`db`] first: [`Db::read`](db::Db::read) and [`Db::write`](db::Db::write) are the whole path, top to bottom. The
//! modules below stand in reading order; each one imports only those above it.
//!
//! - words and limits: [`error`], [`metrics`], [`deadline`], [`sensitive`], `attempts`
//! - policies, pure, with `now` as an argument: [`backoff`], [`budget`], [`breaker`], [`bulkhead`], [`judgement`],
//!   [`retry`]
//! - the policies around a client of your own: [`guard`] for any async call, `layer` for any tower service (feature `tower`)
//! - the process: [`mode`], [`drain`], [`health`]
//! - what is kept: [`cache`] for reads, [`journal`] for writes
//! - [`db`]: all of it around PostgreSQL (feature `postgres`)
//! - [`http`]: probes and problem+json for any HTTP server (feature `http`)
//! - [`service`]: configuration, logs, signals, listeners for binaries (feature `service`)
//! - `vitals`: health, mode and gauges of a service on a `Db` (features `service` and `postgres`)
//! - [`testkit`]: a scripted fake PostgreSQL for the tests of services (feature `testkit`)

pub mod error;

#[cfg(feature = "postgres")]
pub mod attempts;
pub mod deadline;
#[cfg(feature = "serde")]
pub mod duration_text;
pub mod metrics;
#[doc(hidden)]
pub mod sabotage;
pub mod sensitive;
mod sliding;
mod sync;

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod judgement;
pub mod retry;

pub mod guard;
#[cfg(feature = "tower")]
pub mod layer;

pub mod drain;
pub mod health;
pub mod mode;

pub mod cache;
pub mod journal;

#[cfg(feature = "postgres")]
pub mod db;

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "testkit")]
pub mod testkit;
#[cfg(all(feature = "service", feature = "postgres"))]
pub mod vitals;

#[cfg(feature = "postgres")]
pub use crate::db::{Db, DbConfig};
pub use crate::{deadline::Deadline, error::Error};

/// The example of the front page is compiled with the tests.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
