//! What of the table each piece of state needs.
//!
//! The functions are about one piece each: an address with its class, a range, an endpoint, a policy set's direction,
//! a class in it, a cause. Whoever calls them keeps account of the pieces, and [`Table`] of what that changes.

use std::{borrow::Cow, net::IpAddr};

use margay_api::endpoint::{Endpoint, HOST_IFNAME_PREFIX};
use margay_netlink::nftables::{
    self, Base, Chain, ChainKind, Data, Expr, Field, Found, Hook, Key, Policy, Rule, SetKind, Type,
};
use margay_policy::{
    AddressRange, PortRange, Protocol,
    compile::{self, CauseId, ClassId, Direction, Entries, PolicySetId, PortEntry, Verdict, Way},
};

use super::{
    band::{Bands, Named, is_range},
    rule::{self, Address, Family, Interface, goto, jump, rule, verdict},
    table::Table,
};
use crate::decide::{Masquerade, TunnelEnds};

/// The NFLOG group to which packets are told that policy drops, or would drop: the letters `mg`. Its listener sees
/// the name of the cause as the prefix, and the packet's first [`LOG_SNAPLEN`] octets.
pub(crate) const LOG_GROUP: u16 = 0x6d67;
pub(crate) const LOG_SNAPLEN: u32 = 128;
/// Packets that each cause may tell of, in a second and at once: what policy drops may come as fast as the wire is.
const LOG_PER_SECOND: u64 = 100;
const LOG_BURST: u32 = 100;

/// Causes of their own, of packets from pods (`out`) and to pods (`in`).
///
/// Packets of no connection that are not the first of one.
const MIDSTREAM: [&str; 2] = ["midstream_in", "midstream_out"];
/// Packets of links that are no endpoint's.
const UNKNOWN: [&str; 2] = ["unknown_in", "unknown_out"];
/// Packets from a pod whose source is no address of the pod.
const SPOOF: &str = "spoof";
/// Packets made for the tunnels between nodes, by one who is no node: from elsewhere, and from pods.
const TUNNEL: [&str; 2] = ["tunnel_in", "tunnel_out"];

/// Where a decision by a policy of the cluster goes.
const CAUSES: &str = "causes";
/// Where the tunnels between nodes listen.
const TUNNEL_PORTS: &str = "tunnel_ports";
/// What those without a port are made of.
const TUNNEL_PROTOCOLS: &str = "tunnel_protocols";
/// The chain of what comes to them.
const TUNNELLED: &str = "tunnelled";
/// Asks whether it is this node that does.
const OWN_TUNNEL: &str = "own_tunnel";

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

/// Whose ends of the tunnels between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// This node's.
    Own,
    /// Other nodes'.
    Theirs,
}

impl Ends {
    fn set(self, family: Family) -> &'static str {
        match self {
            Self::Own => family.pick("own_ends4", "own_ends6"),
            Self::Theirs => family.pick("tunnel_ends4", "tunnel_ends6"),
        }
    }
}

/// An element with the set that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) set: Cow<'static, str>,
    pub(crate) key: Key,
    pub(crate) data: Option<Data>,
}

impl Entry {
    /// Wants it.
    pub(crate) fn put(self, table: &mut Table) {
        table.put(&self.set, self.key, self.data);
    }

    /// Wants it no more.
    pub(crate) fn remove(&self, table: &mut Table) {
        table.remove(&self.set, &self.key);
    }
}

/// What a cause does to packets, beside counting them and telling of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It drops them.
    Drop,
    /// It lets them pass the direction.
    Audit,
}

/// What a direction decides, as its maps hold it: a number, so that what a class may do changes without a look of the
/// kernel at all chains, which it takes whenever a verdict that leads to a chain is added, and then at all elements
/// of all maps of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The packet passes the direction.
    Pass,
    /// No policy allows it: it goes to the direction's own cause.
    Own(Cause),
    /// A policy of the cluster denies it: it goes to the cause of that.
    Cluster(CauseId, Cause),
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        let (cause, of) = match verdict {
            Verdict::Allow => return Self::Pass,
            Verdict::Deny(of) => (Cause::Drop, of),
            Verdict::Audit(of) => (Cause::Audit, of),
        };
        match of {
            compile::Cause::Isolation => Self::Own(cause),
            compile::Cause::Cluster(id) => Self::Cluster(id, cause),
        }
    }
}

impl Decision {
    fn number(self) -> u32 {
        match self {
            Self::Pass => 0,
            Self::Own(cause) => 2 + cause as u32,
            // Causes count from 1.
            Self::Cluster(id, cause) => 2 + 2 * id.0 + cause as u32,
        }
    }

    /// As the value of an element.
    pub(crate) fn data(self) -> Data {
        Data::Number(self.number())
    }
}

/// The name of the chain of a policy set.
pub(crate) fn chain_of(id: PolicySetId, way: Way) -> String {
    format!("s{}_{}", id.0, if way == Way::Ingress { "in" } else { "out" })
}

/// The name of the chain of a cause, and of its counter; also what it says to the listeners of [`LOG_GROUP`].
pub(crate) fn cause_of(name: &str, cause: Cause) -> String {
    format!("{name}_{}", if cause == Cause::Drop { "drop" } else { "audit" })
}

/// The names of the causes of a direction of a policy set, whether they are there or not.
pub(crate) fn cause_names(id: PolicySetId, way: Way) -> [String; 2] {
    [Cause::Drop, Cause::Audit].map(|cause| cause_of(&chain_of(id, way), cause))
}

/// The names of the causes of a policy of the cluster.
pub(crate) fn cluster_cause_names(id: CauseId) -> [String; 2] {
    [Cause::Drop, Cause::Audit].map(|cause| cause_of(&cluster_cause(id), cause))
}

/// The element of a pod's address.
pub(crate) fn of_address(address: IpAddr, class: ClassId) -> Entry {
    let set = by_family(address, "pods4", "pods6");
    Entry { set, key: vec![Field::Address(address)], data: Some(Data::Number(class.0)) }
}

/// The element of a range of addresses, which overlaps with no other.
pub(crate) fn of_range(range: &AddressRange, class: ClassId) -> Entry {
    let set = by_family(range.first, "blocks4", "blocks6");
    Entry { set, key: vec![Field::Addresses(range.first, range.last)], data: Some(Data::Number(class.0)) }
}

/// Wants an address to have no class of its own any more.
pub(crate) fn remove_address(table: &mut Table, address: IpAddr) {
    of_address(address, ClassId::NONE).remove(table);
}

/// Wants a range to have no class any more.
pub(crate) fn remove_range(table: &mut Table, range: &AddressRange) {
    of_range(range, ClassId::NONE).remove(table);
}

/// The elements of an endpoint that policy isolates in these ways, and whose pod may send from these addresses: its own
/// and those of the pod's other interfaces. A pod with several answers by its default route, with the address that it
/// was asked at.
pub(crate) fn of_endpoint(
    endpoint: &Endpoint,
    sources: &[IpAddr],
    isolated: &[(Way, PolicySetId)],
) -> Vec<Entry> {
    let name = || Field::Name(endpoint.host_ifname.as_str().into());
    let entry = |set: &'static str, key, data| Entry { set: set.into(), key, data };
    let mut entries = vec![entry("endpoints", vec![name()], None)];
    for address in sources {
        let set = by_family(*address, "sources4", "sources6");
        entries.push(Entry { set, key: vec![name(), Field::Address(*address)], data: None });
    }
    if !isolated.is_empty() {
        entries.push(entry("isolated", vec![name()], None));
    }
    for (way, id) in isolated {
        let data = || Some(Data::Verdict(nftables::Verdict::Jump(chain_of(*id, *way))));
        match way {
            Way::Ingress => entries.push(entry("ingress", vec![name()], data())),
            Way::Egress => {
                entries.push(entry("egress", vec![name()], data()));
                for address in &endpoint.addresses {
                    let set = by_family(*address, "egress4", "egress6");
                    entries.push(Entry { set, key: vec![Field::Address(*address)], data: data() });
                }
            }
        }
    }
    entries
}

/// The elements of the tunnels between nodes: nobody but other nodes sends to their port, or packets of their protocol.
pub(crate) fn of_tunnel_ends(ends: &TunnelEnds) -> Vec<Entry> {
    let entry = |set, field| Entry { set, key: vec![field], data: None };
    let ports = ends.ports.iter().map(|port| entry(TUNNEL_PORTS.into(), Field::Number((*port).into())));
    let all = [(&ends.own, Ends::Own), (&ends.peers, Ends::Theirs)];
    let addresses = all.into_iter().flat_map(|(addresses, whose)| {
        let set = move |address| by_family(address, whose.set(Family::V4), whose.set(Family::V6));
        addresses.iter().map(move |address| entry(set(*address), Field::Address(*address)))
    });
    let protocol = ends.ipip.then(|| entry(TUNNEL_PROTOCOLS.into(), Field::Number(rule::IPIP.into())));
    addresses.chain(ports).chain(protocol).collect()
}

/// A map of a direction; they are asked in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lookup {
    /// What a class may do on a port.
    Ports,
    /// The same on ports from one to another, which are of a band.
    Ranges,
    /// The rest of a class.
    Classes,
    /// What everybody else may do on a port.
    Any,
    /// The same on ports from one to another.
    AnyRanges,
}

impl Lookup {
    const ALL: [Self; 5] = [Self::Ports, Self::Ranges, Self::Classes, Self::Any, Self::AnyRanges];

    /// Those that have elements, of a direction whose classes name these ports: a packet passes the others by.
    pub(crate) fn of(direction: &Direction, named: &Named) -> Vec<Self> {
        let by_any = |wanted: bool| direction.any.ports.iter().any(|entry| is_range(entry) == wanted);
        let has_elements = |lookup: &Self| match lookup {
            Self::Ports => named.has_few(),
            Self::Ranges => named.has_ranges(),
            Self::Classes => !direction.classes.is_empty(),
            Self::Any => by_any(false),
            Self::AnyRanges => by_any(true),
        };
        Self::ALL.into_iter().filter(has_elements).collect()
    }

    /// The name of the map, of a direction that [`chain_of`] names.
    fn name(self, chain: &str) -> String {
        let suffix = match self {
            Self::Ports => "ports",
            Self::Ranges => "ranges",
            Self::Classes => "classes",
            Self::Any => "any",
            Self::AnyRanges => "any_ranges",
        };
        format!("{chain}_{suffix}")
    }

    fn kind(self) -> SetKind {
        use Type::{ClassId, InetProto, InetService, Verdict};
        let (key, data, intervals): (&[Type], Type, bool) = match self {
            Self::Ports => (&[ClassId, InetProto, InetService], ClassId, false),
            Self::Ranges => (&[InetProto, InetService], Verdict, true),
            Self::Classes => (&[ClassId], ClassId, false),
            Self::Any => (&[InetProto, InetService], ClassId, false),
            Self::AnyRanges => (&[InetProto, InetService], ClassId, true),
        };
        SetKind { key, data: Some(data), intervals }
    }

    /// Loads the key.
    fn key(self) -> Rule {
        match self {
            Self::Ports => rule::class_and_port(),
            Self::Classes => vec![rule::priority()],
            Self::Ranges | Self::Any | Self::AnyRanges => rule::protocol_and_port(),
        }
    }

    /// What it decides, or leaves to the chain of a band, in the direction that [`chain_of`] names.
    fn rule(self, chain: &str) -> Rule {
        if self == Self::Ranges {
            rule([self.key(), vec![rule::lookup(&self.name(chain), Found::Verdict)]])
        } else {
            decided(self.key(), &self.name(chain), chain)
        }
    }
}

/// The name of the chain of a band, which [`Lookup::Ranges`] leads to, in a direction that [`chain_of`] names.
fn band_chain(chain: &str, protocol: Protocol, band: PortRange) -> String {
    format!("{chain}_{}_{}", protocol.to_string().to_lowercase(), band.first)
}

/// The name of what the chain of a band asks: what each class may do on its ports.
fn classes_of(band_chain: &str) -> String {
    format!("{band_chain}_classes")
}

/// Wants the chain of a band and what it asks.
pub(crate) fn put_band(table: &mut Table, chain: &str, (protocol, band): (Protocol, PortRange)) {
    let name = band_chain(chain, protocol, band);
    table.put_set(&classes_of(&name), Lookup::Classes.kind());
    let rules = vec![decided(Lookup::Classes.key(), &classes_of(&name), chain), goto(&rest_of(chain))];
    table.put_chain(&name, Chain::regular(rules));
}

/// Wants a band no more.
pub(crate) fn remove_band(table: &mut Table, chain: &str, (protocol, band): (Protocol, PortRange)) {
    let name = band_chain(chain, protocol, band);
    table.remove_chain(&name);
    table.remove_set(&classes_of(&name));
}

/// The element that leads to a band.
pub(crate) fn of_band(chain: &str, (protocol, band): (Protocol, PortRange)) -> Entry {
    let verdict = nftables::Verdict::Goto(band_chain(chain, protocol, band));
    Entry {
        set: Lookup::Ranges.name(chain).into(),
        key: vec![number_of(protocol), numbers_of(band)],
        data: Some(Data::Verdict(verdict)),
    }
}

/// The name of the chain of the look-ups after [`Lookup::Ranges`], where there is that.
fn rest_of(chain: &str) -> String {
    format!("{chain}_rest")
}

/// The name of the chain that does what was decided.
fn verdict_chain(chain: &str) -> String {
    format!("{chain}_verdict")
}

/// Ends the direction with what a map holds for a key, if it holds anything.
fn decided(key: Rule, map: &str, chain: &str) -> Rule {
    let decision = rule::lookup(map, Found::Value(rule::FIRST));
    rule([key, vec![decision, rule::set_priority()], goto(&verdict_chain(chain))])
}

/// The elements of a class in a direction that [`chain_of`] names, but for those of [`of_class_in_bands`].
pub(crate) fn of_class(chain: &str, id: ClassId, entries: &Entries) -> Vec<Entry> {
    let class = Field::Number(id.0);
    let set = Lookup::Ports.name(chain);
    let few = entries.ports.iter().filter(|entry| !is_range(entry));
    let ports = few.flat_map(|entry| {
        let key = |port: u16| vec![class.clone(), number_of(entry.protocol), Field::Number(port.into())];
        each(entry.ports).map(|port| of_entry(set.clone(), key(port), entry)).collect::<Vec<_>>()
    });
    let rest = Entry {
        set: Lookup::Classes.name(chain).into(),
        key: vec![class.clone()],
        data: Some(Decision::from(entries.rest).data()),
    };
    ports.chain([rest]).collect()
}

/// What a class may do on ranges of ports, in a direction that [`chain_of`] names, with these bands.
pub(crate) fn of_class_in_bands(chain: &str, id: ClassId, entries: &Entries, bands: &Bands) -> Vec<Entry> {
    let ranges = entries.ports.iter().filter(|entry| is_range(entry));
    let of_range = |entry: &PortEntry| {
        let set = |band| classes_of(&band_chain(chain, entry.protocol, band));
        let element = |band| of_entry(set(band), vec![Field::Number(id.0)], entry);
        bands.within(entry).map(element).collect::<Vec<_>>()
    };
    ranges.flat_map(of_range).collect()
}

/// The elements of what a direction says of everybody else.
pub(crate) fn of_any(chain: &str, any: &Entries) -> Vec<Entry> {
    let of_ports = |entry: &PortEntry| {
        if is_range(entry) {
            let key = vec![number_of(entry.protocol), numbers_of(entry.ports)];
            vec![of_entry(Lookup::AnyRanges.name(chain), key, entry)]
        } else {
            let key = |port: u16| vec![number_of(entry.protocol), Field::Number(port.into())];
            let set = Lookup::Any.name(chain);
            each(entry.ports).map(|port| of_entry(set.clone(), key(port), entry)).collect()
        }
    };
    any.ports.iter().flat_map(of_ports).collect()
}

fn of_entry(set: String, key: Key, entry: &PortEntry) -> Entry {
    Entry { set: set.into(), key, data: Some(Decision::from(entry.verdict).data()) }
}

fn each(ports: PortRange) -> impl Iterator<Item = u16> {
    ports.first..=ports.last
}

fn number_of(protocol: Protocol) -> Field {
    Field::Number(protocol.number().into())
}

fn numbers_of(ports: PortRange) -> Field {
    Field::Numbers(ports.first.into(), ports.last.into())
}

/// Wants the chains of a direction that [`chain_of`] names, the maps that it asks, its causes and what it says of
/// everybody else; its bands and classes are not among that. Where it is there already, what it said of everybody else is
/// taken away before, by the elements of [`of_any`].
pub(crate) fn put_direction(
    table: &mut Table,
    chain: &str,
    way: Way,
    direction: &Direction,
    lookups: &[Lookup],
) {
    // The kernel looks for a set among all of a table, one by one: fewer of them make every change cheaper.
    for lookup in Lookup::ALL {
        let name = lookup.name(chain);
        if lookups.contains(&lookup) {
            table.put_set(&name, lookup.kind());
        } else {
            table.remove_set(&name);
        }
    }
    put_own_cause(table, chain, way, Cause::Drop);
    if direction.audited.is_empty() {
        remove_cause(table, chain, Cause::Audit);
    } else {
        put_own_cause(table, chain, way, Cause::Audit);
    }
    let last = match Decision::from(direction.any.rest) {
        Decision::Pass => verdict(nftables::Verdict::Return),
        Decision::Own(cause) => goto(&cause_of(chain, cause)),
        Decision::Cluster(id, cause) => goto(&cause_of(&cluster_cause(id), cause)),
    };
    let of = |lookups: &[Lookup]| lookups.iter().map(|lookup| lookup.rule(chain)).collect::<Vec<Rule>>();
    // A packet on ports of a band does not come back from there: a return is what lets it pass the direction.
    let after = lookups.iter().position(|lookup| *lookup == Lookup::Ranges).map(|place| place + 1);
    let (first, rest) = lookups.split_at(after.unwrap_or_default());
    let rest = [of(rest), vec![last]].concat();
    if after.is_some() {
        table.put_chain(chain, Chain::regular([of(first), vec![goto(&rest_of(chain))]].concat()));
        table.put_chain(&rest_of(chain), Chain::regular(rest));
    } else {
        table.put_chain(chain, Chain::regular(rest));
        table.remove_chain(&rest_of(chain));
    }
    let is = |decision: Decision| rule::priority_is(decision.number());
    let mut rules = vec![rule([is(Decision::Pass), verdict(nftables::Verdict::Return)])];
    if !direction.audited.is_empty() {
        rules.push(rule([is(Decision::Own(Cause::Audit)), goto(&cause_of(chain, Cause::Audit))]));
    }
    rules.push(rule([vec![rule::priority(), rule::lookup(CAUSES, Found::Verdict)]]));
    // What no cause is known of is dropped, too.
    rules.push(goto(&cause_of(chain, Cause::Drop)));
    table.put_chain(&verdict_chain(chain), Chain::regular(rules));
    for entry in of_any(chain, &direction.any) {
        entry.put(table);
    }
}

/// The name of what a policy of the cluster denies.
pub(crate) fn cluster_cause(id: CauseId) -> String {
    format!("c{}", id.0)
}

/// Wants the causes of a policy of the cluster.
pub(crate) fn put_cluster_cause(table: &mut Table, id: CauseId) {
    for cause in [Cause::Drop, Cause::Audit] {
        put_cause(table, &cluster_cause(id), cause);
        let data = Some(Data::Verdict(nftables::Verdict::Goto(cause_of(&cluster_cause(id), cause))));
        table.put(CAUSES, vec![Field::Number(Decision::Cluster(id, cause).number())], data);
    }
}

/// Wants them no more.
pub(crate) fn remove_cluster_cause(table: &mut Table, id: CauseId) {
    for cause in [Cause::Drop, Cause::Audit] {
        table.remove(CAUSES, &vec![Field::Number(Decision::Cluster(id, cause).number())]);
        remove_cause(table, &cluster_cause(id), cause);
    }
}

/// Wants a direction no more, nor its sets with all classes, nor its cause; its bands are gone.
pub(crate) fn remove_direction(table: &mut Table, chain: &str) {
    table.remove_chain(chain);
    table.remove_chain(&rest_of(chain));
    table.remove_chain(&verdict_chain(chain));
    for lookup in Lookup::ALL {
        table.remove_set(&lookup.name(chain));
    }
    remove_cause(table, chain, Cause::Drop);
    remove_cause(table, chain, Cause::Audit);
}

/// Wants the chain and the counter of a direction's own cause. Isolation never comes between a pod and its node.
fn put_own_cause(table: &mut Table, name: &str, way: Way, cause: Cause) {
    put_cause(table, name, cause);
    if way == Way::Egress {
        let name = cause_of(name, cause);
        let mut chain = cause_chain(&name, cause);
        chain.rules.insert(0, rule([rule::is_for_this_node(), verdict(nftables::Verdict::Return)]));
        table.put_chain(&name, chain);
    }
}

/// Wants the chain and the counter of a cause, which others go to.
fn put_cause(table: &mut Table, name: &str, cause: Cause) {
    let name = cause_of(name, cause);
    table.put_counter(&name);
    table.put_chain(&name, cause_chain(&name, cause));
}

/// Wants a cause no more.
fn remove_cause(table: &mut Table, name: &str, cause: Cause) {
    let name = cause_of(name, cause);
    table.remove_chain(&name);
    table.remove_counter(&name);
}

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

fn raw(hook: Hook, rules: Vec<Rule>) -> Chain {
    let base = Base { kind: ChainKind::Filter, hook, priority: RAW, policy: Policy::Accept };
    Chain { base: Some(base), rules }
}

/// Before connection tracking, so that a spoofed packet leaves no trace in it. What nodes send has one name of an interface to
/// compare with, and then `more`.
fn put_prerouting(table: &mut Table, more: Vec<Rule>) {
    let from_pod = rule([from_pod(), jump("outset")]);
    table.put_chain("prerouting", raw(Hook::Prerouting, [vec![from_pod], more].concat()));
}

/// Asks between whom a tunnel's packet is, as it comes and as it goes.
const FROM_TUNNEL: &str = "from_tunnel";
const TO_TUNNEL: &str = "to_tunnel";
/// The chain of the hook before connection tracking of what the node sends.
const OUTPUT_RAW: &str = "output_raw";

/// Wants connection tracking to leave the tunnels between nodes alone: what is in them is tracked, and twice costs twice. There
/// only with tunnels, as each packet is asked. What the programs of the eBPF dataplane put into a tunnel never comes to the hook of output; at
/// the other node it comes like any other.
pub(crate) fn put_untracked(table: &mut Table) {
    // What is for others may be a pod's, whatever its port.
    let comes = [(Address::Source, Ends::Theirs), (Address::Destination, Ends::Own)];
    let goes = [(Address::Source, Ends::Own), (Address::Destination, Ends::Theirs)];
    for (name, ends) in [(FROM_TUNNEL, &comes[..]), (TO_TUNNEL, &goes)] {
        table.put_chain(name, Chain::regular(between(ends, &[Expr::NoTrack])));
    }
    let asked = |chain| tunnel_packets().map(|packets| rule([packets, jump(chain)])).to_vec();
    put_prerouting(table, asked(FROM_TUNNEL));
    table.put_chain(OUTPUT_RAW, raw(Hook::Output, asked(TO_TUNNEL)));
}

/// Wants all tracked.
pub(crate) fn remove_untracked(table: &mut Table) {
    put_prerouting(table, Vec::new());
    for name in [OUTPUT_RAW, FROM_TUNNEL, TO_TUNNEL] {
        table.remove_chain(name);
    }
}

/// What masquerading takes: the sources, and the destinations that see them. They are there only with it: a chain that
/// may translate costs each new connection of the node a look.
const MASQUERADING: [(Family, &str, &str, &[Type]); 2] = [
    (Family::V4, "masqueraded4", "inside4", &[Type::Ipv4Addr]),
    (Family::V6, "masqueraded6", "inside6", &[Type::Ipv6Addr]),
];
const POSTROUTING: &str = "postrouting";
/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// Wants this masqueraded, and nothing else.
pub(crate) fn put_masquerade(table: &mut Table, masquerade: &Masquerade) {
    remove_masquerade(table);
    let mut rules = Vec::new();
    for (family, sources, inside, key) in MASQUERADING {
        for name in [sources, inside] {
            table.put_set(name, SetKind { key, data: None, intervals: true });
        }
        rules.push(rule([
            rule::address_in(family, Address::Source, sources, Found::Is),
            rule::address_in(family, Address::Destination, inside, Found::IsNot),
            vec![Expr::Masquerade],
        ]));
    }
    let ranges = masquerade.sources.iter().map(|range| (range, "masqueraded4", "masqueraded6"));
    let kept = masquerade.kept.iter().map(|range| (range, "inside4", "inside6"));
    for (range, v4, v6) in ranges.chain(kept) {
        let key = vec![Field::Addresses(range.first, range.last)];
        Entry { set: by_family(range.first, v4, v6), key, data: None }.put(table);
    }
    let base =
        Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: SOURCE_NAT, policy: Policy::Accept };
    table.put_chain(POSTROUTING, Chain { base: Some(base), rules });
}

/// Wants nothing masqueraded.
pub(crate) fn remove_masquerade(table: &mut Table) {
    table.remove_chain(POSTROUTING);
    for (_, sources, inside, _) in MASQUERADING {
        table.remove_set(sources);
        table.remove_set(inside);
    }
}

/// The set for the family of an address.
fn by_family(address: IpAddr, v4: &'static str, v6: &'static str) -> Cow<'static, str> {
    if address.is_ipv4() { v4 } else { v6 }.into()
}

/// The end of a chain that is gone to leads where the end of the one before would have led.
fn cause_chain(name: &str, cause: Cause) -> Chain {
    let tell = vec![
        Expr::Limit { per_second: LOG_PER_SECOND, burst: LOG_BURST },
        Expr::Log { group: LOG_GROUP, prefix: name.to_owned(), snaplen: LOG_SNAPLEN },
    ];
    let mut rules = vec![vec![Expr::Counter(name.to_owned())], tell];
    if cause == Cause::Drop {
        rules.push(verdict(nftables::Verdict::Drop));
    }
    Chain::regular(rules)
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

/// What a pod puts into a tunnel by hand would come out of it as whoever it says, on the node of its choice.
fn for_others_tunnel() -> [Rule; 2] {
    tunnel_packets().map(|packets| rule([packets, goto(toward(Interface::In, TUNNEL))]))
}

/// What the tunnels of this node would take.
fn tunnel_packets() -> [Vec<Expr>; 2] {
    [rule::udp_to(TUNNEL_PORTS), rule::ipip_in(TUNNEL_PROTOCOLS)]
}

/// Packets between these ends of tunnels are treated so, and accepted.
fn between(ends: &[(Address, Ends)], so: &[Expr]) -> Vec<Rule> {
    let of_family = |family| {
        let are_ends = ends
            .iter()
            .flat_map(|(which, whose)| rule::address_in(family, *which, whose.set(family), Found::Is));
        let accept = verdict(nftables::Verdict::Accept);
        are_ends.chain(so.iter().cloned()).chain(accept).collect()
    };
    Family::ALL.map(of_family).to_vec()
}

/// What this node puts into a tunnel.
fn own_tunnel() -> Vec<Rule> {
    between(&[(Address::Source, Ends::Own)], &[])
}

/// Behind a service there may be a node's port, so that what a pod sends comes here all the same.
fn tunnelled() -> Vec<Rule> {
    [between(&[(Address::Source, Ends::Theirs)], &[]), vec![goto(toward(Interface::Out, TUNNEL))]].concat()
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
fn toward(interface: Interface, [ingress, egress]: [&'static str; 2]) -> &'static str {
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
