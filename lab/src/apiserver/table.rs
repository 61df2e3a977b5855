//! Tables: the form in which `kubectl get` asks for objects.

use super::resource::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The table of `objects`; each row carries as much of its object as `include` says (`Object`, `None`, `Metadata`).
pub(crate) fn table(
    resource: &Resource,
    objects: &[&Value],
    metadata: &Value,
    include: &str,
    headers: bool,
    now: Timestamp,
) -> Value {
    let rows = objects
        .iter()
        .map(|object| {
            let whole = match include {
                "Object" => (*object).clone(),
                "None" => Value::Null,
                _ => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
                }),
            };
            json!({"cells": cells(resource, object, now), "object": whole})
        })
        .collect::<Value>();
    let columns = if headers { columns(resource) } else { json!([]) };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// Column names; those after the bar are shown in wide output only.
fn headings(resource: &Resource) -> &'static str {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => "Name,Ready,Status,Restarts,Age|IP,Node,Nominated Node,Readiness Gates",
        ("", "nodes") => {
            "Name,Status,Roles,Age,Version|Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime"
        }
        ("", "namespaces") => "Name,Status,Age",
        ("", "services") => "Name,Type,Cluster-IP,External-IP,Port(s),Age|Selector",
        ("", "configmaps") => "Name,Data,Age",
        ("", "secrets") => "Name,Type,Data,Age",
        ("", "endpoints") => "Name,Endpoints,Age",
        (_, "events") => "Last Seen,Type,Reason,Object,Message|Count,Name",
        ("networking.k8s.io", "networkpolicies") => "Name,Pod-Selector,Age",
        ("discovery.k8s.io", "endpointslices") => "Name,AddressType,Ports,Endpoints,Age",
        ("coordination.k8s.io", "leases") => "Name,Holder,Age",
        ("apps", "daemonsets") => {
            "Name,Desired,Current,Ready,Up-to-date,Available,Node Selector,Age|Containers,Images,Selector"
        }
        ("apps", "deployments") => "Name,Ready,Up-to-date,Available,Age|Containers,Images,Selector",
        ("apps", "replicasets") => "Name,Desired,Current,Ready,Age|Containers,Images,Selector",
        ("apps", "statefulsets") => "Name,Ready,Age|Containers,Images",
        ("apiextensions.k8s.io", "customresourcedefinitions") => "Name,Created At",
        _ => "Name,Age",
    }
}

fn columns(resource: &Resource) -> Value {
    let column = |name: &str, kind: &str, format: &str, priority: i64| json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority});
    if let Some(custom) = resource.custom.as_ref().filter(|c| !c.columns.is_empty()) {
        let own = custom.columns.iter().map(|c| {
            column(
                c["name"].as_str().unwrap_or_default(),
                c["type"].as_str().unwrap_or("string"),
                c["format"].as_str().unwrap_or_default(),
                c["priority"].as_i64().unwrap_or_default(),
            )
        });
        return std::iter::once(column("Name", "string", "name", 0)).chain(own).collect();
    }
    let (narrow, wide) = headings(resource).split_once('|').unwrap_or((headings(resource), ""));
    let named = |list: &'static str| list.split(',').filter(|n| !n.is_empty());
    let format = |name: &str| if name == "Name" { "name" } else { "" };
    let narrow = named(narrow).map(|n| column(n, "string", format(n), 0));
    narrow.chain(named(wide).map(|n| column(n, "string", format(n), 1))).collect()
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Value {
    let metadata = &object["metadata"];
    let (spec, status) = (&object["spec"], &object["status"]);
    let name = text(&metadata["name"], "");
    let age = age(&metadata["creationTimestamp"], now);
    let number = |v: &Value| v.as_i64().unwrap_or_default();
    let size = |v: &Value| v.as_object().map_or(0, serde_json::Map::len);
    if let Some(custom) = resource.custom.as_ref().filter(|c| !c.columns.is_empty()) {
        let own = custom.columns.iter().map(|c| printed(c, object, now));
        return std::iter::once(Value::from(name)).chain(own).collect();
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod(object, &name, &age),
        ("", "nodes") => node(object, &name, &age),
        ("", "namespaces") => json!([name, text(&status["phase"], ""), age]),
        ("", "services") => service(object, &name, &age),
        ("", "configmaps") => json!([name, size(&object["data"]) + size(&object["binaryData"]), age]),
        ("", "secrets") => json!([name, object["type"], size(&object["data"]), age]),
        ("", "endpoints") => json!([name, endpoints(object), age]),
        (_, "events") => event(object, &name, now),
        ("networking.k8s.io", "networkpolicies") => json!([name, selector(&spec["podSelector"]), age]),
        ("discovery.k8s.io", "endpointslices") => {
            let of = |list: &Value, field: &str| {
                let all = list.as_array().into_iter().flatten();
                let all = all.flat_map(|i| match &i[field] {
                    Value::Array(inner) => inner.iter().map(|v| text(v, "")).collect(),
                    Value::Null => Vec::new(),
                    other => vec![other.to_string()],
                });
                or_unset(&all.collect::<Vec<_>>().join(","))
            };
            json!([
                name,
                object["addressType"],
                of(&object["ports"], "port"),
                of(&object["endpoints"], "addresses"),
                age
            ])
        }
        ("coordination.k8s.io", "leases") => json!([name, text(&spec["holderIdentity"], ""), age]),
        ("apps", "daemonsets") => json!([
            name,
            number(&status["desiredNumberScheduled"]),
            number(&status["currentNumberScheduled"]),
            number(&status["numberReady"]),
            number(&status["updatedNumberScheduled"]),
            number(&status["numberAvailable"]),
            pairs(&spec["template"]["spec"]["nodeSelector"]),
            age,
            containers(spec, "name"),
            containers(spec, "image"),
            selector(&spec["selector"])
        ]),
        ("apps", "deployments") => json!([
            name,
            format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"])),
            number(&status["updatedReplicas"]),
            number(&status["availableReplicas"]),
            age,
            containers(spec, "name"),
            containers(spec, "image"),
            selector(&spec["selector"])
        ]),
        ("apps", "replicasets") => json!([
            name,
            number(&spec["replicas"]),
            number(&status["replicas"]),
            number(&status["readyReplicas"]),
            age,
            containers(spec, "name"),
            containers(spec, "image"),
            selector(&spec["selector"])
        ]),
        ("apps", "statefulsets") => json!([
            name,
            format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"])),
            age,
            containers(spec, "name"),
            containers(spec, "image")
        ]),
        ("apiextensions.k8s.io", "customresourcedefinitions") => json!([name, metadata["creationTimestamp"]]),
        _ => json!([name, age]),
    }
}

fn pod(object: &Value, name: &str, age: &str) -> Value {
    let (spec, status) = (&object["spec"], &object["status"]);
    let statuses = || status["containerStatuses"].as_array().into_iter().flatten();
    let total = spec["containers"].as_array().map_or(0, Vec::len);
    let ready = statuses().filter(|s| s["ready"] == true).count();
    let restarts = statuses().filter_map(|s| s["restartCount"].as_i64()).sum::<i64>();
    let waiting = statuses().find_map(|s| s["state"]["waiting"]["reason"].as_str());
    let shown = if !object["metadata"]["deletionTimestamp"].is_null() {
        "Terminating".to_owned()
    } else if let Some(reason) = status["reason"].as_str().or(waiting) {
        reason.to_owned()
    } else if status["phase"] == "Succeeded" {
        "Completed".to_owned()
    } else {
        text(&status["phase"], "Unknown")
    };
    json!([
        name,
        format!("{ready}/{total}"),
        shown,
        restarts.to_string(),
        age,
        text(&status["podIP"], "<none>"),
        text(&spec["nodeName"], "<none>"),
        text(&status["nominatedNodeName"], "<none>"),
        "<none>"
    ])
}

fn node(object: &Value, name: &str, age: &str) -> Value {
    let (spec, status) = (&object["spec"], &object["status"]);
    let conditions = status["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready").map(|c| &c["status"]);
    let mut state = match ready.and_then(Value::as_str) {
        Some("True") => "Ready",
        Some("False") => "NotReady",
        _ => "Unknown",
    }
    .to_owned();
    if spec["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let labels = object["metadata"]["labels"].as_object();
    let roles = labels.into_iter().flatten().filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"));
    let roles = roles.collect::<Vec<_>>().join(",");
    let address = |kind: &str| {
        let all = status["addresses"].as_array();
        let found = all.into_iter().flatten().find(|a| a["type"] == kind);
        found.map_or("<none>".to_owned(), |a| text(&a["address"], "<none>"))
    };
    let info = &status["nodeInfo"];
    json!([
        name,
        state,
        if roles.is_empty() { "<none>".to_owned() } else { roles },
        age,
        text(&info["kubeletVersion"], ""),
        address("InternalIP"),
        address("ExternalIP"),
        text(&info["osImage"], "<unknown>"),
        text(&info["kernelVersion"], "<unknown>"),
        text(&info["containerRuntimeVersion"], "<unknown>")
    ])
}

fn service(object: &Value, name: &str, age: &str) -> Value {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten().map(|p| {
        let protocol = text(&p["protocol"], "TCP");
        match p["nodePort"].as_i64().filter(|n| *n > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", p["port"]),
            None => format!("{}/{protocol}", p["port"]),
        }
    });
    let ports = ports.collect::<Vec<_>>().join(",");
    let external = spec["externalIPs"].as_array().into_iter().flatten().map(|ip| text(ip, ""));
    let external = external.collect::<Vec<_>>().join(",");
    json!([
        name,
        text(&spec["type"], ""),
        text(&spec["clusterIP"], "<none>"),
        if external.is_empty() { text(&spec["externalName"], "<none>") } else { external },
        if ports.is_empty() { "<none>".to_owned() } else { ports },
        age,
        pairs(&spec["selector"])
    ])
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in object["subsets"].as_array().into_iter().flatten() {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            let ip = text(&address["ip"], "");
            for port in subset["ports"].as_array().into_iter().flatten() {
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
                all.push(format!("{ip}:{}", port["port"]));
            }
        }
    }
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn event(object: &Value, name: &str, now: Timestamp) -> Value {
    let about =
        if object["involvedObject"].is_null() { &object["regarding"] } else { &object["involvedObject"] };
    let message = if object["message"].is_null() { &object["note"] } else { &object["message"] };
    let series = &object["series"];
    let times = [
        &series["lastObservedTime"],
        &object["lastTimestamp"],
        &object["eventTime"],
        &object["firstTimestamp"],
    ];
    let seen = times.into_iter().find(|time| !time.is_null());
    json!([
        seen.map_or("<unknown>".to_owned(), |time| age(time, now)),
        text(&object["type"], ""),
        text(&object["reason"], ""),
        format!("{}/{}", text(&about["kind"], "").to_lowercase(), text(&about["name"], "")),
        text(message, "").trim(),
        series["count"].as_i64().or_else(|| object["count"].as_i64()).unwrap_or(1),
        name
    ])
}

/// A cell of a custom resource's own column.
fn printed(column: &Value, object: &Value, now: Timestamp) -> Value {
    let found = json_path(column["jsonPath"].as_str().unwrap_or_default(), object);
    match (column["type"].as_str().unwrap_or_default(), found) {
        (_, None | Some(Value::Null)) => Value::Null,
        ("date", Some(found)) => age(found, now).into(),
        ("string", Some(Value::String(s))) => s.as_str().into(),
        ("string", Some(other)) => other.to_string().into(),
        (_, Some(other)) => other.clone(),
    }
}

/// The subset of JSON paths that column definitions use: fields, indices, `[?(@.type=="x")]` and `[*]` (first item).
fn json_path<'a>(path: &str, object: &'a Value) -> Option<&'a Value> {
    let mut at = object;
    let mut rest = path.trim_start_matches('.');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (index, after) = inner.split_once(']')?;
            rest = after.trim_start_matches('.');
            at = if let Some(test) = index.strip_prefix("?(@.").and_then(|t| t.strip_suffix(')')) {
                let (field, wanted) = test.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                at.as_array()?.iter().find(|i| i[field.trim()] == wanted)?
            } else if index == "*" {
                at.get(0)?
            } else if let Ok(number) = index.parse::<usize>() {
                at.get(number)?
            } else {
                at.get(index.trim_matches(['"', '\'']))?
            };
            continue;
        }
        // A backslash keeps the dot after it in the field's name.
        let mut field = String::new();
        let mut taken = rest.len();
        let mut escaped = false;
        for (index, c) in rest.char_indices() {
            match c {
                '\\' if !escaped => escaped = true,
                '.' | '[' if !escaped => {
                    taken = index;
                    break;
                }
                _ => {
                    escaped = false;
                    field.push(c);
                }
            }
        }
        at = at.get(field)?;
        rest = rest[taken..].trim_start_matches('.');
    }
    Some(at)
}

fn containers(spec: &Value, field: &str) -> String {
    let all = spec["template"]["spec"]["containers"].as_array().into_iter().flatten();
    all.map(|c| text(&c[field], "")).collect::<Vec<_>>().join(",")
}

fn pairs(map: &Value) -> String {
    let all = map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v, "")));
    let all = all.collect::<Vec<_>>().join(",");
    if all.is_empty() { "<none>".to_owned() } else { all }
}

fn selector(selector: &Value) -> String {
    let mut terms = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", text(value, "")));
    }
    for term in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = text(&term["key"], "");
        let values = term["values"].as_array().into_iter().flatten().map(|v| text(v, ""));
        let values = values.collect::<Vec<_>>().join(",");
        terms.push(match term["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key,
            _ => format!("!{key}"),
        });
    }
    if terms.is_empty() { "<none>".to_owned() } else { terms.join(",") }
}

fn or_unset(text: &str) -> String {
    if text.is_empty() { "<unset>" } else { text }.to_owned()
}

fn text(value: &Value, default: &str) -> String {
    match value {
        Value::String(s) if !s.is_empty() => s.clone(),
        Value::Null | Value::String(_) => default.to_owned(),
        other => other.to_string(),
    }
}

/// As kubectl writes durations: two units while they are small.
fn age(since: &Value, now: Timestamp) -> String {
    let Some(since) = since.as_str().and_then(|s| s.parse::<Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: i64, unit: char, small: i64, part: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{part}") }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_paths_of_columns_are_followed() {
        let object = json!({"spec": {"a": [{"b": 1}], "x.y": 2}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (path, expected) in [
            (".spec.a[0].b", json!(1)),
            (".spec.x\\.y", json!(2)),
            (".status.conditions[?(@.type==\"Ready\")].status", json!("True")),
        ] {
            assert_eq!(json_path(path, &object), Some(&expected), "{path}");
        }
        assert_eq!(json_path(".spec.none.deeper", &object), None);
    }

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let now = "2026-01-10T00:00:00Z".parse::<Timestamp>().unwrap();
        for (since, expected) in [
            ("2026-01-09T23:59:30Z", "30s"),
            ("2026-01-09T23:57:30Z", "2m30s"),
            ("2026-01-09T22:30:00Z", "90m"),
            ("2026-01-09T20:30:00Z", "3h30m"),
            ("2026-01-01T00:00:00Z", "9d"),
        ] {
            assert_eq!(age(&json!(since), now), expected, "{since}");
        }
    }
}
