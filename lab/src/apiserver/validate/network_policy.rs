//! Validation of network policies, as `networking.k8s.io/v1` does it.

use super::{PORT_RULE, is_port, is_port_name, protocol, selector};
use crate::apiserver::status::Cause;
use ipnetwork::IpNetwork;
use serde_json::Value;

const CIDR_RULE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const NAME_RULE: &str = "must contain only alpha-numeric characters (a-z, 0-9), hyphens (-), at least one letter and \
                         no more than 15 characters";

pub(super) fn validate(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    selector(&spec["podSelector"], "spec.podSelector", causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(&spec[direction]) {
            let at = format!("spec.{direction}[{index}]");
            for (index, port) in items(&rule["ports"]) {
                check_port(port, &format!("{at}.ports[{index}]"), causes);
            }
            for (index, peer) in items(&rule[peers]) {
                check_peer(peer, &format!("{at}.{peers}[{index}]"), causes);
            }
        }
    }
    let types = spec["policyTypes"].as_array().map_or(&[][..], Vec::as_slice);
    if types.len() > 2 {
        causes.push(Cause::invalid(
            "spec.policyTypes",
            &spec["policyTypes"],
            "may not specify more than two policyTypes",
        ));
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        if kind != "Ingress" && kind != "Egress" {
            causes.push(Cause::unsupported(
                format!("spec.policyTypes[{index}]"),
                kind,
                &["Egress", "Ingress"],
            ));
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

fn check_port(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    protocol(&port["protocol"], at, causes);
    let number = &port["port"];
    let end = &port["endPort"];
    match number {
        Value::Null => {
            if !end.is_null() {
                causes.push(Cause::invalid(
                    format!("{at}.endPort"),
                    end,
                    "may not be specified when `port` is not specified",
                ));
            }
        }
        Value::Number(_) => {
            if !is_port(number) {
                causes.push(Cause::invalid(format!("{at}.port"), number, PORT_RULE));
            }
            if let (Some(first), Some(last)) = (number.as_i64(), end.as_i64()) {
                if last < first {
                    causes.push(Cause::invalid(
                        format!("{at}.endPort"),
                        number,
                        "must be greater than or equal to `port`",
                    ));
                }
                if !is_port(end) {
                    causes.push(Cause::invalid(format!("{at}.endPort"), end, PORT_RULE));
                }
            }
        }
        _ => {
            if !end.is_null() {
                causes.push(Cause::invalid(
                    format!("{at}.endPort"),
                    end,
                    "may not be specified when `port` is non-numeric",
                ));
            }
            if !number.as_str().is_some_and(is_port_name) {
                causes.push(Cause::invalid(format!("{at}.port"), number, NAME_RULE));
            }
        }
    }
}

fn check_peer(peer: &Value, at: &str, causes: &mut Vec<Cause>) {
    let given = ["podSelector", "namespaceSelector", "ipBlock"].into_iter().filter(|f| !peer[*f].is_null());
    let number = given.count();
    for field in ["podSelector", "namespaceSelector"] {
        if !peer[field].is_null() {
            selector(&peer[field], &format!("{at}.{field}"), causes);
        }
    }
    if !peer["ipBlock"].is_null() {
        check_block(&peer["ipBlock"], &format!("{at}.ipBlock"), causes);
    }
    if number == 0 {
        causes.push(Cause::required(at, "must specify a peer"));
    } else if number > 1 && !peer["ipBlock"].is_null() {
        causes.push(Cause::forbidden(at, "may not specify both ipBlock and another peer"));
    }
}

fn check_block(block: &Value, at: &str, causes: &mut Vec<Cause>) {
    let cidr_at = format!("{at}.cidr");
    let Some(text) = block["cidr"].as_str().filter(|t| !t.is_empty()) else {
        causes.push(Cause::required(cidr_at, ""));
        return;
    };
    let Some(cidr) = parse(text) else {
        causes.push(Cause::invalid(cidr_at, &block["cidr"], CIDR_RULE));
        return;
    };
    for (index, except) in items(&block["except"]) {
        let at = format!("{at}.except[{index}]");
        let Some(inner) = except.as_str().and_then(parse) else {
            causes.push(Cause::invalid(at, except, CIDR_RULE));
            continue;
        };
        let inside = match (cidr, inner) {
            (IpNetwork::V4(outer), IpNetwork::V4(inner)) => outer.contains(inner.network()),
            (IpNetwork::V6(outer), IpNetwork::V6(inner)) => outer.contains(inner.network()),
            _ => false,
        };
        if !inside || inner.prefix() <= cidr.prefix() {
            causes.push(Cause::invalid(at, except, &format!("must be a strict subset of `cidr`: {text:?}")));
        }
    }
}

/// The crate takes an address without a length for a network; Kubernetes does not.
fn parse(text: &str) -> Option<IpNetwork> {
    if text.contains('/') { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: &Value, expected: &[&str]) {
        let mut causes = Vec::new();
        validate(&json!({ "spec": spec }), &mut causes);
        assert_eq!(
            causes.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(),
            expected,
            "{spec}: {causes:?}"
        );
    }

    fn check_ports(port: &Value, expected: &[&str]) {
        check(&json!({"podSelector": {}, "ingress": [{"ports": [port]}]}), expected);
    }

    fn check_peers(peer: &Value, expected: &[&str]) {
        check(&json!({"podSelector": {}, "egress": [{"to": [peer]}]}), expected);
    }

    #[test]
    fn ports_are_checked() {
        let port = "spec.ingress[0].ports[0].port";
        let end = "spec.ingress[0].ports[0].endPort";
        check_ports(&json!({"protocol": "TCP", "port": 80, "endPort": 90}), &[]);
        check_ports(&json!({"protocol": "SCTP", "port": "http"}), &[]);
        check_ports(&json!({"protocol": "ICMP"}), &["spec.ingress[0].ports[0].protocol"]);
        check_ports(&json!({"protocol": "TCP", "port": 0}), &[port]);
        check_ports(&json!({"protocol": "TCP", "port": 65536}), &[port]);
        check_ports(&json!({"protocol": "TCP", "port": "Not_A_Name"}), &[port]);
        check_ports(&json!({"protocol": "TCP", "port": 80, "endPort": 79}), &[end]);
        check_ports(&json!({"protocol": "TCP", "port": 80, "endPort": 65536}), &[end]);
        check_ports(&json!({"protocol": "TCP", "port": "http", "endPort": 90}), &[end]);
        check_ports(&json!({"protocol": "TCP", "endPort": 90}), &[end]);
    }

    #[test]
    fn peers_are_checked() {
        let at = "spec.egress[0].to[0]";
        let cidr = "spec.egress[0].to[0].ipBlock.cidr";
        let except = "spec.egress[0].to[0].ipBlock.except[0]";
        check_peers(&json!({"podSelector": {}, "namespaceSelector": {}}), &[]);
        check_peers(&json!({}), &[at]);
        check_peers(&json!({"podSelector": {}, "ipBlock": {"cidr": "192.0.2.0/24"}}), &[at]);
        for (outer, inner, ok) in [
            ("192.0.2.0/24", "192.0.2.128/25", true),
            ("2001:db8::/32", "2001:db8:1::/48", true),
            ("192.0.2.0/24", "192.0.2.0/24", false),
            ("192.0.2.0/24", "198.51.100.0/25", false),
            ("192.0.2.0/24", "2001:db8::/48", false),
            ("192.0.2.0/24", "192.0.2.1", false),
        ] {
            let block = json!({"ipBlock": {"cidr": outer, "except": [inner]}});
            check_peers(&block, if ok { &[] } else { std::slice::from_ref(&except) });
        }
        check_peers(&json!({"ipBlock": {"cidr": "192.0.2.0/33"}}), &[cidr]);
        check_peers(&json!({"ipBlock": {"cidr": "192.0.2.0"}}), &[cidr]);
        check_peers(&json!({"ipBlock": {}}), &[cidr]);
    }

    #[test]
    fn selectors_and_policy_types_are_checked() {
        let term = |t: Value| json!({"podSelector": {"matchExpressions": [t]}});
        let at = |f: &str| format!("spec.podSelector.matchExpressions[0].{f}");
        check(&term(json!({"key": "a", "operator": "In", "values": ["b"]})), &[]);
        check(&term(json!({"key": "a", "operator": "In"})), &[&at("values")]);
        check(&term(json!({"key": "a", "operator": "Exists", "values": ["b"]})), &[&at("values")]);
        check(&term(json!({"key": "a", "operator": "Like"})), &[&at("operator")]);
        check(&term(json!({"key": "-a", "operator": "Exists"})), &[&at("key")]);
        check(&json!({"podSelector": {"matchLabels": {"a": "b c"}}}), &["spec.podSelector.matchLabels"]);
        check(&json!({"policyTypes": ["Ingress", "Both"]}), &["spec.policyTypes[1]"]);
        check(&json!({"policyTypes": ["Ingress", "Egress", "Egress"]}), &["spec.policyTypes"]);
    }
}
