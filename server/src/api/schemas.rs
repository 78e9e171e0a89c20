//! The JSON that goes in and comes out, as JSON Schema, with the bounds that the code checks. Tests hold real requests and
//! answers against it.

use serde_json::{Map, Value, json};

use crate::{
    problems,
    routes::decode::{KEY_CHARACTERS_MAX, PAGE_LIMIT, PAGE_LIMIT_MAX},
    todo::{BATCH_ITEMS_MAX, TITLE_CHARACTERS_MAX},
};

/// Something that a person can see, and nothing that cannot be stored.
const TITLE: &str = "^[^\\u0000]*[^\\u0000\\u0009-\\u000d\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000][^\\u0000]*$";

/// Every schema that has a name.
pub(super) fn schemas() -> Map<String, Value> {
    let named = [
        ("Todo", todo()),
        ("NewTodo", new_todo()),
        ("NewTodos", new_todos()),
        ("Replacement", replacement()),
        ("Page", page()),
        ("Todos", todos()),
        ("Receipt", receipt()),
        ("Accepted", json!({ "anyOf": [reference("Todo"), reference("Receipt")] })),
        ("AcceptedMany", json!({ "anyOf": [reference("Todos"), reference("Receipt")] })),
        ("WriteStatus", write_status()),
        ("Health", health()),
        ("Problem", problem()),
        ("ProblemKind", problem_kind()),
        ("ProblemKinds", object(json!({ "problems": array(reference("ProblemKind")) }), &["problems"])),
        ("OpenApi", json!({ "type": "object", "description": "This document." })),
    ];
    named.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn id() -> Value {
    json!({ "type": "string", "format": "uuid", "description": "Final from the first answer on, also where the write waits." })
}

fn time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

fn title_to_store() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": TITLE_CHARACTERS_MAX,
        "pattern": TITLE,
        "description": "Not only white space, and without U+0000. Blanks around it are kept.",
    })
}

fn todo() -> Value {
    let version = json!({
        "type": "integer",
        "minimum": 0,
        "description": "1 at first, one more with each change; 0 where it is not known yet.",
    });
    let properties = json!({
        "id": id(),
        "title": text("What is to be done."),
        "done": { "type": "boolean" },
        "version": version,
        "created_at": time("When its creation was accepted."),
        "updated_at": time("When its last change was accepted."),
    });
    object(properties, &["id", "title", "done", "version", "created_at", "updated_at"])
}

fn new_todo() -> Value {
    object(json!({ "title": title_to_store() }), &["title"])
}

fn new_todos() -> Value {
    let items = json!({
        "type": "array",
        "items": reference("NewTodo"),
        "minItems": 1,
        "maxItems": BATCH_ITEMS_MAX,
    });
    object(json!({ "items": items }), &["items"])
}

fn replacement() -> Value {
    object(json!({ "title": title_to_store(), "done": { "type": "boolean" } }), &["title", "done"])
}

fn page() -> Value {
    let next = json!({
        "type": ["string", "null"],
        "description": "`after` of the next page; null on the last one.",
    });
    object(json!({ "items": array(reference("Todo")), "next": next }), &["items", "next"])
}

fn todos() -> Value {
    object(json!({ "items": array(reference("Todo")) }), &["items"])
}

fn receipt() -> Value {
    let properties = json!({
        "id": id(),
        "key": key(),
        "status": { "const": "pending" },
    });
    object(properties, &["key", "status"])
}

fn write_status() -> Value {
    let status = json!({
        "type": "string",
        "enum": ["pending", "applied", "superseded", "rejected", "unknown"],
        "description": "`pending`: accepted, and not yet in the database. `applied`: done. `superseded`: a change of \
                        somebody else stands instead. `rejected`: accepted, and impossible later. `unknown`: on its \
                        way, or nobody could find out.",
    });
    let properties = json!({
        "key": key(),
        "status": status,
        "reason": text("Why it was rejected, in a word."),
        "outcome": { "description": "What the write was answered, where that is known." },
    });
    object(properties, &["key", "status"])
}

fn health() -> Value {
    let serves = object(json!({ "reads": text(""), "writes": text("") }), &["reads", "writes"]);
    let properties = json!({
        "status": { "type": "string", "enum": ["pass", "warn", "fail"] },
        "mode": text("What the process can do now, in a word."),
        "ready": { "type": "boolean" },
        "serves": serves,
    });
    object(properties, &["status", "mode", "ready", "serves"])
}

fn problem() -> Value {
    let kinds: Vec<String> = problems::ALL.iter().map(|kind| kind.address()).collect();
    json!({
        "type": "object",
        "description": "RFC 9457. `type` is an address at which it is explained.",
        "properties": {
            "type": { "type": "string", "enum": kinds },
            "title": text("The same for all problems of the type."),
            "status": { "type": "integer" },
            "detail": text("What is wrong with this very request."),
            "retry_after": { "type": "integer", "minimum": 1, "description": "Seconds, as in Retry-After." },
            "outcome": outcome(),
        },
        "required": ["type", "title", "status"],
        "additionalProperties": false,
    })
}

fn problem_kind() -> Value {
    let properties = json!({
        "type": text("Its address."),
        "title": text(""),
        "status": { "type": "integer" },
        "meaning": text("What happened."),
        "effect": {
            "type": "string",
            "enum": ["none", "unknown"],
            "description": "Whether a write that is answered so took effect.",
        },
        "advice": text("What to do."),
    });
    object(properties, &["type", "title", "status", "meaning", "effect", "advice"])
}

pub(super) fn outcome() -> Value {
    json!({
        "type": "string",
        "enum": ["committed", "journaled", "rejected", "unknown"],
        "description": "What became of a write. `journaled`: it is kept on disk and will be done.",
    })
}

pub(super) fn key() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX, "pattern": "^[!-~]+$" })
}

pub(super) fn limit() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": PAGE_LIMIT_MAX, "default": PAGE_LIMIT })
}

pub(super) fn cursor() -> Value {
    json!({ "type": "string", "pattern": "^10[0-2][0-9a-f]{46}$" })
}

pub(super) fn date_time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// One version, as an entity tag or alone, or any.
pub(super) fn if_match() -> Value {
    json!({ "type": "string", "pattern": "^(\\*|[1-9][0-9]{0,17}|\"[1-9][0-9]{0,17}(-[0-9a-f]{16})?\")$" })
}
