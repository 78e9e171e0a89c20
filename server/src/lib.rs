//! The todo server: a thin service on the library `ridethrough` that keeps answering while its PostgreSQL is away.
//!
//! Read `app` for the routes and layers, `routes` for what a request does, `todo` for what it means, `life` for how the
//! process starts and ends.

mod app;
mod cli;
mod config;
mod error;
mod journal;
mod life;
mod migrate;
mod routes;
mod todo;

pub use crate::cli::run;
