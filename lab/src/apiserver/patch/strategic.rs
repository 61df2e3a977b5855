//! Strategic merge patches: merges that know which lists have keys.

use super::rules::{ListRule, rule};
use crate::apiserver::status::ApiError;
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `object`, which is of the built-in `kind`.
pub(super) fn merge(kind: &str, object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("a strategic merge patch is an object"));
    };
    merge_maps(kind, "", object, patch)
}

fn merge_maps(kind: &str, at: &str, target: &mut Value, patch: &Map<String, Value>) -> Result<(), ApiError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = patch.clone();
            whole.remove(DIRECTIVE);
            *target = without_directives(Value::Object(whole));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unknown directive $patch: {other}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return Ok(()) };
    if let Some(retain) = patch.get(RETAIN).and_then(Value::as_array) {
        target.retain(|key, _| retain.iter().any(|r| r == key));
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVE) {
            if let (Some(Value::Array(list)), Some(gone)) = (target.get_mut(field), value.as_array()) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(inner) => {
                let delete = inner.get(DIRECTIVE).is_some_and(|d| d == "delete");
                if delete {
                    target.remove(key);
                } else {
                    merge_maps(kind, key, target.entry(key.clone()).or_insert(Value::Null), inner)?;
                }
            }
            Value::Array(items) => {
                let order = patch.get(&format!("{ORDER}{key}")).and_then(Value::as_array);
                let slot = target.entry(key.clone()).or_insert(Value::Null);
                merge_lists(kind, (at, key), slot, items, order)?;
            }
            plain => {
                target.insert(key.clone(), plain.clone());
            }
        }
    }
    // An order without a list: the patch only moves items.
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER) else { continue };
        if patch.contains_key(field) {
            continue;
        }
        if let (Some(Value::Array(list)), Some(order)) = (target.get_mut(field), order.as_array()) {
            reorder(list, order, rule(kind, at, field));
        }
    }
    Ok(())
}

fn merge_lists(
    kind: &str,
    (parent, field): (&str, &str),
    slot: &mut Value,
    items: &[Value],
    order: Option<&Vec<Value>>,
) -> Result<(), ApiError> {
    let rule = rule(kind, parent, field);
    let replaces = items.iter().any(|i| i.get(DIRECTIVE).is_some_and(|d| d == "replace") && is_marker(i));
    if rule == ListRule::Atomic || replaces {
        let kept = items.iter().filter(|i| !is_marker(i)).cloned().map(without_directives).collect();
        *slot = Value::Array(kept);
        return Ok(());
    }
    let mut list = match slot.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    for item in items {
        if let ListRule::Keyed(keys) = rule {
            merge_item(kind, field, keys.first().copied().unwrap_or("name"), &mut list, item)?;
        } else if !list.contains(item) {
            list.push(item.clone());
        }
    }
    if let Some(wanted) = order {
        reorder(&mut list, wanted, rule);
    }
    *slot = Value::Array(list);
    Ok(())
}

fn merge_item(
    kind: &str,
    field: &str,
    key: &str,
    list: &mut Vec<Value>,
    item: &Value,
) -> Result<(), ApiError> {
    let Value::Object(patch) = item else {
        return Err(ApiError::bad_request(format!("items of {field} are objects")));
    };
    let Some(id) = patch.get(key) else {
        return Err(ApiError::bad_request(format!("map: {item} does not contain declared merge key: {key}")));
    };
    if patch.get(DIRECTIVE).is_some_and(|d| d == "delete") {
        list.retain(|i| i.get(key) != Some(id));
        return Ok(());
    }
    if let Some(found) = list.iter_mut().find(|i| i.get(key) == Some(id)) {
        return merge_maps(kind, field, found, patch);
    }
    let mut fresh = Value::Null;
    merge_maps(kind, field, &mut fresh, patch)?;
    list.push(fresh);
    Ok(())
}

/// Items named in `order` come in that order; the others keep their places relative to what preceded them.
fn reorder(list: &mut Vec<Value>, order: &[Value], rule: ListRule) {
    let position = |item: &Value| match rule {
        ListRule::Keyed(keys) => {
            let key = keys.first().copied().unwrap_or("name");
            order.iter().position(|o| o.get(key).is_some() && o.get(key) == item.get(key))
        }
        _ => order.iter().position(|o| o == item),
    };
    // An item that the order does not name stays behind the item that it followed.
    let mut rank = None;
    let mut ranked = Vec::new();
    for item in list.drain(..) {
        let named = position(&item);
        rank = named.or(rank);
        ranked.push((rank, named.is_none(), item));
    }
    ranked.sort_by_key(|(rank, follows, _)| (*rank, *follows));
    list.extend(ranked.into_iter().map(|(.., item)| item));
}

/// An item that is nothing but a directive.
fn is_marker(item: &Value) -> bool {
    item.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(DIRECTIVE))
}

fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(k, _)| !k.starts_with('$'))
            .map(|(k, v)| (k, without_directives(v)))
            .collect(),
        Value::Array(list) => list.into_iter().map(without_directives).collect(),
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, mut object: Value, patch: &Value, expected: &Value) {
        merge(kind, &mut object, patch).unwrap();
        assert_eq!(&object, expected, "{patch}");
    }

    #[test]
    fn lists_of_containers_merge_by_name() {
        check(
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}),
            &json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}}),
            &json!({"spec": {"containers": [
                {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}}),
        );
    }

    #[test]
    fn directives_delete_replace_and_order() {
        check(
            "Pod",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            &json!({"spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}],
                "containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}]}}),
            &json!({"spec": {"containers": [{"name": "c"}, {"name": "b"}]}}),
        );
        check(
            "Pod",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            &json!({"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/"}}]}}),
            &json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
        );
        check(
            "Pod",
            json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]}}),
            &json!({"metadata": {
                "labels": {"$patch": "replace", "b": "2"},
                "$deleteFromPrimitiveList/finalizers": ["x"]}}),
            &json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["y"]}}),
        );
        check(
            "Pod",
            json!({"metadata": {"finalizers": ["x"], "labels": {"a": "1", "b": "2"}}}),
            &json!({"metadata": {"finalizers": ["y"], "labels": {"a": null}}}),
            &json!({"metadata": {"finalizers": ["x", "y"], "labels": {"b": "2"}}}),
        );
    }

    #[test]
    fn network_policy_rules_taints_and_tolerations_are_replaced_whole() {
        check(
            "NetworkPolicy",
            json!({"spec": {"ingress": [{"ports": [{"port": 1}]}]}}),
            &json!({"spec": {"ingress": [{"ports": [{"port": 2}]}]}}),
            &json!({"spec": {"ingress": [{"ports": [{"port": 2}]}]}}),
        );
        check(
            "Node",
            json!({"spec": {"taints": [{"key": "a"}]}}),
            &json!({"spec": {"taints": [{"key": "b"}]}}),
            &json!({"spec": {"taints": [{"key": "b"}]}}),
        );
    }

    #[test]
    fn node_conditions_and_addresses_merge_by_type() {
        check(
            "Node",
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk", "status": "False"}],
                              "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
            &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}],
                               "addresses": [{"type": "Hostname", "address": "n1"}]}}),
            &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}],
                               "addresses": [{"type": "InternalIP", "address": "192.0.2.1"},
                                             {"type": "Hostname", "address": "n1"}]}}),
        );
    }
}
