//! The wanted state as a table.

use std::{collections::BTreeMap, net::IpAddr};

use margay_api::endpoint::PodRef;
use margay_policy::{
    ClassId, PolicySetId, Protocol,
    compile::{Compiled, Direction, Entries, Verdict},
};
use serde_json::{Value, json};

use super::ruleset::{Chain, Data, Field, Ruleset, Set};
use crate::decide::{Admitted, Wanted};

/// Interface names that are pods' host ends.
const PODS: &str = "mgy*";

/// The table that enforces what is wanted.
pub(crate) fn layout(wanted: &Wanted) -> Ruleset {
    let mut ruleset = Ruleset::default();
    declare(&mut ruleset);
    addresses(&mut ruleset, wanted);
    endpoints(&mut ruleset, wanted);
    for (id, set) in &wanted.compiled.sets {
        for (way, direction) in [(Way::In, &set.ingress), (Way::Out, &set.egress)] {
            if let Some(direction) = direction {
                policy_set(&mut ruleset, &chain_of(*id, way), direction);
            }
        }
    }
    base_chains(&mut ruleset);
    ruleset
}

/// An element with the set that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) set: String,
    pub(super) key: Vec<Field>,
    pub(super) data: Option<Data>,
}

/// The set for the family of an address.
fn by_family(address: IpAddr, v4: &str, v6: &str) -> String {
    if address.is_ipv4() { v4 } else { v6 }.to_owned()
}

/// The element of a pod's address.
pub(super) fn of_address(address: IpAddr, class: ClassId) -> Entry {
    let set = by_family(address, "pods4", "pods6");
    Entry { set, key: vec![Field::Address(address)], data: Some(Data::Class(class)) }
}

/// The elements of an endpoint whose pod may send from these addresses: its own and those of the pod's other
/// interfaces. A pod with several answers by its default route, with the address that it was asked at.
pub(super) fn of_endpoint(admitted: &Admitted, sources: &[IpAddr], compiled: &Compiled) -> Vec<Entry> {
    let name = || Field::Interface(admitted.endpoint.host_ifname.clone());
    let mut entries = vec![Entry { set: "endpoints".into(), key: vec![name()], data: None }];
    for address in sources {
        let set = by_family(*address, "sources4", "sources6");
        entries.push(Entry { set, key: vec![name(), Field::Address(*address)], data: None });
    }
    let Some(id) = admitted.set else { return entries };
    let Some(set) = compiled.sets.get(&id) else { return entries };
    if set.ingress.is_some() {
        let data = Some(Data::Jump(chain_of(id, Way::In)));
        entries.push(Entry { set: "ingress".into(), key: vec![name()], data });
    }
    if set.egress.is_some() {
        let data = || Some(Data::Jump(chain_of(id, Way::Out)));
        entries.push(Entry { set: "egress".into(), key: vec![name()], data: data() });
        for address in &admitted.endpoint.addresses {
            let set = by_family(*address, "egress4", "egress6");
            entries.push(Entry { set, key: vec![Field::Address(*address)], data: data() });
        }
    }
    entries
}

/// The elements of a class in a chain that [`chain_of`] names.
pub(super) fn of_class(chain: &str, id: ClassId, entries: &Entries) -> Vec<Entry> {
    let ports = entries.allowed.ranges().map(|(protocol, range)| {
        let [protocol, port] = ports(protocol, range.first, range.last);
        let key = vec![Field::Class(id), protocol, port];
        Entry { set: format!("{chain}_ports"), key, data: Some(Data::Return) }
    });
    let rest = Entry {
        set: format!("{chain}_classes"),
        key: vec![Field::Class(id)],
        data: Some(data(entries.default())),
    };
    ports.chain([rest]).collect()
}

/// A direction, as a packet that a pod receives or sends has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// The name of the chain of a policy set.
pub(super) fn chain_of(id: PolicySetId, way: Way) -> String {
    format!("s{}_{}", id.0, if way == Way::In { "in" } else { "out" })
}

/// The addresses of all interfaces of a pod, for each pod.
pub(super) fn addresses_of_pods(wanted: &Wanted) -> BTreeMap<&PodRef, Vec<IpAddr>> {
    let mut of_pod: BTreeMap<&PodRef, Vec<IpAddr>> = BTreeMap::new();
    for Admitted { endpoint, .. } in wanted.endpoints.values() {
        if let Some(pod) = &endpoint.pod {
            of_pod.entry(pod).or_default().extend(&endpoint.addresses);
        }
    }
    of_pod
}

fn declare(ruleset: &mut Ruleset) {
    for (name, key, value, interval) in [
        ("pods4", &["ipv4_addr"][..], Some("classid"), false),
        ("pods6", &["ipv6_addr"], Some("classid"), false),
        ("blocks4", &["ipv4_addr"], Some("classid"), true),
        ("blocks6", &["ipv6_addr"], Some("classid"), true),
        ("endpoints", &["ifname"], None, false),
        ("sources4", &["ifname", "ipv4_addr"], None, false),
        ("sources6", &["ifname", "ipv6_addr"], None, false),
        ("ingress", &["ifname"], Some("verdict"), false),
        ("egress", &["ifname"], Some("verdict"), false),
        ("egress4", &["ipv4_addr"], Some("verdict"), false),
        ("egress6", &["ipv6_addr"], Some("verdict"), false),
    ] {
        ruleset.sets.insert(name.into(), Set::new(key, value, interval));
    }
}

fn insert(ruleset: &mut Ruleset, entries: impl IntoIterator<Item = Entry>) {
    for Entry { set, key, data } in entries {
        if let Some(set) = ruleset.sets.get_mut(&set) {
            set.elements.insert(key, data);
        }
    }
}

fn addresses(ruleset: &mut Ruleset, wanted: &Wanted) {
    insert(ruleset, wanted.compiled.addresses.iter().map(|(address, id)| of_address(*address, *id)));
    let ranges = wanted.compiled.ranges.iter().map(|(range, id)| Entry {
        set: by_family(range.first, "blocks4", "blocks6"),
        key: vec![Field::Addresses(range.first, range.last)],
        data: Some(Data::Class(*id)),
    });
    insert(ruleset, ranges);
}

fn endpoints(ruleset: &mut Ruleset, wanted: &Wanted) {
    let of_pod = addresses_of_pods(wanted);
    for admitted in wanted.endpoints.values() {
        let pod = admitted.endpoint.pod.as_ref().and_then(|pod| of_pod.get(pod));
        let sources = pod.unwrap_or(&admitted.endpoint.addresses);
        insert(ruleset, of_endpoint(admitted, sources, &wanted.compiled));
    }
}

fn ports(protocol: Protocol, first: u16, last: u16) -> [Field; 2] {
    [Field::Number(protocol.number().into()), Field::Numbers(first.into(), last.into())]
}

fn policy_set(ruleset: &mut Ruleset, name: &str, direction: &Direction) {
    let by_port = Set::new(&["classid", "inet_proto", "inet_service"], Some("verdict"), true);
    let by_class = Set::new(&["classid"], Some("verdict"), false);
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
    for (id, entries) in &direction.classes {
        insert(ruleset, of_class(name, *id, entries));
    }
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
