//! Who the client is, behind proxies that are trusted to say so.
//!
//! `X-Forwarded-For` is read from its right end: each proxy appends whom it saw, so an address is worth as much as the
//! one to its right. The first that is not trusted is the client; what stands left of it are the client's own words and
//! goes no further. `Forwarded` is only written, never read: of two fields that say the same, one can be forged where
//! the proxy in front knows the other alone.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use http::{
    HeaderMap, HeaderValue,
    header::{self, HeaderName},
};

use crate::target::is_host;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Proxies in a row; the way is followed no further.
const HOPS_MAX: usize = 16;

/// Those who are trusted to say for whom they ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trusted(Vec<Network>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The client first, whoever spoke to us last. Empty where nobody is known.
    hops: Vec<IpAddr>,
    /// What the client spoke: `http` or `https`.
    scheme: &'static str,
    /// The host the client asked for, where a trusted proxy says that it asks for another one.
    host: Option<HeaderValue>,
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(bits_max);
        (bits <= bits_max).then_some(Self { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Trusted {
    /// Reads networks such as `10.0.0.0/8`, and single addresses.
    pub(crate) fn read(texts: &[String]) -> Option<Self> {
        texts.iter().map(|text| Network::read(text)).collect::<Option<_>>().map(Self)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Follows a request back to its client, as far as everybody on the way is trusted.
    pub(crate) fn origin(&self, peer: Option<IpAddr>, is_encrypted: bool, headers: &HeaderMap) -> Origin {
        let own = if is_encrypted { "https" } else { "http" };
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else {
            return Origin { hops: Vec::new(), scheme: own, host: None };
        };
        let mut hops = vec![peer];
        if !self.trusts(peer) {
            return Origin { hops, scheme: own, host: None };
        }
        let lines: Vec<&str> = texts(headers, &X_FORWARDED_FOR).collect();
        for entry in lines.into_iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(address) = address(entry.trim()) else { break };
            hops.push(address);
            if !self.trusts(address) || hops.len() == HOPS_MAX {
                break;
            }
        }
        hops.reverse();
        let scheme = match headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => "https",
            Some(b"http") => "http",
            _ => own,
        };
        let host = headers.get(X_FORWARDED_HOST).filter(|host| is_host(host.as_bytes())).cloned();
        Origin { hops, scheme, host }
    }
}

impl Origin {
    /// Writes what a backend is to know of the client, over whatever stood there. `host` is the one the request is for.
    pub(super) fn write(&self, headers: &mut HeaderMap, host: &HeaderValue) {
        let host = self.host.as_ref().unwrap_or(host);
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme));
        let (mut plain, mut forwarded) = (String::with_capacity(48), String::with_capacity(96));
        for hop in &self.hops {
            let separator = if plain.is_empty() { "" } else { ", " };
            let _ = write!(plain, "{separator}{hop}");
            let _ = match hop {
                IpAddr::V4(address) => write!(forwarded, "{separator}for={address}"),
                IpAddr::V6(address) => write!(forwarded, "{separator}for=\"[{address}]\""),
            };
            if separator.is_empty() {
                self.describe(&mut forwarded, host);
            }
        }
        if self.hops.is_empty() {
            forwarded.push_str("for=unknown");
            self.describe(&mut forwarded, host);
        }
        set(headers, X_FORWARDED_FOR, &plain);
        set(headers, header::FORWARDED, &forwarded);
    }

    /// The part of `Forwarded` about the request as the client sent it.
    fn describe(&self, forwarded: &mut String, host: &HeaderValue) {
        // A valid host has no quote in it, so it can stand between quotes as it is.
        let _ = write!(forwarded, ";host=\"{}\";proto={}", host.to_str().unwrap_or_default(), self.scheme);
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    match HeaderValue::from_str(text) {
        Ok(value) if !text.is_empty() => headers.insert(name, value),
        _ => headers.remove(name),
    };
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    // A value that is no text ends the way back, as an entry that is no address does.
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default())
}

/// An address, with or without the port and the brackets that some proxies add.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(networks: &[&str]) -> Trusted {
        let networks: Vec<String> = networks.iter().map(|text| (*text).to_owned()).collect();
        Trusted::read(&networks).unwrap()
    }

    /// What a backend hears of a request from `peer` with these fields.
    fn heard(networks: &[&str], peer: &str, fields: &[(&'static str, &str)]) -> (String, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let origin = trusted(networks).origin(Some(peer.parse().unwrap()), false, &headers);
        origin.write(&mut headers, &HeaderValue::from_static("a"));
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        (text("x-forwarded-for"), format!("{} {}", text("x-forwarded-proto"), text("x-forwarded-host")))
    }

    const PROXIES: &[&str] = &["10.0.0.0/8", "fd00::/8", "192.0.2.7"];

    #[test]
    fn who_is_not_trusted_is_the_client_whatever_it_says() {
        let claims = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "b"),
            ("forwarded", "for=1.1.1.1"),
        ];
        assert_eq!(heard(PROXIES, "203.0.113.9", &claims), ("203.0.113.9".into(), "http a".into()));
        assert_eq!(heard(&[], "10.0.0.1", &claims), ("10.0.0.1".into(), "http a".into()));
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        let fields = [
            ("x-forwarded-for", "6.6.6.6, 10.9.9.9"),
            ("x-forwarded-for", "203.0.113.9, 10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
        ];
        let (chain, rest) = heard(PROXIES, "10.0.0.1", &fields);
        assert_eq!(chain, "203.0.113.9, 10.0.0.2, 10.0.0.1", "what the client claimed goes no further");
        assert_eq!(rest, "https shop.example");
    }

    #[test]
    fn what_is_no_address_ends_the_way_back() {
        for broken in ["203.0.113.9, unknown", "203.0.113.9, _hidden", "203.0.113.9,", "203.0.113.9, 1.2.3"] {
            let (chain, _) = heard(PROXIES, "192.0.2.7", &[("x-forwarded-for", broken)]);
            assert_eq!(chain, "192.0.2.7", "{broken}");
        }
        let odd = [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")];
        assert_eq!(heard(PROXIES, "192.0.2.7", &odd).1, "http a");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_read() {
        for (entry, address) in [
            ("203.0.113.9:4711", "203.0.113.9"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            let (chain, _) = heard(PROXIES, "::ffff:10.0.0.1", &[("x-forwarded-for", entry)]);
            assert_eq!(chain, format!("{address}, 10.0.0.1"), "{entry}");
        }
    }

    #[test]
    fn a_long_chain_is_followed_only_so_far() {
        let all = vec!["10.1.1.1"; 1_000].join(", ");
        let (chain, _) = heard(PROXIES, "10.0.0.1", &[("x-forwarded-for", &all)]);
        assert_eq!(chain.split(", ").count(), HOPS_MAX);
    }

    #[test]
    fn networks_are_read_and_know_their_edges() {
        let edge = trusted(&["10.1.0.0/16", "0.0.0.0/0"]);
        assert!(edge.trusts("255.0.0.1".parse().unwrap()) && !edge.trusts("::1".parse().unwrap()));
        let edge = trusted(&["10.1.0.0/16", "2001:db8::/33"]);
        for (address, inside) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("2001:db8:7fff::1", true),
            ("2001:db8:8000::1", false),
        ] {
            assert_eq!(edge.trusts(address.parse().unwrap()), inside, "{address}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0", "a", "::/129", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(Trusted::read(&[wrong.to_owned()]), None, "{wrong}");
        }
    }
}
