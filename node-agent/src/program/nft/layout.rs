//! The wanted state as a table.

use std::{collections::BTreeMap, net::IpAddr};

use margay_api::endpoint::PodRef;
use margay_policy::{
    Protocol,
    compile::{Direction, Verdict},
};
use serde_json::{Value, json};

use super::ruleset::{Chain, Data, Field, Ruleset, Set};
use crate::decide::{Admitted, Wanted};

/// Interface names that are pods' host ends.
const PODS: &str = "mgy*";

/// The table that enforces what is wanted.
pub(crate) fn layout(wanted: &Wanted) -> Ruleset {
    let mut ruleset = Ruleset::default();
    addresses(&mut ruleset, wanted);
    endpoints(&mut ruleset, wanted);
    for (id, set) in &wanted.compiled.sets {
        for (way, direction) in [("in", &set.ingress), ("out", &set.egress)] {
            if let Some(direction) = direction {
                policy_set(&mut ruleset, &format!("s{}_{way}", id.0), direction);
            }
        }
    }
    base_chains(&mut ruleset);
    ruleset
}

fn addresses(ruleset: &mut Ruleset, wanted: &Wanted) {
    let mut pods =
        [Set::new(&["ipv4_addr"], Some("classid"), false), Set::new(&["ipv6_addr"], Some("classid"), false)];
    for (address, id) in &wanted.compiled.addresses {
        let set = &mut pods[usize::from(address.is_ipv6())];
        set.elements.insert(vec![Field::Address(*address)], Some(Data::Class(*id)));
    }
    let mut blocks =
        [Set::new(&["ipv4_addr"], Some("classid"), true), Set::new(&["ipv6_addr"], Some("classid"), true)];
    for (range, id) in &wanted.compiled.ranges {
        let set = &mut blocks[usize::from(range.first.is_ipv6())];
        set.elements.insert(vec![Field::Addresses(range.first, range.last)], Some(Data::Class(*id)));
    }
    let [pods4, pods6] = pods;
    let [blocks4, blocks6] = blocks;
    for (name, set) in [("pods4", pods4), ("pods6", pods6), ("blocks4", blocks4), ("blocks6", blocks6)] {
        ruleset.sets.insert(name.into(), set);
    }
}

fn endpoints(ruleset: &mut Ruleset, wanted: &Wanted) {
    let mut known = Set::new(&["ifname"], None, false);
    let mut sources =
        [Set::new(&["ifname", "ipv4_addr"], None, false), Set::new(&["ifname", "ipv6_addr"], None, false)];
    let mut ingress = Set::new(&["ifname"], Some("verdict"), false);
    let mut egress = Set::new(&["ifname"], Some("verdict"), false);
    let mut egress_of =
        [Set::new(&["ipv4_addr"], Some("verdict"), false), Set::new(&["ipv6_addr"], Some("verdict"), false)];
    // A pod with several interfaces answers by its default route, with the address that it was asked at.
    let mut of_pod: BTreeMap<&PodRef, Vec<IpAddr>> = BTreeMap::new();
    for Admitted { endpoint, .. } in wanted.endpoints.values() {
        if let Some(pod) = &endpoint.pod {
            of_pod.entry(pod).or_default().extend(&endpoint.addresses);
        }
    }
    for admitted in wanted.endpoints.values() {
        let name = || Field::Interface(admitted.endpoint.host_ifname.clone());
        known.elements.insert(vec![name()], None);
        let pod = admitted.endpoint.pod.as_ref().and_then(|pod| of_pod.get(pod));
        for address in pod.unwrap_or(&admitted.endpoint.addresses) {
            let set = &mut sources[usize::from(address.is_ipv6())];
            set.elements.insert(vec![name(), Field::Address(*address)], None);
        }
        let Some(id) = admitted.set else { continue };
        let Some(set) = wanted.compiled.sets.get(&id) else { continue };
        if set.ingress.is_some() {
            ingress.elements.insert(vec![name()], Some(Data::Jump(format!("s{}_in", id.0))));
        }
        if set.egress.is_some() {
            egress.elements.insert(vec![name()], Some(Data::Jump(format!("s{}_out", id.0))));
            for address in &admitted.endpoint.addresses {
                let set = &mut egress_of[usize::from(address.is_ipv6())];
                set.elements
                    .insert(vec![Field::Address(*address)], Some(Data::Jump(format!("s{}_out", id.0))));
            }
        }
    }
    let [sources4, sources6] = sources;
    let [egress4, egress6] = egress_of;
    for (name, set) in [
        ("endpoints", known),
        ("sources4", sources4),
        ("sources6", sources6),
        ("ingress", ingress),
        ("egress", egress),
        ("egress4", egress4),
        ("egress6", egress6),
    ] {
        ruleset.sets.insert(name.into(), set);
    }
}

fn policy_set(ruleset: &mut Ruleset, name: &str, direction: &Direction) {
    let ports = |protocol: Protocol, first: u16, last: u16| {
        [Field::Number(protocol.number().into()), Field::Numbers(first.into(), last.into())]
    };
    let mut by_port = Set::new(&["classid", "inet_proto", "inet_service"], Some("verdict"), true);
    let mut by_class = Set::new(&["classid"], Some("verdict"), false);
    for (id, entries) in &direction.classes {
        for (protocol, range) in entries.allowed.ranges() {
            let mut key = vec![Field::Class(*id)];
            key.extend(ports(protocol, range.first, range.last));
            by_port.elements.insert(key, Some(Data::Return));
        }
        by_class.elements.insert(vec![Field::Class(*id)], Some(data(entries.default())));
    }
    let mut any = Set::new(&["inet_proto", "inet_service"], Some("verdict"), true);
    for (protocol, range) in direction.any.allowed.ranges() {
        any.elements.insert(ports(protocol, range.first, range.last).to_vec(), Some(Data::Return));
    }
    let (priority, protocol, port) = (meta("priority"), meta("l4proto"), payload("th", "dport"));
    let last = match direction.any.default() {
        Verdict::Allow => json!({"return": null}),
        Verdict::Deny => json!({"drop": null}),
    };
    let rules = vec![
        vec![vmap(&json!({"concat": [priority, protocol, port]}), &format!("{name}_ports"))],
        vec![vmap(&priority, &format!("{name}_classes"))],
        vec![vmap(&json!({"concat": [protocol, port]}), &format!("{name}_any"))],
        vec![last],
    ];
    ruleset.sets.insert(format!("{name}_ports"), by_port);
    ruleset.sets.insert(format!("{name}_classes"), by_class);
    ruleset.sets.insert(format!("{name}_any"), any);
    ruleset.chains.insert(name.into(), Chain { hook: None, rules });
}

fn data(verdict: Verdict) -> Data {
    match verdict {
        Verdict::Allow => Data::Return,
        Verdict::Deny => Data::Drop,
    }
}

fn base_chains(ruleset: &mut Ruleset) {
    let drop = || json!({"drop": null});
    let from_pod = || matches("==", &meta("iifname"), &json!(PODS));
    let to_pod = || matches("==", &meta("oifname"), &json!(PODS));
    let jump = |chain: &str| json!({"jump": {"target": chain}});

    // Neighbour discovery and multicast membership of the pod's own link: they never leave it.
    let link_local = || json!({"set": ["::", {"prefix": {"addr": "fe80::", "len": 10}}]});
    let link_types = json!({"set": [
        "nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert", "mld-listener-report",
        "mld-listener-done", "mld2-listener-report"
    ]});
    // An address that is that of the pod behind a link.
    let belongs = |ifname: &str, address: &str, verdict: &str| {
        ["ip", "ip6"].map(|family| {
            let key = json!({"concat": [meta(ifname), payload(family, address)]});
            let set = if family == "ip" { "@sources4" } else { "@sources6" };
            vec![matches("==", &key, &json!(set)), json!({verdict: null})]
        })
    };
    let [own4, own6] = belongs("iifname", "saddr", "return");
    let spoof = vec![
        own4,
        own6,
        vec![
            matches("==", &payload("ip6", "saddr"), &link_local()),
            matches("==", &payload("icmpv6", "type"), &link_types),
            json!({"return": null}),
        ],
        vec![drop()],
    ];
    let chain = |rules| Chain { hook: None, rules };
    ruleset.chains.insert("spoof".into(), chain(spoof));
    ruleset.chains.insert(
        "prerouting".into(),
        // Before connection tracking (priority raw), so that a spoofed packet leaves no trace in it.
        Chain { hook: Some(("prerouting", -300)), rules: vec![vec![from_pod(), jump("spoof")]] },
    );
    let established = || {
        let state = matches("in", &json!({"ct": {"key": "state"}}), &json!(["established", "related"]));
        vec![state, json!({"accept": null})]
    };
    // A pod that reaches itself through a service comes back by the link that it left.
    let [self4, self6] = belongs("iifname", "daddr", "accept");
    ruleset.chains.insert(
        "forward".into(),
        Chain {
            hook: Some(("forward", 0)),
            rules: vec![
                established(),
                self4,
                self6,
                vec![from_pod(), jump("egress")],
                vec![to_pod(), jump("ingress")],
            ],
        },
    );
    let [self4, self6] = belongs("oifname", "saddr", "accept");
    let local = matches("==", &json!({"fib": {"result": "type", "flags": ["saddr"]}}), &json!("local"));
    ruleset.chains.insert(
        "output".into(),
        Chain {
            hook: Some(("output", 0)),
            rules: vec![
                established(),
                vec![local, json!({"accept": null})],
                vec![matches("==", &payload("ip6", "saddr"), &link_local()), json!({"accept": null})],
                self4,
                self6,
                vec![jump("output_egress")],
                vec![to_pod(), jump("ingress")],
            ],
        },
    );
    let known = |ifname: &str| vec![matches("!=", &meta(ifname), &json!("@endpoints")), drop()];
    let mut egress = vec![known("iifname")];
    egress.extend(decide("daddr", &[vmap(&meta("iifname"), "egress")]));
    ruleset.chains.insert("egress".into(), chain(egress));
    let mut ingress = vec![known("oifname")];
    ingress.extend(decide("saddr", &[vmap(&meta("oifname"), "ingress")]));
    ruleset.chains.insert("ingress".into(), chain(ingress));
    let of_source = [vmap(&payload("ip", "saddr"), "egress4"), vmap(&payload("ip6", "saddr"), "egress6")];
    ruleset.chains.insert("output_egress".into(), chain(decide("daddr", &of_source)));
}

/// The class of an address to the packet priority, then the policy sets that `lookups` find.
fn decide(address: &str, lookups: &[Value]) -> Vec<Vec<Value>> {
    let mut rules = vec![vec![set_priority(&json!("none"))]];
    // Blocks first: a pod's own entry, which knows its blocks too, wins by coming last.
    for (family, set) in [("ip", "blocks4"), ("ip6", "blocks6"), ("ip", "pods4"), ("ip6", "pods6")] {
        let class = json!({"map": {"key": payload(family, address), "data": format!("@{set}")}});
        rules.push(vec![set_priority(&class)]);
    }
    rules.extend(lookups.iter().map(|lookup| vec![lookup.clone()]));
    rules.push(vec![set_priority(&json!("none"))]);
    rules
}

fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn matches(op: &str, left: &Value, right: &Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

fn vmap(key: &Value, set: &str) -> Value {
    json!({"vmap": {"key": key, "data": format!("@{set}")}})
}

fn set_priority(value: &Value) -> Value {
    json!({"mangle": {"key": meta("priority"), "value": value}})
}
