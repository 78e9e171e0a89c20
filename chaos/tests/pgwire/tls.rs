//! Encryption on both sides of the proxy, and what can go wrong with it on the way in.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ridethrough_chaos::pgwire::{ServerTls, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

use super::super::*;

/// Asks for TLS as a driver does, and believes the proxy's authority.
async fn secured(bench: &Bench) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bench.proxy.authority().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let mut stream = TcpStream::connect(bench.proxy.address()).await.unwrap();
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    match within(stream.read_u8()).await {
        Ok(b'S') => {}
        other => return Err(format!("answered {other:?}")),
    }
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    stream.map_err(|error| error.to_string())
}

async fn connect_inside(stream: TlsStream<TcpStream>, url: &str) -> Result<Client, Error> {
    let config: Config = url.parse().unwrap();
    let (client, connection) = within(config.connect_raw(stream, NoTls)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

#[tokio::test]
async fn rules_hold_inside_tls_as_outside() {
    let bench = Bench::start().await;
    assert!(secured(&bench).await.unwrap_err().contains("answered Ok(78)"), "no TLS without being told so");
    bench.proxy.offer(Tls::Offered);
    // `connect_raw` says nothing of its own about encryption.
    let url = format!("{}&sslmode=disable", bench.direct_url());
    for action in ["close", "reset"] {
        let client = connect_inside(secured(&bench).await.unwrap(), &url).await.unwrap();
        insert(&client, &format!("{action} before")).await.unwrap();
        let cut = bench.plant(&format!("server CommandComplete(COMMIT): {action}"));
        let error = within(insert(&client, action)).await.unwrap_err();
        assert_eq!((code(&error), cut.count()), (None, 1));
        assert!(bench.has(action).await);
    }
}

/// Which of these is a matter of the configuration and which of the network shows in what the client is told.
#[tokio::test]
async fn tls_can_be_refused_expired_and_cut() {
    let bench = Bench::start().await;
    bench.proxy.offer(Tls::Expired);
    let error = secured(&bench).await.unwrap_err();
    assert!(error.contains("Expired") || error.contains("expired"), "{error}");
    bench.proxy.offer(Tls::Cut);
    let error = secured(&bench).await.unwrap_err();
    assert!(error.contains("eof") || error.contains("reset"), "{error}");
    bench.proxy.offer(Tls::Offered);
    let silent = bench.plant("client SslRequest: blackhole");
    assert!(timeout(SILENT, secured(&bench)).await.is_err(), "an answer came");
    assert_eq!(silent.count(), 1);
    drop(silent);
    let closed = bench.plant("client SslRequest: close");
    assert!(secured(&bench).await.is_err());
    assert_eq!(closed.count(), 1);
    secured(&bench).await.unwrap();
}

/// libpq: it checks name and authority, asks for GSSAPI and TLS on its own account, and ties no password to the
/// certificate where it is told so.
#[tokio::test]
async fn libpq_believes_the_certificate() {
    let bench = Bench::start().await;
    bench.proxy.offer(Tls::Offered);
    let psql = bench.cluster.binaries().folder().join("psql");
    let psql = if psql.is_file() { psql } else { "psql".into() };
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, bench.proxy.authority()).unwrap();
    let ask = |more: &str| {
        let url = format!("{}&sslmode=verify-full&sslrootcert={}&{more}", bench.url(), authority.display());
        tokio::process::Command::new(&psql)
            .args(["-Atc", "SELECT 40 + 2", &url])
            .stdin(Stdio::null())
            .output()
    };
    let Ok(output) = within(ask("channel_binding=disable")).await else { return };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "42\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    bench.proxy.offer(Tls::Expired);
    let output = within(ask("channel_binding=disable")).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("verify failed"), "{output:?}");
}

/// Writes a file that only the account of the server may read.
fn write_for(cluster: &Cluster, path: &Path, text: &str) {
    std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
    std::fs::write(path, text).unwrap();
    let owner = std::fs::metadata(format!("/proc/{}", cluster.pid().unwrap())).unwrap();
    // Only where another account runs it, which takes a right that then is there.
    let _ = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
}

#[tokio::test]
async fn the_proxy_speaks_tls_with_a_server_that_asks_for_it() {
    let bench = Bench::alone().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec!["database.test".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    let (key_file, certificate_file) = (folder.path().join("key"), folder.path().join("certificate"));
    write_for(&bench.cluster, &key_file, &key.serialize_pem());
    write_for(&bench.cluster, &certificate_file, &certificate.pem());
    let admin = bench.cluster.connect(LIMIT).await.unwrap();
    for (name, value) in [
        ("ssl_key_file", key_file.display().to_string()),
        ("ssl_cert_file", certificate_file.display().to_string()),
        ("ssl", "on".to_owned()),
    ] {
        admin.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    }
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let on = async {
        while admin.query_one("SHOW ssl", &[]).await.unwrap().get::<_, String>(0) != "on" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(on).await;
    let mut options = Options::before(bench.cluster.port());
    for (name, reaches) in [("database.test", true), ("another.test", false)] {
        options.server_tls = Some(ServerTls { authority: authority.pem(), name: name.to_owned() });
        let (proxy, work) = Proxy::start(&options).await.unwrap();
        tokio::spawn(work);
        let url = proxy.through(&bench.direct_url()).unwrap();
        let client = connect(&url).await;
        assert_eq!(client.is_ok(), reaches, "{name}: {:?}", client.err());
        if let Ok(client) = client {
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
            let cut = proxy.plant("server CommandComplete(COMMIT): close".parse().unwrap());
            within(insert(&client, "inside")).await.unwrap_err();
            assert!(cut.count() == 1 && bench.has("inside").await);
            // A cancel request goes inside TLS, too.
            let client = connect(&url).await.unwrap();
            let token = client.cancel_token();
            let (long, _) = tokio::join!(client.batch_execute("SELECT pg_sleep(5)"), async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                token.cancel_query(NoTls).await
            });
            assert_eq!(code(&long.unwrap_err()), Some("57014"));
        } else {
            assert_eq!(proxy.counts().unreachable, 1);
        }
    }
}
