//! Whom to trust: the certificate's chain, its name, both, or nobody's proof, as `sslmode` says.

use std::{path::Path, sync::Arc};

use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::parameters::{TlsMode, Wanted};

/// The judge that `wanted` asks for. As with PostgreSQL's own client, `require` proves the chain where `sslrootcert` is
/// given, and nothing where it is not.
pub(super) fn verifier(
    wanted: &Wanted,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let roots = wanted.roots.as_deref().map(roots).transpose()?;
    let (roots, proves_name) = match (wanted.mode, roots) {
        (TlsMode::Disable | TlsMode::Prefer, _) | (TlsMode::Require, None) => {
            return Ok(Arc::new(Lenient { chain: None, provider: Arc::clone(provider) }));
        }
        (TlsMode::VerifyFull, Some(roots)) => (roots, true),
        (TlsMode::Require | TlsMode::VerifyCa, Some(roots)) => (roots, false),
        (TlsMode::VerifyCa | TlsMode::VerifyFull, None) => {
            return Err(
                "asks for a proof of who the server is: name the authorities to trust by sslrootcert"
                    .to_owned(),
            );
        }
    };
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|_| "names an sslrootcert that proves nothing")?;
    if proves_name {
        return Ok(strict);
    }
    Ok(Arc::new(Lenient { chain: Some(strict), provider: Arc::clone(provider) }))
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|_| "names an sslrootcert that cannot be read; it must be a file of PEM certificates")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or("names an sslrootcert that holds something else than PEM certificates")?;
    }
    if roots.is_empty() {
        return Err("names an sslrootcert without a certificate".to_owned());
    }
    Ok(roots)
}

/// Does not ask for the name, and for the chain only where it has authorities. That the server holds the key of its
/// certificate is proven in any case.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // The name is looked at last, so an error about it says that the chain is good.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
