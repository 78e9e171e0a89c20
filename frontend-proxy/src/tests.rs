//! The whole proxy over real sockets on loopback, against backends that do exactly what a test wants.
//!
//! No test sleeps: each waits for something to happen, for ten seconds at the most.

mod access;
mod backends;
mod cache;
mod fallbacks;
mod framing;
mod harness;
mod http2;
mod http2_abuse;
mod ladder;
mod outage;
mod private;
mod streaming;
mod tls;
