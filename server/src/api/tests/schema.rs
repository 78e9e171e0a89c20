//! As much of JSON Schema as the document uses, for the tests. Patterns and formats are left to the fuzzer.

use serde_json::{Map, Value};

/// Whether `value` is what `schema` says; where not, why.
pub(super) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(rules) = schema.as_object() else { return Ok(()) };
    for (rule, wanted) in rules {
        let holds = match rule.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                check(document, document.pointer(pointer).expect("a schema of the document"), value)?;
                true
            }
            "allOf" => {
                wanted.as_array().unwrap().iter().try_for_each(|one| check(document, one, value))?;
                true
            }
            "anyOf" => wanted.as_array().unwrap().iter().any(|one| check(document, one, value).is_ok()),
            "type" => match wanted {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "const" => wanted == value,
            "minimum" => value.as_i64() >= wanted.as_i64(),
            "maximum" => value.as_i64() <= wanted.as_i64(),
            "minLength" => length(value) >= wanted.as_u64().unwrap(),
            "maxLength" => length(value) <= wanted.as_u64().unwrap(),
            "minItems" | "maxItems" => true,
            "items" => {
                value.as_array().unwrap().iter().try_for_each(|one| check(document, wanted, one))?;
                true
            }
            "required" => {
                wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "properties" => {
                members(document, rules, wanted, value)?;
                true
            }
            "additionalProperties" | "description" | "default" | "pattern" | "format" => true,
            unknown => panic!("the document uses `{unknown}`, which is not checked here"),
        };
        if !holds {
            return Err(format!("{value} breaks {rule}: {wanted}"));
        }
    }
    Ok(())
}

fn members(document: &Value, rules: &Map<String, Value>, known: &Value, value: &Value) -> Result<(), String> {
    let is_closed = rules.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, member) in value.as_object().into_iter().flatten() {
        match known.get(name) {
            Some(schema) => check(document, schema, member).map_err(|wrong| format!("{name}: {wrong}"))?,
            None if is_closed => return Err(format!("{name} is not known")),
            None => {}
        }
    }
    Ok(())
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        unknown => panic!("no such type: {unknown}"),
    }
}

fn length(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.chars().count() as u64)
}
