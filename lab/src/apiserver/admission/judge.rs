//! What a policy says of a request.

use super::policy::Policy;
use super::{Asked, rule};
use crate::apiserver::expression::{Expression, Values, known};
use crate::apiserver::resource::Resource;
use serde_json::{Value, json};

/// Why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) message: String,
    /// With the code of HTTP.
    pub(super) reason: (&'static str, u16),
}

pub(super) const INVALID: (&str, u16) = ("Invalid", 422);

impl Denied {
    /// By an expression that has no answer.
    pub(super) fn error(message: String) -> Self {
        Self { message, reason: INVALID }
    }
}

/// What an expression is asked with, and what came of the variables that were asked for so far.
struct World<'a> {
    policy: &'a Policy,
    values: Values,
    failed: Vec<(&'a str, String)>,
}

impl Policy {
    /// Whether its rules are about such requests.
    pub(super) fn is_about(&self, asked: &Asked<'_>) -> bool {
        rule::any(self.rules.resource_rules.as_deref(), asked)
            && !rule::any(self.rules.exclude_resource_rules.as_deref(), asked)
    }

    /// `resource` is the one that the rules name, of which both objects are.
    pub(super) fn judge(
        &self,
        asked: &Asked<'_>,
        resource: &Resource,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Denied> {
        let request = known(&request(asked, resource));
        let or_null = |object: Option<&Value>| object.map_or(cel::Value::Null, known);
        let values = [("object", or_null(object)), ("oldObject", or_null(old)), ("request", request)];
        let values = values.map(|(name, value)| (name.to_owned(), value)).into();
        let mut world = World { policy: self, values, failed: Vec::new() };
        match self.ask(&mut world) {
            Err(Verdict::Broken(_)) if self.ignores_failure => Ok(()),
            Err(Verdict::Broken(message)) => Err(Denied::error(message)),
            Err(Verdict::Denied(denied)) => Err(denied),
            Ok(()) => Ok(()),
        }
    }

    fn ask<'a>(&'a self, world: &mut World<'a>) -> Result<(), Verdict> {
        let mut broken = None;
        for condition in &self.conditions {
            match world.truth(condition) {
                Ok(true) => {}
                // One that is false decides, also beside one that has no answer.
                Ok(false) => return Ok(()),
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        if let Some(error) = broken {
            return Err(Verdict::Broken(error));
        }
        for validation in &self.validations {
            match world.truth(&validation.expression) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) if self.ignores_failure => continue,
                Err(error) => return Err(Verdict::Broken(error)),
            }
            // A message that cannot be said is as if there were none.
            let said = validation.message_expression.as_ref().and_then(|it| match world.value(it) {
                Ok(cel::Value::String(text)) => Some(text.trim().to_owned()),
                _ => None,
            });
            let message = said
                .filter(|text| !text.is_empty() && !text.contains('\n'))
                .or_else(|| validation.message.clone())
                .unwrap_or_else(|| format!("failed expression: {}", validation.expression.text()));
            return Err(Verdict::Denied(Denied { message, reason: validation.reason }));
        }
        Ok(())
    }
}

enum Verdict {
    Denied(Denied),
    /// What kept an expression from being true or false.
    Broken(String),
}

impl<'a> World<'a> {
    fn truth(&mut self, expression: &'a Expression) -> Result<bool, String> {
        match self.value(expression)? {
            cel::Value::Bool(truth) => Ok(truth),
            _ => Err(format!("expression '{}' is neither true nor false", expression.text())),
        }
    }

    fn value(&mut self, expression: &'a Expression) -> Result<cel::Value, String> {
        let policy = self.policy;
        for (name, variable) in &policy.variables {
            let dotted = format!("variables.{name}");
            let is_asked = expression.names().composed.contains(name);
            let is_there = self.values.contains_key(&dotted) || self.failed.iter().any(|(it, _)| it == name);
            if !is_asked || is_there {
                continue;
            }
            // It names those before it alone.
            match self.value(variable) {
                Ok(value) => {
                    self.values.insert(dotted, value);
                }
                Err(error) => self.failed.push((name, error)),
            }
        }
        let values = self.values.iter().map(|(name, value)| (name.as_str(), value.clone()));
        expression.evaluate(values).map_err(|error| {
            let mut why = error.to_string();
            if matches!(&error, cel::ExecutionError::UndeclaredReference(name) if **name == "variables") {
                let asked = &expression.names().composed;
                let failed = self.failed.iter().find(|(name, _)| asked.contains(*name));
                if let Some((name, error)) = failed {
                    why = format!("composited variable {name:?} fails to evaluate: {error}");
                }
            }
            format!("expression '{}' resulted in error: {why}", expression.text())
        })
    }
}

/// `request`, as far as it is known here: without `uid` and `options`.
fn request(asked: &Asked<'_>, resource: &Resource) -> Value {
    let kind = |it: &Resource| match asked.subresource {
        "binding" => json!({"group": "", "version": "v1", "kind": "Binding"}),
        "eviction" => json!({"group": "policy", "version": "v1", "kind": "Eviction"}),
        _ => json!({"group": it.group, "version": it.version, "kind": it.kind}),
    };
    let named = |it: &Resource| json!({"group": it.group, "version": it.version, "resource": it.plural});
    json!({
        "kind": kind(resource), "resource": named(resource), "subResource": asked.subresource,
        "requestKind": kind(asked.resource), "requestResource": named(asked.resource),
        "requestSubResource": asked.subresource, "name": asked.name, "namespace": asked.namespace,
        "operation": asked.operation.text(), "userInfo": asked.user.info(), "dryRun": asked.dry_run,
    })
}
