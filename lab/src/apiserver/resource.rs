//! The table of resources that the server serves.

use super::status::ApiError;
use super::validate::Rules;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One resource in one version.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Whether `/status` is a subresource.
    pub(crate) status: bool,
    /// Whether `metadata.generation` counts changes of the specification.
    pub(crate) generation: bool,
    /// The table of the store that holds the objects; shared by all versions.
    pub(crate) storage: String,
    /// What the custom resource definition says, for custom resources.
    pub(crate) custom: Option<Custom>,
}

/// The part of a custom resource definition's version that the server acts on.
#[derive(Debug, Clone)]
pub(crate) struct Custom {
    pub(crate) schema: Value,
    pub(crate) rules: Arc<Rules>,
    pub(crate) columns: Vec<Value>,
    pub(crate) selectable: Vec<String>,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.group, &self.plural, name)
    }

    pub(crate) fn conflict(&self, name: &str, why: &str) -> ApiError {
        ApiError::conflict(&self.group, &self.plural, name, why)
    }
}

const SCOPE_CLUSTER: u8 = 0;
const NAMESPACED: u8 = 1;
const STATUS: u8 = 2;
const GENERATION: u8 = 4;
const SPECIFIED: u8 = NAMESPACED | STATUS | GENERATION;

type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, u8);

/// Group, version, kind, plural, short names, categories, flags.
const BUILT_IN: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", "ns", "", STATUS),
    ("", "v1", "Node", "nodes", "no", "", STATUS),
    ("", "v1", "Pod", "pods", "po", "all", NAMESPACED | STATUS),
    ("", "v1", "Service", "services", "svc", "all", NAMESPACED | STATUS),
    ("", "v1", "Endpoints", "endpoints", "ep", "", NAMESPACED),
    ("", "v1", "ConfigMap", "configmaps", "cm", "", NAMESPACED),
    ("", "v1", "Secret", "secrets", "", "", NAMESPACED),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", "", NAMESPACED),
    ("", "v1", "Event", "events", "ev", "", NAMESPACED),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "", NAMESPACED | STATUS),
    ("", "v1", "PersistentVolume", "persistentvolumes", "pv", "", STATUS),
    ("", "v1", "LimitRange", "limitranges", "limits", "", NAMESPACED),
    ("", "v1", "ResourceQuota", "resourcequotas", "quota", "", NAMESPACED | STATUS),
    ("", "v1", "ReplicationController", "replicationcontrollers", "rc", "all", SPECIFIED),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds", "all", SPECIFIED),
    ("apps", "v1", "Deployment", "deployments", "deploy", "all", SPECIFIED),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs", "all", SPECIFIED),
    ("apps", "v1", "StatefulSet", "statefulsets", "sts", "all", SPECIFIED),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", "", "", NAMESPACED),
    ("batch", "v1", "Job", "jobs", "", "all", SPECIFIED),
    ("batch", "v1", "CronJob", "cronjobs", "cj", "all", SPECIFIED),
    (
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "hpa",
        "all",
        NAMESPACED | STATUS,
    ),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "", NAMESPACED),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "", NAMESPACED | GENERATION),
    ("events.k8s.io", "v1", "Event", "events", "ev", "", NAMESPACED),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", "", NAMESPACED | GENERATION),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", "", SPECIFIED),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "", "", GENERATION),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "", "", SCOPE_CLUSTER),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "", SPECIFIED),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "", "", NAMESPACED),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", "", NAMESPACED),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", "", SCOPE_CLUSTER),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", "", SCOPE_CLUSTER),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "",
        "",
        SCOPE_CLUSTER,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "",
        "",
        SCOPE_CLUSTER,
    ),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", "", GENERATION),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", "", SCOPE_CLUSTER),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd,crds",
        "api-extensions",
        STATUS | GENERATION,
    ),
];

/// Kinds that are asked and answered but never stored: group, version, kind, plural, namespaced.
pub(crate) const REVIEWS: &[(&str, &str, &str, &str, bool)] = &[
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", false),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", false),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", false),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
];

/// Resources by group, version and plural: the built-in ones and those of custom resource definitions.
#[derive(Debug, Clone)]
pub(crate) struct Resources {
    by_path: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Resources {
    pub(crate) fn built_in() -> Self {
        let by_path = BUILT_IN
            .iter()
            .map(|row| {
                let resource = built_in(row);
                (path_of(&resource), Arc::new(resource))
            })
            .collect();
        Self { by_path }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).map(Arc::clone)
    }

    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.iter().find(|r| r.kind == kind && r.group == group && r.version == version).map(Arc::clone)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_path.values()
    }

    /// Makes the served custom resources those of `definition`, which is new or changed.
    pub(crate) fn define(&mut self, definition: &Value) {
        self.undefine(definition);
        for resource in custom(definition) {
            self.by_path.insert(path_of(&resource), Arc::new(resource));
        }
    }

    /// Stops serving the resources of `definition`.
    pub(crate) fn undefine(&mut self, definition: &Value) {
        let group = text(&definition["spec"]["group"]);
        let plural = text(&definition["spec"]["names"]["plural"]);
        self.by_path.retain(|_, r| r.custom.is_none() || r.group != group || r.plural != plural);
    }
}

fn path_of(resource: &Resource) -> (String, String, String) {
    (resource.group.clone(), resource.version.clone(), resource.plural.clone())
}

fn built_in(&(group, version, kind, plural, short, categories, flags): &Row) -> Resource {
    // Both event groups are two views of the same objects.
    let storage = if plural == "events" { "events".to_owned() } else { storage_name(group, plural) };
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: words(short),
        categories: words(categories),
        namespaced: flags & NAMESPACED != 0,
        status: flags & STATUS != 0,
        generation: flags & GENERATION != 0,
        storage,
        custom: None,
    }
}

fn custom(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let group = text(&spec["group"]);
    let kind = text(&names["kind"]);
    let plural = text(&names["plural"]);
    let list = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let or = |v: &Value, other: String| v.as_str().map_or(other, ToOwned::to_owned);
    spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["served"] == json!(true))
        .map(|version| Resource {
            group: group.clone(),
            version: text(&version["name"]),
            kind: kind.clone(),
            list_kind: or(&names["listKind"], format!("{kind}List")),
            plural: plural.clone(),
            singular: or(&names["singular"], kind.to_lowercase()),
            short_names: list(&names["shortNames"]),
            categories: list(&names["categories"]),
            namespaced: spec["scope"] == json!("Namespaced"),
            status: version["subresources"].get("status").is_some(),
            generation: true,
            storage: storage_name(&group, &plural),
            custom: Some(Custom {
                schema: version["schema"]["openAPIV3Schema"].clone(),
                rules: Arc::new(Rules::of(&version["schema"]["openAPIV3Schema"])),
                columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
                selectable: version["selectableFields"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|f| text(&f["jsonPath"]).trim_start_matches('.').to_owned())
                    .collect(),
            }),
        })
        .collect()
}

fn storage_name(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').filter(|w| !w.is_empty()).map(ToOwned::to_owned).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
