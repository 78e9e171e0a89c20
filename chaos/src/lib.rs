//! A fault laboratory: runs a service on a private PostgreSQL, breaks the database, and proves what users got.
//!
//! It is a black box to the service: it knows its command line, its HTTP interface and its table, and shares no
//! code with it, because a checker that shares code with the thing it judges shares its bugs.
//!
//! Modules in reading order:
//! - [`run`]: one experiment from start to verdict. START HERE. [`schedule`]: everything that a run does, written out.
//!   [`scenario`]: schedules with a name. [`swarm`]: schedules by chance. [`shrink`]: from many faults to those that matter.
//!   [`sabotage`]: bugs planted into our own server, and the runs that must find them.
//! - [`history`]: what happened in a run, one line each; the only file format. [`workload`]: open-loop users.
//!   [`checker`]: from the history to the [`verdict`]. [`report`]: the verdict for people.
//! - [`nemesis`]: the faults. [`canary`]: an independent witness of when the database commits.
//! - [`pgwire`]: a proxy before PostgreSQL that breaks connections at chosen messages. [`explore`]: one write, its
//!   connection lost at every message in every way.
//! - [`shim`]: faults of disk and clock inside one program. [`namespace`]: a network that loses packets, small disks.
//! - [`stack`]: PostgreSQL, servers and proxy together. [`cluster`]: a throw-away PostgreSQL, on the binaries that
//!   [`postgres`] finds.
//! - [`kubelet`]: what Kubernetes does to a service: probes, restarts, rolling restarts, routes that lag behind.
//! - [`target`]: somebody else's service, described in a file.
//! - [`toxic`]: faults on the bytes of TCP connections, by a proxy that speaks toxiproxy's HTTP interface.
//! - [`names`]: a name server that fails, lags and moves as it is told.
//! - [`folder`], [`guardian`], [`process`]: the care that nothing of a run outlives it.
//! - [`cli`]: the command line. [`config`]: what it takes from a file and the environment.

pub mod run;

pub mod checker;
pub mod history;
pub mod report;
pub mod verdict;
pub mod workload;

pub mod explore;
pub mod names;
pub mod nemesis;
pub mod pgwire;
pub mod sabotage;
pub mod scenario;
pub mod schedule;
pub mod shrink;
pub mod swarm;
pub mod toxic;

pub mod canary;
pub mod kubelet;
pub mod namespace;
pub mod shim;
pub mod stack;
pub mod target;

pub mod cluster;
pub mod postgres;

pub mod error;
pub mod folder;
pub mod guardian;
mod machine;
mod ports;
pub mod process;

pub mod cli;
pub mod config;
mod doctor;
mod up;

pub use cluster::Cluster;
pub use error::Error;
pub use folder::RunFolder;
pub use stack::Stack;
