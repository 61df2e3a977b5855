//! Values that a real API server fills in when a client leaves them out.

use super::resource::Resource;
use serde_json::{Map, Value, json};

/// Fills in `object`, which has been checked to have the JSON types of its kind.
pub(crate) fn fill_in(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod(object),
        ("", "services") => service(object),
        ("", "namespaces") => namespace(object),
        ("", "nodes") => set(object, "spec", json!({})),
        ("", "secrets") => set(object, "type", json!("Opaque")),
        ("networking.k8s.io", "networkpolicies") => network_policy(object),
        ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => workload(resource, object),
        ("batch", "jobs") => pod_spec(&mut object["spec"]["template"]["spec"]),
        ("scheduling.k8s.io", "priorityclasses") => {
            set(object, "preemptionPolicy", json!("PreemptLowerPriority"));
        }
        ("apiextensions.k8s.io", _) => definition(object),
        ("discovery.k8s.io", "endpointslices") => {
            for port in list(object, "ports") {
                set(port, "protocol", json!("TCP"));
                set(port, "name", json!(""));
            }
        }
        _ => {}
    }
    if let Some(custom) = &resource.custom {
        schema_defaults(&custom.schema, object);
    }
}

fn set(at: &mut Value, field: &str, value: Value) {
    if let Value::Object(map) = at {
        let slot = map.entry(field).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    }
}

fn list<'a>(at: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    at.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn network_policy(object: &mut Value) {
    set(object, "spec", json!({}));
    let Some(spec) = object.get_mut("spec") else { return };
    set(spec, "podSelector", json!({}));
    let has = |field: &str| spec[field].as_array().is_some_and(|l| !l.is_empty());
    let types = if has("egress") { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    let unset = spec["policyTypes"].as_array().is_none_or(Vec::is_empty);
    if unset {
        spec["policyTypes"] = types;
    }
    for direction in ["ingress", "egress"] {
        for rule in list(spec, direction) {
            for port in list(rule, "ports") {
                set(port, "protocol", json!("TCP"));
            }
        }
    }
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    set(&mut object["metadata"], "labels", json!({}));
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    set(object, "spec", json!({}));
    set(&mut object["spec"], "finalizers", json!(["kubernetes"]));
    set(object, "status", json!({}));
    set(&mut object["status"], "phase", json!("Active"));
}

fn pod(object: &mut Value) {
    pod_spec(&mut object["spec"]);
    set(object, "status", json!({}));
    set(&mut object["status"], "phase", json!("Pending"));
    let class = quality_of_service(&object["spec"]);
    set(&mut object["status"], "qosClass", json!(class));
    let spec = &mut object["spec"];
    set(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
    set(spec, "priority", json!(0));
    for effect in ["not-ready", "unreachable"] {
        let key = format!("node.kubernetes.io/{effect}");
        set(spec, "tolerations", json!([]));
        if let Some(all) = spec["tolerations"].as_array_mut() {
            let covered = all.iter().any(|t| {
                (t["key"] == key.as_str() || (t["key"].is_null() && t["operator"] == "Exists"))
                    && (t["effect"].is_null() || t["effect"] == "" || t["effect"] == "NoExecute")
            });
            if !covered {
                all.push(
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
                );
            }
        }
    }
}

fn quality_of_service(spec: &Value) -> &'static str {
    let containers = || {
        ["containers", "initContainers"].into_iter().flat_map(|l| spec[l].as_array().into_iter().flatten())
    };
    let has = |c: &Value, which: &str| c["resources"][which].as_object().is_some_and(|m| !m.is_empty());
    if containers().all(|c| !has(c, "limits") && !has(c, "requests")) {
        return "BestEffort";
    }
    let guaranteed = containers().all(|c| {
        let limits = &c["resources"]["limits"];
        ["cpu", "memory"].iter().all(|r| {
            let request = &c["resources"]["requests"][*r];
            !limits[*r].is_null() && (request.is_null() || *request == limits[*r])
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

fn pod_spec(spec: &mut Value) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "serviceAccountName", json!("default"));
    let account = spec["serviceAccountName"].clone();
    set(spec, "serviceAccount", account);
    set(spec, "enableServiceLinks", json!(true));
    let host_network = spec["hostNetwork"] == true;
    for containers in ["initContainers", "containers"] {
        for container in list(spec, containers) {
            let latest = container["image"].as_str().is_some_and(|i| {
                let name = i.rsplit('/').next().unwrap_or(i);
                !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
            });
            set(container, "imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" }));
            set(container, "resources", json!({}));
            set(container, "terminationMessagePath", json!("/dev/termination-log"));
            set(container, "terminationMessagePolicy", json!("File"));
            for port in list(container, "ports") {
                set(port, "protocol", json!("TCP"));
                if host_network {
                    let number = port["containerPort"].clone();
                    set(port, "hostPort", number);
                }
            }
        }
    }
}

fn service(object: &mut Value) {
    set(object, "spec", json!({}));
    let spec = &mut object["spec"];
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    set(spec, "internalTrafficPolicy", json!("Cluster"));
    for port in list(spec, "ports") {
        set(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        set(port, "targetPort", number);
    }
    set(object, "status", json!({"loadBalancer": {}}));
}

fn workload(resource: &Resource, object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    if resource.plural != "daemonsets" {
        set(spec, "replicas", json!(1));
    }
    if resource.plural != "replicasets" {
        set(spec, "revisionHistoryLimit", json!(10));
    }
    let rolling = match resource.plural.as_str() {
        "deployments" => Some(("strategy", json!({"maxSurge": "25%", "maxUnavailable": "25%"}))),
        "daemonsets" => Some(("updateStrategy", json!({"maxSurge": 0, "maxUnavailable": 1}))),
        "statefulsets" => Some(("updateStrategy", json!({"partition": 0}))),
        _ => None,
    };
    if let Some((field, parameters)) = rolling {
        set(spec, field, json!({}));
        set(&mut spec[field], "type", json!("RollingUpdate"));
        if spec[field]["type"] == "RollingUpdate" {
            set(&mut spec[field], "rollingUpdate", parameters);
        }
    }
    if resource.plural == "deployments" {
        set(spec, "progressDeadlineSeconds", json!(600));
    }
    set(object, "status", json!({}));
    let template = &mut object["spec"]["template"];
    if template["spec"].is_object() {
        let account = template["spec"]["serviceAccountName"].clone();
        pod_spec(&mut template["spec"]);
        // Templates name no account unless their author does: that default comes with the pod.
        if account.is_null()
            && let Some(spec) = template["spec"].as_object_mut()
        {
            spec.remove("serviceAccountName");
            spec.remove("serviceAccount");
            spec.remove("enableServiceLinks");
        }
    }
}

fn definition(object: &mut Value) {
    let spec = &mut object["spec"];
    set(spec, "conversion", json!({"strategy": "None"}));
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    if spec["names"].is_object() {
        set(&mut spec["names"], "listKind", json!(format!("{kind}List")));
        set(&mut spec["names"], "singular", json!(kind.to_lowercase()));
    }
    let names = spec["names"].clone();
    let stored = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
        .collect::<Value>();
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["acceptedNames"] = names;
    object["status"]["storedVersions"] = stored;
}

/// Applies the defaults of a structural schema.
fn schema_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(properties) = schema["properties"].as_object() {
                for (name, property) in properties {
                    if let Some(default) = property.get("default") {
                        let missing =
                            map.get(name).is_none_or(|v| v.is_null() && property["nullable"] != true);
                        if missing {
                            map.insert(name.clone(), default.clone());
                        }
                    }
                    if let Some(inner) = map.get_mut(name) {
                        schema_defaults(property, inner);
                    }
                }
            }
            if schema["additionalProperties"].is_object() {
                for (_, inner) in map.iter_mut() {
                    schema_defaults(&schema["additionalProperties"], inner);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                schema_defaults(&schema["items"], item);
            }
        }
        _ => {}
    }
}

/// Removes what a structural schema does not know, and returns the paths of what it removed.
pub(crate) fn prune_custom(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if !schema.is_object() || schema["x-kubernetes-preserve-unknown-fields"] == true {
        return unknown;
    }
    if let Value::Object(map) = object {
        let properties = schema["properties"].as_object();
        map.retain(|name, inner| {
            if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                return true;
            }
            let property = properties.and_then(|p| p.get(name));
            if let Some(property) = property {
                prune(property, inner, name, &mut unknown);
            } else {
                unknown.push(name.clone());
            }
            property.is_some()
        });
    }
    unknown
}

fn prune(schema: &Value, value: &mut Value, at: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keep = schema["x-kubernetes-preserve-unknown-fields"] == true
                || schema["x-kubernetes-embedded-resource"] == true;
            let empty = Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&empty);
            let additional = &schema["additionalProperties"];
            map.retain(|name, inner| {
                let path = format!("{at}.{name}");
                if let Some(property) = properties.get(name) {
                    prune(property, inner, &path, unknown);
                    true
                } else if additional.is_object() {
                    prune(additional, inner, &path, unknown);
                    true
                } else if keep || additional == true {
                    true
                } else {
                    unknown.push(path);
                    false
                }
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{at}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
