//! How many connections each address has, so that nobody alone takes all places.
//!
//! It bounds connections, not requests. Everybody behind one balancer or one NAT is one address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bits of an IPv6 address that say whose it is; the rest everybody makes up for himself.
const PREFIX_V6: u128 = !(u64::MAX as u128);

/// Counts connections by address. Bounded by the connections that there are.
#[derive(Debug)]
pub(super) struct Addresses {
    max: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
#[must_use = "the connection counts until this is dropped"]
pub(super) struct OfAddress {
    address: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Addresses {
    pub(super) fn new(max: usize) -> Self {
        Self { max, counts: Arc::default() }
    }

    /// Counts one more, unless the address has as many as it may have.
    pub(super) fn admit(&self, address: IpAddr) -> Option<OfAddress> {
        let address = network(address);
        let mut counts = lock(&self.counts);
        let count = counts.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(OfAddress { address, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.counts).entry(self.address) {
            match count.get() {
                0 | 1 => drop(count.remove()),
                more => *count.get_mut() = more - 1,
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & PREFIX_V6)),
        address => address,
    }
}

fn lock(counts: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_is_bounded_and_others_are_not_touched_by_it() {
        let addresses = Addresses::new(2);
        let one = addresses.admit(address("10.0.0.1")).unwrap();
        let _two = addresses.admit(address("::ffff:10.0.0.1")).unwrap();
        assert!(addresses.admit(address("10.0.0.1")).is_none());
        let _other = addresses.admit(address("10.0.0.2")).unwrap();
        drop(one);
        assert!(addresses.admit(address("10.0.0.1")).is_some());
    }

    #[test]
    fn a_whole_network_of_ipv6_is_one_address() {
        let addresses = Addresses::new(1);
        let _one = addresses.admit(address("2001:db8::1")).unwrap();
        assert!(addresses.admit(address("2001:db8::2:1")).is_none());
        assert!(addresses.admit(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let addresses = Addresses::new(1);
        drop(addresses.admit(address("10.0.0.1")));
        assert!(lock(&addresses.counts).is_empty());
    }
}
