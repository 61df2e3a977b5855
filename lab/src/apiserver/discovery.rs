//! Discovery documents: which groups, versions and resources there are.

use super::resource::{REVIEWS, Resource, Resources};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

/// Subresources of pods besides the status: name, group and version, kind.
const POD_PARTS: [(&str, &str, &str, &str); 2] =
    [("binding", "", "v1", "Binding"), ("eviction", "policy", "v1", "Eviction")];

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": "v1.32.4", "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "none",
        "platform": "linux/amd64",
    })
}

/// `/api`.
pub(crate) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub(crate) fn groups(resources: &Resources) -> Value {
    let groups = group_versions(resources)
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_of(&group, &versions))
        .collect::<Value>();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group(resources: &Resources, name: &str) -> Option<Value> {
    let versions = group_versions(resources).remove(name).filter(|_| !name.is_empty())?;
    let mut group = group_of(name, &versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(crate) fn resource_list(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in of(resources, group, version) {
        list.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short_names,
            "categories": resource.categories, "storageVersionHash": "",
        }));
        for (name, group, version, kind, verbs) in parts(resource) {
            list.push(json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "", "kind": kind,
                "namespaced": resource.namespaced, "verbs": verbs, "group": group, "version": version,
            }));
        }
    }
    for (.., kind, plural, namespaced) in REVIEWS.iter().filter(|r| r.0 == group && r.1 == version) {
        list.push(json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind,
            "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let found = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list});
    (!list.is_empty()).then_some(found)
}

/// Aggregated discovery (`apidiscovery.k8s.io/v2`) of the core group or of all others.
pub(crate) fn aggregated(resources: &Resources, core: bool) -> Value {
    let items = group_versions(resources)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions = versions
                .iter()
                .map(|version| {
                    let mut list = of(resources, &group, version).map(|r| discovered(r)).collect::<Vec<_>>();
                    for (.., kind, plural, namespaced) in
                        REVIEWS.iter().filter(|r| r.0 == group && r.1 == version)
                    {
                        list.push(json!({
                            "resource": plural, "singularResource": kind.to_lowercase(), "verbs": ["create"],
                            "responseKind": {"group": group, "version": version, "kind": kind},
                            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
                        }));
                    }
                    json!({"version": version, "resources": list, "freshness": "Current"})
                })
                .collect::<Value>();
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect::<Value>();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}

/// Every group with its versions.
pub(crate) fn group_versions(resources: &Resources) -> BTreeMap<String, BTreeSet<String>> {
    let mut groups = BTreeMap::<String, BTreeSet<String>>::new();
    for resource in resources.iter() {
        groups.entry(resource.group.clone()).or_default().insert(resource.version.clone());
    }
    for (group, version, ..) in REVIEWS {
        groups.entry((*group).to_owned()).or_default().insert((*version).to_owned());
    }
    groups
}

fn of<'a>(resources: &'a Resources, group: &str, version: &str) -> impl Iterator<Item = &'a Arc<Resource>> {
    resources.iter().filter(move |r| r.group == group && r.version == version)
}

fn group_of(name: &str, versions: &BTreeSet<String>) -> Value {
    let versions = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect::<Vec<_>>();
    let preferred = versions.last().cloned();
    json!({"name": name, "versions": versions, "preferredVersion": preferred})
}

fn discovered(resource: &Resource) -> Value {
    let parts = parts(resource)
        .into_iter()
        .map(|(name, group, version, kind, verbs)| {
            json!({
                "subresource": name, "verbs": verbs,
                "responseKind": {"group": group, "version": version, "kind": kind},
            })
        })
        .collect::<Value>();
    json!({
        "resource": resource.plural, "singularResource": resource.singular, "verbs": VERBS,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "shortNames": resource.short_names, "categories": resource.categories, "subresources": parts,
    })
}

type Part = (&'static str, String, String, String, Vec<&'static str>);

fn parts(resource: &Resource) -> Vec<Part> {
    let mut parts = Vec::new();
    if resource.status {
        let own = (resource.group.clone(), resource.version.clone(), resource.kind.clone());
        parts.push(("status", own.0, own.1, own.2, STATUS_VERBS.to_vec()));
    }
    if resource.is("", "pods") {
        for (name, group, version, kind) in POD_PARTS {
            parts.push((name, group.to_owned(), version.to_owned(), kind.to_owned(), vec!["create"]));
        }
    }
    parts
}
