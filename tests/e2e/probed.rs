//! Three replicas under a kubelet: probed every second, restarted where they fail, replaced one after another, with routers
//! that hear of it late. Whatever the database does, nothing is restarted and the service never loses its last endpoint;
//! and a rolling restart costs no user a request, unless a server does not wait for the routers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Method;
use ridethrough_chaos::{
    Stack,
    kubelet::{Kubelet, Options, Seen},
    stack,
};
use ridethrough_tests::{
    http::{Client, create, request},
    launch::program,
    logs::Secrets,
    seed, until,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::steps::title;

const REPLICAS: usize = 3;
/// From the start of a server until its endpoint is in use: two probes, and the way to the router.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longer than it takes to condemn a replica, were its probes to fail: three of them, a second apart.
const OUTAGE: Duration = Duration::from_secs(5);
/// How late routers hear of a change, and a drain that is a little longer.
const ROUTE_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1_000));
const DRAIN_DELAY: &str = "1500ms";
/// Requests of each door.
const EVERY: Duration = Duration::from_millis(25);

/// Replicas behind the proxy, and a kubelet that looks after them.
struct Cluster {
    stack: Stack,
    kubelet: Kubelet,
    work: JoinHandle<()>,
}

impl Cluster {
    async fn start(drain_delay: &str) -> Self {
        let server_env = vec![("RIDETHROUGH_LIMITS__DRAIN_DELAY".to_owned(), drain_delay.to_owned())];
        Self::start_as(stack::Options { server_env, ..stack::Options::default() }).await
    }

    async fn start_as(options: stack::Options) -> Self {
        let options = stack::Options { servers: REPLICAS, ..options };
        let stack = Stack::start(&options).await.unwrap_or_else(|error| panic!("failed to {error}"));
        let options = Options { route_delay: ROUTE_DELAY, seed: seed(), ..Options::default() };
        let (kubelet, work) =
            Kubelet::of(stack.servers(), options).unwrap_or_else(|error| panic!("failed to {error}"));
        let cluster = Self { stack, kubelet, work: tokio::spawn(work) };
        let ready = cluster.kubelet.all_ready(READY_LIMIT).await;
        ready.unwrap_or_else(|error| panic!("failed to {error}\n{}", cluster.told()));
        cluster
    }

    /// Where users come in: through the proxy, or past it through the cluster's own router.
    fn doors(&self) -> [Client; 2] {
        let proxy = self.stack.proxy().expect("our own stack has a proxy").main();
        let secrets = Secrets::of_url(&self.stack.cluster().url());
        [proxy, self.kubelet.door()].map(|address| Client::new(address, secrets.clone()))
    }

    async fn database_returns(&self) {
        self.stack.cluster().start_again().await.unwrap_or_else(|error| panic!("failed to {error}"));
    }

    async fn database_dies(&self) {
        self.stack.cluster().kill().await.unwrap_or_else(|error| panic!("failed to {error}"));
    }

    /// Says that nothing was restarted and that no endpoint was lost since `from`.
    fn lost_nothing(&self, from: Instant, what: &str) {
        let expected = Seen { restarts: 0, fewest_ready: REPLICAS };
        assert_eq!(self.kubelet.seen(from), expected, "{what}:\n{}", self.told());
    }

    async fn rolling_restart(&self) {
        let exits = self.kubelet.rolling_restart(READY_LIMIT).await;
        let exits = exits.unwrap_or_else(|error| panic!("failed to {error}\n{}", self.told()));
        assert!(exits.iter().all(|exit| exit.code == Some(0)), "{exits:?}");
        assert_eq!(exits.len(), REPLICAS);
    }

    fn told(&self) -> String {
        self.kubelet.events().iter().map(|event| format!("{event}\n")).collect()
    }

    async fn finish(self) {
        self.work.abort();
        let stopped = self.stack.stop().await.unwrap_or_else(|error| panic!("failed to {error}"));
        assert!(stopped.is_clean(), "{stopped:?}");
    }
}

/// Users who read and write at a steady rate, each on a connection of his own.
struct Users {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Users {
    fn of(door: Client, name: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut sent, mut asked) = (JoinSet::new(), 0);
            while !stopped.load(Ordering::SeqCst) {
                let (door, number) = (door.clone(), asked);
                sent.spawn(async move { failure(&door, &format!("{name}-{number}"), number % 3 == 0).await });
                asked += 1;
                sleep(EVERY).await;
            }
            (asked, sent.join_all().await.into_iter().flatten().collect())
        });
        Self { stop, task }
    }

    /// How many requests there were, and what became of those that failed.
    async fn leave(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("users do not panic")
    }
}

async fn failure(door: &Client, key: &str, writes: bool) -> Option<String> {
    let request = if writes {
        create(key, &title(key))
    } else {
        request(Method::GET, "/api/todos?limit=5", None, None)
    };
    match door.try_send(request).await {
        Ok(answer) if matches!(answer.status, 200..=202) => None,
        Ok(answer) => Some(format!("{key}: {} {}", answer.status, answer.text())),
        Err(failure) => Some(format!("{key}: {failure:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_database_does_no_replica_is_restarted_and_no_endpoint_is_lost() {
    let cluster = Cluster::start(DRAIN_DELAY).await;
    let [proxy, router] = cluster.doors();
    let users = [Users::of(proxy.clone(), "proxy"), Users::of(router.clone(), "router")];

    let from = Instant::now();
    cluster.database_dies().await;
    sleep(OUTAGE).await;
    cluster.database_returns().await;
    cluster.lost_nothing(from, "killed");

    let from = Instant::now();
    let hang = cluster.stack.cluster().hang().await.unwrap_or_else(|error| panic!("failed to {error}"));
    sleep(OUTAGE).await;
    drop(hang);
    cluster.lost_nothing(from, "hanging");

    let from = Instant::now();
    for _ in 0..4 {
        cluster.database_dies().await;
        sleep(Duration::from_millis(800)).await;
        cluster.database_returns().await;
        sleep(Duration::from_millis(600)).await;
    }
    cluster.lost_nothing(from, "flapping");
    for users in users {
        let (asked, _) = users.leave().await;
        assert!(asked > 200, "{asked} requests are no traffic");
    }

    // And with the database away each replica can be replaced: it comes back with what it knew.
    cluster.database_dies().await;
    let from = Instant::now();
    cluster.rolling_restart().await;
    let expected = Seen { restarts: 0, fewest_ready: REPLICAS - 1 };
    assert_eq!(cluster.kubelet.seen(from), expected, "{}", cluster.told());
    cluster.database_returns().await;
    cluster.finish().await;
}

/// What the test before must be able to find: a server built with the mistake that it is about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_liveness_asks_the_database_are_all_restarted_with_it() {
    let server_env = vec![("RIDETHROUGH_SABOTAGE".to_owned(), "liveness-asks-database".to_owned())];
    let server_bin = Some(program("ridethrough-server-sabotage"));
    let cluster =
        Cluster::start_as(stack::Options { server_env, server_bin, ..stack::Options::default() }).await;
    let from = Instant::now();
    cluster.database_dies().await;
    let storm = async || {
        let seen = cluster.kubelet.seen(from);
        (seen.restarts >= REPLICAS && seen.fewest_ready == 0).then_some(())
    };
    until("every replica is restarted", Duration::from_secs(20), storm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_user_a_request() {
    let cluster = Cluster::start(DRAIN_DELAY).await;
    let [proxy, router] = cluster.doors();
    let users = [Users::of(proxy, "proxy"), Users::of(router, "router")];
    let from = Instant::now();
    cluster.rolling_restart().await;
    let expected = Seen { restarts: 0, fewest_ready: REPLICAS - 1 };
    assert_eq!(cluster.kubelet.seen(from), expected, "{}", cluster.told());
    for users in users {
        let (asked, failed) = users.leave().await;
        assert!(asked > 100, "{asked} requests are no traffic");
        assert!(failed.is_empty(), "{} of {asked}: {failed:#?}\n{}", failed.len(), cluster.told());
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_delay_of_the_drain_routers_send_users_to_who_is_gone() {
    let cluster = Cluster::start("0s").await;
    let [proxy, router] = cluster.doors();
    let users = [Users::of(proxy, "proxy"), Users::of(router, "router")];
    cluster.rolling_restart().await;
    let [through, past] = users;
    let (asked, failed) = past.leave().await;
    assert!(!failed.is_empty(), "none of {asked} failed: the tests before prove nothing\n{}", cluster.told());
    // The proxy asks another replica where it is refused, and so makes up for it.
    let (asked, failed) = through.leave().await;
    assert!(failed.is_empty(), "{} of {asked}: {failed:#?}\n{}", failed.len(), cluster.told());
    cluster.finish().await;
}
