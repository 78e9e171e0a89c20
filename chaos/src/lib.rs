//! A fault laboratory: runs a service on a private PostgreSQL, breaks the database, and proves what users got.
//!
//! It is a black box to the service: it knows its command line, its HTTP interface and its table, and shares no
//! code with it, because a checker that shares code with the thing it judges shares its bugs.
//!
//! Modules in reading order:
//! - [`history`]: what happened in a run, one line each; the only file format. [`workload`]: open-loop users.
//! - [`cluster`] on [`postgres`], [`folder`], [`process`] and [`guardian`]: a throw-away PostgreSQL, and the care
//!   that nothing of it outlives the run.
pub mod history;
pub mod workload;

pub mod cluster;
pub mod postgres;

pub mod error;
pub mod folder;
pub mod guardian;
mod ports;
pub mod process;

pub use cluster::Cluster;
pub use error::Error;
pub use folder::RunFolder;
