//! The todo server: a thin service on the library `ridethrough` that keeps answering while its PostgreSQL is away.
//!
//! Read `app` for the routes and layers, `routes` for what a request does, `todo` for what it means, `life` for how the
//! process starts and ends.

mod api;
mod app;
mod cli;
mod config;
mod edges;
mod error;
mod events;
mod identity;
mod journal;
mod life;
mod meters;
mod migrate;
mod nats;
#[cfg(any(feature = "oidc", feature = "otel"))]
mod outward;
mod problems;
mod routes;
mod todo;
mod traces;

pub use crate::cli::run;

/// The write side alone, for tests and benchmarks on a real PostgreSQL: its commands, and the schema they need. No part of
/// what is promised to anybody.
#[doc(hidden)]
pub mod write_side {
    use std::sync::Arc;

    use ridethrough::db::Commands;
    use uuid::Uuid;

    pub use crate::migrate::{SCHEMA, SCHEMA_BESIDE};

    /// The commands of this replica.
    #[must_use]
    pub fn todo_commands(replica: Uuid) -> Arc<dyn Commands> {
        Arc::new(crate::todo::todo_commands(replica, Arc::default()))
    }

    /// The statements that ask for a page, each with what makes it one of its own: `$1` is the owner, then follow the cursor
    /// (time and id), `done`, `from` and `to`, as far as they are there, and the limit.
    #[must_use]
    pub fn page_statements() -> Vec<(&'static str, String)> {
        crate::todo::PageQuery::statements()
    }
}
