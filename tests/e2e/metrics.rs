//! What a scrape of `/metrics` tells: all that is promised, nothing that is not on the page, and clean for Prometheus' own
//! tool where it is installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    sync::Once,
    time::Duration,
};

use ridethrough_tests::{app::App, stack::Lab, until, within};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::steps::{outage, stored_todo, title};

/// Of every program, and then what each adds: the least that is promised, without the prefix `ridethrough_`.
const EVERYWHERE: [&str; 7] = [
    "build_info",
    "breaker_state",
    "breaker_transitions_total",
    "mode",
    "ready",
    "http_requests_total",
    "http_request_seconds",
];
const SERVER: [&str; 17] = [
    "db_calls_total",
    "db_call_seconds",
    "db_attempts_total",
    "retry_budget_balance",
    "bulkhead_in_use",
    "bulkhead_queue",
    "pool_connections",
    "connect_attempts_total",
    "cache_requests_total",
    "cache_age_seconds",
    "journal_depth",
    "journal_bytes",
    "journal_oldest_seconds",
    "journal_append_seconds",
    "journal_replayed_total",
    "journal_refused_total",
    "journal_rejected",
];
const PROXY: [&str; 3] = ["proxy_responses_total", "proxy_upstream_attempts_total", "proxy_backend_state"];
const PROCESS: [&str; 5] = [
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

const PAGE: &str = "docs/metrics.md";
const PROMTOOL: &str = "promtool";
const PROMTOOL_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_on_the_page_and_every_promised_one_is_there_in_an_outage_too() {
    let lab = Lab::start().await;
    let (server, idle) = (lab.server("server-1").await, lab.server("server-2").await);
    let proxy = lab.proxy(&[server.main().address()]).await;
    let todo = stored_todo(&server, "kept").await;
    let path = format!("/api/todos/{todo}");
    until("the proxy passes reads", Duration::from_secs(10), async || {
        (proxy.main().get(&path).await.status == 200).then_some(())
    })
    .await;
    // Nobody asked this one anything: what it shows is what is known beforehand.
    idle.ready().await;
    let beforehand = scraped(&idle, &["The process", "The library", "The server"]).await;
    let asked_first = ["db_calls_total", "db_call_seconds"];
    beforehand.shows(SERVER.into_iter().filter(|name| !asked_first.contains(name)));

    outage(&lab, &[&server, &idle]).await;
    let _ = proxy.main().get(&path).await.expect(200);
    let _ = proxy.main().create("journaled", &title("journaled")).await.expect(202).acknowledged();
    // Levels of the database path are published on a timer.
    let of_server = until("the write is counted", Duration::from_secs(10), async || {
        let scrape = scraped(&server, &["The process", "The library", "The server"]).await;
        (scrape.value("ridethrough_journal_depth") == 1.0).then_some(scrape)
    })
    .await;
    of_server.shows(EVERYWHERE.into_iter().chain(SERVER));
    assert_eq!(of_server.value("ridethrough_ready"), 1.0);
    assert_eq!(of_server.value("ridethrough_mode{mode=\"degraded\"}"), 1.0);
    assert_eq!(of_server.value("ridethrough_cache_requests_total{result=\"stale\"}"), 1.0);
    let of_proxy = scraped(&proxy, &["The process", "The library", "The proxy"]).await;
    of_proxy.shows(EVERYWHERE.into_iter().chain(PROXY));
    assert_eq!(of_proxy.value("ridethrough_proxy_backend_state{backend=\"backend-0\"}"), 1.0);

    lab.database_returns().await;
    server.journal_is_empty().await;
    let healed = scraped(&server, &["The process", "The library", "The server"]).await;
    assert_eq!(healed.value("ridethrough_journal_replayed_total{outcome=\"applied\"}"), 1.0);
    lab.finish().await;
}

/// A scrape that passed the page and Prometheus' own tool.
struct Scrape {
    who: String,
    families: BTreeSet<String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn shows(&self, promised: impl IntoIterator<Item = &'static str>) {
        let ours = promised.into_iter().map(|name| format!("ridethrough_{name}"));
        let missing: Vec<String> =
            ours.chain(PROCESS.map(str::to_owned)).filter(|name| !self.families.contains(name)).collect();
        assert!(missing.is_empty(), "{} does not show {missing:?}", self.who);
    }

    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{} does not show {sample}", self.who))
    }
}

/// Scrapes `app`, which may show what these sections of the page list.
async fn scraped(app: &App, sections: &[&str]) -> Scrape {
    let answer = app.admin().get("/metrics").await.expect(200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text();
    promtool(app.name(), &text).await;
    let rows = rows_of(sections);
    let mut scrape =
        Scrape { who: app.name().to_owned(), families: BTreeSet::new(), samples: BTreeMap::new() };
    let mut family = String::new();
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(said) = line.strip_prefix("# TYPE ") {
            let (name, kind) = said.split_once(' ').expect("a type follows the name");
            assert!(scrape.families.insert(name.to_owned()), "{name} is told twice");
            match rows.get(name) {
                Some(row) if row.kind == kind => {}
                row => {
                    wrong.push(format!("{name} is a {kind}, and on the page {:?}", row.map(|row| &row.kind)))
                }
            }
            family = name.to_owned();
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').expect("a value follows the name");
            scrape.samples.insert(sample.to_owned(), value.parse().expect("a value is a number"));
            let labels = sample.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            wrong.extend(
                rows.get(&family).and_then(|row| row.complaint(labels)).map(|why| format!("{sample}: {why}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{} against {PAGE}:\n{}", app.name(), wrong.join("\n"));
    scrape
}

/// One row of the page: its labels, each with its values where they are listed.
struct Row {
    kind: String,
    labels: BTreeMap<String, Option<BTreeSet<String>>>,
}

impl Row {
    fn complaint(&self, labels: &str) -> Option<String> {
        labels.split("\",").filter(|label| !label.is_empty()).find_map(|label| {
            let (name, value) = label.split_once("=\"").expect("a label has a value in quotes");
            let value = value.trim_end_matches('"');
            match self.labels.get(name) {
                _ if name == "le" && self.kind == "histogram" => None,
                None => Some(format!("the label {name} is not on the page")),
                Some(Some(values)) if !values.contains(value) => Some(format!("{name} can be {values:?}")),
                Some(_) => None,
            }
        })
    }
}

/// The rows of some sections of the page.
fn rows_of(sections: &[&str]) -> BTreeMap<String, Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
    let page = std::fs::read_to_string(path).expect("the page lies in the repository");
    let mut rows = BTreeMap::new();
    for section in page.split("\n## ").filter(|text| sections.iter().any(|title| text.starts_with(title))) {
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [name, kind, labels, _meaning] = cells.as_slice() else {
                panic!("no row of four cells: {line}")
            };
            let labels = labels.split("<br>").filter(|label| !label.is_empty()).map(|label| {
                let (name, values) = label.split_once(": ").expect("values follow the label");
                let listed = !values.starts_with('*');
                let words = || values.split(", ").map(|value| value.trim_matches('`').to_owned()).collect();
                (name.trim_matches('`').to_owned(), listed.then(words))
            });
            let row = Row { kind: (*kind).to_owned(), labels: labels.collect() };
            rows.insert(name.trim_matches('`').to_owned(), row);
        }
    }
    assert!(rows.len() > PROCESS.len(), "{PAGE} has only {} rows of {sections:?}", rows.len());
    rows
}

/// Has Prometheus' own tool look over a scrape, where it is installed.
async fn promtool(who: &str, text: &str) {
    use std::io::Write as _;

    static TOLD: Once = Once::new();

    let checking = Command::new(PROMTOOL)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut checking = match checking {
        Ok(checking) => checking,
        Err(error) => {
            TOLD.call_once(|| {
                let _ = writeln!(std::io::stderr().lock(), "skipped: {PROMTOOL} cannot be run: {error}");
            });
            return;
        }
    };
    let mut input = checking.stdin.take().expect("the input is piped");
    input.write_all(text.as_bytes()).await.expect("it reads what it is given");
    drop(input);
    let output = within(PROMTOOL, PROMTOOL_LIMIT, checking.wait_with_output()).await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{who}: {PROMTOOL} says {said}\n{text}");
}
