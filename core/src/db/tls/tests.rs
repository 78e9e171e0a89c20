//! Each `sslmode` against servers in memory that are who they say they are, or are not.

use std::{io::Write as _, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::*;
use crate::{
    breaker::CallResult,
    db::{classify::TripHint, dial::DialError},
    error::ErrorClass,
};

/// An authority, and the file in which its certificate is.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(issuer.pem().as_bytes()).unwrap();
        Self { issuer, file }
    }

    /// A server with a certificate for `name`.
    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn tls(mode: TlsMode, roots: Option<&Path>) -> Result<Tls, String> {
    let _ = ring::default_provider().install_default();
    Tls::wanted(&Wanted { mode, roots: roots.map(Path::to_path_buf) })
}

/// Whether `tls` comes to speak with a server at `db.example`, and whether it knows the certificate's digest then. The
/// server answers the question for TLS by `S` where it has an acceptor, else by `N`.
async fn reaches(tls: &Tls, server: Option<TlsAcceptor>) -> Option<bool> {
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(answer(theirs, server));
    let (mut stream, binding) = tls.secured(Box::new(ours), "db.example", false).await.ok()?;
    stream.write_all(b"hello").await.ok()?;
    stream.flush().await.ok()?;
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.ok()?;
    assert_eq!(&echo, b"hello");
    Some(binding.is_some_and(|digest| digest.len() == 32))
}

async fn answer(mut stream: DuplexStream, server: Option<TlsAcceptor>) {
    let mut request = [0; 8];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
    stream.write_all(if server.is_some() { b"S" } else { b"N" }).await.unwrap();
    let Some(server) = server else { return echo(stream).await };
    if let Ok(stream) = server.accept(stream).await {
        echo(stream).await;
    }
}

async fn echo(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let mut said = [0; 5];
    if stream.read_exact(&mut said).await.is_ok() {
        let _ = stream.write_all(&said).await;
        let _ = stream.flush().await;
        let _ = stream.read(&mut said).await;
    }
}

#[tokio::test]
async fn each_mode_trusts_whom_it_should() {
    use TlsMode::{Prefer, Require, VerifyCa, VerifyFull};
    let (ours, foreign) = (Authority::new(), Authority::new());
    let roots = Some(ours.file.path());
    // The mode and its authorities; then the right server, one with another name, one of another authority, no TLS.
    let table = [
        (Prefer, None, [true, true, true, true]),
        (Require, None, [true, true, true, false]),
        (Require, roots, [true, true, false, false]),
        (VerifyCa, roots, [true, true, false, false]),
        (VerifyFull, roots, [true, false, false, false]),
    ];
    for (mode, roots, expected) in table {
        let tls = tls(mode, roots).unwrap();
        let servers = [
            Some(ours.server("db.example")),
            Some(ours.server("other.example")),
            Some(foreign.server("db.example")),
            None,
        ];
        for (at, server) in servers.into_iter().enumerate() {
            let is_tls = server.is_some();
            let reached = reaches(&tls, server).await;
            assert_eq!(reached, expected[at].then_some(is_tls), "{mode:?} {roots:?} server {at}");
        }
    }
}

/// A certificate that is not trusted was called transient, and asked for again and again as fast as a server that restarts.
#[tokio::test]
async fn a_refused_certificate_does_not_heal_by_waiting() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let tls = tls(TlsMode::VerifyFull, Some(ours.file.path())).unwrap();
    let refused = async |server: Option<TlsAcceptor>| {
        let (client, theirs) = tokio::io::duplex(4096);
        tokio::spawn(answer(theirs, server));
        let secured = tls.secured(Box::new(client), "db.example", false).await;
        DialError::Stream(secured.err().unwrap()).into_error()
    };
    for server in [ours.server("other.example"), foreign.server("db.example")] {
        let (error, breaker) = refused(Some(server)).await;
        assert_eq!((error.class(), breaker), (ErrorClass::Permanent, CallResult::Failure));
        assert!(TripHint::of(&error).is_refusal(), "the long pause");
    }
    // A server without TLS may be one in front of which something restarts.
    let (error, _) = refused(None).await;
    assert_eq!((error.class(), TripHint::of(&error)), (ErrorClass::Transient, TripHint::Nothing));
}

#[test]
fn a_proof_needs_authorities() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for roots in [None, Some(Path::new("/no/such/file")), Some(empty.path())] {
        assert!(tls(TlsMode::VerifyFull, roots).is_err(), "{roots:?}");
        assert!(tls(TlsMode::VerifyCa, roots).is_err(), "{roots:?}");
    }
}

#[tokio::test]
async fn what_was_demanded_is_never_done_without() {
    assert_eq!(reaches(&Tls::default().demanded(), None).await, None);
    let disabled = tls(TlsMode::Disable, None).unwrap();
    let (ours, _theirs) = tokio::io::duplex(64);
    assert!(disabled.secured(Box::new(ours), "db.example", false).await.is_ok());
}
