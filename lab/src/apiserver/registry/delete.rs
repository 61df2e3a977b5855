//! Deletion, which grace periods, finalizers or contents can hold up.

use super::{DEFINITIONS, NAMESPACES, Registry, Stamp, rfc3339};
use crate::apiserver::admission::{Asked, Operation};
use crate::apiserver::resource::Resource;
use crate::apiserver::select::Selector;
use crate::apiserver::status::ApiError;
use crate::apiserver::store::{Key, Stored};
use crate::apiserver::user::User;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// The parts of `DeleteOptions` that the server obeys.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) dry_run: bool,
    pub(crate) user: User,
}

/// How a deletion ended.
#[derive(Debug, Clone)]
pub(crate) enum Deleted {
    /// The object is gone; this is its last state.
    Gone(Arc<Stored>),
    /// The object waits for its kubelet, its finalizers or its contents.
    Pending(Arc<Stored>),
}

impl Deleted {
    pub(crate) fn object(&self) -> &Arc<Stored> {
        match self {
            Self::Gone(object) | Self::Pending(object) => object,
        }
    }
}

impl Registry {
    pub(crate) fn delete(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        stamp: &Stamp,
    ) -> Result<Deleted, ApiError> {
        let stored = self.get(resource, namespace, name)?;
        let metadata = &stored.value["metadata"];
        for (field, wanted) in [("uid", &options.uid), ("resourceVersion", &options.version)] {
            if let Some(wanted) = wanted
                && metadata[field] != wanted.as_str()
            {
                let why = format!(
                    "the {field} in the precondition ({wanted}) does not match the {field} in record ({}). \
                     The object might have been deleted and then recreated",
                    metadata[field].as_str().unwrap_or_default()
                );
                return Err(resource.conflict(name, &why));
            }
        }
        let protected = ["default", "kube-system", "kube-public"];
        if resource.storage == NAMESPACES && protected.contains(&name) {
            return Err(ApiError::forbidden("", NAMESPACES, name, "this namespace may not be deleted"));
        }
        let (user, operation, dry_run) = (&options.user, Operation::Delete, options.dry_run);
        let asked = Asked { user, operation, resource, subresource: "", namespace, name, dry_run };
        self.admit(&asked, None, Some(&stored.value))?;
        if options.dry_run {
            return Ok(Deleted::Gone(stored));
        }
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        if resource.storage == NAMESPACES {
            return Ok(self.delete_namespace(&stored, &key, stamp));
        }
        let grace = if resource.is("", "pods") { pod_grace(&stored.value, options.grace) } else { 0 };
        let finalized = metadata["finalizers"].as_array().is_none_or(Vec::is_empty);
        if grace == 0 && finalized {
            self.remove(&resource.storage, &key);
            return Ok(Deleted::Gone(stored));
        }
        let shortened = metadata["deletionGracePeriodSeconds"].as_i64().is_none_or(|left| grace < left);
        if !metadata["deletionTimestamp"].is_null() && !shortened {
            return Ok(Deleted::Pending(stored));
        }
        let mut value = stored.value.clone();
        let end = stamp.now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(stamp.now);
        value["metadata"]["deletionTimestamp"] = rfc3339(end).into();
        value["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if resource.generation
            && let Some(generation) = value["metadata"]["generation"].as_i64()
        {
            value["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(Deleted::Pending(self.store.put(&resource.storage, key, value)))
    }

    pub(crate) fn delete_collection(
        &mut self,
        resource: &Resource,
        selector: &Selector,
        options: &DeleteOptions,
        stamp: &Stamp,
    ) -> Result<Vec<Arc<Stored>>, ApiError> {
        let mut deleted = Vec::new();
        for (key, _) in self.store.list(&resource.storage, selector, None) {
            match self.delete(resource, &key.namespace, &key.name, options, stamp) {
                Ok(outcome) => deleted.push(Arc::clone(outcome.object())),
                // An earlier deletion of this request took it along.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    /// Takes an object away for good, with what depends on it.
    pub(super) fn remove(&mut self, table: &str, key: &Key) {
        let Some(removed) = self.store.remove(table, key) else { return };
        if table == DEFINITIONS {
            self.resources.undefine(&removed.value);
            // The table of a definition's objects has the definition's name.
            for (object, _) in self.store.list(&key.name, &Selector::default(), None) {
                self.store.remove(&key.name, &object);
                self.reap(&object.namespace);
            }
        }
        if key.namespace.is_empty() {
            self.collect_garbage(&removed);
        }
        self.reap(&key.namespace);
    }

    /// Takes away the cluster-wide objects that had this one for their last owner.
    fn collect_garbage(&mut self, owner: &Stored) {
        let uid = &owner.value["metadata"]["uid"];
        let cluster_wide = self.resources.iter().filter(|resource| !resource.namespaced);
        let tables: BTreeSet<String> = cluster_wide.map(|resource| resource.storage.clone()).collect();
        for table in tables {
            for (key, stored) in self.store.list(&table, &Selector::default(), None) {
                let owners = stored.value["metadata"]["ownerReferences"].as_array();
                if owners.is_some_and(|owners| matches!(&owners[..], [only] if only["uid"] == *uid)) {
                    self.remove(&table, &key);
                }
            }
        }
    }

    /// Whether the only owner of a cluster-wide object is not there (any more).
    pub(super) fn is_orphan(&self, stored: &Stored) -> bool {
        let owners = stored.value["metadata"]["ownerReferences"].as_array();
        let Some([owner]) = owners.map(|owners| &owners[..]) else { return false };
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let Some(resource) = self.resources.of_kind(text("apiVersion"), text("kind")) else { return true };
        let key = Key { namespace: String::new(), name: text("name").to_owned() };
        let found = self.store.find(&resource.storage, &key);
        found.is_none_or(|found| found.value["metadata"]["uid"] != owner["uid"])
    }

    /// Ends a terminating namespace once nothing is left in it.
    pub(super) fn reap(&mut self, namespace: &str) {
        let key = Key { namespace: String::new(), name: namespace.to_owned() };
        let Some(stored) = self.store.find(NAMESPACES, &key) else { return };
        let metadata = &stored.value["metadata"];
        let finalized = metadata["finalizers"].as_array().is_none_or(Vec::is_empty);
        if !metadata["deletionTimestamp"].is_null()
            && finalized
            && self.store.tables_with(namespace).is_empty()
        {
            self.store.remove(NAMESPACES, &key);
        }
    }

    fn delete_namespace(&mut self, stored: &Arc<Stored>, key: &Key, stamp: &Stamp) -> Deleted {
        let mut value = stored.value.clone();
        if value["metadata"]["deletionTimestamp"].is_null() {
            value["metadata"]["deletionTimestamp"] = stamp.time().into();
            value["status"] = json!({"phase": "Terminating"});
            self.store.put(NAMESPACES, key.clone(), value);
        }
        let inside = Selector::everything_in(&key.name);
        for table in self.store.tables_with(&key.name) {
            let Some(resource) = self.resources.iter().find(|r| r.storage == table).map(Arc::clone) else {
                continue;
            };
            if let Err(error) = self.delete_collection(&resource, &inside, &DeleteOptions::default(), stamp) {
                tracing::warn!(%error, namespace = key.name, table, "delete contents of namespace");
            }
        }
        self.reap(&key.name);
        match self.store.find(NAMESPACES, key) {
            Some(left) => Deleted::Pending(Arc::clone(left)),
            None => Deleted::Gone(Arc::clone(stored)),
        }
    }
}

/// Pods that no kubelet runs, or that have ended, need no grace.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let unbound = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unbound || ended {
        return 0;
    }
    asked.or(pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30).max(0)
}
