//! What makes an object invalid.

mod definition;
mod network_policy;
mod pod;
mod rules;
mod schema;

pub(crate) use rules::Rules;

use super::admission;
use super::resource::Resource;
use super::status::Cause;
use serde_json::Value;

const NAME_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                          must start and end with an alphanumeric character";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                          '.', and must start and end with an alphanumeric character";
const KEY_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                        with an alphanumeric character";

/// All that is wrong with `object`; `old` is the object that it replaces.
pub(crate) fn validate(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(resource, object, &mut causes);
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::validate(object, old, &mut causes),
        ("", "nodes") => node(object, old, &mut causes),
        ("", "services") => service(object, &mut causes),
        ("networking.k8s.io", "networkpolicies") => network_policy::validate(object, &mut causes),
        ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => {
            workload(object, &mut causes);
        }
        (admission::GROUP, "validatingadmissionpolicies") => {
            admission::complain_of_policy(object, &mut causes);
        }
        (admission::GROUP, "validatingadmissionpolicybindings") => {
            admission::complain_of_binding(object, &mut causes);
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => definition::validate(object, &mut causes),
        _ => {}
    }
    if let Some(custom) = &resource.custom {
        schema::validate(&custom.schema, object, &mut causes);
        // Rules may count on what the schema says.
        if causes.is_empty() {
            custom.rules.check(object, old, "", &mut causes);
        }
    }
    causes
}

fn metadata(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if resource.group == "rbac.authorization.k8s.io" {
        if name == "." || name == ".." || name.contains(['/', '%']) {
            causes.push(Cause::invalid("metadata.name", &metadata["name"], "may not contain '/' or '%'"));
        }
    } else if resource.is("", "namespaces") || resource.is("", "services") {
        if !is_dns_label(name) {
            causes.push(Cause::invalid("metadata.name", &metadata["name"], LABEL_RULE));
        }
    } else if !is_dns_subdomain(name) {
        causes.push(Cause::invalid("metadata.name", &metadata["name"], NAME_RULE));
    }
    labels(&metadata["labels"], "metadata.labels", causes);
    if let Some(annotations) = metadata["annotations"].as_object() {
        for (key, value) in annotations {
            if !is_qualified_name(&key.to_lowercase()) {
                causes.push(Cause::invalid("metadata.annotations", &Value::from(key.as_str()), KEY_RULE));
            }
            if !value.is_string() {
                causes.push(Cause::invalid("metadata.annotations", value, "must be a string"));
            }
        }
    }
}

fn labels(labels: &Value, at: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid(at, &Value::from(key.as_str()), KEY_RULE));
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(Cause::invalid(at, value, VALUE_RULE));
        }
    }
}

/// A `LabelSelector`.
fn selector(selector: &Value, at: &str, causes: &mut Vec<Cause>) {
    labels(&selector["matchLabels"], &format!("{at}.matchLabels"), causes);
    for (index, term) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.matchExpressions[{index}]");
        let values = term["values"].as_array().map_or(&[][..], Vec::as_slice);
        match term["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => causes.push(Cause::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(Cause::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => causes.push(Cause::invalid(
                format!("{at}.operator"),
                &term["operator"],
                "not a valid selector operator",
            )),
        }
        if !term["key"].as_str().is_some_and(is_qualified_name) {
            causes.push(Cause::invalid(format!("{at}.key"), &term["key"], KEY_RULE));
        }
        for (index, value) in values.iter().enumerate() {
            if !value.as_str().is_some_and(is_label_value) {
                causes.push(Cause::invalid(format!("{at}.values[{index}]"), value, VALUE_RULE));
            }
        }
    }
}

fn node(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let cidrs = object["spec"]["podCIDRs"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, cidr) in cidrs.iter().enumerate() {
        if !cidr.as_str().is_some_and(|c| c.contains('/') && c.parse::<ipnetwork::IpNetwork>().is_ok()) {
            causes.push(Cause::invalid(
                format!("spec.podCIDRs[{index}]"),
                cidr,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ));
        }
    }
    let set = |v: &Value| v.as_array().is_some_and(|l| !l.is_empty());
    if let Some(old) = old
        && set(&old["spec"]["podCIDRs"])
        && old["spec"]["podCIDRs"] != object["spec"]["podCIDRs"]
    {
        causes.push(Cause::forbidden(
            "spec.podCIDRs",
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
}

fn service(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let headless = spec["clusterIP"] == "None";
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    if ports.is_empty() && !headless && spec["type"] != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        if !is_port(&port["port"]) {
            causes.push(Cause::invalid(format!("{at}.port"), &port["port"], PORT_RULE));
        }
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(format!("{at}.name"), ""));
        }
        protocol(&port["protocol"], &at, causes);
    }
    labels(&spec["selector"], "spec.selector", causes);
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !spec["type"].as_str().is_some_and(|t| types.contains(&t)) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], &types));
    }
}

fn workload(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    selector(&spec["selector"], "spec.selector", causes);
    let wanted = spec["selector"]["matchLabels"].as_object();
    let given = &spec["template"]["metadata"]["labels"];
    if wanted.is_some_and(|w| w.iter().any(|(k, v)| given[k.as_str()] != *v)) {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            given,
            "`selector` does not match template `labels`",
        ));
    }
    pod::containers(&spec["template"]["spec"], "spec.template.spec", causes);
}

const PORT_RULE: &str = "must be between 1 and 65535, inclusive";

fn protocol(value: &Value, at: &str, causes: &mut Vec<Cause>) {
    let known = ["SCTP", "TCP", "UDP"];
    if !value.as_str().is_some_and(|p| known.contains(&p)) {
        causes.push(Cause::unsupported(format!("{at}.protocol"), value, &known));
    }
}

fn is_port(value: &Value) -> bool {
    value.as_i64().is_some_and(|p| (1..=65535).contains(&p))
}

fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let dash = |b: Option<&u8>| b == Some(&b'-');
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|b| inner(*b))
        && !dash(bytes.first())
        && !dash(bytes.last())
}

fn is_dns_subdomain(name: &str) -> bool {
    let part = |p: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = p.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name_part(value)
}

fn is_name_part(part: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = part.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_qualified_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, part)) => is_dns_subdomain(prefix) && is_name_part(part),
        None => is_name_part(name),
    }
}

/// `IANA_SVC_NAME`, as ports are named.
fn is_port_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= 15
        && is_dns_label(name)
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.contains("--")
}
