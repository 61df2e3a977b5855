//! The verbs of the API over the store.
//!
//! Pure: time, unique identifiers and random suffixes come in as a [`Stamp`]. Every verb checks everything before it
//! writes anything, so a refused request leaves no trace.

mod delete;
mod service;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use delete::{DeleteOptions, Deleted};
pub(crate) use write::{Part, WriteOptions, Written};

use super::admission::Policy;
use super::resource::{Resource, Resources};
use super::status::ApiError;
use super::store::{Key, Store, Stored};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the outside world contributes to one write.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) now: jiff::Timestamp,
    pub(crate) uid: String,
    /// Random letters for `generateName`.
    pub(crate) suffix: String,
}

impl Stamp {
    pub(crate) fn time(&self) -> String {
        rfc3339(self.now)
    }
}

/// `metav1.Time`: seconds, in UTC.
pub(crate) fn rfc3339(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The objects, the kinds, the addresses of services, what admission keeps.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) resources: Resources,
    pub(crate) service_networks: Vec<IpNetwork>,
    /// Policies of admission by their names, with the versions of which they are.
    pub(crate) policies: BTreeMap<String, (String, Arc<Policy>)>,
    /// What policies of admission have denied to whom.
    pub(crate) denials: BTreeSet<String>,
}

pub(crate) const NAMESPACES: &str = "namespaces";
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

impl Registry {
    /// Without an object.
    pub(crate) fn new(store: Store, service_networks: Vec<IpNetwork>) -> Self {
        Self {
            store,
            resources: Resources::built_in(),
            service_networks,
            policies: BTreeMap::new(),
            denials: BTreeSet::new(),
        }
    }

    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Stored>, ApiError> {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        self.store.find(&resource.storage, &key).map(Arc::clone).ok_or_else(|| resource.not_found(name))
    }

    /// Stores an object as it is: no defaults, no validation, no check of versions or namespaces.
    pub(crate) fn put_raw(&mut self, mut object: Value, stamp: &Stamp) -> Result<Arc<Stored>, ApiError> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let resource = self.resources.of_kind(&api_version, &kind).ok_or_else(|| {
            ApiError::bad_request(format!("put raw object: no kind {kind} in {api_version}"))
        })?;
        if !object["metadata"].is_object() {
            return Err(ApiError::bad_request(format!("put raw {kind}: metadata is not an object")));
        }
        let mut namespace = text(&object["metadata"]["namespace"]);
        if resource.namespaced && namespace.is_empty() {
            "default".clone_into(&mut namespace);
            object["metadata"]["namespace"] = "default".into();
        }
        let key = Key { namespace, name: text(&object["metadata"]["name"]) };
        let old = self.store.find(&resource.storage, &key).map(|o| o.value["metadata"].clone());
        for (field, fresh) in [("uid", stamp.uid.clone()), ("creationTimestamp", stamp.time())] {
            let kept = old.as_ref().and_then(|m| m.get(field).cloned());
            let metadata = &mut object["metadata"];
            if metadata[field].is_null() {
                metadata[field] = kept.unwrap_or_else(|| fresh.into());
            }
        }
        let stored = self.store.put(&resource.storage, key, object);
        if resource.storage == DEFINITIONS {
            self.resources.define(&stored.value);
        }
        Ok(stored)
    }

    /// The namespaces that every cluster has.
    pub(crate) fn create_system_namespaces(&mut self, mut stamp: impl FnMut() -> Stamp) {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            if let Err(error) = self.put_raw(object, &stamp()) {
                tracing::error!(%error, name, "create system namespace");
            }
        }
    }
}

/// The form of an object that `resource` serves: objects are stored in the version in which they were written.
pub(crate) fn present(resource: &Resource, stored: &Arc<Stored>) -> Arc<Stored> {
    let version = resource.api_version();
    if stored.value["apiVersion"] == version.as_str() && stored.value["kind"] == resource.kind.as_str() {
        return Arc::clone(stored);
    }
    let mut value = stored.value.clone();
    if resource.plural == "events" {
        let names = if resource.group.is_empty() { EVENT_FIELDS.map(|(a, b)| (b, a)) } else { EVENT_FIELDS };
        rename(&mut value, &names);
    }
    value["apiVersion"] = version.into();
    value["kind"] = resource.kind.as_str().into();
    Arc::new(Stored::new(value))
}

/// Events are stored as the core group shows them; these fields have other names in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("count", "deprecatedCount"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
];

/// The stored form of an event that a client sent.
fn stored_event(object: &mut Value) {
    if object["apiVersion"] == "events.k8s.io/v1" {
        rename(object, &EVENT_FIELDS.map(|(a, b)| (b, a)));
        object["apiVersion"] = "v1".into();
    }
}

fn rename(value: &mut Value, names: &[(&str, &str)]) {
    if let Some(map) = value.as_object_mut() {
        for (from, to) in names {
            if let Some(inner) = map.remove(*from) {
                map.insert((*to).to_owned(), inner);
            }
        }
    }
}
