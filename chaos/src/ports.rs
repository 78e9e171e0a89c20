//! Free loopback ports that stay free: none from the range that the system hands to outgoing connections.
//!
//! A process that is killed and started again needs its old port back. Were that port from the outgoing range, any
//! client could take it meanwhile; a client that knocks at it could even be connected to itself.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// Looked at before giving up; with thousands of ports to choose from, a tenth of it would do.
const TRIES: u32 = 500;

/// Ports given out by this process; a child may not have bound its own yet.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 that nobody listens on. Another program may still take it before it is used, so whoever
/// starts something on it must try again with another one when that happens.
///
/// # Errors
/// [`Error::State`] when no free port is found.
pub(crate) fn free() -> Result<u16, Error> {
    let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let range = outside(&outgoing);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..TRIES {
        let port = fastrand::u16(range.clone());
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    let reason = format!("none of {TRIES} ports between {} and {} is free", range.start(), range.end());
    Err(Error::state("find a free port", reason))
}

/// An address of 127.0.0.1.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The larger side beside the outgoing range; the usual range leaves 10000 to 32767.
fn outside(outgoing: &str) -> RangeInclusive<u16> {
    const LOWEST: u16 = 10_000;
    let mut bounds = outgoing.split_ascii_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    let (low, high) = (bounds.next().unwrap_or(32_768), bounds.next().unwrap_or(60_999));
    if low.saturating_sub(LOWEST) >= u16::MAX - high {
        // Also where the outgoing range leaves nothing: then a rare collision is all one can have.
        LOWEST..=low.saturating_sub(1).max(LOWEST + 1_000)
    } else {
        high + 1..=u16::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_outside_the_outgoing_range() {
        assert_eq!(outside("32768\t60999\n"), 10_000..=32_767);
        assert_eq!(outside("1024 20000"), 20_001..=65_535);
        assert_eq!(outside("unreadable"), 10_000..=32_767);
        assert_eq!(outside("1024 65535"), 10_000..=11_000);
    }

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
