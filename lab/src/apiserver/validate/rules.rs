//! The rules of a schema that are expressions of CEL (`x-kubernetes-validations`).
//!
//! A rule that names `oldSelf` is asked about updates alone, and not within lists, as items of one are not held
//! against items of the other. Other rules are asked about what is new or has changed, as those of the real server are since 1.30
//! (ratcheting). `messageExpression`, `fieldPath` and the limits of cost are not known here.

use crate::apiserver::expression::{Expression, known};
use crate::apiserver::status::Cause;
use serde_json::Value;
use std::collections::BTreeMap;

/// The rules of one place of a schema and of those beneath it.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    here: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    values: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    /// Or why there is none.
    expression: Result<Expression, String>,
    /// Whether it asks for what was there before.
    compares: bool,
}

impl Rules {
    /// Those of a structural schema.
    pub(crate) fn of(schema: &Value) -> Self {
        let below = |schema: &Value| {
            let rules = schema.is_object().then(|| Self::of(schema));
            rules.filter(|rules| !rules.is_empty())
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        Self {
            here: schema["x-kubernetes-validations"]
                .as_array()
                .into_iter()
                .flatten()
                .map(Rule::new)
                .collect(),
            properties: properties
                .filter_map(|(name, schema)| Some((name.clone(), below(schema)?)))
                .collect(),
            items: below(&schema["items"]).map(Box::new),
            values: below(&schema["additionalProperties"]).map(Box::new),
        }
    }

    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.properties.is_empty() && self.items.is_none() && self.values.is_none()
    }

    /// The rules that are no expressions.
    pub(super) fn complain(&self, at: &str, causes: &mut Vec<Cause>) {
        for rule in &self.here {
            if let Err(error) = &rule.expression {
                let why = format!("compilation failed: {error}");
                let at = format!("{at}.x-kubernetes-validations.rule");
                causes.push(Cause::invalid(at, &Value::from(rule.text.as_str()), &why));
            }
        }
        for (name, rules) in &self.properties {
            rules.complain(&format!("{at}.properties[{name}]"), causes);
        }
        for (name, rules) in [("items", &self.items), ("additionalProperties", &self.values)] {
            if let Some(rules) = rules {
                rules.complain(&format!("{at}.{name}"), causes);
            }
        }
    }

    /// What `value`, which was `old`, breaks.
    pub(super) fn check(&self, value: &Value, old: Option<&Value>, at: &str, causes: &mut Vec<Cause>) {
        // What is as it was may be older than a rule: an object keeps it, and gets its status.
        let is_as_before = old == Some(value);
        let asked = |rule: &&Rule| if rule.compares { old.is_some() } else { !is_as_before };
        for rule in self.here.iter().filter(asked) {
            if let Err(why) = rule.ask(value, old) {
                causes.push(Cause::invalid(at, value, &why));
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let Some(rules) = self.properties.get(name).or(self.values.as_deref()) else { continue };
                    let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                    rules.check(value, old.and_then(|old| old.get(name)), &at, causes);
                }
            }
            Value::Array(list) => {
                let Some(rules) = &self.items else { return };
                for (index, value) in list.iter().enumerate() {
                    rules.check(value, None, &format!("{at}[{index}]"), causes);
                }
            }
            _ => {}
        }
    }
}

impl Rule {
    fn new(rule: &Value) -> Self {
        let text = rule["rule"].as_str().unwrap_or_default().to_owned();
        let message =
            rule["message"].as_str().map_or_else(|| format!("failed rule: {text}"), ToOwned::to_owned);
        let expression = Expression::compile(&text);
        let compares = expression.as_ref().is_ok_and(|it| it.mentions("oldSelf"));
        Self { text, message, expression, compares }
    }

    fn ask(&self, value: &Value, old: Option<&Value>) -> Result<(), String> {
        let expression =
            self.expression.as_ref().map_err(|error| format!("rule {:?}: {error}", self.text))?;
        let old = old.map(|old| ("oldSelf", known(old)));
        match expression.evaluate([("self", known(value))].into_iter().chain(old)) {
            Ok(cel::Value::Bool(true)) => Ok(()),
            Ok(cel::Value::Bool(false)) => Err(self.message.clone()),
            Ok(_) => Err(format!("rule {:?} is neither true nor false", self.text)),
            Err(error) => Err(format!("{error} evaluating rule: {}", self.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn broken(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = Vec::new();
        Rules::of(schema).check(value, old, "", &mut causes);
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_rule_is_asked_about_the_value_that_has_its_schema() {
        let port = json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self % 2 == 0", "message": "even"}]});
        let schema =
            json!({"properties": {"ports": {"items": port}, "named": {"additionalProperties": port}}});
        let value = json!({"ports": [2, 3], "named": {"a": 5, "b": 6}, "other": [1]});
        assert_eq!(
            broken(&schema, &value, None),
            ["named.a: Invalid value: 5: even", "ports[1]: Invalid value: 3: even"]
        );
    }

    #[test]
    fn what_was_there_before_is_asked_for_if_something_was() {
        let schema =
            json!({"properties": {"a": {"x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}});
        assert_eq!(broken(&schema, &json!({"a": 1}), None), [""; 0]);
        assert_eq!(broken(&schema, &json!({"a": 1}), Some(&json!({}))), [""; 0]);
        assert_eq!(broken(&schema, &json!({"a": 1}), Some(&json!({"a": 1}))), [""; 0]);
        assert_eq!(
            broken(&schema, &json!({"a": 1}), Some(&json!({"a": 2}))),
            ["a: Invalid value: 1: failed rule: self == oldSelf"]
        );
    }

    #[test]
    fn what_is_as_it_was_is_not_held_against_rules_that_may_be_newer() {
        let schema = json!({"properties": {"a": {"x-kubernetes-validations": [{"rule": "self > 1", "message": "more"}]}}});
        let old = json!({"a": 1, "b": 1});
        assert_eq!(broken(&schema, &json!({"a": 1, "b": 2}), Some(&old)), [""; 0]);
        assert_eq!(broken(&schema, &json!({"a": 0, "b": 2}), Some(&old)), ["a: Invalid value: 0: more"]);
        let counts = json!({"x-kubernetes-validations": [{"rule": "self > oldSelf", "message": "more"}]});
        assert_eq!(broken(&counts, &json!(1), Some(&json!(1))).len(), 1, "it is about the change");
    }

    #[test]
    fn a_rule_that_cannot_be_answered_is_broken() {
        let schema = |rule: &str| json!({"x-kubernetes-validations": [{"rule": rule}]});
        for rule in ["self.absent == 1", "1 + 1", "self ="] {
            assert_eq!(broken(&schema(rule), &json!({}), None).len(), 1, "{rule}");
        }
    }

    #[test]
    fn a_definition_is_told_of_rules_that_are_no_expressions() {
        let schema = json!({"properties": {"a": {"x-kubernetes-validations": [{"rule": "self ="}]}}});
        let mut causes = Vec::new();
        Rules::of(&schema).complain("schema", &mut causes);
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].field, "schema.properties[a].x-kubernetes-validations.rule");
    }
}
