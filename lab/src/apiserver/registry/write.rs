//! Writes of objects, from the request's body to the store.

use super::{DEFINITIONS, NAMESPACES, Registry, Stamp, stored_event};
use crate::apiserver::admission::{Asked, Operation};
use crate::apiserver::default::fill_in;
use crate::apiserver::patch::{Patch, apply};
use crate::apiserver::resource::Resource;
use crate::apiserver::status::ApiError;
use crate::apiserver::store::{Key, Stored};
use crate::apiserver::typed::check_shape;
use crate::apiserver::user::User;
use crate::apiserver::validate::validate;
use serde_json::{Value, json};
use std::sync::Arc;

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status, where the status is a subresource.
    Main,
    Status,
}

/// Parameters that all writes share.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// Refuse unknown fields instead of dropping them.
    pub(crate) strict: bool,
    pub(crate) manager: String,
    pub(crate) force: bool,
    pub(crate) user: User,
}

/// What a write left behind.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) object: Arc<Stored>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Registry {
    pub(crate) fn create(
        &mut self,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        stamp: &Stamp,
    ) -> Result<Written, ApiError> {
        check_identity(resource, namespace, &mut object)?;
        let generate = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        if object["metadata"]["name"].as_str().is_none_or(str::is_empty) && !generate.is_empty() {
            let head = generate.chars().take(58).collect::<String>();
            object["metadata"]["name"] = format!("{head}{}", stamp.suffix).into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if resource.namespaced {
            self.check_namespace(resource, namespace, &name)?;
        }
        let warnings = shape(resource, &mut object, options)?;
        let metadata = &mut object["metadata"];
        if let Some(metadata) = metadata.as_object_mut() {
            for system in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
                metadata.remove(system);
            }
            if options.manager.is_empty() {
                metadata.remove("managedFields");
            }
        }
        metadata["uid"] = stamp.uid.as_str().into();
        metadata["creationTimestamp"] = stamp.time().into();
        if resource.generation {
            metadata["generation"] = 1.into();
        }
        // Kubelets register their nodes together with a status.
        if resource.status
            && !resource.is("", "nodes")
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        self.complete(resource, &mut object, None, stamp)?;
        let operation = Operation::Create;
        let (user, dry_run) = (&options.user, options.dry_run);
        let asked = Asked { user, operation, resource, subresource: "", namespace, name: &name, dry_run };
        self.admit(&asked, Some(&object), None)?;
        let key = Key { namespace: namespace.to_owned(), name: name.clone() };
        if self.store.find(&resource.storage, &key).is_some() {
            return Err(ApiError::already_exists(&resource.group, &resource.plural, &name));
        }
        let object = self.keep(resource, &key, object, options);
        Ok(Written { object, created: true, warnings })
    }

    /// Replaces an object or its status.
    #[expect(clippy::too_many_arguments, reason = "the parts of a request")]
    pub(crate) fn update(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        part: Part,
        mut object: Value,
        options: &WriteOptions,
        stamp: &Stamp,
    ) -> Result<Written, ApiError> {
        let old = self.get(resource, namespace, name)?;
        check_identity(resource, namespace, &mut object)?;
        if resource.custom.is_some()
            && object["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty)
        {
            let cause = crate::apiserver::status::Cause::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            );
            return Err(ApiError::invalid(&resource.group, &resource.kind, name, &[cause]));
        }
        self.replace(resource, &old, part, object, options, stamp)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a request")]
    pub(crate) fn patch(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        part: Part,
        patch: &Patch,
        options: &WriteOptions,
        stamp: &Stamp,
    ) -> Result<Written, ApiError> {
        let Patch::Apply(intent) = patch else {
            let old = self.get(resource, namespace, name)?;
            let shown = super::present(resource, &old);
            let mut object = patch.of(&resource.kind, &shown.value)?;
            check_identity(resource, namespace, &mut object)?;
            return self.replace(resource, &old, part, object, options, stamp);
        };
        if options.manager.is_empty() {
            return Err(ApiError::bad_request("fieldManager is required for apply patch"));
        }
        let mut intent = intent.clone();
        check_identity(resource, namespace, &mut intent)?;
        let given = intent["metadata"]["name"].as_str().unwrap_or(name);
        if given != name {
            return Err(name_mismatch(given, name));
        }
        intent["metadata"]["name"] = name.into();
        let api_version = resource.api_version();
        let time = stamp.time();
        let applier = apply::Applier {
            kind: &resource.kind,
            api_version: &api_version,
            manager: &options.manager,
            subresource: if part == Part::Status { "status" } else { "" },
            force: options.force,
            now: &time,
        };
        match self.get(resource, namespace, name) {
            Ok(old) => {
                let object = apply::apply(applier, &old.value, &intent)?;
                let managed = object["metadata"]["managedFields"].clone();
                // Only a new set of fields counts as a change of who manages what.
                let same = |a: &Value, b: &Value| timeless(a) == timeless(b);
                let keep_old = same(&managed, &old.value["metadata"]["managedFields"]);
                let mut object = object;
                if keep_old {
                    object["metadata"]["managedFields"] = old.value["metadata"]["managedFields"].clone();
                }
                self.replace(resource, &old, part, object, options, stamp)
            }
            Err(error) if error.code == 404 && part == Part::Main => {
                let object = apply::apply(applier, &Value::Null, &intent)?;
                self.create(resource, namespace, object, options, stamp)
            }
            Err(error) => Err(error),
        }
    }

    /// `pods/binding`: gives a pod its node.
    pub(crate) fn bind(
        &mut self,
        namespace: &str,
        name: &str,
        node: &str,
        stamp: &Stamp,
    ) -> Result<(), ApiError> {
        let Some(pods) = self.resources.find("", "v1", "pods") else { return Err(ApiError::no_such_path()) };
        let mut pod = self.get(&pods, namespace, name)?.value.clone();
        if let Some(there) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            return Err(pods.conflict(name, &format!("pod {name} is already assigned to node {there:?}")));
        }
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value"));
        }
        pod["spec"]["nodeName"] = node.into();
        if pod["status"]["conditions"].is_null() {
            pod["status"]["conditions"] = json!([]);
        }
        if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions
                .push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp.time()}));
        }
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        self.store.put(&pods.storage, key, pod);
        Ok(())
    }

    fn replace(
        &mut self,
        resource: &Resource,
        old: &Arc<Stored>,
        part: Part,
        mut object: Value,
        options: &WriteOptions,
        stamp: &Stamp,
    ) -> Result<Written, ApiError> {
        let before = &old.value;
        let name = before["metadata"]["name"].as_str().unwrap_or_default();
        let given = object["metadata"]["name"].as_str().unwrap_or_default();
        if given != name {
            return Err(name_mismatch(given, name));
        }
        let version = &object["metadata"]["resourceVersion"];
        if version.as_str().is_some_and(|v| !v.is_empty())
            && *version != before["metadata"]["resourceVersion"]
        {
            return Err(resource.conflict(name, MODIFIED));
        }
        let uid = &object["metadata"]["uid"];
        if uid.as_str().is_some_and(|u| !u.is_empty()) && *uid != before["metadata"]["uid"] {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                uid.as_str().unwrap_or_default(),
                before["metadata"]["uid"].as_str().unwrap_or_default()
            );
            return Err(resource.conflict(name, &why));
        }
        let warnings = shape(resource, &mut object, options)?;
        let applied = object["metadata"]["managedFields"].clone();
        if part == Part::Status {
            object = with_status_of(resource, before, &object);
        } else if resource.status {
            copy(before, &mut object, "status");
        }
        keep_system_fields(before, &mut object);
        if !options.manager.is_empty() && !applied.is_null() {
            object["metadata"]["managedFields"] = applied;
        }
        // A status says nothing about the specification, which can be one that was put in without validation.
        if part == Part::Main || resource.custom.is_some() {
            self.complete(resource, &mut object, Some(before), stamp)?;
        }
        if resource.generation && part == Part::Main && specification(&object) != specification(before) {
            let next = before["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            object["metadata"]["generation"] = next.into();
        }
        let namespace = before["metadata"]["namespace"].as_str().unwrap_or_default();
        let asked = Asked {
            user: &options.user,
            operation: Operation::Update,
            resource,
            subresource: if part == Part::Status { "status" } else { "" },
            namespace,
            name,
            dry_run: options.dry_run,
        };
        self.admit(&asked, Some(&object), Some(before))?;
        if object == *before {
            return Ok(Written { object: Arc::clone(old), created: false, warnings });
        }
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        let metadata = &object["metadata"];
        let finished = !metadata["deletionTimestamp"].is_null()
            && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
            && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0;
        let stored = self.keep(resource, &key, object, options);
        if finished && !options.dry_run {
            if resource.storage == NAMESPACES {
                self.reap(&key.name);
            } else {
                self.remove(&resource.storage, &key);
            }
        }
        Ok(Written { object: stored, created: false, warnings })
    }

    /// Defaults, allocations and validation.
    fn complete(
        &self,
        resource: &Resource,
        object: &mut Value,
        old: Option<&Value>,
        stamp: &Stamp,
    ) -> Result<(), ApiError> {
        fill_in(resource, object);
        if resource.is("", "services") {
            self.allocate(object, old)?;
        }
        if resource.is("", "nodes") {
            agree_on_cidrs(&mut object["spec"]);
        }
        if resource.storage == DEFINITIONS {
            establish(object, &stamp.time());
        }
        if resource.plural == "events" {
            stored_event(object);
        }
        // Compared as complete objects: what was put in raw has no defaults.
        let filled = old.map(|old| {
            let mut filled = old.clone();
            fill_in(resource, &mut filled);
            filled
        });
        let causes = validate(resource, object, filled.as_ref());
        if causes.is_empty() {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(&resource.group, &resource.kind, name, &causes))
    }

    fn keep(&mut self, resource: &Resource, key: &Key, object: Value, options: &WriteOptions) -> Arc<Stored> {
        if options.dry_run {
            return Arc::new(Stored::new(object));
        }
        let stored = self.store.put(&resource.storage, key.clone(), object);
        if resource.storage == DEFINITIONS {
            self.resources.define(&stored.value);
        }
        if !resource.namespaced && self.is_orphan(&stored) {
            self.remove(&resource.storage, key);
        }
        stored
    }

    fn check_namespace(&self, resource: &Resource, namespace: &str, name: &str) -> Result<(), ApiError> {
        let key = Key { namespace: String::new(), name: namespace.to_owned() };
        let Some(stored) = self.store.find(NAMESPACES, &key) else {
            return Err(ApiError::not_found("", NAMESPACES, namespace));
        };
        if stored.value["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(&resource.group, &resource.plural, name, &why);
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(error)
    }
}

/// The body is of the kind that the path names, in the namespace that the path names.
fn check_identity(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    }
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    if !object["metadata"].is_object() {
        return Err(ApiError::bad_request("metadata is not an object"));
    }
    let version = resource.api_version();
    for (field, expected) in [("apiVersion", version.as_str()), ("kind", resource.kind.as_str())] {
        match object[field].as_str() {
            None | Some("") => object[field] = expected.into(),
            Some(given) if given == expected => {}
            Some(given) => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({given}) does not match the expected {field} ({expected})"
                )));
            }
        }
    }
    let metadata = &mut object["metadata"];
    if !resource.namespaced {
        if let Some(map) = metadata.as_object_mut() {
            map.remove("namespace");
        }
        return Ok(());
    }
    match metadata["namespace"].as_str() {
        None | Some("") => metadata["namespace"] = namespace.into(),
        Some(given) if given == namespace => {}
        Some(_) => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

fn name_mismatch(given: &str, name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({name})"
    ))
}

fn shape(resource: &Resource, object: &mut Value, options: &WriteOptions) -> Result<Vec<String>, ApiError> {
    let unknown = check_shape(resource, object)?;
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, v| {
            !v.is_null()
                && v.as_object().is_none_or(|m| !m.is_empty())
                && v.as_array().is_none_or(|l| !l.is_empty())
        });
    }
    let warnings = unknown.iter().map(|path| format!("unknown field {path:?}")).collect::<Vec<_>>();
    if options.strict && !warnings.is_empty() {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.version,
            resource.kind,
            warnings.join(", ")
        )));
    }
    Ok(warnings)
}

/// `before` with the status of `object`, and for built-in kinds with its labels, annotations and finalizers.
fn with_status_of(resource: &Resource, before: &Value, object: &Value) -> Value {
    let mut result = before.clone();
    copy(object, &mut result, "status");
    if resource.custom.is_none() {
        for field in ["labels", "annotations", "finalizers"] {
            copy(&object["metadata"], &mut result["metadata"], field);
        }
    }
    result
}

fn keep_system_fields(before: &Value, object: &mut Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "managedFields",
        "resourceVersion",
    ] {
        copy(&before["metadata"], &mut object["metadata"], field);
    }
    if let Some(map) = object["metadata"].as_object_mut() {
        map.remove("selfLink");
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) if !value.is_null() => {
            to.insert(field.to_owned(), value.clone());
        }
        _ => {
            to.remove(field);
        }
    }
}

/// All that is neither metadata nor status.
fn specification(object: &Value) -> Vec<(&String, &Value)> {
    let outside = |k: &str| matches!(k, "metadata" | "status" | "apiVersion" | "kind");
    object.as_object().into_iter().flatten().filter(|(k, _)| !outside(k)).collect()
}

fn timeless(managed: &Value) -> Value {
    let mut managed = managed.clone();
    for entry in managed.as_array_mut().into_iter().flatten() {
        if let Some(map) = entry.as_object_mut() {
            map.remove("time");
        }
    }
    managed
}

fn agree_on_cidrs(spec: &mut Value) {
    let first = spec["podCIDRs"][0].clone();
    if spec["podCIDR"].as_str().is_none_or(str::is_empty) {
        if first.is_string() {
            spec["podCIDR"] = first;
        }
    } else if first.is_null() {
        spec["podCIDRs"] = json!([spec["podCIDR"]]);
    }
}

fn establish(definition: &mut Value, now: &str) {
    let status = &mut definition["status"];
    let established = status["conditions"]
        .as_array()
        .is_some_and(|l| l.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    if !established {
        status["conditions"] = json!([
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts",
             "message": "no conflicts found", "lastTransitionTime": now},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
             "message": "the initial names have been accepted", "lastTransitionTime": now},
        ]);
    }
}
