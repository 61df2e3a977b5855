//! Which way leads where.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use margay_api::resource::Encapsulation;
use margay_netlink::link::{IfIndex, Mtu};

use super::{Block, Carrier, Conditions, Hop, Kind, Paths, Tunnel, Uplink, Ways, gateway, mac_of};
use crate::traffic::{Routing, Traffic};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn link(number: u32) -> IfIndex {
    IfIndex::new(number).unwrap()
}

/// Three nodes: `here`, `near` in its subnets and `far` elsewhere, all with both families.
fn paths(encapsulation: Encapsulation) -> Paths {
    let nodes = [("near", ["192.0.2.2", "2001:db8::2"]), ("far", ["198.51.100.3", "2001:db8:f::3"])];
    let blocks = [
        ("10.0.2.0/24", "near"),
        ("fd00:2::/64", "near"),
        ("10.0.3.0/24", "far"),
        ("fd00:3::/64", "far"),
        ("10.0.9.0/24", "gone"),
    ];
    let block = |node: &str| Block { node: node.into(), encapsulation };
    Paths {
        name: "here".into(),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        own: vec![net("10.0.1.0/24"), net("fd00:1::/64")],
        nodes: nodes.into_iter().map(|(name, all)| (name.into(), all.map(ip).into())).collect(),
        blocks: blocks.into_iter().map(|(range, node)| (net(range), block(node))).collect(),
        kinds: Kind::of(encapsulation)
            .map(|kind| (kind, "the IPPool of 10.0.0.0/16".into()))
            .into_iter()
            .collect(),
        said: BTreeMap::new(),
    }
}

/// A node's uplink, and settings.
struct World {
    settings: Traffic,
    has_speaker: bool,
    mtu: Option<Mtu>,
    uplinks: Vec<Uplink>,
    present: Vec<IpAddr>,
}

impl World {
    fn new(routing: Routing, has_speaker: bool) -> Self {
        let uplink = |network| Uplink { link: link(2), network: net(network), mtu: 1500 };
        Self {
            settings: Traffic { routing, ..Traffic::default() },
            has_speaker,
            mtu: None,
            uplinks: vec![uplink("192.0.2.1/24"), uplink("2001:db8::1/64")],
            present: Vec::new(),
        }
    }

    fn ways(&self, paths: &Paths) -> Ways {
        let Self { settings, has_speaker, mtu, uplinks, present } = self;
        let (has_speaker, mtu) = (*has_speaker, *mtu);
        paths.ways(&Conditions { settings, has_speaker, mtu, uplinks, present })
    }
}

/// The ways in short: the block, then `tunnel`, `direct` or `nowhere`.
fn short(ways: &Ways) -> BTreeMap<String, &'static str> {
    let word = |hop: &Hop| match hop {
        Hop::Tunnel { .. } => "tunnel",
        Hop::Direct { .. } => "direct",
        Hop::Nowhere => "nowhere",
    };
    ways.routes.iter().map(|(block, hop)| (block.to_string(), word(hop))).collect()
}

fn expected(
    near: Option<&'static str>,
    far: Option<&'static str>,
    own: bool,
) -> BTreeMap<String, &'static str> {
    let pairs = [(["10.0.2.0/24", "fd00:2::/64"], near), (["10.0.3.0/24", "fd00:3::/64"], far)];
    let mut all: BTreeMap<String, &'static str> = pairs
        .into_iter()
        .flat_map(|(blocks, word)| blocks.map(|block| Some((block.to_owned(), word?))))
        .flatten()
        .collect();
    if own {
        all.extend(["10.0.1.0/24", "fd00:1::/64"].map(|block| (block.to_owned(), "nowhere")));
    }
    all
}

#[test]
fn encapsulation_routing_and_the_speaker_decide_who_leads_where() {
    use Encapsulation::{None as Plain, Vxlan, VxlanCrossSubnet};
    use Routing::{Bgp, Direct};
    let (tunnel, direct) = (Some("tunnel"), Some("direct"));
    for (encapsulation, routing, has_speaker, near, far, own) in [
        (Plain, Bgp, true, None, None, false),
        (Plain, Bgp, false, None, None, false),
        (Plain, Direct, true, direct, None, false),
        (Plain, Direct, false, direct, None, true),
        (Vxlan, Bgp, true, tunnel, tunnel, false),
        (Vxlan, Direct, false, tunnel, tunnel, true),
        (VxlanCrossSubnet, Bgp, true, None, tunnel, false),
        // Nobody else would make them.
        (VxlanCrossSubnet, Bgp, false, direct, tunnel, true),
        (VxlanCrossSubnet, Direct, true, direct, tunnel, false),
    ] {
        let ways = World::new(routing, has_speaker).ways(&paths(encapsulation));
        let what = format!("{encapsulation:?} {routing:?} {has_speaker}");
        assert_eq!(short(&ways), expected(near, far, own), "{what}");
        assert_eq!(ways.tunnels.is_empty(), encapsulation == Plain, "{what}");
        assert_eq!(ways.faults, Vec::<String>::new(), "{what}");
        let is_lost = encapsulation == Plain && !has_speaker;
        assert_eq!(ways.problems.len(), usize::from(is_lost), "{what}: {:?}", ways.problems);
        let names_routing = ways.problems.iter().any(|problem| problem.contains("set `routing: direct`"));
        assert_eq!(names_routing, is_lost && routing == Bgp, "{what}: {:?}", ways.problems);
    }
}

#[test]
fn a_tunnel_knows_each_node_by_a_name_made_address_and_leads_to_the_first_address_of_a_block() {
    let ways = World::new(Routing::Bgp, true).ways(&paths(Encapsulation::Vxlan));
    let tunnel = &ways.tunnels[&Carrier::Vxlan4];
    assert_eq!(ways.tunnels.len(), 1, "all nodes have IPv4");
    let frames = tunnel.frames.as_ref().unwrap();
    assert_eq!((frames.mac, tunnel.local, tunnel.mtu.octets()), (mac_of("here"), ip("192.0.2.1"), 1450));
    assert_eq!(tunnel.addresses, [ip("10.0.1.0"), ip("fd00:1::")].into());
    let (near, far) = (mac_of("near"), mac_of("far"));
    assert_eq!(frames.forwarding, [(near, ip("192.0.2.2")), (far, ip("198.51.100.3"))].into());
    let routers = ["10.0.2.0/24", "fd00:2::/64", "10.0.3.0/24", "fd00:3::/64"].map(net);
    let neighbours = routers.into_iter().zip([near, near, far, far]);
    assert_eq!(frames.neighbours, neighbours.map(|(block, mac)| (gateway(block, mac), mac)).collect());
    assert_eq!(gateway(net("10.0.3.0/24"), far), ip("10.0.3.0"));
    assert_eq!(gateway(net("fd00:1::/64"), mac_of("here")), ip("fe80::70b9:35ff:fe54:ef15"));
    let hop = Hop::Tunnel {
        carrier: Carrier::Vxlan4,
        gateway: gateway(net("fd00:3::/64"), far),
        source: Some(ip("fd00:1::")),
    };
    assert_eq!(ways.routes[&net("fd00:3::/64")], hop);
    assert!(mac_of("here").is_unicast() && mac_of("here").octets()[0] & 2 == 2);
    assert_eq!(mac_of("here").to_string(), "72:b9:35:54:ef:15", "for ever");
}

#[test]
fn ip_in_ip_leads_to_nodes_themselves_and_carries_ipv4_alone() {
    for (encapsulation, near) in
        [(Encapsulation::Ipip, Some("tunnel")), (Encapsulation::IpipCrossSubnet, Some("direct"))]
    {
        let paths = paths(encapsulation);
        let ways = World::new(Routing::Direct, true).ways(&paths);
        let tunnel = &ways.tunnels[&Carrier::Ipip];
        assert_eq!((ways.tunnels.len(), paths.overhead()), (1, 20));
        assert_eq!((tunnel.local, tunnel.mtu.octets(), &tunnel.frames), (ip("192.0.2.1"), 1480, &None));
        assert_eq!(tunnel.addresses, [ip("10.0.1.0")].into(), "no IPv6 on it");
        let mut wanted = expected(near, Some("tunnel"), false);
        wanted.remove("fd00:3::/64");
        if encapsulation == Encapsulation::Ipip {
            wanted.remove("fd00:2::/64");
        }
        assert_eq!(short(&ways), wanted);
        let (gateway, source) = (ip("198.51.100.3"), Some(ip("10.0.1.0")));
        assert_eq!(ways.routes[&net("10.0.3.0/24")], Hop::Tunnel { carrier: Carrier::Ipip, gateway, source });
        let words = "there is no way to pods of node far: IP-in-IP carries IPv4 alone";
        assert!(ways.problems.iter().any(|problem| problem.starts_with(words)), "{:?}", ways.problems);
    }
}

#[test]
fn a_node_without_ipv4_is_told_who_asks_for_ip_in_ip() {
    let mut paths = paths(Encapsulation::Ipip);
    paths.addresses.retain(IpAddr::is_ipv6);
    let ways = World::new(Routing::Direct, true).ways(&paths);
    assert!(ways.faults[0].contains("as the IPPool of 10.0.0.0/16 asks for"), "{:?}", ways.faults);
    assert!(ways.tunnels.is_empty() && ways.routes.is_empty(), "{ways:?}");
}

#[test]
fn pools_of_both_kinds_have_both_devices_and_the_node_has_its_addresses_on_each() {
    let mut paths = paths(Encapsulation::Vxlan);
    paths.kinds.insert(Kind::Ipip, "another".into());
    let ipip = Block { node: "far".into(), encapsulation: Encapsulation::Ipip };
    paths.blocks.insert(net("10.0.3.0/24"), ipip);
    let ways = World::new(Routing::Direct, true).ways(&paths);
    assert_eq!(ways.tunnels.keys().copied().collect::<Vec<_>>(), [Carrier::Vxlan4, Carrier::Ipip]);
    assert_eq!(ways.tunnels[&Carrier::Vxlan4].addresses, [ip("10.0.1.0"), ip("fd00:1::")].into());
    assert_eq!(ways.tunnels[&Carrier::Ipip].addresses, [ip("10.0.1.0")].into(), "no IPv6 on it");
    assert!(matches!(ways.routes[&net("10.0.3.0/24")], Hop::Tunnel { carrier: Carrier::Ipip, .. }));
    assert!(matches!(ways.routes[&net("10.0.2.0/24")], Hop::Tunnel { carrier: Carrier::Vxlan4, .. }));
    assert_eq!(paths.overhead(), 50, "the larger one");
}

#[test]
fn nodes_without_ipv4_have_a_tunnel_over_ipv6_and_those_with_nothing_in_common_have_none() {
    let mut paths = paths(Encapsulation::Vxlan);
    paths.nodes.insert("far".into(), vec![ip("2001:db8:f::3")]);
    let world = World::new(Routing::Bgp, true);
    let ways = world.ways(&paths);
    assert_eq!(ways.tunnels[&Carrier::Vxlan6].mtu.octets(), 1430);
    let forwarding = |carrier| ways.tunnels[&carrier].frames.as_ref().unwrap().forwarding.clone();
    assert_eq!(forwarding(Carrier::Vxlan6), [(mac_of("far"), ip("2001:db8:f::3"))].into());
    assert_eq!(forwarding(Carrier::Vxlan4), [(mac_of("near"), ip("192.0.2.2"))].into());
    let addresses = |carrier| &ways.tunnels[&carrier].addresses;
    assert_eq!(addresses(Carrier::Vxlan6), addresses(Carrier::Vxlan4));
    assert_eq!(paths.overhead(), 70);

    paths.addresses.retain(IpAddr::is_ipv4);
    let ways = world.ways(&paths);
    assert_eq!(ways.tunnels.keys().collect::<Vec<_>>(), [&Carrier::Vxlan4]);
    let problem =
        "there is no way to pods of node far: no tunnel leads there: both nodes need addresses of one family";
    assert_eq!(ways.problems, [problem]);
    assert_eq!(paths.overhead(), 50);
}

#[test]
fn only_a_node_with_ipv6_alone_makes_others_have_a_tunnel_over_ipv6() {
    let all = ["198.51.100.3", "2001:db8:f::3"].map(ip);
    for (addresses, carriers, overhead) in [
        (&all[..], &[Carrier::Vxlan4][..], 50),
        (&all[..1], &[Carrier::Vxlan4], 50),
        (&[], &[Carrier::Vxlan4], 50),
        (&all[1..], &[Carrier::Vxlan4, Carrier::Vxlan6], 70),
    ] {
        let mut paths = paths(Encapsulation::Vxlan);
        paths.nodes.insert("far".into(), addresses.into());
        assert_eq!(paths.carriers(), carriers.iter().copied().collect(), "{addresses:?}");
        assert_eq!(paths.overhead(), overhead, "{addresses:?}");
    }
}

#[test]
fn an_mtu_that_was_given_counts_and_an_address_that_no_interface_has_is_named() {
    let paths = paths(Encapsulation::Vxlan);
    let mut world = World::new(Routing::Bgp, true);
    world.mtu = Mtu::new(1400);
    assert_eq!(world.ways(&paths).tunnels[&Carrier::Vxlan4].mtu.octets(), 1400);
    world.uplinks.clear();
    let ways = world.ways(&paths);
    assert!(ways.tunnels.is_empty() && ways.routes.is_empty() && ways.problems.is_empty(), "{ways:?}");
    assert!(ways.faults[0].contains("192.0.2.1") && ways.faults[0].contains("no interface"), "{ways:?}");
}

#[test]
fn between_tunnels_and_none_there_is_a_time_in_which_they_receive_and_nobody_sends() {
    for (routing, has_speaker, near) in [(Routing::Bgp, true, None), (Routing::Direct, true, Some("direct"))]
    {
        let world = World::new(routing, has_speaker);
        let (tunnels, mut none) = (paths(Encapsulation::Vxlan), paths(Encapsulation::None));
        if routing == Routing::Bgp {
            (none.nodes, none.blocks) = (BTreeMap::new(), BTreeMap::new());
        }
        for between in [tunnels.between(&none), none.between(&tunnels)] {
            let ways = world.ways(&between);
            assert_eq!(short(&ways), expected(near, None, false), "{routing:?}");
            let settled = world.ways(&tunnels);
            let [between, after] = [&ways, &settled].map(|ways| &ways.tunnels[&Carrier::Vxlan4]);
            let made = |tunnel: &Tunnel| tunnel.frames.as_ref().map(|frames| (frames.mac, frames.vni));
            assert_eq!((made(between), between.local), (made(after), after.local));
            assert_eq!((between.mtu, &between.addresses), (after.mtu, &after.addresses));
        }
    }
}

#[test]
fn the_tunnels_address_stays_while_its_block_is_there() {
    let mut paths = paths(Encapsulation::Vxlan);
    paths.own = vec![net("10.0.1.0/26"), net("10.0.1.64/26")];
    let mut world = World::new(Routing::Bgp, true);
    let addresses =
        |world: &World, paths: &Paths| world.ways(paths).tunnels[&Carrier::Vxlan4].addresses.clone();
    assert_eq!(addresses(&world, &paths), [ip("10.0.1.0")].into());
    world.present = vec![ip("10.0.1.64")];
    assert_eq!(addresses(&world, &paths), [ip("10.0.1.64")].into());
    paths.own.pop();
    assert_eq!(addresses(&world, &paths), [ip("10.0.1.0")].into());
}

#[test]
fn a_pool_without_an_encapsulation_beside_one_with_it_is_nobodys_without_bgp() {
    let mut paths = paths(Encapsulation::Vxlan);
    let plain = Block { node: "far".into(), encapsulation: Encapsulation::None };
    paths.blocks.insert(net("10.0.3.0/24"), plain);
    for (routing, has_speaker, problems) in
        [(Routing::Bgp, false, 1), (Routing::Bgp, true, 0), (Routing::Direct, false, 1)]
    {
        let ways = World::new(routing, has_speaker).ways(&paths);
        assert_eq!(ways.problems.len(), problems, "{routing:?} {has_speaker}: {:?}", ways.problems);
    }
}
