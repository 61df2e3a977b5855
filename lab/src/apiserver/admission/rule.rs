//! Which requests a policy is about.

use super::Asked;
use k8s_openapi::api::admissionregistration::v1::NamedRuleWithOperations;

/// Whether one of these rules matches a request.
pub(super) fn any(rules: Option<&[NamedRuleWithOperations]>, asked: &Asked<'_>) -> bool {
    rules.unwrap_or_default().iter().any(|rule| matches(rule, asked))
}

fn matches(rule: &NamedRuleWithOperations, asked: &Asked<'_>) -> bool {
    let resource = asked.resource;
    let has = |list: &Option<Vec<String>>, wanted: &str| {
        list.iter().flatten().any(|entry| entry == "*" || entry == wanted)
    };
    let is_named = rule
        .resource_names
        .as_ref()
        .is_none_or(|names| names.is_empty() || names.iter().any(|name| name == asked.name));
    let is_in_scope = match rule.scope.as_deref() {
        Some("Namespaced") => resource.namespaced,
        Some("Cluster") => !resource.namespaced,
        _ => true,
    };
    has(&rule.operations, asked.operation.text())
        && has(&rule.api_groups, &resource.group)
        && has(&rule.api_versions, &resource.version)
        && rule.resources.iter().flatten().any(|pattern| is_resource(pattern, asked))
        && is_named
        && is_in_scope
}

/// `pods`, `pods/status`, `pods/*`, `*/status`; `*` are all resources without their subresources.
fn is_resource(pattern: &str, asked: &Asked<'_>) -> bool {
    let (plural, part) = pattern.split_once('/').unwrap_or((pattern, ""));
    (plural == "*" || plural == asked.resource.plural) && (part == "*" || part == asked.subresource)
}
