//! The database fails in every way there is, users send nonsense, and all that can be logged is logged: no line, error,
//! metric or debug page tells a statement, a value, a key, an address, a folder, or what the driver said.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use ridethrough_chaos::shim::{Rule, Shim, Victim};
use ridethrough_tests::{
    app::App,
    http::{Client, Failure, create, request},
    logs::CANARY,
    stack::{Lab, Server},
    until, within,
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::steps::{outage, stored_todo, title};

const LIMIT: Duration = Duration::from_secs(30);
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
const LOG_FILTER: &str = "/debug/log-filter";

/// What somebody keeps to himself.
const PASSWORD: &str = "wombatpassword";
const TOKEN: &str = "wombattoken";
const KEY: &str = "wombatkey";
/// What the database says in its own words, and the driver in its.
const WORDS: [&str; 9] = [
    "wombatwords",
    "relation \"",
    "password authentication",
    "FATAL",
    "db error",
    "error connecting to server",
    "error communicating with the server",
    "invalid configuration",
    "SqlState",
];

/// A title, a key, a token and more of a user, in everything that can be sent, whether it makes sense or not.
fn requests(round: &str, todo: &str) -> Vec<Request<Full<Bytes>>> {
    let json = |method: Method, path: &str, key: &str, body: &str| {
        let request = Request::builder().method(method).uri(path).header("idempotency-key", key);
        let request = request.header("content-type", "application/json");
        request.body(Full::new(Bytes::from(body.to_owned()))).expect("it can be sent")
    };
    let with = |mut request: Request<Full<Bytes>>, name: &'static str, value: String| {
        request.headers_mut().insert(name, HeaderValue::from_str(&value).expect("a header value"));
        request
    };
    let get = |path: &str| request(Method::GET, path, None, None);
    let (key, one) = (format!("{KEY}-{round}"), format!("/api/todos/{todo}"));
    let put = serde_json::json!({ "title": title(round), "done": true });
    let form = format!("key={key}-form&title={CANARY}");
    let form = Request::post("/todos")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form)))
        .expect("it can be sent");
    vec![
        create(&key, &title(round)),
        create(&key, &title("another")),
        get("/api/todos"),
        get(&one),
        get(&format!("/api/todos?after={CANARY}")),
        // The name of what is not known is told to who sent it; it is no value.
        get("/api/todos?colour=1"),
        get(&format!("/api/todos/{CANARY}")),
        get(&format!("/{CANARY}/{KEY}?{TOKEN}")),
        get(&format!("/api/writes/{KEY}-unused")),
        get(&format!("/api/writes/{key}")),
        with(get("/"), "accept", "text/html".to_owned()),
        with(get(&one), "authorization", format!("Bearer {TOKEN}")),
        with(get(&one), "cookie", format!("session={TOKEN}")),
        with(get(&one), "if-none-match", format!("\"{CANARY}\"")),
        with(get(&one), "x-envoy-expected-rq-timeout-ms", "1".to_owned()),
        with(
            request(Method::PUT, &one, Some(&format!("{key}-put")), Some(&put)),
            "if-match",
            "\"999\"".to_owned(),
        ),
        with(
            request(Method::PUT, &one, Some(&format!("{key}-tag")), Some(&put)),
            "if-match",
            CANARY.to_owned(),
        ),
        request(Method::PUT, &one, Some(&format!("{key}-plain")), Some(&put)),
        request(
            Method::DELETE,
            "/api/todos/00000000-0000-4000-8000-000000000000",
            Some(&format!("{key}-d")),
            None,
        ),
        json(Method::POST, "/api/todos", &key, &format!("{{\"title\": \"{CANARY}")),
        json(Method::POST, "/api/todos", &key, "{\"title\": \"a\", \"colour\": 1}"),
        json(Method::POST, "/api/todos", &key, &format!("[\"{CANARY}\"]")),
        json(Method::POST, "/api/todos", &format!("{KEY} two"), &format!("{{\"title\": \"{CANARY}\"}}")),
        json(
            Method::POST,
            "/api/todos/batch",
            &format!("{key}-b"),
            &format!("[{{\"title\": \"{CANARY}\"}}]"),
        ),
        json(Method::from_bytes(CANARY.as_bytes()).expect("a token"), "/api/todos", &key, CANARY),
        form,
    ]
}

/// Sends everything, at once; how many answers were errors. Each error is looked through by the client.
async fn poke(client: &Client, round: &str, todo: &str) -> usize {
    let mut sent = tokio::task::JoinSet::new();
    for request in requests(round, todo) {
        let client = client.clone();
        sent.spawn(async move {
            let what = format!("{} {}", request.method(), request.uri());
            match client.try_send(request).await {
                Ok(answer) => usize::from(answer.status >= 400),
                Err(Failure::Broken(_)) => 0,
                Err(failure) => panic!("{what}: {failure:?}"),
            }
        });
    }
    let errors = sent.join_all().await.into_iter().sum();
    garbage(client.address()).await;
    errors
}

/// What is no HTTP at all.
async fn garbage(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let _ = stream.write_all(format!("{CANARY} {TOKEN}\r\n{KEY}\r\n\r\n").as_bytes()).await;
}

async fn execute(lab: &Lab, statement: &str) {
    let client = lab.sql().await;
    let done = within("a statement", STATEMENT_LIMIT, client.batch_execute(statement)).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn put_filter(app: &App, filter: &str) -> u16 {
    let request = Request::put(LOG_FILTER).body(Full::new(Bytes::from(filter.to_owned())));
    app.admin().send(request.expect("it can be sent")).await.status
}

/// A rule for the folder of the journal, where this machine can build what that takes.
fn victim(lab: &Lab) -> Option<Victim> {
    let shim = Shim::build(lab.run_folder()).ok()?;
    shim.victim("server").ok()
}

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).expect("there is a log");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn has(lines: &[Value], member: &str, value: &str) -> bool {
    lines.iter().any(|line| line.get(member).and_then(Value::as_str) == Some(value))
}

fn forbid_all(lab: &Lab) {
    for (what, text) in [("a password", PASSWORD), ("a token", TOKEN), ("a key", KEY)] {
        lab.forbid(what, text);
    }
    for words in WORDS {
        lab.forbid("the words of the database or its driver", words);
    }
    lab.forbid("a folder", &lab.folder().display().to_string());
    lab.forbid("the database's port", &format!(":{}", lab.cluster().port()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_of_users_and_insides_whatever_fails_and_however_much_is_logged() {
    let lab = Lab::start().await;
    forbid_all(&lab);
    // All of them belong to this test; what they say is looked through at the end.
    lab.expect_in_logs(&["\"level\":\"WARN\"", "\"level\":\"ERROR\""]);
    let shim = victim(&lab);
    let mut env = shim.as_ref().map_or_else(Vec::new, |victim| victim.env().to_vec());
    env.push(("RIDETHROUGH_LOG__FILTER", "trace".to_owned()));
    let server = lab.server_as("server-1", Server { env, ..Server::default() }).await;
    server.ready().await;
    let proxy = lab.proxy(&[server.main().address()]).await;
    assert_eq!(put_filter(&proxy, "trace").await, 200);
    let url = lab.cluster().url();
    let (before, behind) = url.rsplit_once('@').expect("it has a role");
    let (role, _) = before.rsplit_once(':').expect("it has a password");
    let wrong = format!("{role}:{PASSWORD}@{behind}");
    let locked_out = Server {
        url: Some(wrong),
        env: vec![("RIDETHROUGH_LOG__FILTER", "trace".to_owned())],
        ..Server::default()
    };
    let locked_out = lab.server_as("server-2", locked_out).await;
    let todo = stored_todo(&server, "known").await;
    let poke_all = async |round: &str| {
        let direct = poke(&server.main(), round, &todo).await;
        assert!(direct >= 10, "{round}: only {direct} errors");
        poke(&proxy.main(), &format!("{round}-proxied"), &todo).await;
    };
    poke_all("well").await;
    poke(&locked_out.main(), "locked-out", &todo).await;

    execute(&lab, "ALTER TABLE todos RENAME TO todos_wombatwords").await;
    poke_all("no-table").await;
    execute(&lab, "ALTER TABLE todos_wombatwords RENAME TO todos").await;

    execute(
        &lab,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'wombatwords of %', NEW USING ERRCODE = '53100', DETAIL = NEW::text, HINT = 'wombatwords';
         END $$;
         CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON todos FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    .await;
    poke_all("full-disk").await;
    execute(&lab, "DROP TRIGGER full_disk ON todos; DROP FUNCTION full_disk()").await;

    let hang = lab.cluster().hang().await.unwrap_or_else(|error| panic!("failed to {error}"));
    poke_all("hang").await;
    drop(hang);

    outage(&lab, &[&server]).await;
    poke_all("killed").await;
    if let Some(victim) = &shim {
        let full =
            victim.apply(&Rule::full_to_the_brim(&server.home().join("data"))).expect("it can be put on");
        poke_all("no-room-for-the-journal").await;
        drop(full);
    }
    lab.database_returns().await;
    server.journal_is_empty().await;
    poke_all("well-again").await;

    for path in ["/debug/state", "/metrics", "/readyz?verbose", "/livez?verbose", LOG_FILTER] {
        for app in [&server, &locked_out, &proxy] {
            lab.looks_clean(path, &app.admin().get(path).await.text());
        }
    }
    let said = lines(&server.log());
    assert!(has(&said, "level", "DEBUG"), "as much as can be is logged");
    for (code, fault) in [("42P01", "a table is missing"), ("53100", "the disk is full")] {
        assert!(has(&said, "code", code), "{fault}, and the log says so by a code");
    }
    assert!(has(&lines(&locked_out.log()), "code", "28P01"), "a wrong password is told by its code");
    is_one_line_a_request(&said);
    lab.finish().await;
}

/// Requests are told by what stands in the program, and not by what was sent.
fn is_one_line_a_request(said: &[Value]) {
    let requests: Vec<&Value> =
        said.iter().filter(|line| line.get("message").and_then(Value::as_str) == Some("request")).collect();
    assert!(requests.len() > 100, "{} requests were told", requests.len());
    let mut ids = std::collections::HashSet::new();
    for line in requests {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        for name in ["request_id", "trace_id", "method", "route"] {
            assert_ne!(text(name), "", "{name} is missing: {line}");
        }
        for name in ["status", "duration_ms", "attempts"] {
            assert!(line.get(name).is_some_and(Value::is_number), "{name} is missing: {line}");
        }
        assert!(ids.insert(text("request_id").to_owned()), "told twice: {line}");
        assert!(text("route") == "none" || text("route").starts_with('/'), "{line}");
    }
    let asked = |line: &&Value| line.get("attempts").and_then(Value::as_u64) > Some(0);
    assert!(said.iter().filter(asked).count() > 10, "attempts are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn which_lines_are_logged_changes_while_a_server_runs() {
    let lab = Lab::start().await;
    lab.expect_in_logs(&["the log filter cannot be used", "the configuration cannot be used"]);
    let file = lab.folder().join("server.toml");
    let configured = |filter: &str| {
        std::fs::write(&file, format!("[log]\nfilter = \"{filter}\"\n")).expect("the file can be written");
    };
    configured("info");
    let mut blueprint = lab.server_blueprint("server-1", Server::default());
    blueprint.args.extend(["--config".into(), file.clone().into()]);
    let server = lab.start_app(blueprint).await;
    server.ready().await;
    let filter = async || server.admin().get(LOG_FILTER).await.expect(200).text().trim().to_owned();
    let is_detailed = async |round: &str| {
        let before = lines(&server.log()).len();
        let _ = server.main().get("/readyz").await.expect(200);
        let _ = server.main().create(round, &title(round)).await.expect(201);
        let told = async || {
            let said = lines(&server.log());
            has(said.get(before..).unwrap_or_default(), "route", "/api/todos").then_some(said)
        };
        let said = until("the request is told", LIMIT, told).await;
        has(said.get(before..).unwrap_or_default(), "route", "/readyz")
    };
    assert!(!is_detailed("info").await, "probes are told at debug");

    configured("info,ridethrough_server=debug");
    server.hang_up();
    until("the filter is read again", LIMIT, async || filter().await.contains("debug").then_some(())).await;
    assert!(is_detailed("debug").await);
    for (number, wrong) in [(1, "ridethrough_server=loud"), (2, "info\"\n[logs")] {
        configured(wrong);
        server.hang_up();
        let refused = async || {
            let said = lines(&server.log());
            said.iter().filter(|line| line.get("level").and_then(Value::as_str) == Some("WARN")).count()
        };
        until("it is refused", LIMIT, async || (refused().await == number).then_some(())).await;
        assert_eq!(filter().await, "info,ridethrough_server=debug");
    }

    assert_eq!(put_filter(&server, "info").await, 200);
    assert!(!is_detailed("info-again").await);
    for wrong in ["inof", "tokio_postgres=debug", &"x".repeat(5_000)] {
        assert_eq!(put_filter(&server, wrong).await, 400, "{wrong}");
    }
    assert_eq!(filter().await, "info");
    lab.finish().await;
}
