//! The certificate that a listener shows: read from two files, read again when they change, the last good one kept.
//!
//! Whose cryptography does the work is the binary's choice (it installs a rustls provider). Nothing here speaks TLS to a
//! database.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};

use super::listener::ALPN_HTTP2;

/// Pause between looks at the files.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where the certificate is. Both empty: no TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM file with the certificate and those that prove it, in this order.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// A certificate that cannot be used. The text names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct TlsProblem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The certificate of a listener.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

/// What a client is shown now.
#[derive(Debug)]
struct Shown {
    provider: Arc<CryptoProvider>,
    key: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What tells a changed file from an unchanged one: a new link target has other values too.
type Look = Option<(SystemTime, u64)>;

impl TlsFiles {
    /// Whether TLS is wanted.
    #[must_use]
    pub fn are_given(&self) -> bool {
        !(self.certificate.as_os_str().is_empty() && self.key.as_os_str().is_empty())
    }

    fn look(&self) -> (Look, Look) {
        let look = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        (look(&self.certificate), look(&self.key))
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsProblem> {
        let of_certificate = |reason| TlsProblem { file: self.certificate.clone(), reason };
        let of_key = |reason| TlsProblem { file: self.key.clone(), reason };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .map_err(|_| of_certificate("the certificate cannot be read"))?
            .collect::<Result<_, _>>()
            .map_err(|_| of_certificate("it holds something else than PEM certificates"))?;
        if certificates.is_empty() {
            return Err(of_certificate("it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|_| of_key("it cannot be read, or holds no private key in PEM"))?;
        CertifiedKey::from_der(certificates, key, provider)
            .map_err(|_| of_key("it is not the key of the certificate, or of an unknown kind"))
    }
}

impl Certificate {
    /// Reads the certificate. With `http2` the listener offers HTTP/2 beside HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsProblem`] names the file that cannot be used, or says that the binary has installed no provider.
    pub fn load(files: TlsFiles, http2: bool) -> Result<Self, TlsProblem> {
        let problem = |reason| TlsProblem { file: files.certificate.clone(), reason };
        let provider =
            CryptoProvider::get_default().ok_or_else(|| problem("no cryptography is installed"))?;
        let key = RwLock::new(Arc::new(files.read(provider)?));
        let shown = Arc::new(Shown { provider: Arc::clone(provider), key });
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Shown>::clone(&shown);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(|_| problem("the cryptography knows no version of TLS that is safe"))?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = if http2 { vec![ALPN_HTTP2.to_vec()] } else { Vec::new() };
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Self { files, shown, config: Arc::new(config) })
    }

    /// Reads the files again; new connections see what they hold. Where they cannot be used, the last good certificate
    /// stays.
    ///
    /// # Errors
    /// [`TlsProblem`] names the file.
    pub fn reload(&self) -> Result<(), TlsProblem> {
        let key = Arc::new(self.files.read(&self.shown.provider)?);
        *self.shown.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    /// The same with the outcome in the log.
    pub fn reload_or_keep(&self) {
        match self.reload() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(problem) => {
                tracing::warn!(%problem, "the certificate cannot be used; the last good one stays");
            }
        }
    }

    /// Looks at the files every ten seconds and reads them again when they have changed. Never ends; `main` spawns it.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the certificate stays as it is.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = None;
        loop {
            let own = Arc::clone(&self);
            // A half-written pair is wrong now and right a moment later, which changes the files once more.
            let look = spawn_blocking(move || {
                let look = own.files.look();
                if seen.is_some_and(|seen| seen != look) {
                    own.reload_or_keep();
                }
                look
            });
            seen = look.await.ok().or(seen);
            sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}
