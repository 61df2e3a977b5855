//! Validation of pods, new ones as well as their updates.

use super::{PORT_RULE, is_dns_label, is_port, is_port_name, protocol};
use crate::apiserver::status::Cause;
use serde_json::{Value, json};

pub(super) fn validate(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    match old {
        None => {
            containers(spec, "spec", causes);
            for (field, known) in [
                ("restartPolicy", &["Always", "OnFailure", "Never"][..]),
                ("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"][..]),
            ] {
                if !spec[field].as_str().is_some_and(|v| known.contains(&v)) {
                    causes.push(Cause::unsupported(format!("spec.{field}"), &spec[field], known));
                }
            }
        }
        Some(old) => {
            if fixed(&old["spec"]) != fixed(spec) {
                causes.push(Cause::forbidden(
                    "spec",
                    "pod updates may not change fields other than `spec.containers[*].image`,\
                     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions \
                     to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
                     was previously negative)",
                ));
            }
            let kept = old["spec"]["tolerations"].as_array().into_iter().flatten();
            let now = spec["tolerations"].as_array().map_or(&[][..], Vec::as_slice);
            for toleration in kept {
                let same = |t: &&Value| {
                    ["key", "operator", "value", "effect"].iter().all(|f| t[*f] == toleration[*f])
                };
                if !now.iter().any(|t| same(&t)) {
                    causes.push(Cause::forbidden(
                        "spec.tolerations",
                        "existing toleration can not be modified except its tolerationSeconds",
                    ));
                }
            }
        }
    }
}

/// The part of a specification that never changes.
fn fixed(spec: &Value) -> Value {
    let mut fixed = spec.clone();
    if let Some(map) = fixed.as_object_mut() {
        for free in ["activeDeadlineSeconds", "tolerations", "schedulingGates", "ephemeralContainers"] {
            map.remove(free);
        }
    }
    for list in ["containers", "initContainers"] {
        for container in fixed[list].as_array_mut().into_iter().flatten() {
            if let Some(map) = container.as_object_mut() {
                map.remove("image");
            }
        }
        if fixed[list].is_null()
            && let Some(map) = fixed.as_object_mut()
        {
            map.remove(list);
        }
    }
    fixed
}

pub(super) fn containers(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    let all = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        causes.push(Cause::required(format!("{at}.containers"), ""));
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, container) in all.iter().enumerate() {
        let at = format!("{at}.containers[{index}]");
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !is_dns_label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &json!(name), super::LABEL_RULE));
        } else if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &json!(name)));
        }
        if container["image"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("{at}.image"), ""));
        }
        for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            let at = format!("{at}.ports[{index}]");
            if !is_port(&port["containerPort"]) {
                causes.push(Cause::invalid(format!("{at}.containerPort"), &port["containerPort"], PORT_RULE));
            }
            let name = &port["name"];
            if name.as_str().is_some_and(|n| !n.is_empty() && !is_port_name(n)) {
                causes.push(Cause::invalid(
                    format!("{at}.name"),
                    name,
                    "must be a name of at most 15 lower case alphanumerics and '-'",
                ));
            }
            protocol(&port["protocol"], &at, causes);
        }
    }
}
