//! The router as a whole, with a database that is away and a real journal: bad input, labels, outcomes. What needs
//! PostgreSQL is tested end to end.

mod edges;
mod known;
mod mounted;
mod owners;
mod people;
mod stack;
#[cfg(feature = "otel")]
mod traced;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) use self::stack::{Answer, Stack, stack};
use self::stack::{stack_of, stack_with};
use super::*;
use crate::{
    error::OUTCOME,
    identity::{IdentitySection, Principal},
    routes::{FRESHNESS, decode::IDEMPOTENCY_KEY},
    todo::{Todo, tests::todo},
};

#[tokio::test]
async fn bad_input_is_a_problem_that_names_what_is_wrong() {
    let stack = stack();
    let item = "/api/todos/00000000-0000-0000-0000-000000000001";
    let long = format!("{{\"title\":\"{}\"}}", "x".repeat(501));
    let oversize = format!("{{\"title\":\"{}\"}}", "x".repeat(70_000));
    let cases = [
        (Method::POST, "/api/todos", "{\"title\":", 400, "line 1, column 9"),
        (Method::POST, "/api/todos", "[]", 400, "object"),
        (Method::POST, "/api/todos", "", 400, "empty"),
        (Method::POST, "/api/todos", "{\"title\":7}", 422, "`title`"),
        (Method::POST, "/api/todos", "{}", 422, "`title`"),
        (Method::POST, "/api/todos", "{\"title\":\" \"}", 422, "white space"),
        (Method::POST, "/api/todos", &long, 422, "500"),
        (Method::POST, "/api/todos", &oversize, 413, "65536"),
        (Method::POST, "/api/todos", "{\"title\":\"a\",\"colour\":1}", 422, "`colour`"),
        (Method::PUT, item, "{\"title\":\"a\"}", 422, "`done`"),
        (Method::PUT, "/api/todos/seven", "{\"title\":\"a\",\"done\":true}", 400, "UUID"),
        (Method::DELETE, "/api/todos/seven", "", 400, "UUID"),
        (Method::DELETE, "/api/todos/%ff", "", 400, "UUID"),
    ];
    for (method, path, body, status, named) in cases {
        let answer = stack.write(method.clone(), path, body, &[]).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        let problem = answer.json();
        assert!(problem["detail"].as_str().unwrap().contains(named), "{method} {path}: {}", answer.text);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!((answer.header(OUTCOME), &problem["outcome"]), ("rejected", &Value::from("rejected")));
        assert_ne!(answer.header(IDEMPOTENCY_KEY), "");
    }
    assert_eq!(stack.app.journal.backlog().entries, 0);
}

#[tokio::test]
async fn wrong_headers_are_named_too() {
    let stack = stack();
    let item = "/api/todos/00000000-0000-0000-0000-000000000001";
    let good = "{\"title\":\"a\",\"done\":true}";
    let answer = stack.write(Method::PUT, item, good, &[("if-match", "seven")]).await;
    assert!(answer.status == 400 && answer.text.contains("If-Match"), "{}", answer.text);
    let answer = stack.write(Method::PUT, item, good, &[("idempotency-key", "two words")]).await;
    assert!(answer.status == 400 && answer.text.contains("Idempotency-Key"), "{}", answer.text);
    assert_eq!(answer.header(OUTCOME), "rejected");
    let plain =
        Request::post("/api/todos").header("content-type", "text/plain").body(Body::from("{}")).unwrap();
    assert_eq!(stack.send(plain).await.status, 415);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let stack = stack();
    for path in ["/nowhere", "/api", "/api/todos/1/2", "/livez/"] {
        let answer = stack.get(path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (404, "application/problem+json"),
            "{path}"
        );
    }
    let answer = stack.write(Method::DELETE, "/api/todos", "", &[]).await;
    assert_eq!((answer.status, answer.json()["type"].as_str().unwrap()), (405, "/problems/wrong-method"));
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    // The answer to a method that is not known here left it open what became of the write.
    for (method, outcome) in [
        (Method::PUT, "rejected"),
        (Method::PATCH, "rejected"),
        (Method::DELETE, "rejected"),
        (Method::OPTIONS, ""),
        (Method::TRACE, ""),
    ] {
        let answer = stack.write(method.clone(), "/api/todos", "", &[]).await;
        assert_eq!((answer.status, answer.header(OUTCOME)), (405, outcome), "{method}");
    }
    assert_eq!(stack.get("/api/todos?limit=0").await.status, 400);
}

#[tokio::test]
async fn a_write_is_journaled_shown_as_pending_and_repeatable() {
    let stack = stack();
    let key = [("idempotency-key", "k/1")];
    let first = stack.write(Method::POST, "/api/todos", "{\"title\":\"milk\"}", &key).await;
    assert_eq!((first.status, first.header(OUTCOME)), (202, "journaled"), "{}", first.text);
    assert_eq!(first.header("location"), "/api/writes/k%2F1");
    let again = stack.write(Method::POST, "/api/todos", "{ \"title\" : \"milk\" }", &key).await;
    assert_eq!((again.status, &again.text), (202, &first.text));
    let other = stack.write(Method::POST, "/api/todos", "{\"title\":\"beer\"}", &key).await;
    assert_eq!((other.status, other.header(OUTCOME)), (422, "rejected"));
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let read = stack.get(&format!("/api/todos/{id}")).await;
    assert_eq!((read.status, &read.text), (200, &first.text));
    assert!(read.header(FRESHNESS).ends_with("reason=pending"), "{}", read.header(FRESHNESS));
    assert!(!read.header("age").is_empty());
    let status = stack.get("/api/writes/k%2F1").await;
    assert_eq!(status.json(), serde_json::json!({ "key": "k/1", "status": "pending" }));
    assert_eq!(stack.app.journal.backlog().entries, 1);
}

#[tokio::test]
async fn changes_of_one_todo_follow_each_other_while_they_wait() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let first = stack.write(Method::PUT, &path, "{\"title\":\"b\",\"done\":true}", &[]).await;
    assert_eq!((first.status, first.json()["version"].as_i64()), (202, Some(5)));
    let second = stack.write(Method::PUT, &path, "{\"title\":\"c\",\"done\":true}", &[]).await;
    assert_eq!(second.json()["version"].as_i64(), Some(6));
    assert!(second.header("etag").starts_with("\"6-"), "{}", second.header("etag"));
    assert_eq!(stack.get(&path).await.json()["title"], "c");
    assert_eq!(stack.write(Method::DELETE, &path, "", &[]).await.status, 202);
    let gone = stack.get(&path).await;
    assert_eq!(gone.status, 404);
    assert!(gone.header(FRESHNESS).ends_with("reason=pending"));
}

/// In an outage each of these got 202, and was superseded later, when nobody looked any more.
#[tokio::test]
async fn a_version_that_is_known_to_be_past_is_refused_at_once() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let put = async |key: &str, title: &str, version: &str| {
        let body = format!("{{\"title\":\"{title}\",\"done\":true}}");
        let headers = [("idempotency-key", key), ("if-match", version)];
        stack.write(Method::PUT, &path, &body, &headers).await
    };
    for version in ["1", "3"] {
        let late = put("late", "x", version).await;
        assert_eq!((late.status, late.header(OUTCOME)), (412, "rejected"), "{version}: {}", late.text);
        assert_eq!(late.json()["type"], "/problems/version-mismatch");
    }
    assert_eq!(stack.app.journal.backlog().entries, 0);
    // The saved copy can be old, so a later version than its own may well be the right one.
    assert_eq!(put("first", "b", "4").await.status, 202);
    for version in ["4", "6"] {
        assert_eq!(put("late", "x", version).await.status, 412, "{version}");
        let headers = [("if-match", version)];
        assert_eq!(stack.write(Method::DELETE, &path, "", &headers).await.status, 412, "{version}");
    }
    assert_eq!(put("second", "c", "5").await.status, 202);
    let again = put("first", "b", "4").await;
    assert_eq!((again.status, again.json()["version"].as_i64()), (202, Some(5)), "{}", again.text);
    assert_eq!(stack.app.journal.backlog().entries, 2);
}

/// The refusal of a past version must not meet the repetition of the very write that made it past: it had its effect.
#[tokio::test]
async fn a_settled_write_that_is_repeated_in_an_outage_is_not_called_rejected() {
    let stack = stack();
    stack.know(&todo(1, 4));
    stack.app.settled.insert("settled");
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let put = async |key: &str, body: &str| {
        let headers = [("idempotency-key", key), ("if-match", "3")];
        stack.write(Method::PUT, &path, body, &headers).await.status
    };
    assert_eq!(put("fresh", "{\"title\":\"x\",\"done\":false}").await, 412);
    assert_eq!(put("elsewhere", "{\"title\":\"todo 1\",\"done\":false}").await, 202);
    let stack = self::stack();
    stack.know(&todo(1, 4));
    stack.app.settled.insert("settled");
    let headers = [("idempotency-key", "settled"), ("if-match", "3")];
    let again = stack.write(Method::PUT, &path, "{\"title\":\"x\",\"done\":false}", &headers).await;
    assert_eq!(again.status, 202, "{}", again.text);
}

/// A change of what this replica was about to remove got 202, and was always rejected later.
#[tokio::test]
async fn what_waits_to_be_removed_is_gone_for_writers_too() {
    let stack = stack();
    stack.know(&todo(1, 4));
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let body = "{\"title\":\"b\",\"done\":true}";
    let before = [("idempotency-key", "before")];
    assert_eq!(stack.write(Method::PUT, &path, body, &before).await.status, 202);
    let key = [("idempotency-key", "removal")];
    assert_eq!(stack.write(Method::DELETE, &path, "", &key).await.status, 202);
    let late = stack.write(Method::PUT, &path, body, &[]).await;
    assert_eq!((late.status, late.header(OUTCOME)), (404, "rejected"), "{}", late.text);
    assert_eq!(late.json()["type"], "/problems/no-such-todo");
    assert_eq!(stack.write(Method::DELETE, &path, "", &[]).await.status, 404);
    assert_eq!(stack.write(Method::DELETE, &path, "", &key).await.status, 202);
    assert_eq!(stack.write(Method::PUT, &path, body, &before).await.status, 202);
    assert_eq!(stack.app.journal.backlog().entries, 2);
}

/// The answer showed a whole todo with version 0 and a time of creation that was the time of the request.
#[tokio::test]
async fn nothing_is_made_up_of_a_todo_that_was_never_seen() {
    let stack = stack();
    let path = format!("/api/todos/{}", todo(1, 4).id);
    let key = [("idempotency-key", "blind")];
    for _ in 0..2 {
        let answer = stack.write(Method::PUT, &path, "{\"title\":\"b\",\"done\":true}", &key).await;
        assert_eq!((answer.status, answer.header("etag")), (202, ""));
        let expected = serde_json::json!({ "id": todo(1, 4).id, "key": "blind", "status": "pending" });
        assert_eq!(answer.json(), expected);
    }
}

#[tokio::test]
async fn a_full_journal_refuses_with_the_time_to_come_back() {
    let stack = stack();
    stack.app.journal.close();
    let answer = stack.write(Method::POST, "/api/todos", "{\"title\":\"milk\"}", &[]).await;
    assert_eq!((answer.status, answer.header(OUTCOME)), (503, "rejected"), "{}", answer.text);
    assert_eq!(answer.json()["type"], "/problems/write-not-accepted");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn a_panic_is_contained_and_says_nothing() {
    let failing = Router::new()
        .route("/", get(async || -> StatusCode { panic!("canary") }))
        .layer(CatchPanicLayer::custom(panicked));
    let response = failing.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&body).contains("canary"));
}

#[tokio::test]
async fn probes_answer_here_too_and_only_briefly() {
    let stack = stack();
    let ready = stack.get("/readyz?verbose").await;
    assert_eq!((ready.status, ready.json()["mode"].as_str().unwrap()), (200, "degraded"));
    assert_eq!(ready.json().get("checks"), None);
    assert_eq!(stack.write(Method::POST, "/livez", "", &[]).await.status, 405);
}

#[tokio::test]
async fn every_answer_has_its_identity() {
    let stack = stack();
    let request = Request::get("/nowhere").header("x-request-id", "r-1").body(Body::empty()).unwrap();
    let answer = stack.send(request).await;
    assert_eq!(answer.header("x-request-id"), "r-1");
    assert_eq!(answer.header("traceparent").len(), 55);
}
