//! The tunnels between nodes: who may send into them, and that nobody tracks them.

use margay_netlink::nftables::{self, Chain, Expr, Field, Found, Hook, Rule};

use super::super::{
    rule::{self, Address, Family, Interface, goto, jump, rule, verdict},
    table::Table,
};
use super::{
    Entry,
    base::{put_prerouting, raw, toward},
    by_family,
};
use crate::decide::TunnelEnds;

/// Packets made for the tunnels between nodes, by one who is no node: from elsewhere, and from pods.
pub(super) const TUNNEL: [&str; 2] = ["tunnel_in", "tunnel_out"];
/// Where the tunnels between nodes listen.
pub(super) const TUNNEL_PORTS: &str = "tunnel_ports";
/// What those without a port are made of.
pub(super) const TUNNEL_PROTOCOLS: &str = "tunnel_protocols";
/// The chain of what comes to them.
pub(super) const TUNNELLED: &str = "tunnelled";
/// Asks whether it is this node that does.
pub(super) const OWN_TUNNEL: &str = "own_tunnel";

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

/// What a pod puts into a tunnel by hand would come out of it as whoever it says, on the node of its choice.
pub(super) fn for_others_tunnel() -> [Rule; 2] {
    tunnel_packets().map(|packets| rule([packets, goto(toward(Interface::In, TUNNEL))]))
}

/// What the tunnels of this node would take.
pub(super) fn tunnel_packets() -> [Vec<Expr>; 2] {
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
pub(super) fn own_tunnel() -> Vec<Rule> {
    between(&[(Address::Source, Ends::Own)], &[])
}

/// Behind a service there may be a node's port, so that what a pod sends comes here all the same.
pub(super) fn tunnelled() -> Vec<Rule> {
    [between(&[(Address::Source, Ends::Theirs)], &[]), vec![goto(toward(Interface::Out, TUNNEL))]].concat()
}
