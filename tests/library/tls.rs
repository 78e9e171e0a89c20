//! TLS towards a real PostgreSQL: who is believed, who is refused, and a password that is tied to the certificate.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ridethrough::{DbConfig, Error};
use ridethrough_chaos::{Cluster, RunFolder, pgwire::Tls};
use ridethrough_tests::{daemon, until, wire};
use tokio::time::{Instant, sleep};

use crate::service::{Put, Service, database};

const LIMIT: Duration = Duration::from_secs(10);

/// An authority of its own, and the file in which its certificate is.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &RunFolder, name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names are good names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let file = daemon::home(folder, "authorities").join(name);
        std::fs::write(&file, issuer.pem()).expect("a file can be written");
        Self { issuer, file }
    }
}

/// Switches TLS on at a running server, with a certificate for `name`.
async fn switch_on(cluster: &Cluster, folder: &RunFolder, authority: &Authority, name: &str) {
    let home = daemon::home(folder, "certificate");
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(vec![name.to_owned()]).expect("a good name");
    let certificate = parameters.signed_by(&key, &authority.issuer).expect("a certificate");
    daemon::write_private(&home.join("server.key"), &key.serialize_pem());
    daemon::write_private(&home.join("server.crt"), &certificate.pem());
    let admin = cluster.connect(LIMIT).await.expect("the database answers");
    for (setting, value) in [
        ("ssl_key_file", home.join("server.key").display().to_string()),
        ("ssl_cert_file", home.join("server.crt").display().to_string()),
        ("ssl", "on".to_owned()),
    ] {
        let sql = format!("ALTER SYSTEM SET {setting} = '{value}'");
        admin.batch_execute(&sql).await.expect("a setting can be changed");
    }
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("settings can be read again");
    let on = async || {
        let row = admin.query_one("SELECT current_setting('ssl')", &[]).await.expect("it answers");
        (row.get::<_, String>(0) == "on").then_some(())
    };
    until("TLS is on", LIMIT, on).await;
}

/// Whether the session of a read is inside TLS; fails where there is none.
async fn reaches(url: String) -> Result<bool, Error> {
    let mut config = DbConfig { url, ..DbConfig::default() };
    config.read.attempts = 1;
    let service = Service::unseen(config, Arc::new(Put));
    let sql = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    service.text(sql, LIMIT).await.map(|answer| answer == "true")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sslmode_believes_whom_it_should() {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let (folder, cluster) = database(&[]).await;
    let plain = cluster.url();
    assert!(!reaches(plain.clone()).await.expect("the default does without where there is none"));
    let refused = reaches(format!("{plain}?sslmode=require")).await.expect_err("the server has no TLS");
    crate::say(&format!("require without TLS at the server: {refused}"));

    let (ours, foreign) = (Authority::new(&folder, "ours.pem"), Authority::new(&folder, "foreign.pem"));
    switch_on(&cluster, &folder, &ours, "localhost").await;
    let by_name = plain.replace("127.0.0.1", "localhost");
    let full = |url: &str, authority: &Authority| {
        format!("{url}?sslmode=verify-full&sslrootcert={}", authority.file.display())
    };
    let modes = [
        ("default", plain.clone()),
        ("require", format!("{plain}?sslmode=require")),
        ("verify-full", full(&by_name, &ours)),
        ("channel binding", format!("{}&channel_binding=require", full(&by_name, &ours))),
    ];
    for (mode, url) in modes {
        assert!(
            reaches(url).await.unwrap_or_else(|error| panic!("{mode}: {error}")),
            "{mode}: not inside TLS"
        );
    }
    let wrong = [("wrong name", full(&plain, &ours)), ("another authority", full(&by_name, &foreign))];
    for (why, url) in wrong {
        let error = reaches(url).await.expect_err(why);
        crate::say(&format!("{why}: {error}"));
    }
    let without = reaches(format!("{plain}?sslmode=disable&channel_binding=require")).await;
    assert!(without.is_err(), "no channel to bind to");
}

/// TLS that goes away while a service runs: nobody gets in without it, and nobody asks for it without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_is_refused_expired_or_cut_lets_nobody_in_and_makes_no_storm() {
    const WATCHED: Duration = Duration::from_secs(2);
    /// As often as a prober asks for a database that is away, four times a second, the first and the last time
    /// included, and once for a caller; what needs a person is asked for less often.
    const ARRIVALS_MAX: usize = 10;
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let (folder, cluster) = database(&[]).await;
    let wire = wire::to(cluster.port()).await;
    let authority = daemon::home(&folder, "authorities").join("proxy.pem");
    std::fs::write(&authority, wire.authority()).expect("a file can be written");
    let through = wire.through(&cluster.url()).expect("the URL leads to the cluster");
    let url = format!("{through}?sslmode=verify-full&sslrootcert={}", authority.display());
    wire.offer(Tls::Offered);
    // Inside TLS as far as the proxy, which goes on without.
    assert!(!reaches(url.clone()).await.expect("the certificate is good"));
    for tls in [Tls::Refused, Tls::Expired, Tls::Cut] {
        wire.offer(tls);
        let error = reaches(url.clone()).await.expect_err("nobody gets in");
        let from = Instant::now();
        let service = Service::unseen(DbConfig { url: url.clone(), ..DbConfig::default() }, Arc::new(Put));
        sleep(WATCHED).await;
        let arrivals = wire.arrivals().into_iter().filter(|at| *at >= from).count();
        crate::say(&format!("{tls:?}: {error}; asked for {arrivals} times in {WATCHED:?}"));
        assert!((1..=ARRIVALS_MAX).contains(&arrivals), "{tls:?}: {arrivals}");
        drop(service);
    }
}
