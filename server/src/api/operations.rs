//! The table of operations: address, handler, and what each takes, answers, and fails as. The words that several share stand
//! at the end.

use http::{Method, StatusCode};
use ridethrough::http::Probes;
use serde_json::{Value, json};

use super::{
    Access::{Always, Everybody, Principal},
    Operation, Parameter, Place, Success, schemas,
};
use crate::{
    app::probe,
    problems::{self as p, Kind},
    routes::{docs, todos, writes},
};

const JSON: &str = "application/json";
const HTML: (&str, Option<&str>) = ("text/html", None);
/// Labels of an answer to a read.
const READ: &[&str] = &["Ridethrough-Freshness"];
/// Labels of an answer to a write.
const WRITTEN: &[&str] = &["Ridethrough-Outcome", "Idempotency-Key"];
const ACCEPTED: &[&str] = &["Ridethrough-Outcome", "Idempotency-Key", "Location", "Link"];

/// What any operation can fail as that may be refused for lack of capacity.
const EDGES: [&Kind; 2] = [&p::URI_TOO_LONG, &p::OVERLOADED];
/// What any operation for a principal can fail as.
const ASKED: [&Kind; 5] =
    [&p::BAD_REQUEST, &p::CONDITION_NOT_UNDERSTOOD, &p::SIGN_IN_NEEDED, &p::TOO_MANY_REQUESTS, &p::INTERNAL];
/// And any question to the database.
const READ_FAILS: [&Kind; 3] = [&p::TOO_SLOW, &p::BUSY, &p::DATABASE_AWAY];
/// And any write.
const WRITE_FAILS: [&Kind; 10] = [
    &p::OTHER_SITE,
    &p::NO_SUCH_TODO,
    &p::REFUSED,
    &p::SUPERSEDED,
    &p::KEY_REUSED,
    &p::OUTCOME_UNKNOWN,
    &p::WRITE_NOT_ACCEPTED,
    &p::TOO_SLOW,
    &p::BUSY,
    &p::DATABASE_AWAY,
];
/// And any body.
const BODY_FAILS: [&Kind; 4] =
    [&p::BODY_TOO_SLOW, &p::BODY_TOO_LARGE, &p::WRONG_CONTENT_TYPE, &p::INVALID_TODO];

/// Every operation of the interface.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = vec![list(), create(), create_many(), read(), replace(), remove(), write_status()];
    operations.extend(explanations());
    operations.extend(Probes::PATHS.map(health));
    for operation in operations.iter_mut().filter(|operation| operation.access != Always) {
        operation.problems.extend(EDGES);
    }
    operations
}

fn list() -> Operation {
    Operation::new(Principal, Method::GET, "/api/todos", "listTodos", todos::list)
        .says("A page of todos, newest first", "What waits to be stored is shown as it will be.")
        .takes(query("limit", "Items at the most.", schemas::limit()))
        .takes(query("after", "`next` of the page before; its form is not promised.", schemas::cursor()))
        .takes(query("done", "Only done ones, or only open ones.", json!({ "type": "boolean" })))
        .takes(query("from", "Only what was created at this time or later.", schemas::date_time()))
        .takes(query("to", "Only what was created before this time.", schemas::date_time()))
        .takes(if_none_match("`*` is answered 304: there always is a list."))
        .answers(success(200, "The page.", &[(JSON, Some("Page"))], READ))
        .answers(success(304, "The list exists.", &[], READ))
        .fails_as(&ASKED)
        .fails_as(&READ_FAILS)
}

fn create() -> Operation {
    Operation::new(Principal, Method::POST, "/api/todos", "createTodo", todos::create)
        .says("Create a todo", "The id is final in both cases.")
        .takes(idempotency_key())
        .takes_body("NewTodo")
        .answers(success(201, "It is in the database.", &[(JSON, Some("Todo"))], CREATED))
        .answers(success(202, KEPT, &[(JSON, Some("Accepted"))], ACCEPTED))
        .fails_as(&ASKED)
        .fails_as(&BODY_FAILS)
        .fails_as(&WRITE_FAILS)
}

fn create_many() -> Operation {
    Operation::new(Principal, Method::POST, "/api/todos/batch", "createTodos", todos::create_many)
        .says("Create up to 1,000 todos, all or none", "They are answered in the order of the request.")
        .takes(idempotency_key())
        .takes_body("NewTodos")
        .answers(success(201, "They are in the database.", &[(JSON, Some("Todos"))], WRITTEN))
        .answers(success(202, KEPT, &[(JSON, Some("AcceptedMany"))], ACCEPTED))
        .fails_as(&ASKED)
        .fails_as(&BODY_FAILS)
        .fails_as(&WRITE_FAILS)
}

fn read() -> Operation {
    Operation::new(Principal, Method::GET, "/api/todos/{id}", "readTodo", todos::read)
        .says(
            "One todo",
            "Who has a version is never sent an older one: 503 `older-than-seen` rather than that.",
        )
        .takes(id())
        .takes(if_none_match("What the sender has, to be told whether it is still true."))
        .takes(if_match("Only this version is wanted."))
        .answers(success(200, "The todo.", &[(JSON, Some("Todo"))], READ))
        .answers(success(304, "The sender has exactly this.", &[], READ))
        .fails_as(&ASKED)
        .fails_as(&READ_FAILS)
        .fails_as(&[&p::NO_SUCH_TODO, &p::OLDER_THAN_SEEN, &p::VERSION_MISMATCH])
}

fn replace() -> Operation {
    Operation::new(Principal, Method::PUT, "/api/todos/{id}", "replaceTodo", todos::replace)
        .says(
            "Replace title and state of a todo",
            "It creates none. Without If-Match it replaces any version.",
        )
        .takes(id())
        .takes(idempotency_key())
        .takes(if_match(CHANGED))
        .takes_body("Replacement")
        .answers(success(200, "It is in the database.", &[(JSON, Some("Todo"))], WRITTEN))
        .answers(success(202, KEPT, &[(JSON, Some("Accepted"))], ACCEPTED))
        .fails_as(&ASKED)
        .fails_as(&BODY_FAILS)
        .fails_as(&WRITE_FAILS)
        .fails_as(&[&p::VERSION_MISMATCH])
}

fn remove() -> Operation {
    Operation::new(Principal, Method::DELETE, "/api/todos/{id}", "removeTodo", todos::remove)
        .says("Remove a todo", "Without If-Match it removes any version.")
        .takes(id())
        .takes(idempotency_key())
        .takes(if_match(CHANGED))
        .answers(success(204, "It is gone from the database.", &[], WRITTEN))
        .answers(success(202, KEPT, &[(JSON, Some("Accepted"))], ACCEPTED))
        .fails_as(&ASKED)
        .fails_as(&WRITE_FAILS)
        .fails_as(&[&p::VERSION_MISMATCH])
}

fn write_status() -> Operation {
    let key = Parameter {
        name: "key",
        place: Place::Path,
        description: "The Idempotency-Key of the write.",
        schema: schemas::key(),
    };
    Operation::new(Principal, Method::GET, "/api/writes/{key}", "readWriteStatus", writes::status)
        .says("What became of a write", "It is never answered from a saved copy.")
        .takes(key)
        .answers(success(200, "What is known.", &[(JSON, Some("WriteStatus"))], READ))
        .fails_as(&ASKED)
        .fails_as(&READ_FAILS)
        .fails_as(&[&p::NO_SUCH_WRITE])
}

/// What explains the rest.
fn explanations() -> [Operation; 4] {
    let slug = Parameter {
        name: "slug",
        place: Place::Path,
        description: "The last part of a problem's `type`.",
        schema: json!({ "type": "string", "enum": p::ALL.iter().map(|kind| kind.slug).collect::<Vec<_>>() }),
    };
    [
        Operation::new(Everybody, Method::GET, "/openapi.json", "readDocument", docs::openapi)
            .says("This document", "")
            .answers(success(200, "The document.", &[(JSON, Some("OpenApi"))], &[])),
        Operation::new(Everybody, Method::GET, "/docs", "readDocumentation", docs::page)
            .says("This document as a page", "It needs no script, and nothing from elsewhere.")
            .answers(success(200, "The page.", &[HTML], &[])),
        Operation::new(Everybody, Method::GET, "/problems", "listProblems", docs::problems)
            .says("Every problem there is", EXPLAINED)
            .answers(success(200, "All of them.", &[(JSON, Some("ProblemKinds")), HTML], &[])),
        Operation::new(Everybody, Method::GET, "/problems/{slug}", "readProblem", docs::problem)
            .says("What a problem means, whether a write took effect, and what to do", EXPLAINED)
            .takes(slug)
            .answers(success(200, "The problem.", &[(JSON, Some("ProblemKind")), HTML], &[]))
            .fails_as(&[&p::NO_SUCH_PATH]),
    ]
    .map(|operation| operation.fails_as(&[&p::CONDITION_NOT_UNDERSTOOD, &p::INTERNAL]))
}

fn health(path: &'static str) -> Operation {
    let (id, question) = match path {
        "/livez" => ("isAlive", "Would a restart not help?"),
        "/readyz" => ("isReady", "Is it better to send requests here than to send none?"),
        "/readyz/reads" => ("isReadyForReads", "Are reads answered, be it with saved copies?"),
        "/readyz/writes" => ("isReadyForWrites", "Are writes accepted, be it into the journal?"),
        _ => ("isStarted", "Is starting over?"),
    };
    const HEALTH: &[(&str, Option<&str>)] = &[("application/health+json", Some("Health"))];
    Operation::new(Always, Method::GET, path, id, probe)
        .says(question, "It is answered from memory, also where nothing else is.")
        .answers(success(200, "Yes.", HEALTH, &[]))
        .answers(success(503, "No.", HEALTH, &["Retry-After"]))
        .fails_as(&[&p::CONDITION_NOT_UNDERSTOOD, &p::INTERNAL])
}

const CREATED: &[&str] = &["Ridethrough-Outcome", "Idempotency-Key", "Location", "ETag"];
const KEPT: &str =
    "The database is away; it is kept on disk and will be done. Link and Location say where to ask for it.";
const CHANGED: &str = "Refuse the write with 412 where the todo has another version by now.";
const EXPLAINED: &str = "JSON for programs, a page for browsers, by Accept.";

fn success(
    status: u16,
    description: &'static str,
    content: &'static [(&'static str, Option<&'static str>)],
    headers: &'static [&'static str],
) -> Success {
    let status = StatusCode::from_u16(status).expect("the table names known codes");
    Success { status, description, content, headers }
}

fn query(name: &'static str, description: &'static str, schema: Value) -> Parameter {
    Parameter { name, place: Place::Query, description, schema }
}

fn id() -> Parameter {
    let schema = json!({ "type": "string", "format": "uuid" });
    Parameter { name: "id", place: Place::Path, description: "The todo's id.", schema }
}

fn idempotency_key() -> Parameter {
    let description =
        "Who says which write this is may repeat it: it is done once. Made by the server where missing.";
    Parameter { name: "Idempotency-Key", place: Place::Header, description, schema: schemas::key() }
}

fn if_match(description: &'static str) -> Parameter {
    Parameter { name: "If-Match", place: Place::Header, description, schema: schemas::if_match() }
}

fn if_none_match(description: &'static str) -> Parameter {
    Parameter {
        name: "If-None-Match",
        place: Place::Header,
        description,
        schema: json!({ "type": "string" }),
    }
}
