//! An address of the loopback that leads nowhere for a while, as when its machine is switched off: who connects to it is
//! told that it cannot be reached, and sessions that are open there fall silent. Only `ip` is needed.

use std::fmt;
use std::net::Ipv4Addr;

use crate::error::Error;
use crate::namespace::must_be_inside;
use crate::namespace::wire::near;

/// The address leads nowhere. It does again when this is dropped.
#[derive(Debug)]
#[must_use = "the address can be reached again as soon as this is dropped"]
pub struct DeadAddress(Ipv4Addr);

impl DeadAddress {
    /// Makes this address of 127.0.0.0/8 lead nowhere. Blocking, for some milliseconds.
    ///
    /// # Errors
    /// [`Error::NoMeans`] outside namespaces of our own, and where the kernel refuses.
    pub fn make(address: Ipv4Addr) -> Result<Self, Error> {
        must_be_inside("take an address away")?;
        near(&route("add", address).each_ref().map(String::as_str))?;
        Ok(Self(address))
    }
}

impl fmt::Display for DeadAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} led nowhere", self.0)
    }
}

impl Drop for DeadAddress {
    fn drop(&mut self) {
        // A guard that heals on drop has nobody to tell; what was added a moment ago can be deleted.
        let _ = near(&route("delete", self.0).each_ref().map(String::as_str));
    }
}

/// In the table of local addresses, where the one of all of 127.0.0.0/8 stands too: the narrower one wins.
fn route(verb: &str, address: Ipv4Addr) -> [String; 6] {
    ["route", verb, "unreachable", &format!("{address}/32"), "table", "local"].map(str::to_owned)
}
