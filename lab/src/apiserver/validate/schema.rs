//! Validation of custom resources against their structural schema.
//!
//! Covers types, required fields, enumerations, ranges, lengths, patterns and the `not`, `anyOf`, `oneOf`, `allOf`
//! combinators. Most formats and keyed-list uniqueness are not checked; rules have a module of their own.

use crate::apiserver::status::Cause;
use serde_json::Value;

pub(super) fn validate(schema: &Value, object: &Value, causes: &mut Vec<Cause>) {
    let mut schema = schema.clone();
    // The server checks metadata itself, whatever the schema says.
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.remove("metadata");
    }
    check(&schema, object, "", causes);
}

fn check(schema: &Value, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !has_type(value, wanted)
    {
        causes.push(Cause {
            reason: "FieldValueTypeInvalid",
            field: at.to_owned(),
            message: format!(
                "Invalid value: {:?}: {at} in body must be of type {wanted}: {:?}",
                type_name(value),
                type_name(value)
            ),
        });
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true && !value.is_string() && !has_type(value, "integer") {
        causes.push(Cause::invalid(at, value, "must be of type integer or string"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let shown = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned));
        let shown = shown.collect::<Vec<_>>();
        causes.push(Cause::unsupported(at, value, &shown.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    match value {
        Value::Number(number) => range(schema, number.as_f64().unwrap_or_default(), value, at, causes),
        Value::String(text) => string(schema, text, value, at, causes),
        Value::Array(items) => {
            size(schema, ("minItems", "maxItems"), items.len(), value, at, causes);
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{at}[{index}]"), causes);
            }
        }
        Value::Object(map) => {
            size(schema, ("minProperties", "maxProperties"), map.len(), value, at, causes);
            let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !map.contains_key(name) {
                    causes.push(Cause::required(below(name), ""));
                }
            }
            for (name, inner) in map {
                let property = &schema["properties"][name.as_str()];
                if property.is_object() {
                    check(property, inner, &below(name), causes);
                } else if schema["additionalProperties"].is_object() {
                    check(&schema["additionalProperties"], inner, &below(name), causes);
                }
            }
        }
        _ => {}
    }
    combined(schema, value, at, causes);
}

fn combined(schema: &Value, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    let passes = |s: &Value| {
        let mut inner = Vec::new();
        check(s, value, at, &mut inner);
        inner.is_empty()
    };
    for all in schema["allOf"].as_array().into_iter().flatten() {
        check(all, value, at, causes);
    }
    if schema["anyOf"].as_array().is_some_and(|any| !any.iter().any(passes)) {
        causes.push(Cause::invalid(at, value, "must validate at least one schema (anyOf)"));
    }
    if schema["oneOf"].as_array().is_some_and(|one| one.iter().filter(|s| passes(s)).count() != 1) {
        causes.push(Cause::invalid(at, value, "must validate one and only one schema (oneOf)"));
    }
    if schema["not"].is_object() && passes(&schema["not"]) {
        causes.push(Cause::invalid(at, value, "must not validate the schema (not)"));
    }
}

fn range(schema: &Value, number: f64, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < least || (exclusive && number <= least) {
            let than = if exclusive { "greater than" } else { "greater than or equal to" };
            causes.push(Cause::invalid(at, value, &format!("{at} in body should be {than} {least}")));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > most || (exclusive && number >= most) {
            let than = if exclusive { "less than" } else { "less than or equal to" };
            causes.push(Cause::invalid(at, value, &format!("{at} in body should be {than} {most}")));
        }
    }
}

fn string(schema: &Value, text: &str, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    size(schema, ("minLength", "maxLength"), text.chars().count(), value, at, causes);
    if let Some(pattern) = schema["pattern"].as_str() {
        match regex::Regex::new(pattern) {
            Ok(compiled) if compiled.is_match(text) => {}
            Ok(_) => {
                causes.push(Cause::invalid(at, value, &format!("{at} in body should match '{pattern}'")));
            }
            Err(error) => causes.push(Cause::invalid(at, value, &format!("pattern {pattern:?}: {error}"))),
        }
    }
}

fn size(
    schema: &Value,
    (least, most): (&str, &str),
    size: usize,
    value: &Value,
    at: &str,
    causes: &mut Vec<Cause>,
) {
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if schema[least].as_u64().is_some_and(|n| size < n) {
        causes.push(Cause::invalid(at, value, &format!("{at} in body breaks {least} {}", schema[least])));
    }
    if schema[most].as_u64().is_some_and(|n| size > n) {
        causes.push(Cause::invalid(at, value, &format!("{at} in body breaks {most} {}", schema[most])));
    }
}

fn has_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_one(schema: &Value, value: &Value, ok: bool) {
        let mut causes = Vec::new();
        check(schema, value, "spec", &mut causes);
        assert_eq!(causes.is_empty(), ok, "{schema} {value} {causes:?}");
    }

    #[test]
    fn values_follow_their_schema() {
        check_one(&json!({"type": "integer", "minimum": 1, "maximum": 5}), &json!(3), true);
        check_one(&json!({"type": "integer", "minimum": 1}), &json!(0), false);
        check_one(&json!({"type": "integer", "maximum": 5}), &json!(6), false);
        check_one(&json!({"type": "integer"}), &json!("x"), false);
        check_one(&json!({"type": "string", "enum": ["a", "b"]}), &json!("c"), false);
        check_one(&json!({"type": "string", "pattern": "^[a-z]+$"}), &json!("A"), false);
        check_one(&json!({"type": "object", "required": ["a"]}), &json!({}), false);
        check_one(&json!({"type": "array", "items": {"type": "string"}}), &json!(["a", 1]), false);
        check_one(&json!({"type": "string", "nullable": true}), &Value::Null, true);
        check_one(
            &json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            &json!({"a": 1, "b": 1}),
            false,
        );
    }
}
