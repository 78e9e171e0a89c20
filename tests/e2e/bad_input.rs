//! Requests and configurations that make no sense: each is refused with a word about what is wrong, and leaves nothing.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use ridethrough_tests::{
    launch::{Blueprint, Exit, program},
    stack::{Lab, Server},
};

use crate::steps::{stored_todo, title};

/// A request that is refused: what is wrong, method, path, headers, body, status, and a word that the answer must hold.
struct Case {
    name: &'static str,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    word: &'static str,
}

fn post(name: &'static str, body: impl Into<Vec<u8>>, status: u16, word: &'static str) -> Case {
    let headers = vec![("content-type", "application/json".to_owned())];
    Case {
        name,
        method: Method::POST,
        path: "/api/todos".to_owned(),
        headers,
        body: body.into(),
        status,
        word,
    }
}

fn bodiless(name: &'static str, method: Method, path: &str, status: u16, word: &'static str) -> Case {
    Case { name, method, path: path.to_owned(), headers: Vec::new(), body: Vec::new(), status, word }
}

fn get(name: &'static str, path: &str, status: u16, word: &'static str) -> Case {
    bodiless(name, Method::GET, path, status, word)
}

fn with(mut case: Case, header: &'static str, value: impl Into<String>) -> Case {
    case.headers.retain(|(name, _)| *name != header);
    case.headers.push((header, value.into()));
    case
}

fn bodies() -> Vec<Case> {
    let good = serde_json::json!({"title": title("good")}).to_string();
    let long = serde_json::json!({"title": "x".repeat(501)}).to_string();
    let unknown = serde_json::json!({"title": title("a"), "colour": "red"}).to_string();
    let huge = serde_json::json!({"title": "x".repeat(2 * 1024 * 1024)}).to_string();
    vec![
        post("malformed JSON", "{\"title\": \"a", 400, "line 1"),
        post("no JSON object", "[1, 2]", 400, "object"),
        post("an empty body", "", 400, "empty"),
        post("bytes that are no text", vec![b'{', 0xff, 0xfe, b'}'], 400, "JSON"),
        post("a title of the wrong type", "{\"title\": 7}", 422, "title"),
        post("no title", "{}", 422, "title"),
        post("an empty title", "{\"title\": \"\"}", 422, "title"),
        post("a title that is too long", long, 422, "500"),
        post("a title that cannot be stored", "{\"title\": \"a\\u0000b\"}", 422, "U+0000"),
        post("an unknown member", unknown, 422, "colour"),
        post("a body that is too large", huge, 413, "large"),
        with(
            post("the wrong content type", good.clone(), 415, "application/json"),
            "content-type",
            "text/plain",
        ),
        with(post("a key with a blank", good.clone(), 400, "Idempotency-Key"), "idempotency-key", "a b"),
        with(post("an empty key", good.clone(), 400, "Idempotency-Key"), "idempotency-key", ""),
        with(post("a key that is too long", good, 400, "255"), "idempotency-key", "k".repeat(256)),
    ]
}

fn addresses(todo: &str) -> Vec<Case> {
    let put = |name, body: &str, status, word| Case {
        method: Method::PUT,
        path: format!("/api/todos/{todo}"),
        ..post(name, body, status, word)
    };
    vec![
        get("an unknown path", "/api/todoes", 404, "address"),
        get("an id that is none", "/api/todos/17", 400, "UUID"),
        get("an id of nothing", "/api/todos/00000000-0000-4000-8000-000000000000", 404, "no such todo"),
        get("a limit of zero", "/api/todos?limit=0", 400, "limit"),
        get("a limit that is too large", "/api/todos?limit=100000", 400, "limit"),
        get("a limit that is no number", "/api/todos?limit=many", 400, "limit"),
        get("a cursor that is none", "/api/todos?after=nonsense", 400, "after"),
        get("a flag that is none", "/api/todos?done=maybe", 400, "done"),
        get("a time that is none", "/api/todos?from=yesterday", 400, "from"),
        get("an unknown parameter", "/api/todos?sort=title", 400, "sort"),
        get("a parameter given twice", "/api/todos?limit=1&limit=2", 400, "limit"),
        get("a key that nobody used", "/api/writes/nobody", 404, "key"),
        bodiless("a wrong method", Method::PATCH, "/api/todos", 405, "method"),
        bodiless("a wrong method on a todo", Method::POST, &format!("/api/todos/{todo}"), 405, "method"),
        put("a put without `done`", "{\"title\": \"a\"}", 422, "done"),
        put("a put with a wrong `done`", "{\"title\": \"a\", \"done\": \"yes\"}", 422, "done"),
        with(
            put("a version that is none", "{\"title\": \"a\", \"done\": true}", 400, "If-Match"),
            "if-match",
            "new",
        ),
        with(put("a lost race", "{\"title\": \"a\", \"done\": true}", 412, "version"), "if-match", "\"99\""),
        bodiless(
            "the removal of nothing",
            Method::DELETE,
            "/api/todos/00000000-0000-4000-8000-000000000000",
            404,
            "no such todo",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_by_name_and_store_nothing() {
    let lab = Lab::start().await;
    let server = lab.server("server-1").await;
    let todo = stored_todo(&server, "untouched").await;
    let cases: Vec<Case> = bodies().into_iter().chain(addresses(&todo)).collect();
    for case in cases {
        let mut request = Request::builder().method(case.method.clone()).uri(&case.path);
        for (name, value) in &case.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(case.body))).expect("a request that can be sent");
        let answer = server.main().send(request).await;
        assert_eq!(answer.status, case.status, "{}: {}", case.name, answer.text());
        let problem = answer.problem(case.status).to_string();
        assert!(problem.contains(case.word), "{}: no `{}` in {problem}", case.name, case.word);
        if !matches!(case.method, Method::GET | Method::PATCH) && case.status != 405 {
            assert_eq!(answer.header("ridethrough-outcome"), "rejected", "{}", case.name);
        }
    }
    assert_eq!(lab.number("SELECT count(*) FROM todos", &[]).await, 1);
    assert_eq!(lab.stored(&todo).await, Some((title("untouched"), 1)));
    assert_eq!(server.backlog().await, 0);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_makes_no_sense_is_refused_before_anything_is_opened() {
    let lab = Lab::start().await;
    let file = lab.folder().join("server.toml");
    std::fs::write(&file, "[limits]\nconnections = 100\n\ndrain_dely = '1s'\n")
        .expect("a file can be written");
    let run = async |name: &str, args: Vec<String>, env: Vec<(&'static str, String)>| {
        let mut blueprint = lab.server_blueprint(name, Server { env, ..Server::default() });
        blueprint.args = ["--data-dir", "data", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
            .map(Into::into)
            .to_vec();
        blueprint.args.extend(args.into_iter().map(Into::into));
        let output = lab.run(&blueprint).await;
        assert_eq!(output.exit, Exit::Code(1), "{name}: {output:?}");
        assert!(!output.stdout.contains("listening"), "{name}: {output:?}");
        assert!(!lab.folder().join(name).join("data").exists(), "{name}: it made its data folder");
        output.stderr
    };
    let path = file.display().to_string();
    let said = run("unknown-key", vec!["--config".to_owned(), path.clone()], Vec::new()).await;
    for word in [format!("{path}:4"), "drain_dely".to_owned(), "drain_delay".to_owned()] {
        assert!(said.contains(&word), "no `{word}` in {said}");
    }
    let misspelt = vec![("RIDETHROUGH_LIMITS__DRAIN_DELY", "1s".to_owned())];
    let said = run("unknown-variable", Vec::new(), misspelt).await;
    assert!(said.contains("RIDETHROUGH_LIMITS__DRAIN_DELY") && said.contains("drain_delay"), "{said}");
    let broken = "postgres://app:sesamesecret@127.0.0.1:port/app".to_owned();
    let said = run("broken-url", vec!["--database-url".to_owned(), broken], Vec::new()).await;
    assert!(said.contains("url") && !said.contains("sesamesecret"), "{said}");
    let said = run("unknown-flag", vec!["--data-dri".to_owned(), "x".to_owned()], Vec::new()).await;
    assert!(said.contains("--data-dir"), "{said}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_configuration_that_makes_no_sense_is_refused_by_name() {
    let lab = Lab::start().await;
    let run = async |name: &str, args: &[&str]| {
        let args = args.iter().map(Into::into).collect();
        let program = program("ridethrough-proxy");
        let output = lab.run(&Blueprint { name: name.to_owned(), program, args, env: Vec::new() }).await;
        assert_eq!(output.exit, Exit::Code(1), "{name}: {output:?}");
        output.stderr
    };
    let said = run("no-backend", &["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).await;
    assert!(said.contains("backend"), "{said}");
    let said = run("wrong-backend", &["--backend", "ftp://127.0.0.1:1"]).await;
    assert!(said.contains("http"), "{said}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_credentials_are_an_alarm_without_the_password_and_writes_are_kept() {
    let lab = Lab::start().await;
    let url = lab.cluster().url();
    let (before, host) = url.rsplit_once('@').expect("a URL with a password");
    let (user, _) = before.rsplit_once(':').expect("a URL with a password");
    let wrong = Server { url: Some(format!("{user}:wrongsesame@{host}")), ..Server::default() };
    lab.expect_outage();
    lab.expect_in_logs(&["the database refuses our credentials"]);
    let server = lab.server_as("server-1", wrong).await;
    let _ = server.main().create("kept", &title("kept")).await.expect(202).acknowledged();
    let _ = server.main().get("/livez").await.expect(200);
    let log = ridethrough_tests::until("the alarm", std::time::Duration::from_secs(10), async || {
        let log = std::fs::read_to_string(server.log()).unwrap_or_default();
        log.contains("the database refuses our credentials").then_some(log)
    })
    .await;
    assert!(!log.contains("wrongsesame"), "{log}");
    let config = server.admin().get("/debug/config").await.expect(200).text();
    assert!(!config.contains("wrongsesame"), "{config}");
    lab.finish().await;
}
