//! `verdict.schema.json` says what `verdict.json` holds. Checks verdicts against it by the few words of JSON Schema that
//! it uses; a word that this reader does not know fails the test, so that none is passed over.

use serde_json::Value;

use super::{run, written};
use crate::checker::judge;
use crate::history::{Event, Limits};
use crate::verdict::{Outage, SCHEMA, Span, Witness};

const TEXT: &str = include_str!("../../../verdict.schema.json");

/// Appends what is wrong with the value at this path.
fn check(schema: &Value, root: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    for (word, told) in schema.as_object().unwrap() {
        let fits = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let place = told.as_str().unwrap().trim_start_matches('#');
                check(root.pointer(place).unwrap(), root, value, path, wrong);
                true
            }
            "type" => match told {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "const" => value == told,
            "enum" => told.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= told.as_f64().unwrap()),
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(told, root, item, &format!("{path}/{place}"), wrong);
                }
                true
            }
            "required" => {
                told.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "properties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    // A reader passes over a member it does not know; this test is what keeps the schema whole.
                    match told.get(name) {
                        Some(schema) => check(schema, root, member, &format!("{path}/{name}"), wrong),
                        None => wrong.push(format!("{path}/{name} is not in the schema")),
                    }
                }
                true
            }
            other => panic!("the reader of this test does not know `{other}`"),
        };
        if !fits {
            wrong.push(format!("{path}: {word} {told} does not fit {value}"));
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the reader of this test does not know the type {other}"),
    }
}

fn wrong(value: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    let mut wrong = Vec::new();
    check(&schema, &schema, value, "", &mut wrong);
    wrong
}

#[test]
fn the_schema_describes_every_member_of_every_verdict() {
    let events = run("db-kill");
    let mut full = judge(&events, &Limits::default());
    let outage = |until_us| Outage { fault: "db-kill".into(), from_us: 1, until_us };
    full.numbers.outages = vec![outage(None), outage(Some(2))];
    assert!(!full.checks.is_empty() && !full.numbers.latency.is_empty());
    let span = |until_us| Span {
        label: "a".into(),
        from_us: 1,
        from: "begun".into(),
        until_us,
        until: "ended".into(),
    };
    full.checks[0].witnesses.push(Witness {
        summary: "a".into(),
        lines: vec!["b".into()],
        spans: vec![span(Some(2)), span(None)],
    });
    let no_events: [Event; 0] = [];
    for verdict in [full, judge(&no_events, &Limits::default())] {
        assert_eq!(wrong(&serde_json::to_value(&verdict).unwrap()), Vec::<String>::new());
    }
}

#[test]
fn a_wrong_verdict_does_not_pass() {
    let (_, _, json) = written(&run("db-kill"));
    let verdict: Value = serde_json::from_str(&json).unwrap();
    for (place, value) in [
        ("/schema", Value::from(SCHEMA + 1)),
        ("/outcome", Value::from("fine")),
        ("/numbers/lost", Value::from(-1)),
        ("/numbers/reads/fresh", Value::from("many")),
        ("/checks/0/state", Value::Null),
        ("/checks/0", Value::from(serde_json::Map::new())),
    ] {
        let mut broken = verdict.clone();
        *broken.pointer_mut(place).unwrap() = value;
        assert!(!wrong(&broken).is_empty(), "{place}");
    }
    let mut more = verdict;
    more["numbers"]["unheard_of"] = 1.into();
    assert_eq!(wrong(&more), ["/numbers/unheard_of is not in the schema"]);
}

#[test]
fn the_schema_has_the_version_of_the_verdict() {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    assert_eq!(schema.pointer("/properties/schema/const"), Some(&Value::from(SCHEMA)));
}
