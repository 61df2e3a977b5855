//! What is there whatever the state is: the sets, and the chains of the hooks.

use margay_api::endpoint::HOST_IFNAME_PREFIX;
use margay_netlink::nftables::{
    self, Base, Chain, ChainKind, Expr, Field, Found, Hook, Policy, Rule, SetKind, Type,
};

use super::super::{
    rule::{self, Address, Family, Interface, goto, jump, rule, verdict},
    table::Table,
};
use super::{
    cause::{CAUSES, Cause, cause_chain},
    tunnel::{
        OWN_TUNNEL, TUNNEL, TUNNEL_PORTS, TUNNEL_PROTOCOLS, TUNNELLED, for_others_tunnel, own_tunnel,
        tunnel_packets, tunnelled,
    },
};

/// Causes of their own, of packets from pods (`out`) and to pods (`in`).
///
/// Packets of no connection that are not the first of one.
const MIDSTREAM: [&str; 2] = ["midstream_in", "midstream_out"];
/// Packets of links that are no endpoint's.
const UNKNOWN: [&str; 2] = ["unknown_in", "unknown_out"];
/// Packets from a pod whose source is no address of the pod.
const SPOOF: &str = "spoof";
/// Neighbour discovery and multicast membership, which never leave the pod's own link: types of `ICMPv6`.
const LINK_TYPES: [u32; 6] = [131, 132, 133, 135, 136, 143];
/// Sets that are there whatever the state is.
const SETS: [(&str, &[Type], Option<Type>, bool); 20] = {
    use Type::{ClassId, Icmpv6Type, IfName, InetProto, InetService, Ipv4Addr, Ipv6Addr, Verdict};
    [
        ("pods4", &[Ipv4Addr], Some(ClassId), false),
        ("pods6", &[Ipv6Addr], Some(ClassId), false),
        ("blocks4", &[Ipv4Addr], Some(ClassId), true),
        ("blocks6", &[Ipv6Addr], Some(ClassId), true),
        ("endpoints", &[IfName], None, false),
        ("isolated", &[IfName], None, false),
        ("sources4", &[IfName, Ipv4Addr], None, false),
        ("sources6", &[IfName, Ipv6Addr], None, false),
        ("ingress", &[IfName], Some(Verdict), false),
        ("egress", &[IfName], Some(Verdict), false),
        ("egress4", &[Ipv4Addr], Some(Verdict), false),
        ("egress6", &[Ipv6Addr], Some(Verdict), false),
        ("link_types", &[Icmpv6Type], None, false),
        (CAUSES, &[ClassId], Some(Verdict), false),
        // Empty where no tunnel is wanted: then the port is any other.
        (TUNNEL_PORTS, &[InetService], None, false),
        (TUNNEL_PROTOCOLS, &[InetProto], None, false),
        ("tunnel_ends4", &[Ipv4Addr], None, false),
        ("tunnel_ends6", &[Ipv6Addr], None, false),
        ("own_ends4", &[Ipv4Addr], None, false),
        ("own_ends6", &[Ipv6Addr], None, false),
    ]
};

/// Wants what is there whatever the state is.
pub(crate) fn put_base(table: &mut Table) {
    for (name, key, data, intervals) in SETS {
        table.put_set(name, SetKind { key, data, intervals });
    }
    for number in LINK_TYPES {
        table.put("link_types", vec![Field::Number(number)], None);
    }
    for name in MIDSTREAM.into_iter().chain(UNKNOWN).chain(TUNNEL).chain([SPOOF]) {
        table.put_counter(name);
        table.put_chain(name, cause_chain(name, Cause::Drop));
    }
    table.put_chain("antispoof", Chain::regular(antispoof()));
    let [by_port, by_protocol] = for_others_tunnel();
    table.put_chain("outset", Chain::regular(vec![jump("antispoof"), by_port, by_protocol]));
    table.put_chain(TUNNELLED, Chain::regular(tunnelled()));
    table.put_chain(OWN_TUNNEL, Chain::regular(own_tunnel()));
    table.put_chain("egress", Chain::regular(egress()));
    table.put_chain("input_egress", Chain::regular(input_egress()));
    table.put_chain("ingress", Chain::regular(ingress()));
    table.put_chain("output_egress", Chain::regular(output_egress()));
    let mut base = |name, hook, priority, rules| {
        let base = Base { kind: ChainKind::Filter, hook, priority, policy: Policy::Accept };
        table.put_chain(name, Chain { base: Some(base), rules });
    };
    base("input", Hook::Input, 0, input());
    base("forward", Hook::Forward, 0, forward());
    base("output", Hook::Output, 0, output());
    put_prerouting(table, Vec::new());
}

/// `NF_IP_PRI_RAW`: before connection tracking.
const RAW: i32 = -300;

pub(super) fn raw(hook: Hook, rules: Vec<Rule>) -> Chain {
    let base = Base { kind: ChainKind::Filter, hook, priority: RAW, policy: Policy::Accept };
    Chain { base: Some(base), rules }
}

/// Before connection tracking, so that a spoofed packet leaves no trace in it. What nodes send has one name of an interface to
/// compare with, and then `more`.
pub(super) fn put_prerouting(table: &mut Table, more: Vec<Rule>) {
    let from_pod = rule([from_pod(), jump("outset")]);
    table.put_chain("prerouting", raw(Hook::Prerouting, [vec![from_pod], more].concat()));
}

fn from_pod() -> Vec<Expr> {
    rule::begins(Interface::In, HOST_IFNAME_PREFIX)
}

fn to_pod() -> Vec<Expr> {
    rule::begins(Interface::Out, HOST_IFNAME_PREFIX)
}

/// An address that is that of the pod behind a link.
fn belongs(interface: Interface, which: Address, then: &nftables::Verdict) -> [Rule; 2] {
    Family::ALL.map(|family| {
        let set = family.pick("sources4", "sources6");
        rule([rule::interface_and_address(family, interface, which, set), verdict(then.clone())])
    })
}

fn antispoof() -> Vec<Rule> {
    let mut rules = belongs(Interface::In, Address::Source, &nftables::Verdict::Return).to_vec();
    for source in [rule::from_unspecified(), rule::from_link_local()] {
        rules.push(rule([source, rule::icmpv6_type("link_types"), verdict(nftables::Verdict::Return)]));
    }
    // Of an unknown pod no address is known either.
    rules.push(known(Interface::In));
    rules.push(goto(SPOOF));
    rules
}

fn established() -> Rule {
    rule([rule::is_established(), verdict(nftables::Verdict::Accept)])
}

/// A connection that a change of policy ended is not tracked any more: what either end sends on must not begin it anew
/// in a direction in which it is allowed.
fn midstream(interface: Interface) -> Rule {
    rule([
        rule::is_midstream(),
        rule::interface(interface, "isolated", Found::Is),
        goto(toward(interface, MIDSTREAM)),
    ])
}

/// Of a pod that no policy selects nothing has to be looked up.
fn free(interface: Interface) -> Rule {
    rule([rule::interface(interface, "isolated", Found::IsNot), verdict(nftables::Verdict::Return)])
}

/// NetworkPolicy never comes between a pod and its node; a policy of the cluster may close the node to the pod.
fn input() -> Vec<Rule> {
    let [by_port, by_protocol] = tunnel_packets();
    vec![
        // Before those that are tracked: a node that is gone may not go on.
        rule([by_port, jump(TUNNELLED)]),
        rule([by_protocol, jump(TUNNELLED)]),
        established(),
        rule([rule::icmpv6_type("link_types"), verdict(nftables::Verdict::Accept)]),
        rule([from_pod(), jump("input_egress")]),
    ]
}

fn forward() -> Vec<Rule> {
    let mut rules = vec![established(), midstream(Interface::In), midstream(Interface::Out)];
    // A pod that reaches itself through a service comes back by the link that it left.
    rules.extend(belongs(Interface::In, Address::Destination, &nftables::Verdict::Accept));
    // The destination may be another than in prerouting.
    rules.extend(for_others_tunnel().map(|packets| rule([from_pod(), packets])));
    rules.push(rule([from_pod(), jump("egress")]));
    rules.push(rule([to_pod(), jump("ingress")]));
    rules
}

fn output() -> Vec<Rule> {
    let [by_port, by_protocol] = for_others_tunnel();
    // As `output_raw` left it. Whatever else is untracked, of IPVS for one, goes on.
    let [tunnel, tunnelled] =
        tunnel_packets().map(|packets| rule([packets, rule::is_untracked(), jump(OWN_TUNNEL)]));
    let mut rules = vec![
        established(),
        tunnel,
        tunnelled,
        // The node always reaches its own pods, midstream too.
        rule([rule::from_local(), verdict(nftables::Verdict::Accept)]),
        by_port,
        by_protocol,
        midstream(Interface::Out),
        rule([rule::from_unspecified(), verdict(nftables::Verdict::Accept)]),
        rule([rule::from_link_local(), verdict(nftables::Verdict::Accept)]),
    ];
    rules.extend(belongs(Interface::Out, Address::Source, &nftables::Verdict::Accept));
    rules.push(jump("output_egress"));
    rules.push(rule([to_pod(), jump("ingress")]));
    rules
}

/// Of the names for packets to pods and from pods, the one for those that pass a pod's link here.
pub(super) fn toward(interface: Interface, [ingress, egress]: [&'static str; 2]) -> &'static str {
    match interface {
        Interface::In => egress,
        Interface::Out => ingress,
    }
}

fn known(interface: Interface) -> Rule {
    rule([rule::interface(interface, "endpoints", Found::IsNot), goto(toward(interface, UNKNOWN))])
}

fn egress() -> Vec<Rule> {
    let set = rule::interface(Interface::In, "egress", Found::Verdict);
    let ways_out = vec![known(Interface::In), free(Interface::In)];
    [ways_out, decide(Address::Destination, vec![set])].concat()
}

/// Without the check of [`egress`]: what an unknown pod sends has not come past `antispoof`.
fn input_egress() -> Vec<Rule> {
    let set = rule::interface(Interface::In, "egress", Found::Verdict);
    [vec![free(Interface::In)], decide(Address::Destination, vec![set])].concat()
}

fn ingress() -> Vec<Rule> {
    let set = rule::interface(Interface::Out, "ingress", Found::Verdict);
    let ways_out = vec![known(Interface::Out), free(Interface::Out)];
    [ways_out, decide(Address::Source, vec![set])].concat()
}

fn output_egress() -> Vec<Rule> {
    let of_source = Family::ALL.map(|family| {
        let set = rule::lookup(family.pick("egress4", "egress6"), Found::Verdict);
        rule([rule::address(family, Address::Source), vec![set]])
    });
    decide(Address::Destination, of_source.to_vec())
}

/// The class of an address to the packet priority, then the policy sets that `lookups` find.
fn decide(address: Address, lookups: Vec<Rule>) -> Vec<Rule> {
    let mut rules = vec![rule::reset_priority()];
    // Blocks first: a pod's own entry, which knows its blocks too, wins by coming last.
    for (v4, v6) in [("blocks4", "blocks6"), ("pods4", "pods6")] {
        for family in Family::ALL {
            let class = rule::lookup(family.pick(v4, v6), Found::Value(rule::FIRST));
            rules.push(rule([rule::address(family, address), vec![class, rule::set_priority()]]));
        }
    }
    rules.extend(lookups);
    rules.push(rule::reset_priority());
    rules
}
