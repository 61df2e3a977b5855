//! A policy from its object, with all of it that this server would have to know.

use super::judge::INVALID;
use crate::apiserver::expression::Expression;
use crate::apiserver::status::Cause;
use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicyBindingSpec,
    ValidatingAdmissionPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;

/// A policy whose expressions are compiled.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(super) rules: MatchResources,
    /// Whether a rule about one version or group of an object is about all of them.
    pub(super) is_equivalent: bool,
    pub(super) conditions: Vec<Expression>,
    /// Each with those before it.
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) validations: Vec<Validation>,
    /// Whether an expression without an answer lets pass.
    pub(super) ignores_failure: bool,
}

#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: Option<String>,
    pub(super) message_expression: Option<Expression>,
    /// With the code of HTTP.
    pub(super) reason: (&'static str, u16),
}

/// All that is wrong with a `ValidatingAdmissionPolicy`, or not known here.
pub(crate) fn complain_of_policy(object: &Value, causes: &mut Vec<Cause>) {
    causes.extend(Policy::of(object).err().into_iter().flatten());
}

/// All that is wrong with a `ValidatingAdmissionPolicyBinding`, or not known here.
pub(crate) fn complain_of_binding(object: &Value, causes: &mut Vec<Cause>) {
    let Some(spec) = specification::<ValidatingAdmissionPolicyBindingSpec>(object, causes) else { return };
    if spec.policy_name.is_none_or(|name| name.is_empty()) {
        causes.push(Cause::required("spec.policyName", ""));
    }
    let actions = spec.validation_actions.unwrap_or_default();
    if actions.is_empty() {
        causes.push(Cause::required("spec.validationActions", ""));
    }
    for (index, action) in actions.iter().enumerate().filter(|(_, action)| *action != "Deny") {
        let at = format!("spec.validationActions[{index}]");
        causes.push(Cause::unsupported(at, &Value::from(action.as_str()), &["Deny"]));
    }
    unknown("spec.paramRef", spec.param_ref.is_some(), causes);
    unknown("spec.matchResources", spec.match_resources.is_some(), causes);
}

impl Policy {
    pub(super) fn of(object: &Value) -> Result<Self, Vec<Cause>> {
        let mut causes = Vec::new();
        let Some(spec) = specification::<ValidatingAdmissionPolicySpec>(object, &mut causes) else {
            return Err(causes);
        };
        unknown("spec.paramKind", spec.param_kind.is_some(), &mut causes);
        let audits = spec.audit_annotations.is_some_and(|list| !list.is_empty());
        unknown("spec.auditAnnotations", audits, &mut causes);
        let ignores_failure = match spec.failure_policy.as_deref() {
            None | Some("Fail") => false,
            Some("Ignore") => true,
            Some(other) => {
                causes.push(Cause::unsupported("spec.failurePolicy", &other.into(), &["Fail", "Ignore"]));
                false
            }
        };
        let rules = spec.match_constraints.unwrap_or_default();
        let is_equivalent = check_rules(&rules, &mut causes);

        let mut reader = Reader { declared: BTreeSet::new(), causes };
        let mut conditions = Vec::new();
        for (index, condition) in spec.match_conditions.unwrap_or_default().iter().enumerate() {
            let at = format!("spec.matchConditions[{index}].expression");
            // Those are asked before there are variables.
            conditions.extend(reader.compile(&at, &condition.expression));
        }
        let mut variables = Vec::new();
        for (index, variable) in spec.variables.unwrap_or_default().into_iter().enumerate() {
            let expression =
                reader.compile(&format!("spec.variables[{index}].expression"), &variable.expression);
            let at = format!("spec.variables[{index}].name");
            if !is_identifier(&variable.name) {
                let why = "name is not a valid CEL identifier";
                reader.causes.push(Cause::invalid(at, &variable.name.as_str().into(), why));
            } else if !reader.declared.insert(variable.name.clone()) {
                reader.causes.push(Cause::duplicate(at, &variable.name.as_str().into()));
            }
            variables.extend(expression.map(|expression| (variable.name, expression)));
        }
        let given = spec.validations.unwrap_or_default();
        if given.is_empty() {
            let why = "validations or auditAnnotations must contain at least one item";
            reader.causes.push(Cause::required("spec.validations", why));
        }
        let mut validations = Vec::new();
        for (index, validation) in given.into_iter().enumerate() {
            let at = |field: &str| format!("spec.validations[{index}].{field}");
            let expression = reader.compile(&at("expression"), &validation.expression);
            let message_expression = validation.message_expression.as_deref().filter(|text| !text.is_empty());
            let message_expression =
                message_expression.and_then(|text| reader.compile(&at("messageExpression"), text));
            let reason = reason(&at("reason"), validation.reason.as_deref(), &mut reader.causes);
            let message = validation.message.filter(|text| !text.is_empty());
            validations.extend(expression.map(|expression| Validation {
                expression,
                message,
                message_expression,
                reason,
            }));
        }
        if !reader.causes.is_empty() {
            return Err(reader.causes);
        }
        Ok(Self { rules, is_equivalent, conditions, variables, validations, ignores_failure })
    }
}

/// Compiles the expressions of a policy in their order.
struct Reader {
    /// The variables that there are so far.
    declared: BTreeSet<String>,
    causes: Vec<Cause>,
}

impl Reader {
    fn compile(&mut self, at: &str, text: &str) -> Option<Expression> {
        if text.trim().is_empty() {
            self.causes.push(Cause::required(at, "expression is not specified"));
            return None;
        }
        let mut complain = |why: &str| {
            let why = format!("compilation failed: {why}");
            self.causes.push(Cause::invalid(at, &Value::from(text), &why));
        };
        let expression = Expression::compile(text).map_err(|error| complain(&error)).ok()?;
        let names = expression.names();
        for name in &names.variables {
            if !matches!(name.as_str(), "object" | "oldObject" | "request") {
                complain(&format!(
                    "undeclared reference to '{name}': object, oldObject and request are known"
                ));
            }
        }
        for name in names.composed.difference(&self.declared) {
            complain(&format!("undefined field '{name}': there is no such variable above"));
        }
        for name in &names.functions {
            complain(&format!("undeclared reference to '{name}': this server has no such function"));
        }
        Some(expression)
    }
}

fn specification<T: DeserializeOwned>(object: &Value, causes: &mut Vec<Cause>) -> Option<T> {
    let wrong = |error: serde_json::Error| {
        causes.push(Cause::invalid("spec", &object["spec"], &error.to_string()));
    };
    T::deserialize(&object["spec"]).map_err(wrong).ok()
}

/// Refuses a field that the real server has and this one does not, and that would be passed over.
fn unknown(field: &str, is_there: bool, causes: &mut Vec<Cause>) {
    if is_there {
        causes.push(Cause::forbidden(field, "this API server does not know it"));
    }
}

/// Whether they mean all versions and groups of an object.
fn check_rules(rules: &MatchResources, causes: &mut Vec<Cause>) -> bool {
    const AT: &str = "spec.matchConstraints";
    let selects = |selector: &Option<LabelSelector>| {
        selector.as_ref().is_some_and(|selector| *selector != LabelSelector::default())
    };
    unknown(&format!("{AT}.namespaceSelector"), selects(&rules.namespace_selector), causes);
    unknown(&format!("{AT}.objectSelector"), selects(&rules.object_selector), causes);
    if rules.resource_rules.as_ref().is_none_or(Vec::is_empty) {
        causes.push(Cause::required(format!("{AT}.resourceRules"), ""));
    }
    for (list, rules) in
        [("resourceRules", &rules.resource_rules), ("excludeResourceRules", &rules.exclude_resource_rules)]
    {
        for (index, rule) in rules.iter().flatten().enumerate() {
            check_rule(&format!("{AT}.{list}[{index}]"), rule, causes);
        }
    }
    match rules.match_policy.as_deref() {
        None | Some("Equivalent") => true,
        Some("Exact") => false,
        Some(other) => {
            let at = format!("{AT}.matchPolicy");
            causes.push(Cause::unsupported(at, &other.into(), &["Equivalent", "Exact"]));
            false
        }
    }
}

fn check_rule(at: &str, rule: &NamedRuleWithOperations, causes: &mut Vec<Cause>) {
    for (field, list) in [
        ("apiGroups", &rule.api_groups),
        ("apiVersions", &rule.api_versions),
        ("operations", &rule.operations),
        ("resources", &rule.resources),
    ] {
        if list.as_ref().is_none_or(Vec::is_empty) {
            causes.push(Cause::required(format!("{at}.{field}"), ""));
        }
    }
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, operation) in rule.operations.iter().flatten().enumerate() {
        if !operations.contains(&operation.as_str()) {
            let at = format!("{at}.operations[{index}]");
            causes.push(Cause::unsupported(at, &operation.as_str().into(), &operations));
        }
    }
    let scopes = ["*", "Cluster", "Namespaced"];
    if let Some(scope) = rule.scope.as_deref().filter(|scope| !scopes.contains(scope)) {
        causes.push(Cause::unsupported(format!("{at}.scope"), &scope.into(), &scopes));
    }
}

fn reason(at: &str, given: Option<&str>, causes: &mut Vec<Cause>) -> (&'static str, u16) {
    const KNOWN: [(&str, u16); 4] =
        [("Unauthorized", 401), ("Forbidden", 403), INVALID, ("RequestEntityTooLarge", 413)];
    let Some(given) = given.filter(|given| !given.is_empty()) else { return INVALID };
    KNOWN.into_iter().find(|(name, _)| *name == given).unwrap_or_else(|| {
        causes.push(Cause::unsupported(at, &given.into(), &KNOWN.map(|(name, _)| name)));
        INVALID
    })
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
