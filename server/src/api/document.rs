//! The OpenAPI 3.1 document, made of the table of operations. `docs/openapi.json` holds the same, and a test compares.

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Access, Operation, Parameter, Place, Success, operations::operations, schemas};
use crate::problems::Kind;

const DESCRIPTION: &str = "\
Todos that can be read and written while the database is away.

Reads say by `Ridethrough-Freshness` whether they are fresh, or how old and why. Writes say by \
`Ridethrough-Outcome` what became of them: `committed`, `journaled` (kept on disk, and done later), `rejected`, or \
`unknown`. A write under an `Idempotency-Key` can be sent again safely.

Errors are problem documents (RFC 9457); each `type` is an address that explains it. 503 and 429 say by \
`Retry-After` when to come back. A browser gets a page instead. An address that is not here is answered 404 \
`no-such-path`, a method that an address does not know 405 `wrong-method` with `Allow`. A head that is no HTTP/1.1, or \
larger than the limits, is refused with 400, 414 or 431 and no body, because there is no request to answer.

A caller that will not wait long says so by `X-Envoy-Expected-Rq-Timeout-Ms`. `X-Request-Id` and `traceparent` are taken \
over where they are valid, and made where they are missing.";

static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut text = serde_json::to_vec_pretty(&document()).expect("a JSON value can be written");
    text.push(b'\n');
    Bytes::from(text)
});

/// The document, as it is served, printed, and kept in the repository.
pub(crate) fn text() -> Bytes {
    TEXT.clone()
}

/// The document.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.as_str().to_ascii_lowercase(), described(&operation));
        }
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Ridethrough todos",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas::schemas(),
            "headers": headers(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of this server's, or of its identity provider's. Where it tells no principals \
                                    apart, none is needed.",
                },
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses(operation),
        "security": if operation.access == Access::Principal { json!([{ "bearer": [] }, {}]) } else { json!([]) },
    });
    let mut insert = |name: &str, value: Value| {
        if let Some(members) = described.as_object_mut() {
            members.insert(name.to_owned(), value);
        }
    };
    if !operation.description.is_empty() {
        insert("description", operation.description.into());
    }
    if !operation.parameters.is_empty() {
        insert("parameters", operation.parameters.iter().map(parameter).collect());
    }
    if let Some(schema) = operation.body {
        let content = json!({ "application/json": { "schema": schemas::reference(schema) } });
        insert("requestBody", json!({ "required": true, "content": content }));
    }
    described
}

fn parameter(parameter: &Parameter) -> Value {
    let place = match parameter.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::Header => "header",
    };
    json!({
        "name": parameter.name,
        "in": place,
        "required": parameter.place == Place::Path,
        "description": parameter.description,
        "schema": parameter.schema,
    })
}

fn responses(operation: &Operation) -> Value {
    let mut responses: Map<String, Value> = operation
        .answers
        .iter()
        .map(|success| (success.status.as_str().to_owned(), answer(success)))
        .collect();
    let mut statuses: Vec<StatusCode> = operation.problems.iter().map(|kind| kind.status).collect();
    statuses.sort();
    statuses.dedup();
    for status in statuses {
        let kinds = operation.problems.iter().filter(|kind| kind.status == status);
        let failure = failure(operation, status, &kinds.copied().collect::<Vec<_>>());
        responses.insert(status.as_str().to_owned(), failure);
    }
    responses.into()
}

fn answer(success: &Success) -> Value {
    let mut answer = json!({ "description": success.description, "headers": named_headers(success.headers) });
    let content: Map<String, Value> = success
        .content
        .iter()
        .map(|(media, schema)| {
            let schema = schema.map_or_else(|| json!({ "type": "string" }), schemas::reference);
            ((*media).to_owned(), json!({ "schema": schema }))
        })
        .collect();
    if let (false, Some(members)) = (content.is_empty(), answer.as_object_mut()) {
        members.insert("content".to_owned(), content.into());
    }
    answer
}

fn failure(operation: &Operation, status: StatusCode, kinds: &[&Kind]) -> Value {
    let mut names = Vec::new();
    if kinds.iter().all(|kind| kind.passes()) {
        names.push("Retry-After");
    }
    if !operation.method.is_safe() {
        names.push("Ridethrough-Outcome");
    }
    if status == StatusCode::UNAUTHORIZED {
        names.push("WWW-Authenticate");
    }
    let lines: Vec<String> = kinds.iter().map(|kind| format!("- `{}`: {}", kind.slug, kind.title)).collect();
    let types: Vec<String> = kinds.iter().map(|kind| kind.address()).collect();
    let schema = json!({
        "allOf": [
            schemas::reference("Problem"),
            { "properties": { "type": { "enum": types }, "status": { "const": status.as_u16() } } },
        ],
    });
    json!({
        "description": lines.join("\n"),
        "headers": named_headers(&names),
        "content": {
            "application/problem+json": { "schema": schema },
            "text/html": { "schema": { "type": "string" } },
        },
    })
}

/// These, and those that every answer has.
fn named_headers(names: &[&str]) -> Map<String, Value> {
    let all = names.iter().chain(&["X-Request-Id", "traceparent"]);
    all.map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }))).collect()
}

fn headers() -> Value {
    let text = |description: &str| header(description, json!({ "type": "string" }));
    let pattern = |description: &str, pattern: &str| {
        header(description, json!({ "type": "string", "pattern": pattern }))
    };
    json!({
        "Ridethrough-Freshness": pattern(
            "`fresh`, or how old in seconds and why. A stale answer has `Age`, too.",
            "^(fresh|stale; age=[0-9]+; reason=[a-z-]+)$",
        ),
        "Ridethrough-Outcome": header("What became of the write.", schemas::outcome()),
        "Idempotency-Key": header("The key of the write.", schemas::key()),
        "Retry-After": header("Seconds.", json!({ "type": "integer", "minimum": 1 })),
        "ETag": pattern("Version and contents.", "^\"[1-9][0-9]*-[0-9a-f]{16}\"$"),
        "Location": text("Where it is, or what became of it."),
        "Link": text("With `rel=\"monitor\"`: where to ask what became of the write."),
        "WWW-Authenticate": text("What must be shown."),
        "X-Request-Id": text("Names this request in the server's log."),
        "traceparent": pattern("W3C Trace Context.", "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"),
    })
}

fn header(description: &str, schema: Value) -> Value {
    json!({ "description": description, "required": true, "schema": schema })
}
