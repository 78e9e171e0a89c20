//! Where the provider's keys come from: a file, or an address by https. One question, one answer, each bounded; it keeps
//! nothing.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::{DOCUMENT_BYTES_MAX, OidcSection};

/// For one answer, from the look-up of the name to the last byte.
const FETCH_MAX: Duration = Duration::from_secs(5);
/// Where systems keep the certificates that they trust.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where the keys are.
pub(crate) enum Source {
    File(PathBuf),
    /// Nothing in place of the TLS settings is plain text, which stays on this machine.
    Address(Uri, Option<Arc<ClientConfig>>),
}

impl Source {
    pub(super) fn of(section: &OidcSection) -> Result<Self, String> {
        let text = &section.jwks;
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let wrong =
            || "identity.oidc.jwks must be a file, or an address that begins with https://".to_owned();
        let address: Uri = text.parse().map_err(|_| wrong())?;
        let host = address.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
        match address.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {
                Ok(Self::Address(address, Some(Arc::new(trusting(section)?))))
            }
            Some(scheme)
                if *scheme == Scheme::HTTP && host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) =>
            {
                Ok(Self::Address(address, None))
            }
            _ => Err(wrong()),
        }
    }

    /// The document, or why it is not to be had.
    pub(super) async fn fetch(&self) -> Result<Vec<u8>, &'static str> {
        match timeout(FETCH_MAX, self.unbounded()).await {
            Ok(fetched) => fetched,
            Err(_) => Err("it did not answer in time"),
        }
    }

    async fn unbounded(&self) -> Result<Vec<u8>, &'static str> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                match read {
                    Ok(Ok(document)) if document.len() <= DOCUMENT_BYTES_MAX => Ok(document),
                    Ok(Ok(_)) => Err("the file is too large"),
                    _ => Err("the file cannot be read"),
                }
            }
            Self::Address(address, tls) => get(address, tls.as_ref()).await,
        }
    }
}

fn trusting(section: &OidcSection) -> Result<ClientConfig, String> {
    let wrong = "identity.oidc.ca_file holds no certificate that can be trusted, or cannot be read";
    let bundle = section.ca_file.clone();
    let bundle = bundle.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()));
    let bundle =
        bundle.ok_or("identity.oidc.ca_file is needed here: this system has no bundle of certificates")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(bundle).map_err(|_| wrong)? {
        // In the bundles of systems there are some that are too old for us.
        let _ = roots.add(certificate.map_err(|_| wrong)?);
    }
    if roots.is_empty() {
        return Err(wrong.to_owned());
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

async fn get(address: &Uri, tls: Option<&Arc<ClientConfig>>) -> Result<Vec<u8>, &'static str> {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = address.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(|_| "it cannot be reached")?;
    let Some(tls) = tls else { return ask(stream, address).await };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| "its name cannot be used")?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
    ask(stream.map_err(|_| "its certificate is not trusted")?, address).await
}

async fn ask<S>(stream: S, address: &Uri) -> Result<Vec<u8>, &'static str>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    const BROKE_OFF: &str = "its answer broke off";
    let path = address.path_and_query().map_or("/", |path| path.as_str());
    let authority = address.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|_| "its address cannot be asked for")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| BROKE_OFF)?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(|_| BROKE_OFF)?;
        if answer.status() != StatusCode::OK {
            return Err("it did not answer with 200");
        }
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        Ok(body.map_err(|_| BROKE_OFF)?.to_bytes().to_vec())
    };
    tokio::pin!(connection);
    tokio::pin!(asking);
    // The connection is worked on here, so that nothing goes on when this is dropped.
    tokio::select! {
        answer = &mut asking => answer,
        _ = &mut connection => timeout(Duration::ZERO, asking).await.unwrap_or(Err(BROKE_OFF)),
    }
}
