//! TLS on both sides of the proxy: certificates made at its start for its clients, and a way to a server that asks for it.
//! How a client asks is in `opening`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream, rustls};

use crate::error::Error;

/// The names that the certificates are for.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// What clients that ask for encryption get; the change of it is a fault (D17).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// "No": whoever insists goes away.
    #[default]
    Refused,
    /// A certificate for `localhost` and `127.0.0.1` by the proxy's own authority.
    Offered,
    /// The same, expired.
    Expired,
    /// "Yes", and the end of the connection in the middle of the handshake.
    Cut,
}

/// The way to a server inside TLS.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The authority that the server's certificate must be signed by, in PEM.
    pub authority: String,
    /// The name that it must be for.
    pub name: String,
}

/// What the proxy shows to its clients.
#[derive(Debug)]
pub(super) struct Certificates {
    offered: Arc<ServerConfig>,
    expired: Arc<ServerConfig>,
    authority: String,
}

impl Certificates {
    pub(super) fn new() -> Result<Self, Error> {
        Self::make().map_err(|reason| Error::state("make certificates for the proxy", reason))
    }

    fn make() -> Result<Self, String> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not the name of what it signs, which OpenSSL would take for signed by itself.
        authority.distinguished_name.push(DnType::CommonName, "ridethrough-chaos");
        let key = KeyPair::generate().map_err(words)?;
        let authority = CertifiedIssuer::self_signed(authority, key).map_err(words)?;
        let server = |expired| {
            let key = KeyPair::generate().map_err(words)?;
            let mut parameters = CertificateParams::new(NAMES.map(str::to_owned)).map_err(words)?;
            if expired {
                // Long enough ago for a machine whose clock is wrong.
                parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
                parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
            }
            let certificate = parameters.signed_by(&key, &authority).map_err(words)?;
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let config = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(words)?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key);
            config.map(Arc::new).map_err(words)
        };
        Ok(Self { offered: server(false)?, expired: server(true)?, authority: authority.pem() })
    }

    /// The authority's own certificate, for clients that want to believe the proxy.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) async fn accept(&self, near: TcpStream, expired: bool) -> io::Result<Stream> {
        let config = if expired { &self.expired } else { &self.offered };
        let near = TlsAcceptor::from(Arc::clone(config)).accept(near).await?;
        Ok(Stream::Tls(Box::new(near.into())))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Whom to believe on the way to the server.
#[derive(Clone)]
pub(super) struct Connector {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(tls: &ServerTls) -> Result<Self, Error> {
        let made = || -> Result<Self, String> {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(tls.authority.as_bytes()) {
                roots.add(certificate.map_err(words)?).map_err(words)?;
            }
            let config = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(words)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from(tls.name.clone()).map_err(words)?;
            Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
        };
        made().map_err(|reason| Error::state("prepare TLS to the server", reason))
    }

    pub(super) async fn connect(&self, far: TcpStream) -> io::Result<Stream> {
        let far = self.connector.connect(self.name.clone(), far).await?;
        Ok(Stream::Tls(Box::new(far.into())))
    }
}

/// A connection, inside TLS or not.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The connection below.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
