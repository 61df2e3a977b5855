//! Server-side apply: fields have managers.
//!
//! Ownership is recorded for Apply requests only, in `metadata.managedFields` as `FieldsV1`. A manager's next apply
//! removes what it applied before and no longer names, unless another manager applied it too. A value that differs
//! from what another applying manager owns is a conflict unless forced. Not done: writers that update or patch in
//! other ways take no ownership, so an apply overwrites what they changed without a conflict; custom resources merge
//! their lists as atomic ones whatever `x-kubernetes-list-type` says.

use super::rules::{ListRule, rule};
use crate::apiserver::status::ApiError;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// One step from an object to a field inside it; the text is its `FieldsV1` form (`f:name`, `k:{...}`, `v:...`).
type Step = String;
type Paths = BTreeSet<Vec<Step>>;

/// Who applies, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Applier<'a> {
    pub(crate) kind: &'a str,
    pub(crate) api_version: &'a str,
    pub(crate) manager: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) force: bool,
    pub(crate) now: &'a str,
}

/// The object that results from applying `intent` to `live`, which is null when the object is new.
pub(crate) fn apply(applier: Applier<'_>, live: &Value, intent: &Value) -> Result<Value, ApiError> {
    if intent["metadata"]["managedFields"].as_array().is_some_and(|m| !m.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut intent = intent.clone();
    if let Some(metadata) = intent["metadata"].as_object_mut() {
        for system in ["managedFields", "creationTimestamp", "uid", "generation"] {
            metadata.remove(system);
        }
    }
    let mut owned = owned_now(&intent, applier.kind);
    let mut managers = read_managers(live);
    let own_id = (applier.manager.to_owned(), applier.subresource.to_owned());
    let before = managers.remove(&own_id).map(|m| m.paths).unwrap_or_default();

    let mut conflicts = Vec::new();
    for (id, manager) in &mut managers {
        let clashing = manager
            .paths
            .iter()
            .filter(|path| owned.contains(*path) && find(live, path) != find(&intent, path))
            .cloned()
            .collect::<Vec<_>>();
        for path in clashing {
            if applier.force {
                manager.paths.remove(&path);
            } else {
                conflicts.push((id.0.clone(), readable(&path)));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(ApiError::apply_conflict(conflicts));
    }

    let mut object = if live.is_null() { json!({}) } else { live.clone() };
    merge(applier.kind, "", &mut object, &intent);
    for path in before.difference(&owned) {
        if managers.values().all(|m| !m.paths.contains(path)) {
            remove(&mut object, path);
        }
    }
    owned.retain(|path| !is_identity(path));
    managers.retain(|_, m| !m.paths.is_empty());
    managers.insert(
        own_id,
        Manager { paths: owned, time: applier.now.to_owned(), api_version: applier.api_version.to_owned() },
    );
    object["metadata"]["managedFields"] = managers.iter().map(write_manager).collect();
    Ok(object)
}

#[derive(Debug)]
struct Manager {
    paths: Paths,
    time: String,
    api_version: String,
}

fn read_managers(live: &Value) -> BTreeMap<(String, String), Manager> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let entries = live["metadata"]["managedFields"].as_array();
    entries
        .into_iter()
        .flatten()
        .filter(|e| e["operation"] == "Apply")
        .map(|entry| {
            let mut paths = Paths::new();
            read_fields(&entry["fieldsV1"], &mut Vec::new(), &mut paths);
            let manager =
                Manager { paths, time: text(&entry["time"]), api_version: text(&entry["apiVersion"]) };
            ((text(&entry["manager"]), text(&entry["subresource"])), manager)
        })
        .collect()
}

fn write_manager(((name, subresource), manager): (&(String, String), &Manager)) -> Value {
    let mut fields = Value::Object(Map::new());
    for path in &manager.paths {
        let mut at = &mut fields;
        for step in path {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[step.as_str()];
        }
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
    }
    let mut entry = json!({
        "manager": name, "operation": "Apply", "apiVersion": manager.api_version,
        "time": manager.time, "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if !subresource.is_empty() {
        entry["subresource"] = subresource.as_str().into();
    }
    entry
}

fn read_fields(fields: &Value, at: &mut Vec<Step>, paths: &mut Paths) {
    let Some(map) = fields.as_object() else { return };
    if map.is_empty() && !at.is_empty() {
        paths.insert(at.clone());
    }
    for (step, below) in map {
        at.push(step.clone());
        read_fields(below, at, paths);
        at.pop();
    }
}

/// Identity of the object itself is nobody's to own.
fn is_identity(path: &[Step]) -> bool {
    match path {
        [one] => one == "f:apiVersion" || one == "f:kind",
        [a, b] => a == "f:metadata" && (b == "f:name" || b == "f:namespace" || b == "f:resourceVersion"),
        _ => false,
    }
}

fn owned_now(intent: &Value, kind: &str) -> Paths {
    let mut paths = Paths::new();
    collect(kind, "", intent, &mut Vec::new(), &mut paths);
    paths.retain(|path| !is_identity(path));
    paths
}

/// The leaves of `value`: plain values, empty maps, atomic lists, items of sets.
fn collect(kind: &str, parent: &str, value: &Value, at: &mut Vec<Step>, paths: &mut Paths) {
    let Value::Object(map) = value else {
        paths.insert(at.clone());
        return;
    };
    if map.is_empty() && !at.is_empty() {
        paths.insert(at.clone());
    }
    for (field, value) in map {
        at.push(format!("f:{field}"));
        match (value, rule(kind, parent, field)) {
            (Value::Array(items), ListRule::Keyed(keys)) => {
                for item in items {
                    at.push(item_step(item, keys));
                    at.push(".".to_owned());
                    paths.insert(at.clone());
                    at.pop();
                    collect(kind, field, item, at, paths);
                    at.pop();
                }
            }
            (Value::Array(items), ListRule::Set) => {
                for item in items {
                    at.push(format!("v:{item}"));
                    paths.insert(at.clone());
                    at.pop();
                }
            }
            (value, _) => collect(kind, field, value, at, paths),
        }
        at.pop();
    }
}

fn item_step(item: &Value, keys: &[&str]) -> Step {
    let id = keys
        .iter()
        .filter_map(|k| {
            let default = (*k == "protocol").then(|| json!("TCP"));
            item.get(k).cloned().or(default).map(|v| ((*k).to_owned(), v))
        })
        .collect::<Map<_, _>>();
    format!("k:{}", Value::Object(id))
}

fn merge(kind: &str, parent: &str, target: &mut Value, intent: &Value) {
    let Value::Object(intent) = intent else {
        *target = intent.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (field, value) in intent {
        let slot = &mut target[field.as_str()];
        match (value, rule(kind, parent, field)) {
            (Value::Array(items), ListRule::Keyed(keys)) => {
                let mut list = slot.take().as_array().cloned().unwrap_or_default();
                for item in items {
                    let id = item_step(item, keys);
                    match list.iter_mut().find(|i| item_step(i, keys) == id) {
                        Some(found) => merge(kind, field, found, item),
                        None => list.push(item.clone()),
                    }
                }
                *slot = Value::Array(list);
            }
            (Value::Array(items), ListRule::Set) => {
                let mut list = slot.take().as_array().cloned().unwrap_or_default();
                for item in items {
                    if !list.contains(item) {
                        list.push(item.clone());
                    }
                }
                *slot = Value::Array(list);
            }
            (Value::Object(_), _) => merge(kind, field, slot, value),
            (value, _) => *slot = value.clone(),
        }
    }
}

fn find<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let Some((step, rest)) = path.split_first() else { return Some(value) };
    if step == "." {
        // The item's presence, which two managers can share.
        return None;
    }
    if let Some(field) = step.strip_prefix("f:") {
        return find(value.get(field)?, rest);
    }
    let at = position(value.as_array()?, step)?;
    find(value.get(at)?, rest)
}

fn remove(value: &mut Value, path: &[Step]) {
    let Some((step, rest)) = path.split_first() else { return };
    if let Some(field) = step.strip_prefix("f:") {
        let Some(map) = value.as_object_mut() else { return };
        if rest.is_empty() {
            map.remove(field);
            return;
        }
        if let Some(below) = map.get_mut(field) {
            remove(below, rest);
            let emptied =
                below.as_object().is_some_and(Map::is_empty) || below.as_array().is_some_and(Vec::is_empty);
            if emptied {
                map.remove(field);
            }
        }
        return;
    }
    let Some(list) = value.as_array_mut() else { return };
    let Some(at) = position(list, step) else { return };
    if rest.is_empty() || rest == ["."] {
        list.remove(at);
    } else if let Some(item) = list.get_mut(at) {
        remove(item, rest);
    }
}

fn position(list: &[Value], step: &str) -> Option<usize> {
    if let Some(plain) = step.strip_prefix("v:") {
        let plain = serde_json::from_str::<Value>(plain).ok()?;
        return list.iter().position(|i| *i == plain);
    }
    let id = serde_json::from_str::<Map<String, Value>>(step.strip_prefix("k:")?).ok()?;
    list.iter().position(|item| {
        id.iter().all(|(k, v)| item.get(k).map_or(k == "protocol" && v == "TCP", |found| found == v))
    })
}

fn readable(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(field) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(field);
        } else if let Some(id) = step.strip_prefix("k:").or_else(|| step.strip_prefix("v:")) {
            text.push('[');
            text.push_str(id);
            text.push(']');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applier(manager: &str, force: bool) -> Applier<'_> {
        Applier {
            kind: "Pod",
            api_version: "v1",
            manager,
            subresource: "",
            force,
            now: "2026-01-01T00:00:00Z",
        }
    }

    fn pod(labels: &Value, containers: &Value) -> Value {
        json!({"metadata": {"name": "p", "labels": labels}, "spec": {"containers": containers}})
    }

    #[test]
    fn what_a_manager_no_longer_applies_is_removed() {
        let first = pod(
            &json!({"a": "1", "b": "1"}),
            &json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}]),
        );
        let live = apply(applier("m", false), &Value::Null, &first).unwrap();
        let second = pod(&json!({"a": "2"}), &json!([{"name": "x", "image": "1"}]));
        let live = apply(applier("m", false), &live, &second).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"a": "2"}));
        assert_eq!(live["spec"]["containers"], json!([{"name": "x", "image": "1"}]));
    }

    #[test]
    fn another_managers_field_conflicts_unless_forced() {
        let live =
            apply(applier("m", false), &Value::Null, &pod(&json!({"a": "1"}), &json!([{"name": "x"}])))
                .unwrap();
        let other = json!({"metadata": {"name": "p", "labels": {"a": "2"}}});
        let refused = apply(applier("n", false), &live, &other).unwrap_err();
        assert_eq!(refused.code, 409);
        assert!(refused.message.contains("conflict with \"m\": .metadata.labels.a"), "{}", refused.message);
        let forced = apply(applier("n", true), &live, &other).unwrap();
        assert_eq!(forced["metadata"]["labels"]["a"], "2");
        // The first manager owns the label no longer, so leaving it out removes nothing.
        let again = apply(applier("m", false), &forced, &pod(&json!({}), &json!([{"name": "x"}]))).unwrap();
        assert_eq!(again["metadata"]["labels"]["a"], "2");
    }

    #[test]
    fn a_field_that_two_managers_apply_stays_until_both_let_go() {
        let both = json!({"metadata": {"name": "p", "labels": {"a": "1"}}});
        let none = json!({"metadata": {"name": "p"}});
        let live = apply(applier("m", false), &Value::Null, &both).unwrap();
        let live = apply(applier("n", false), &live, &both).unwrap();
        let live = apply(applier("m", false), &live, &none).unwrap();
        assert_eq!(live["metadata"]["labels"]["a"], "1");
        let live = apply(applier("n", false), &live, &none).unwrap();
        assert!(live["metadata"].get("labels").is_none());
    }
}
