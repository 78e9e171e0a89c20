//! TLS towards PostgreSQL: which modes there are, and the handshake. The proof of identity is in `tls/verify`.
//!
//! Without the feature `tls` it only knows how to do without.

mod parameters;

use std::io;

pub(super) use self::parameters::{TlsMode, Wanted, without_tls_parameters};
use super::connector::BoxStream;

/// How a pool secures its connections. The default is not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    is_demanded: bool,
}

impl Tls {
    /// From the parameters of a URL.
    pub(super) fn wanted(wanted: &Wanted) -> Result<Self, String> {
        match wanted.mode {
            TlsMode::Disable | TlsMode::Prefer => Ok(Self::default()),
            _ => Err("asks for TLS, which this build is without: enable the feature `tls`".to_owned()),
        }
    }

    /// The same, but no connection without TLS.
    pub(super) fn demanded(&self) -> Self {
        Self { is_demanded: true }
    }

    /// Secures `stream` to the host called `name`; answers the digest of its certificate too.
    pub(super) async fn secured(
        &self,
        stream: BoxStream,
        _name: &str,
        _is_direct: bool,
    ) -> io::Result<(BoxStream, Option<Vec<u8>>)> {
        if self.is_demanded {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is demanded and not configured"));
        }
        Ok((stream, None))
    }
}
