//! TLS towards PostgreSQL: which way a pool secures its connections. The handshake is in `tls/handshake`, the proof of
//! identity in `tls/verify`.
//!
//! Without the feature `tls` it only knows how to do without, and refuses a URL that asks for more.

#[cfg(feature = "tls")]
mod handshake;
mod parameters;
#[cfg(feature = "tls")]
mod verify;

use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

#[cfg(feature = "tls")]
use self::handshake::Handshake;
pub(super) use self::parameters::{TlsMode, Wanted, without_tls_parameters};
use super::connector::BoxStream;

/// How a pool secures its connections. The default is as the URL says: `sslmode` is one of `disable`, `prefer`, `require`,
/// `verify-ca` and `verify-full`; `sslrootcert` names a PEM file of authorities to trust.
///
/// A URL without `sslmode` means `prefer`: TLS where the server offers it and a provider of cryptography is installed in
/// the process, without proof of who the server is. Use `verify-full` over any network that is not your own.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    is_demanded: bool,
    #[cfg(feature = "tls")]
    handshake: Option<Arc<Handshake>>,
}

impl Tls {
    /// TLS on every connection, with this configuration of rustls, whatever the URL says.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_config(config: Arc<tokio_rustls::rustls::ClientConfig>) -> Self {
        let handshake = Handshake::with_config(TlsMode::Require, config);
        Self { is_demanded: true, handshake: Some(Arc::new(handshake)) }
    }

    /// From the parameters of a URL.
    #[cfg(feature = "tls")]
    pub(super) fn wanted(wanted: &Wanted) -> Result<Self, String> {
        if wanted.mode == TlsMode::Disable {
            return Ok(Self::default());
        }
        let handshake = Handshake::new(wanted)?.map(Arc::new);
        Ok(Self { is_demanded: wanted.mode >= TlsMode::Require, handshake })
    }

    /// From the parameters of a URL.
    #[cfg(not(feature = "tls"))]
    pub(super) fn wanted(wanted: &Wanted) -> Result<Self, String> {
        match wanted.mode {
            TlsMode::Disable | TlsMode::Prefer => Ok(Self::default()),
            _ => Err("asks for TLS, which this build is without: enable the feature `tls`".to_owned()),
        }
    }

    /// Whether something was set that the URL must not undo.
    pub(super) fn is_set(&self) -> bool {
        self.is_demanded
    }

    /// The same, but no connection without TLS.
    pub(super) fn demanded(&self) -> Self {
        let mut demanded = self.clone();
        demanded.is_demanded = true;
        demanded
    }

    /// Secures `stream` to the host called `name`; answers the digest of its certificate too. `is_direct` begins with TLS
    /// without asking the server whether it can.
    pub(super) async fn secured(
        &self,
        stream: BoxStream,
        name: &str,
        is_direct: bool,
    ) -> io::Result<(BoxStream, Option<Vec<u8>>)> {
        #[cfg(feature = "tls")]
        if let Some(handshake) = &self.handshake {
            return handshake.shake(stream, name, is_direct).await;
        }
        let _ = (name, is_direct);
        if self.is_demanded {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is demanded and not configured"));
        }
        Ok((stream, None))
    }
}

/// Whether the host's certificate was looked at and not trusted: that does not heal by waiting.
pub(super) fn is_distrust(error: &io::Error) -> bool {
    #[cfg(feature = "tls")]
    {
        use tokio_rustls::rustls::Error::InvalidCertificate;
        let source = error.get_ref().and_then(|source| source.downcast_ref());
        matches!(source, Some(InvalidCertificate(_)))
    }
    #[cfg(not(feature = "tls"))]
    {
        let _ = error;
        false
    }
}

/// Two are equal where they are made of the same configuration.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        #[cfg(feature = "tls")]
        let same = match (&self.handshake, &other.handshake) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        };
        #[cfg(not(feature = "tls"))]
        let same = true;
        same && self.is_demanded == other.is_demanded
    }
}

impl Eq for Tls {}

#[cfg(feature = "tls")]
#[cfg(test)]
mod tests;
