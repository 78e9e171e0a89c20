//! The interface against its document: the operations that the router knows, and, called by the tests of the router for each
//! answer they get, what is answered.

mod schema;

use std::collections::BTreeSet;

use axum::body::Body;
use http::{HeaderMap, Request};

use super::*;
use crate::{
    app::tests::stack,
    problems::{self, ALL},
};

/// Holds one exchange against the document, where the document speaks of its address.
pub(crate) fn hold(method: &Method, path: &str, sent: &str, status: u16, headers: &HeaderMap, text: &str) {
    let document = document();
    let Some(operation) = described(&document, method, path) else { return };
    let place = format!("{method} {path} {status}");
    let answer = &operation["responses"][status.to_string().as_str()];
    assert!(answer.is_object(), "{place} is not in the document: {text}");
    for (name, _) in answer["headers"].as_object().unwrap() {
        let value = headers.get(name).unwrap_or_else(|| panic!("{place}: no {name}"));
        let schema = &document["components"]["headers"][name]["schema"];
        let value = value.to_str().unwrap();
        let value = if schema["type"] == "integer" {
            Value::from(value.parse::<u64>().unwrap())
        } else {
            value.into()
        };
        schema::check(&document, schema, &value).unwrap_or_else(|wrong| panic!("{place}: {name}: {wrong}"));
    }
    if (200..300).contains(&status) && operation["requestBody"].is_object() {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let sent = serde_json::from_str(sent).unwrap();
        schema::check(&document, schema, &sent)
            .unwrap_or_else(|wrong| panic!("{place} was accepted: {wrong}"));
    }
    let Some(content) = answer["content"].as_object() else {
        assert_eq!(text, "", "{place}: a body that the document does not know");
        return;
    };
    let media = headers["content-type"].to_str().unwrap().split(';').next().unwrap();
    let schema = &content.get(media).unwrap_or_else(|| panic!("{place}: {media}"))["schema"];
    if media.ends_with("json") {
        let value = serde_json::from_str(text).unwrap();
        schema::check(&document, schema, &value).unwrap_or_else(|wrong| panic!("{place}: {wrong}: {text}"));
    }
}

/// What the document says of an address; nothing where it does not know it, or not with this method.
fn described<'d>(document: &'d Value, method: &Method, path: &str) -> Option<&'d Value> {
    let path: Vec<&str> = path.split('?').next()?.split('/').collect();
    let fits = |pattern: &str| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        let fits =
            |(part, given): (&&str, &&str)| part == given || (part.starts_with('{') && !given.is_empty());
        pattern.len() == path.len() && pattern.iter().zip(&path).all(fits)
    };
    let mut paths = document["paths"].as_object()?.iter().filter(|(pattern, _)| fits(pattern));
    // A plain address goes before one with a parameter, in the router as here.
    let (_, operations) =
        paths.clone().find(|(pattern, _)| !pattern.contains('{')).or_else(|| paths.next())?;
    operations.get(method.as_str().to_ascii_lowercase())
}

/// `ridethrough-server openapi > docs/openapi.json` brings it up to date.
#[test]
fn the_document_in_the_repository_is_the_one_that_is_served() {
    let kept = include_str!("../../../docs/openapi.json");
    assert!(kept.as_bytes() == text(), "docs/openapi.json is old: write it anew by the sub-command openapi");
}

#[test]
fn operations_are_told_apart_and_say_what_they_are() {
    let all = operations();
    let ids: BTreeSet<&str> = all.iter().map(|operation| operation.id).collect();
    assert_eq!(ids.len(), all.len());
    for operation in &all {
        assert!(!operation.summary.is_empty() && !operation.answers.is_empty(), "{}", operation.id);
        for part in operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let is_it = |parameter: &Parameter| parameter.name == part && parameter.place == Place::Path;
            assert!(operation.parameters.iter().any(is_it), "{}: {part}", operation.id);
        }
    }
}

/// Whatever the router answers at an address of the document is in the document, and the other way round.
#[tokio::test]
async fn an_address_knows_the_methods_that_the_document_says() {
    let stack = stack();
    for (path, operations) in document()["paths"].as_object().unwrap() {
        let mut expected: BTreeSet<String> =
            operations.as_object().unwrap().keys().map(|method| method.to_ascii_uppercase()).collect();
        if expected.contains("GET") {
            expected.insert("HEAD".to_owned());
        }
        let path = path
            .replace("{id}", &uuid::Uuid::nil().to_string())
            .replace("{key}", "k")
            .replace("{slug}", "busy");
        let request = Request::builder().method(Method::OPTIONS).uri(&path).body(Body::empty()).unwrap();
        let answer = stack.send(request).await;
        assert_eq!(answer.status, 405, "{path}");
        let allowed: BTreeSet<String> =
            answer.header("allow").split(',').map(|method| method.trim().to_owned()).collect();
        assert_eq!(allowed, expected, "{path}");
    }
}

#[tokio::test]
async fn every_problem_has_a_page_for_programs_and_one_for_people() {
    let stack = stack();
    let document = document();
    let named =
        document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].as_array().unwrap();
    assert_eq!(named.len(), ALL.len());
    for kind in ALL {
        let page = stack.get(&kind.address()).await;
        assert_eq!((page.status, page.json()["advice"].as_str().unwrap()), (200, kind.advice()));
        let request = Request::get(kind.address()).header("accept", "text/html").body(Body::empty()).unwrap();
        let page = stack.send(request).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.text.contains(kind.title) && page.text.contains("took effect"), "{}", page.text);
        assert!(named.contains(&kind.address().into()), "{}", kind.slug);
    }
    assert_eq!(stack.get("/problems").await.json()["problems"].as_array().unwrap().len(), ALL.len());
    assert_eq!(stack.get("/problems/nothing").await.status, 404);
}

#[tokio::test]
async fn the_documentation_names_every_operation_schema_and_problem_and_needs_nothing_from_elsewhere() {
    let stack = stack();
    let page = stack.get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    for operation in operations() {
        assert!(page.text.contains(&format!("id=\"{}\"", operation.id)), "{}", operation.id);
    }
    for (name, _) in schemas::schemas() {
        assert!(page.text.contains(&format!("id=\"schema-{name}\"")), "{name}");
    }
    assert!(page.text.contains(problems::OUTCOME_UNKNOWN.slug));
    // The name of a kind of document, and no address that anybody asks.
    let text = page.text.replace("http://www.w3.org/2000/svg", "");
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!text.contains(foreign), "{foreign}");
    }
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(stack.get("/openapi.json").await.json(), document());
}

/// A condition that nobody checked was passed over, and the write done without it.
#[tokio::test]
async fn a_condition_that_is_not_understood_is_refused_and_never_passed_over() {
    let stack = stack();
    let item = format!("/api/todos/{}", uuid::Uuid::nil());
    let whole = "{\"title\":\"a\",\"done\":true}";
    for (method, path, body, header) in [
        (Method::PUT, item.as_str(), whole, "if-none-match"),
        (Method::DELETE, item.as_str(), "", "if-none-match"),
        (Method::POST, "/api/todos", "{\"title\":\"a\"}", "if-none-match"),
        (Method::POST, "/api/todos", "{\"title\":\"a\"}", "if-match"),
        (Method::POST, "/api/todos/batch", "{\"items\":[{\"title\":\"a\"}]}", "if-match"),
    ] {
        for value in ["*", "\"3\""] {
            let answer = stack.write(method.clone(), path, body, &[(header, value)]).await;
            let place = format!("{method} {path} {header}: {value}");
            assert_eq!((answer.status, answer.header("ridethrough-outcome")), (400, "rejected"), "{place}");
            assert_eq!(answer.json()["type"], "/problems/condition-not-understood", "{place}");
        }
    }
    assert_eq!(stack.backlog(), 0);
    let request = Request::get("/api/todos").header("if-match", "\"3\"").body(Body::empty()).unwrap();
    assert_eq!(stack.send(request).await.json()["type"], "/problems/condition-not-understood");
}
