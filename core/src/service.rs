//! Feature `service`: what every long-running binary needs in the same way. Configuration, logs, signals, listeners
//! that drain, the admin port on a thread of its own, the watchdog behind liveness.
//!
//! Nothing here knows the database. Only binaries use it; the library itself never spawns, exits or installs anything.

mod admin;
mod config;
mod files;
mod listener;
mod log;
mod process;
mod recorder;
mod signals;
mod tls;
mod watchdog;

pub use self::{
    admin::{Admin, AdminError, AdminThread},
    config::{ConfigError, changed_keys, load},
    listener::{Encrypted, Entrance, Interim, Limits, Peer, Served, serve},
    log::{FilterError, LogFormat, LogLayer, LogLevels, install_tracing, install_tracing_beside},
    recorder::install_metrics,
    signals::{Signal, Signals},
    tls::{Certificate, TlsFiles, TlsProblem},
    watchdog::Watchdog,
};
