//! A network that carries every byte and does so badly: slices of one byte, delay, early ends (N1). Callers get right answers
//! or are let go in time, and a key has its effect once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ridethrough_chaos::Cluster;
use ridethrough_chaos::toxic::{
    address::Reach,
    kind::{Kind, LimitData, Stream, Toxic},
    proxy::{Proxy, Settings},
};
use tokio::time::Instant;

use crate::service::{Service, as_service, database, effects_of, never_opens};

/// Far above what a call takes that goes well.
const LIMIT: Duration = Duration::from_secs(10);
const SEED: u64 = 11;

/// A proxy before the database, and a URL that leads through it.
async fn before(cluster: &Cluster) -> (Proxy, String) {
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port())).to_string();
    let settings = Settings {
        name: "database".to_owned(),
        listen: String::new(),
        upstream: upstream.clone(),
        seed: SEED,
        reach: Reach::Loopback,
    };
    let proxy = Proxy::open(settings).await.expect("a proxy can be opened");
    let url = cluster.url();
    assert!(url.contains(&upstream), "the URL does not lead to {upstream}");
    let through = url.replace(&upstream, &proxy.settings().listen);
    (proxy, through)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_one_by_one_change_no_answer() {
    let (_folder, cluster) = database(&[]).await;
    let (proxy, url) = before(&cluster).await;
    let slices = Stream::ALL.map(|stream| {
        let toxic = Toxic::new(stream, Kind::slices(1, Duration::ZERO));
        proxy.put(toxic).expect("the toxic can be put on")
    });
    // Also the start of each session, its SCRAM, and the probes.
    let service = Service::start(never_opens(url)).await;
    for number in 0..10 {
        let key = format!("sliced {number}");
        assert!(service.put(&key, LIMIT).await.is_ok(), "seed {SEED}");
        assert_eq!(service.count(&key, LIMIT).await.ok().as_deref(), Some("1"), "seed {SEED}");
    }
    let text = service.text("SELECT repeat('x', 20000)", LIMIT).await;
    assert_eq!(text.map(|text| text.len()).ok(), Some(20_000));
    for on in slices {
        let witness = on.heal();
        assert!(witness.packets > 1_000, "{witness}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_within_the_deadline_is_waited_for_and_one_beyond_it_is_not() {
    const SHORT: Duration = Duration::from_millis(500);
    /// What a busy machine adds.
    const SLACK: Duration = Duration::from_millis(500);
    let (_folder, cluster) = database(&[]).await;
    let (proxy, url) = before(&cluster).await;
    let service = Service::start(never_opens(url)).await;
    assert!(service.text("SELECT 'warm'", LIMIT).await.is_ok());
    let delay = |ms| Toxic::new(Stream::Downstream, Kind::latency(Duration::from_millis(ms), Duration::ZERO));

    let on = proxy.put(delay(150)).expect("the toxic can be put on");
    let began = Instant::now();
    assert_eq!(service.text("SELECT 'slow'", LIMIT).await.ok().as_deref(), Some("slow"));
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
    assert!(on.heal().delayed_bytes > 0);

    let on = proxy.put(delay(60_000)).expect("the toxic can be put on");
    let began = Instant::now();
    assert!(service.text("SELECT 'never'", SHORT).await.is_err());
    assert!(began.elapsed() < SHORT + SLACK, "{:?}", began.elapsed());
    assert!(on.heal().delayed_bytes > 0);
    assert_eq!(service.text("SELECT 'healed'", LIMIT).await.ok().as_deref(), Some("healed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_its_effect_once_though_every_connection_is_cut_after_some_bytes() {
    const ROUNDS: i64 = 12;
    const WRITES_OF_ROUND: usize = 10;
    let (_folder, cluster) = database(&[]).await;
    let (proxy, url) = before(&cluster).await;
    let service = Service::start(never_opens(url)).await;
    let mut acknowledged = Vec::new();
    let mut cut = 0;
    for round in 0..ROUNDS {
        // More than a session's start takes; then the end comes anywhere in one of the next writes.
        let limit = Kind::LimitData(LimitData { bytes: 1_500 + 131 * round });
        let on = proxy.put(Toxic::new(Stream::Downstream, limit)).expect("the toxic can be put on");
        for number in 0..WRITES_OF_ROUND {
            let key = format!("cut {round} {number}");
            if service.put(&key, LIMIT).await.is_ok() {
                acknowledged.push(key);
            }
        }
        cut += on.heal().closed;
        // A write that waits behind accepted ones would not go over the wire.
        service.has_settled().await;
    }
    assert!(cut > 5, "{cut} connections cut");
    assert!(acknowledged.len() > 60, "{} writes acknowledged", acknowledged.len());
    let client = as_service(&cluster.url()).await;
    for key in &acknowledged {
        assert_eq!(effects_of(&client, key).await, 1, "{key}");
    }
    crate::say(&format!("{} writes acknowledged, {cut} connections cut", acknowledged.len()));
}
