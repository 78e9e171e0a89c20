//! Toxics: faults on the bytes of a TCP connection, put on by a proxy in front of any service.
//! It knows nothing of what the bytes mean; what PostgreSQL says is for `pgwire`.
//!
//! The words and numbers are those of toxiproxy 2.x, so that its clients and its documentation fit. In reading order:
//! - [`proxy`]: one listener, its upstream, and the connections between them. START HERE.
//! - [`kind`]: what toxics there are, with their attributes. [`chain`]: those a proxy has now, each with a witness.
//! - `link`: one direction of one connection. `pipeline`: the bytes in it, on their way through the toxics.
//! - `rule`: what a toxic says about the next bytes; `latency`, `bandwidth`, `slicer` and `ending` are the rules.
//! - [`api`]: toxiproxy's HTTP interface over a collection of proxies; [`serve`] listens for it.

pub mod proxy;

pub mod chain;
pub mod kind;

mod link;
mod pipeline;

mod bandwidth;
mod ending;
mod latency;
mod rule;
mod slicer;

pub mod address;
pub mod api;
mod metrics;
pub mod serve;
