//! Addresses as toxiproxy's interface has them, and whether they are on this machine's loopback. It connects to nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A name server that says nothing must not hold up the interface for longer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It is not `host:port`.
    #[error("address {0}: missing port in address")]
    NoPort(String),
    /// Nobody knows the name.
    #[error("lookup {host}: {reason}")]
    Unknown {
        /// The name.
        host: String,
        /// Why not.
        reason: String,
    },
    /// It leads away from this machine, which nobody allowed.
    #[error("{0} is not on the loopback of this machine; start with --allow-remote to go there")]
    Remote(String),
}

/// Which addresses may be listened on and dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Those of 127.0.0.0/8 and ::1, so that a mistake breaks nobody else's network.
    #[default]
    Loopback,
    /// All.
    Anywhere,
}

/// Host and port; an empty host is `None`.
fn split(address: &str) -> Result<(Option<&str>, u16), AddressError> {
    let wrong = || AddressError::NoPort(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| wrong())?;
    Ok(((!host.is_empty()).then_some(host), port))
}

/// What an address leads to, IPv4 first. An empty address is a free port of 127.0.0.1, an empty host all addresses.
///
/// # Errors
/// [`AddressError`] where it cannot be read, is not known, or is out of reach.
pub(super) async fn resolve(address: &str, reach: Reach) -> Result<Vec<SocketAddr>, AddressError> {
    if address.is_empty() {
        return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]);
    }
    let (host, port) = split(address)?;
    let mut found = match host {
        None => vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))],
        Some(host) => lookup(host, port).await?,
    };
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    if reach == Reach::Loopback && !found.iter().all(|address| is_loopback(address.ip())) {
        return Err(AddressError::Remote(address.to_owned()));
    }
    Ok(found)
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, AddressError> {
    let unknown = |reason: String| AddressError::Unknown { host: host.to_owned(), reason };
    let late = |_| unknown(format!("no answer within {} ms", LOOKUP_LIMIT.as_millis()));
    let answer =
        tokio::time::timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host, port))).await.map_err(late)?;
    let found: Vec<SocketAddr> = answer.map_err(|error| unknown(error.to_string()))?.collect();
    if found.is_empty() { Err(unknown("no such host".to_owned())) } else { Ok(found) }
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_reached_and_the_rest_only_where_allowed() {
        for address in ["127.0.0.1:80", "127.8.8.8:1", "[::1]:80", "[::ffff:127.0.0.1]:80", ""] {
            assert!(resolve(address, Reach::Loopback).await.is_ok(), "{address}");
        }
        for address in ["192.0.2.1:80", "0.0.0.0:80", ":80", "[::]:80", "[2001:db8::1]:80"] {
            let refused = resolve(address, Reach::Loopback).await;
            assert_eq!(refused, Err(AddressError::Remote(address.to_owned())));
            assert!(resolve(address, Reach::Anywhere).await.is_ok(), "{address}");
        }
    }

    #[tokio::test]
    async fn an_address_needs_a_port() {
        for address in ["local373", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http"] {
            let error = resolve(address, Reach::Loopback).await.unwrap_err();
            assert_eq!(error.to_string(), format!("address {address}: missing port in address"));
        }
    }
}
