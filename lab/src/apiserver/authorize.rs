//! Whether a user may do what a request asks for: RBAC, by the roles and bindings that are in the store.
//!
//! Rules grant and never deny, as in Kubernetes. A user is a service account; groups and users of other kinds have no
//! rules here. Roles of aggregation rules are not put together.

use super::registry::Registry;
use super::select::Selector;
use super::status::ApiError;
use serde_json::Value;
use std::fmt;

const GROUP: &str = "rbac.authorization.k8s.io/v1";

/// What a request asks for, in the words of RBAC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attributes {
    /// `list`, `patch`, ...
    pub(crate) verb: &'static str,
    /// The API group, empty for the core.
    pub(crate) group: String,
    /// The plural, with the subresource after a slash.
    pub(crate) resource: String,
    /// Empty for all namespaces, and for what is in none.
    pub(crate) namespace: String,
    /// Empty for all objects.
    pub(crate) name: String,
}

/// Something that a user was not allowed to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    user: String,
    asked: Attributes,
}

impl Refusal {
    pub(crate) fn new(user: &str, asked: Attributes) -> Self {
        Self { user: user.to_owned(), asked }
    }

    /// The answer to the request, in the words of the real server.
    pub(crate) fn error(&self) -> ApiError {
        let plural = self.asked.resource.split('/').next().unwrap_or_default();
        ApiError::not_permitted(&self.asked.group, plural, &self.asked.name, &self.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attributes { verb, group, resource, namespace, .. } = &self.asked;
        write!(
            f,
            "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {}",
            self.user,
            match namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            }
        )
    }
}

impl Registry {
    /// Whether some rule lets a service account do this.
    pub(crate) fn permits(&self, user: &str, asked: &Attributes) -> bool {
        let everywhere = self.of_kind("ClusterRoleBinding");
        let here = self.of_kind("RoleBinding");
        let here = here.iter().filter(|binding| {
            !asked.namespace.is_empty() && binding["metadata"]["namespace"] == asked.namespace.as_str()
        });
        let bindings = everywhere.iter().chain(here).filter(|binding| is_subject(binding, user));
        bindings
            .filter_map(|binding| self.role_of(binding))
            .any(|role| role["rules"].as_array().into_iter().flatten().any(|rule| allows(rule, asked)))
    }

    fn role_of(&self, binding: &Value) -> Option<Value> {
        let reference = &binding["roleRef"];
        let roles = self.of_kind(reference["kind"].as_str()?);
        roles.into_iter().find(|role| {
            let is_reachable = reference["kind"] == "ClusterRole"
                || role["metadata"]["namespace"] == binding["metadata"]["namespace"];
            is_reachable && role["metadata"]["name"] == reference["name"]
        })
    }

    fn of_kind(&self, kind: &str) -> Vec<Value> {
        let Some(resource) = self.resources.of_kind(GROUP, kind) else { return Vec::new() };
        let all = self.store.list(&resource.storage, &Selector::default(), None);
        all.iter().map(|(_, stored)| stored.value.clone()).collect()
    }
}

fn is_subject(binding: &Value, user: &str) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|subject| {
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        text("kind") == "ServiceAccount"
            && user == format!("system:serviceaccount:{}:{}", text("namespace"), text("name"))
    })
}

fn allows(rule: &Value, asked: &Attributes) -> bool {
    let has = |field: &str, wanted: &str| {
        rule[field].as_array().into_iter().flatten().any(|entry| *entry == "*" || *entry == wanted)
    };
    // Rules with names are of requests that name an object; others have no name and match none.
    let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
    let is_named = names.is_none_or(|names| names.iter().any(|name| *name == asked.name.as_str()));
    has("verbs", asked.verb)
        && has("apiGroups", &asked.group)
        && has("resources", &asked.resource)
        && is_named
}

#[cfg(test)]
mod tests {
    use super::Attributes;
    use crate::apiserver::ApiServer;
    use serde_json::json;

    #[test]
    fn a_rule_holds_for_its_verb_group_resource_namespace_and_names_alone() {
        let api = ApiServer::new();
        let subjects = json!([{"kind": "ServiceAccount", "name": "agent", "namespace": "kube-system"}]);
        let role = |kind: &str, rules: serde_json::Value| {
            let binding = format!("{kind}Binding");
            for object in [
                json!({"kind": kind, "rules": rules}),
                json!({"kind": binding, "roleRef": {"kind": kind, "name": "agent"}, "subjects": subjects}),
            ] {
                let mut object = object;
                object["apiVersion"] = super::GROUP.into();
                object["metadata"] = json!({"name": "agent"});
                if kind == "Role" {
                    object["metadata"]["namespace"] = "kube-system".into();
                }
                api.put_raw(object).unwrap();
            }
        };
        role(
            "ClusterRole",
            json!([{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["list"]}]),
        );
        let named =
            json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["list"]}]);
        role("Role", named);
        let agent = "system:serviceaccount:kube-system:agent";
        for (user, verb, group, resource, namespace, name, wanted) in [
            (agent, "list", "", "pods", "", "", true),
            (agent, "list", "", "pods", "app", "x", true),
            (agent, "list", "", "pods/status", "app", "x", true),
            (agent, "watch", "", "pods", "", "", false),
            (agent, "list", "apps", "pods", "", "", false),
            (agent, "list", "", "pods/exec", "app", "x", false),
            (agent, "list", "", "secrets", "kube-system", "a", true),
            (agent, "list", "", "secrets", "kube-system", "", false),
            (agent, "list", "", "secrets", "kube-system", "b", false),
            (agent, "list", "", "secrets", "app", "a", false),
            (agent, "list", "", "secrets", "", "a", false),
            ("system:serviceaccount:app:agent", "list", "", "pods", "", "", false),
        ] {
            let (group, resource) = (group.to_owned(), resource.to_owned());
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            let asked = Attributes { verb, group, resource, namespace, name };
            assert_eq!(api.registry().permits(user, &asked), wanted, "{user} {asked:?}");
        }
    }
}
