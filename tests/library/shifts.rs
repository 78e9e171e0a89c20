//! The library under a service that is not the todo server: the example `shifts`, as a process, through an outage. What it
//! promises to its users holds with nothing but what the example has in it.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::Method;
use ridethrough_tests::{
    http::{Answer, Client, request},
    launch::{Blueprint, Running, program},
    logs::{CANARY, Secrets},
    until,
};
use serde_json::{Value, json};

use crate::service::{as_service, database};

const LIMIT: Duration = Duration::from_secs(30);
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// One process of the example.
struct Rota {
    _running: Running,
    main: Client,
    admin: Client,
}

impl Rota {
    /// Starts it in `home`, where it keeps its data, and waits until it listens.
    async fn start(home: &Path, url: &str) -> Self {
        let before = listening(home).len();
        let any = "127.0.0.1:0";
        let blueprint = Blueprint {
            name: "shifts".to_owned(),
            program: program("examples/shifts"),
            args: ["data", any, any].map(Into::into).to_vec(),
            env: vec![
                ("DATABASE_URL".to_owned(), url.to_owned()),
                ("SHIFTS_LOG".to_owned(), "trace".to_owned()),
            ],
        };
        let running = Running::start(&blueprint, home);
        let entry = until("it listens", LIMIT, async || listening(home).get(before).cloned()).await;
        let client = |which: &str| {
            let address =
                entry.get(which).and_then(Value::as_str).and_then(|text| text.parse::<SocketAddr>().ok());
            Client::new(address.expect("it says where it listens"), Secrets::of_url(url))
        };
        Self { main: client("main"), admin: client("admin"), _running: running }
    }

    async fn add(&self, key: &str, shifts: &[Value]) -> Answer {
        self.main.send(request(Method::POST, "/shifts", Some(key), Some(&shifts.into()))).await
    }

    /// The shifts that it answers for the sixty days from `start`, and how fresh they are.
    async fn read(&self, start: i64, whose: &str) -> Option<(Vec<Value>, String)> {
        let end = start + 60 * DAY;
        let answer = self.main.get(&format!("/shifts?from={start}&to={end}{whose}")).await;
        (answer.status == 200).then(|| {
            let shifts = answer.json().as_array().expect("a list").clone();
            (shifts, answer.freshness().to_owned())
        })
    }

    async fn reads_fresh(&self, start: i64, whose: &str) -> Vec<Value> {
        let fresh = async || self.read(start, whose).await.filter(|(_, freshness)| freshness == "fresh");
        until("a fresh answer", LIMIT, fresh).await.0
    }

    async fn status(&self, path: &str) -> u16 {
        self.main.get(path).await.status
    }
}

/// What each process so far said of where it listens.
fn listening(home: &Path) -> Vec<Value> {
    let entries = log(home);
    let entries = entries.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry.get("message") == Some(&json!("listening"))).collect()
}

fn log(home: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(home.join("log")).unwrap_or_default()).into_owned()
}

fn shift(employee: i64, starts_at: i64) -> Value {
    let name = format!("{CANARY} {employee}");
    json!({ "employee": employee, "name": name, "starts_at": starts_at, "ends_at": starts_at + 8 * HOUR })
}

async fn count(client: &tokio_postgres::Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.expect("the database answers").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rota_goes_on_through_an_outage_and_no_name_is_in_its_log() {
    let (_folder, cluster) = database(&[]).await;
    let home = tempfile::tempdir().expect("a folder can be made");
    let rota = Rota::start(home.path(), &cluster.url()).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs().cast_signed();
    let start = now + DAY;
    assert_eq!(rota.reads_fresh(start, "").await, Vec::<Value>::new());
    assert_eq!(rota.status("/readyz").await, 200);

    // Forty days apart, so in different months.
    let first = [shift(7, start), shift(8, start + HOUR), shift(7, start + 40 * DAY)];
    let _ = rota.add("first", &first).await.expect(201);
    assert_eq!(rota.reads_fresh(start, "").await, first);
    assert_eq!(rota.reads_fresh(start, "&employee=8").await, first[1..2]);
    let mut wrong = shift(9, start);
    wrong["ends_at"] = start.into();
    let _ = rota.add("wrong", &[shift(9, start), wrong]).await.problem(400);
    let _ = rota.add("wrong", &[json!({ "employee": CANARY, "name": CANARY })]).await.problem(400);

    cluster.lose().await.expect("a running database can be killed");
    let second = [shift(8, start + 2 * HOUR), shift(9, start + 3 * HOUR)];
    let _ = rota.add("second", &second).await.expect(202);
    let _ = rota.add("second", &second).await.expect(202);
    let _ = rota.add("second", &first).await.problem(422);
    let (shown, freshness) = rota.read(start, "").await.expect("a kept answer");
    assert_ne!(freshness, "fresh");
    assert_eq!(shown, [&first[..2], &second, &first[2..]].concat(), "what waits is shown");
    let (shown, _) = rota.read(start, "&employee=8").await.expect("a kept answer");
    assert_eq!(shown, [first[1].clone(), second[0].clone()]);
    let metrics = rota.admin.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("ridethrough_ready 1") && metrics.contains("ridethrough_journal_"), "{metrics}");
    let degraded = async || {
        let state = rota.admin.get("/debug/state").await.expect(200).json();
        (state.get("mode") == Some(&json!("degraded"))).then_some(())
    };
    until("the prober noticed", LIMIT, degraded).await;
    for probe in ["/livez", "/readyz", "/readyz/reads", "/readyz/writes", "/startupz"] {
        assert_eq!(rota.status(probe).await, 200, "{probe} in an outage");
    }

    // It dies, and starts while the database is away.
    drop(rota);
    let rota = Rota::start(home.path(), &cluster.url()).await;
    let third = [shift(7, start + 4 * HOUR)];
    let _ = rota.add("third", &third).await.expect(202);
    assert_eq!((rota.status("/livez").await, rota.status("/readyz/writes").await), (200, 503));

    cluster.start_again().await.expect("PostgreSQL starts again");
    let client = as_service(&cluster.url()).await;
    let settled = "SELECT count(*) FROM ridethrough_writes";
    until("all is stored", LIMIT, async || (count(&client, settled).await == 3).then_some(())).await;
    let stored = rota.reads_fresh(start, "").await;
    assert_eq!(stored, [&first[..2], &second, &third, &first[2..]].concat());
    let _ = rota.add("second", &second).await.expect(201);
    // The table would take any of them twice.
    assert_eq!(count(&client, "SELECT count(*) FROM shifts").await, 6);
    assert_eq!(count(&client, "SELECT count(DISTINCT tableoid) FROM shifts").await, 2, "partitions");

    drop(rota);
    let log = log(home.path());
    assert!(log.lines().count() > 20, "{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.contains(CANARY)).collect();
    assert_eq!(told, Vec::<&str>::new());
}
