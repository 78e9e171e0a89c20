//! TLS towards clients: what is offered, what a backend hears of it, and a certificate that changes.

use std::sync::Arc;

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

use super::{
    harness::{OK, Running, Stub, proxy, read_until, soon},
    http2::{Client, get},
};

/// A certificate of its own in a folder of its own.
struct Issued {
    folder: tempfile::TempDir,
    root: rcgen::Certificate,
}

impl Issued {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Self::write_into(folder.path());
        Self { folder, root }
    }

    fn write_into(folder: &std::path::Path) -> rcgen::Certificate {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert
    }

    fn renew(&mut self) {
        self.root = Self::write_into(self.folder.path());
    }

    async fn proxy(&self, stub: &Stub) -> Running {
        let folder = self.folder.path().to_owned();
        proxy(&[stub.address], move |config| {
            config.listen.tls.certificate = folder.join("certificate.pem");
            config.listen.tls.key = folder.join("key.pem");
        })
        .await
    }

    /// Connects, trusting this certificate as it is now.
    async fn connect(&self, proxy: &Running, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        soon("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }
}

#[tokio::test]
async fn what_is_spoken_over_tls_is_chosen_by_alpn() {
    let (stub, issued) = (Stub::answering(OK).await, Issued::new());
    let proxy = issued.proxy(&stub).await;
    let stream = issued.connect(&proxy, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = Client::over(stream).await;
    assert_eq!(client.send(get("https://a/")).await.status(), StatusCode::OK);
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = issued.connect(&proxy, protocols).await.unwrap();
        stream.write_all(b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let answer = soon("an answer", read_until(&mut stream, "ok")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for head in stub.seen.heads() {
        assert!(
            head.contains("\r\nx-forwarded-proto: https\r\n") && head.contains(";proto=https\r\n"),
            "{head}"
        );
    }
}

/// Interim answers are written beside the HTTP library. Below TLS they would break the connection, and in HTTP/2 they are
/// no frames.
#[tokio::test]
async fn interim_answers_stand_above_tls_and_nowhere_in_http2() {
    let hinting = |_: &str| {
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            .to_owned()
    };
    let (stub, issued) = (Stub::scripted(hinting).await, Issued::new());
    let proxy = issued.proxy(&stub).await;
    let mut stream = issued.connect(&proxy, &["http/1.1"]).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let answer = soon("an answer", read_until(&mut stream, "\r\n\r\nok")).await.unwrap();
        let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert!(answer.starts_with(early), "{answer}");
    }
    let plain = super::harness::proxy(&[stub.address], |_| {}).await;
    let over_tls = Client::over(issued.connect(&proxy, &["h2"]).await.unwrap()).await;
    for mut client in [over_tls, Client::connect(plain.address).await] {
        for _ in 0..2 {
            let answer = client.send(get("https://a/")).await;
            assert_eq!(answer.status(), StatusCode::OK);
            let body = soon("the body", answer.into_body().collect()).await.unwrap().to_bytes();
            assert_eq!(body, "ok");
        }
        assert!(!client.driver.is_finished());
    }
}

#[tokio::test]
async fn plain_words_get_no_answer_from_a_listener_that_speaks_tls() {
    let (stub, issued) = (Stub::answering(OK).await, Issued::new());
    let proxy = issued.proxy(&stub).await;
    let reply = super::harness::raw(proxy.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!reply.text.contains("HTTP/1.1"), "{:?}", reply.text);
    assert_eq!(stub.seen.count(), 0);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let (stub, mut issued) = (Stub::answering(OK).await, Issued::new());
    let proxy = issued.proxy(&stub).await;
    let certificate = proxy.certificate.as_ref().unwrap();
    assert!(issued.connect(&proxy, &[]).await.is_ok());
    issued.renew();
    assert!(
        issued.connect(&proxy, &[]).await.is_err(),
        "the old one is shown until the files are read again"
    );
    certificate.reload().unwrap();
    assert!(issued.connect(&proxy, &[]).await.is_ok());

    let (key, chain) = (issued.folder.path().join("key.pem"), issued.folder.path().join("certificate.pem"));
    let other_key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (file, text) in [(&key, other_key.as_str()), (&key, "nonsense"), (&chain, ""), (&chain, "nonsense")] {
        let before = std::fs::read(file).unwrap();
        std::fs::write(file, text).unwrap();
        let problem = certificate.reload().unwrap_err().to_string();
        assert!(problem.contains(".pem: "), "{problem}");
        assert!(issued.connect(&proxy, &[]).await.is_ok(), "after {problem}");
        std::fs::write(file, before).unwrap();
    }
}
