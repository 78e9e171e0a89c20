//! The chaos suite's proxy that knows PostgreSQL's messages, on the road between a test and its database. What it can do
//! is told there.

use ridethrough_chaos::pgwire::{Options, Proxy};

/// A proxy before the PostgreSQL on `port` of the loopback; it ends with its last clone.
///
/// # Panics
/// Where no port is free.
///
/// # Cancel safety
/// Leaves nothing behind.
pub async fn to(port: u16) -> Proxy {
    let started = Proxy::start(&Options::before(port)).await;
    let (proxy, work) = started.unwrap_or_else(|error| panic!("failed to {error}"));
    tokio::spawn(work);
    proxy
}
