//! The handshake: asking the server for TLS in PostgreSQL's own way, then TLS by rustls.
//!
//! Whom to trust is decided in `verify`.

use std::{io, sync::Arc};

use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, ServerName},
    },
};

use super::{
    parameters::{TlsMode, Wanted},
    verify,
};
use crate::db::connector::BoxStream;

/// Length 8, and the number that stands for "can we have TLS".
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Secures streams in one way.
pub(super) struct Handshake {
    mode: TlsMode,
    connector: TlsConnector,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Handshake {
    /// As a URL wants it; `None` where TLS is only preferred and the process has no provider of cryptography.
    pub(super) fn new(wanted: &Wanted) -> Result<Option<Self>, String> {
        let Some(provider) = CryptoProvider::get_default() else {
            return if wanted.mode == TlsMode::Prefer {
                Ok(None)
            } else {
                Err("asks for TLS, and the process has no default crypto provider of rustls".to_owned())
            };
        };
        let verifier = verify::verifier(wanted, provider)?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(|_| "asks for TLS, and the crypto provider offers no usable version of it")?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // A server that is given TLS without being asked for it wants to hear what will be spoken inside.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Some(Self::with_config(wanted.mode, Arc::new(config))))
    }

    pub(super) fn with_config(mode: TlsMode, config: Arc<ClientConfig>) -> Self {
        Self { mode, connector: TlsConnector::from(config) }
    }

    pub(super) async fn shake(
        &self,
        mut stream: BoxStream,
        name: &str,
        is_direct: bool,
    ) -> io::Result<(BoxStream, Option<Vec<u8>>)> {
        if !is_direct {
            stream.write_all(&SSL_REQUEST).await?;
            stream.flush().await?;
            // One byte and no more: whatever came with it in the clear is not read as if it had come inside TLS.
            match stream.read_u8().await? {
                b'S' => {}
                b'N' if self.mode == TlsMode::Prefer => return Ok((stream, None)),
                _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "the server does not offer TLS")),
            }
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the host name cannot be in a certificate")
        })?;
        let stream = self.connector.connect(name, stream).await?;
        let (_, connection) = stream.get_ref();
        let binding = connection.peer_certificates().and_then(|chain| chain.first()).and_then(digest);
        Ok((Box::new(stream), binding))
    }
}

/// The digest that ties a password to this server (RFC 5929, `tls-server-end-point`): by the hash of the certificate's own
/// signature, SHA-256 in place of the broken ones; `None` where the signature names none.
fn digest(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let whole = certificate.as_ref();
    let (certificate, _) = element(whole)?;
    let (_, after_body) = element(certificate)?;
    let (algorithm, _) = element(after_body)?;
    let (identifier, _) = element(algorithm)?;
    // 1.2.840.113549.1.1.x is RSA with a hash, 1.2.840.10045.4.3.x is ECDSA with one.
    match identifier {
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4 | 5 | 11] => Some(Sha256::digest(whole).to_vec()),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12] => Some(Sha384::digest(whole).to_vec()),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13] => Some(Sha512::digest(whole).to_vec()),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1] => Some(Sha256::digest(whole).to_vec()),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] => Some(Sha256::digest(whole).to_vec()),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3] => Some(Sha384::digest(whole).to_vec()),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4] => Some(Sha512::digest(whole).to_vec()),
        _ => None,
    }
}

/// The content of the first DER element, and what follows it.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) =
            rest.split_at_checked(usize::from(first & 0x7f)).filter(|(d, _)| d.len() <= 4)?;
        (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_are_none_have_no_digest() {
        for bytes in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30; 64]] {
            assert_eq!(digest(&CertificateDer::from(bytes)), None);
        }
    }
}
