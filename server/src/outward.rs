//! Requests of this process to others over HTTP: one connection for each, every size and time bounded, certificates checked.
//! It repeats nothing and keeps nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Full, Limited};
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

/// Where systems keep the certificates that they trust.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// An address that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    uri: Uri,
    /// Nothing is plain text.
    tls: Option<Arc<ClientConfig>>,
}

/// Why an address cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It does not begin with `http://` or `https://`, names no host, or holds a password.
    Address,
    /// There is no certificate to trust in what is named, or it cannot be read.
    Certificates,
    /// Nothing is named, and this system has no certificates where they are looked for.
    NoBundle,
}

impl Address {
    /// `http://` or `https://`, the latter trusting what stands in `ca_file`, else what the system trusts.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(crate) fn of(text: &str, ca_file: Option<PathBuf>) -> Result<Self, Unusable> {
        let uri: Uri = text.parse().map_err(|_| Unusable::Address)?;
        if uri.host().is_none_or(str::is_empty) || text.contains('@') {
            return Err(Unusable::Address);
        }
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Some(Arc::new(trusting(ca_file)?)),
            Some(scheme) if *scheme == Scheme::HTTP => None,
            _ => return Err(Unusable::Address),
        };
        Ok(Self { uri, tls })
    }

    #[cfg(feature = "oidc")]
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    #[cfg(feature = "oidc")]
    pub(crate) fn is_plain_text(&self) -> bool {
        self.tls.is_none()
    }

    /// Its host, without brackets.
    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// Sends one request there and answers the whole answer, of `bytes_max` at the most; or says why there is none. Path and
    /// headers are the request's, but for `Host`.
    ///
    /// # Cancel safety
    /// The connection is closed when this is dropped; it waits as long as it must.
    pub(crate) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, &'static str> {
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((self.host(), port)).await.map_err(|_| "it cannot be reached")?;
        let Some(tls) = &self.tls else { return self.ask(stream, request, bytes_max).await };
        let name = ServerName::try_from(self.host().to_owned()).map_err(|_| "its name cannot be used")?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        self.ask(stream.map_err(|_| "its certificate is not trusted")?, request, bytes_max).await
    }

    async fn ask<S>(
        &self,
        stream: S,
        mut request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, &'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        const BROKE_OFF: &str = "its answer broke off";
        const NOT_ASKED: &str = "its address cannot be asked for";
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse();
        *request.uri_mut() = path.map_err(|_| NOT_ASKED)?;
        let host = authority.parse().map_err(|_| NOT_ASKED)?;
        request.headers_mut().insert(header::HOST, host);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| BROKE_OFF)?;
        let asking = async {
            let (head, body) = sender.send_request(request).await.map_err(|_| BROKE_OFF)?.into_parts();
            let body = Limited::new(body, bytes_max).collect().await.map_err(|_| BROKE_OFF)?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::pin!(connection);
        tokio::pin!(asking);
        // The connection is worked on here, so that nothing goes on when this is dropped.
        tokio::select! {
            answer = &mut asking => answer,
            _ = &mut connection => timeout(Duration::ZERO, asking).await.unwrap_or(Err(BROKE_OFF)),
        }
    }
}

fn trusting(ca_file: Option<PathBuf>) -> Result<ClientConfig, Unusable> {
    let bundle = ca_file.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()));
    let bundle = bundle.ok_or(Unusable::NoBundle)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(bundle).map_err(|_| Unusable::Certificates)? {
        // In the bundles of systems there are some that are too old for us.
        let _ = roots.add(certificate.map_err(|_| Unusable::Certificates)?);
    }
    if roots.is_empty() {
        return Err(Unusable::Certificates);
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
