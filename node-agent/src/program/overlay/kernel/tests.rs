//! Tunnels of the real kernel, between namespaces of the test's own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    os::fd::AsFd,
    process::Command,
    time::Duration,
};

use margay_api::resource::Encapsulation;
use margay_netlink::{
    Socket,
    link::{self, End, Veth},
    netns::Namespace,
};
use nix::sched::{CloneFlags, unshare};

use super::{Applied, Settings, apply};
use crate::{
    decide::{Block, Paths},
    program::ebpf::{TunnelMap, tunnels_for_test, with_bpf_fs},
    traffic::{Routing, Traffic},
    tunnels::Kind,
    ways::set_tx_checksum_offload,
};

/// How long a packet may take, and how often one is sent.
const PATIENCE: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 50;

fn namespace() -> Namespace {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
        Namespace::current().unwrap()
    });
    made.join().unwrap()
}

/// A node of two.
struct Node {
    namespace: Namespace,
    paths: Paths,
    settings: Settings,
}

impl Node {
    /// The node of this number, with the other one's blocks.
    fn new(number: u8, underlay: &str) -> Self {
        let at = |number: u8| format!("{underlay}{number}").parse().unwrap();
        let blocks = |number: u8| [format!("10.0.{number}.0/24"), format!("fd00:{number}::/64")];
        let other = 3 - number;
        let block = |range: String| {
            let block = Block { node: format!("n{other}"), encapsulation: Encapsulation::Vxlan };
            (range.parse().unwrap(), block)
        };
        let paths = Paths {
            name: format!("n{number}"),
            addresses: vec![at(number)],
            own: blocks(number).map(|range| range.parse().unwrap()).into(),
            nodes: [(format!("n{other}"), vec![at(other)])].into(),
            blocks: blocks(other).map(block).into(),
            kinds: [(Kind::Vxlan, "a test".into())].into(),
            said: BTreeMap::new(),
        };
        let traffic = Traffic { routing: Routing::Bgp, ..Traffic::default() };
        Self { namespace: namespace(), paths, settings: Settings { traffic, has_speaker: false, mtu: None } }
    }

    fn apply(&self) -> Applied {
        self.apply_with(None)
    }

    fn apply_with(&self, map: Option<&mut TunnelMap>) -> Applied {
        let _inside = self.namespace.enter().unwrap();
        apply(&mut Socket::open().unwrap(), &self.paths, &self.settings, map).unwrap()
    }

    fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    fn run(&self, program: &str, arguments: &str) -> String {
        let _inside = self.namespace.enter().unwrap();
        let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{program} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn open(&self, address: &str) -> UdpSocket {
        let _inside = self.namespace.enter().unwrap();
        let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// Two nodes on one cable, with tunnels over addresses of one family.
fn nodes(underlay: &str, prefix: u8) -> [Node; 2] {
    let nodes = [Node::new(1, underlay), Node::new(2, underlay)];
    {
        let _inside = nodes[0].namespace.enter().unwrap();
        let name = "eth0".parse().unwrap();
        let veth = Veth {
            near: End { name: &name, address: None, netns: None },
            far: End { name: &name, address: None, netns: Some(nodes[1].namespace.as_fd()) },
            mtu: None,
        };
        Socket::open().unwrap().execute(&link::add_veth(&veth)).unwrap();
    }
    for node in &nodes {
        node.ip("link set eth0 up");
        let nodad = if prefix > 32 { " nodad" } else { "" };
        node.ip(&format!("address add {}/{prefix} dev eth0{nodad}", node.paths.addresses[0]));
    }
    nodes
}

/// A packet of each family from the first node's tunnel address to the second's, and back. The kernel takes a moment until
/// it knows that a new IPv6 address is its own, so that the first ones may be lost.
fn exchange(nodes: &[Node; 2], when: &str) {
    for [from, to] in [["10.0.1.0", "10.0.2.0"], ["fd00:1::", "fd00:2::"]] {
        let (near, far) = (nodes[0].open(from), nodes[1].open(to));
        let crosses = |sender: &UdpSocket, receiver: &UdpSocket| {
            let source = sender.local_addr().unwrap();
            let came = (0..ATTEMPTS).any(|_| {
                sender.send_to(b"packet", receiver.local_addr().unwrap()).unwrap();
                receiver.recv_from(&mut [0; 16]).is_ok_and(|(_, seen)| seen == source)
            });
            assert!(came, "{when}: a packet from {source} through the tunnel");
        };
        crosses(&near, &far);
        crosses(&far, &near);
    }
}

#[test]
fn a_tunnel_from_an_address_on_lo_has_room_in_the_smallest_uplink_that_leads_to_other_nodes() {
    let mut nodes = nodes("192.0.2.", 24);
    for (node, number) in nodes.iter_mut().zip([1, 2]) {
        let other = 3 - number;
        node.paths.addresses = vec![format!("198.51.100.{number}").parse().unwrap()];
        node.paths.nodes =
            [(format!("n{other}"), vec![format!("198.51.100.{other}").parse().unwrap()])].into();
        node.ip("link set lo up");
        node.ip(&format!("address add 198.51.100.{number}/32 dev lo"));
        // Half of the packets would go by another one, and nothing by a third.
        for (name, mtu) in [("eth1", 1400), ("eth2", 1300)] {
            node.ip(&format!("link add {name} mtu {mtu} type veth peer name {name}p"));
            node.ip(&format!("link set {name}p up"));
            node.ip(&format!("link set {name} up"));
        }
        node.ip(&format!(
            "route add 198.51.100.{other}/32 nexthop via 192.0.2.{other} dev eth0 nexthop via 192.0.2.{other} dev eth1 onlink"
        ));
        node.ip("route add 203.0.113.0/24 dev eth2");
        let applied = node.apply();
        assert_eq!((applied.faults, applied.refused), (Vec::<String>::new(), Vec::<String>::new()));
        let shown = node.ip("link show margay.vxlan4");
        assert!(shown.contains("mtu 1350 "), "{shown}");
        node.ip("link set eth0 mtu 1390");
        node.apply();
        let shown = node.ip("link show margay.vxlan4");
        assert!(shown.contains("mtu 1340 "), "{shown}");
        node.ip(&format!("route replace 198.51.100.{other}/32 via 192.0.2.{other} dev eth0"));
    }
    exchange(&nodes, "between addresses on lo");
}

#[test]
fn packets_of_both_families_cross_a_tunnel_over_either_and_a_second_time_changes_nothing() {
    for (underlay, prefix, device, mtu) in
        [("192.0.2.", 24, "margay.vxlan4", "mtu 1450"), ("2001:db8::", 64, "margay.vxlan6", "mtu 1430")]
    {
        let nodes = nodes(underlay, prefix);
        for node in &nodes {
            let first = node.apply();
            assert!(first.changes > 0 && first.faults.is_empty() && first.refused.is_empty(), "{first:?}");
            let again = node.apply();
            assert_eq!((again.changes, again.refused), (0, vec![]), "{device}");
        }
        exchange(&nodes, device);
        let shown = nodes[0].ip(&format!("-d link show {device}"));
        assert!(shown.contains("nolearning") && shown.contains(mtu), "{shown}");
        // The first is about IPv4 alone.
        assert!(shown.contains("noudpcsum") && shown.contains("noudp6zerocsumtx"), "{shown}");
        assert!(!nodes[0].ip("route show type blackhole proto 78").is_empty());

        // Whatever others take away is put back, and what they add goes.
        for damage in [
            "neigh flush dev DEVICE nud permanent".to_owned(),
            "route flush proto 78".into(),
            "-6 route flush proto 78".into(),
            "link set DEVICE down".into(),
            "link set DEVICE mtu 1300".into(),
            "address add 10.9.9.9/24 dev DEVICE".into(),
            "address flush dev DEVICE".into(),
            "link set DEVICE address 02:00:00:00:00:01".into(),
            "link delete DEVICE".into(),
        ] {
            let damage = damage.replace("DEVICE", device);
            nodes[0].ip(&damage);
            let mended = nodes[0].apply();
            assert!(mended.changes > 0 && mended.refused.is_empty(), "{damage}: {mended:?}");
            assert_eq!(nodes[0].apply().changes, 0, "{damage}");
            exchange(&nodes, &damage);
        }
    }
}

#[test]
fn what_is_not_wanted_any_more_goes_and_nothing_else_does() {
    let mut nodes = nodes("192.0.2.", 24);
    let node = &mut nodes[0];
    node.apply();
    node.ip("route add 10.7.0.0/16 via 192.0.2.2");
    node.ip("link add other type vxlan id 7 dstport 4790");
    // The other node is gone.
    node.paths.nodes.clear();
    node.apply();
    assert_eq!(node.ip("route show proto 78").lines().count(), 1, "the blackhole of the own block");
    assert_eq!(node.ip("neigh show dev margay.vxlan4 nud permanent"), "");
    // No tunnel is wanted.
    node.paths.kinds.clear();
    node.paths.blocks.clear();
    node.apply();
    assert_eq!(node.ip("route show proto 78"), "");
    let links = node.ip("link show type vxlan");
    assert!(links.contains("other") && !links.contains("margay"), "{links}");
    assert!(node.ip("route show").contains("10.7.0.0/16"));
}

#[test]
fn a_tunnel_of_others_with_our_number_is_a_fault_until_it_is_gone() {
    // The cable goes with the other end.
    let [node, _other] = nodes("192.0.2.", 24);
    node.ip("link add thief type vxlan id 4096 dstport 4789");
    let refused = node.apply();
    assert!(refused.faults[0].contains("no other tunnel of this overlay.vni"), "{refused:?}");
    assert!(!node.ip("route show proto 78").contains("margay"), "no route without the tunnel");
    node.ip("link delete thief");
    let mended = node.apply();
    assert!(mended.faults.is_empty(), "{refused:?} {mended:?}");
    assert_eq!(node.apply().changes, 0);
}

#[test]
fn a_link_of_another_kind_with_our_name_is_named() {
    let [node, _] = nodes("192.0.2.", 24);
    node.ip("link add margay.vxlan4 type bridge");
    let _inside = node.namespace.enter().unwrap();
    let error = apply(&mut Socket::open().unwrap(), &node.paths, &node.settings, None).unwrap_err();
    let words = "make the VXLAN device margay.vxlan4: there is a link of that name and of kind `bridge`";
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_route_of_others_in_the_place_of_ours_stays_and_is_told_of_until_it_is_gone() {
    let [node, _other] = nodes("192.0.2.", 24);
    for (version, block, via) in [("-4", "10.0.2.0/24", "192.0.2.2"), ("-6", "fd00:2::/64", "2001:db8::2")] {
        if version == "-6" {
            node.ip("address add 2001:db8::1/64 dev eth0 nodad");
        }
        node.ip(&format!("{version} route replace {block} via {via} metric 128 proto static"));
        let refused = node.apply().refused;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].contains(block) && refused[0].contains("somebody else"), "{refused:?}");
        assert!(node.ip(&format!("{version} route show {block}")).contains("proto static"));
        assert_eq!(node.apply().changes, 0);
        node.ip(&format!("{version} route delete {block} proto static"));
        let added = node.apply();
        assert_eq!((added.changes, added.refused), (1, Vec::new()), "{version}");
        // Ours is replaced where it is another than wanted.
        node.ip(&format!("{version} route replace {block} via {via} metric 128 proto 78"));
        let mended = node.apply();
        assert_eq!((mended.changes, mended.refused), (1, Vec::new()), "{version}");
        assert!(node.ip(&format!("{version} route show {block}")).contains("margay.vxlan4"));
    }
}

#[test]
fn routes_of_bgp_behind_ours_are_no_obstacle() {
    let [node, _other] = nodes("192.0.2.", 24);
    node.ip("address add 2001:db8::1/64 dev eth0 nodad");
    for (version, block, via) in [("-4", "10.0.2.0/24", "192.0.2.2"), ("-6", "fd00:2::/64", "2001:db8::2")] {
        node.ip(&format!("{version} route add {block} via {via} metric 512 proto bgp"));
    }
    let applied = node.apply();
    assert_eq!((applied.refused, applied.faults), (Vec::new(), Vec::new()));
    for (version, block) in [("-4", "10.0.2.0/24"), ("-6", "fd00:2::/64")] {
        assert!(node.ip(&format!("{version} route show {block}")).contains("margay.vxlan4"), "{block}");
    }
}

#[test]
fn what_there_is_stays_while_the_node_has_no_address() {
    let [mut node, _other] = nodes("192.0.2.", 24);
    node.apply();
    let before = node.ip("route show proto 78");
    assert!(before.contains("margay.vxlan4"), "{before}");
    let addresses = std::mem::take(&mut node.paths.addresses);
    let homeless = node.apply();
    assert_eq!((homeless.changes, homeless.tunnels.len()), (0, 1));
    assert!(homeless.faults[0].contains("the Node object n1 has none"), "{homeless:?}");
    assert_eq!(node.ip("route show proto 78"), before);
    node.paths.addresses = addresses;
    assert_eq!((node.apply().changes, node.apply().faults), (0, Vec::new()));
}

#[test]
fn a_kernel_that_makes_no_ip_in_ip_says_so_and_who_asks_for_it() {
    let [mut node, _other] = nodes("192.0.2.", 24);
    node.paths.kinds = [(Kind::Ipip, "the IPPool of 10.0.0.0/16".into())].into();
    for block in node.paths.blocks.values_mut() {
        block.encapsulation = Encapsulation::Ipip;
    }
    // Where the kernel can, another's device is in the place.
    let taken = ["tunnel", "add", "thief", "mode", "ipip", "local", "192.0.2.1"];
    let can = {
        let _inside = node.namespace.enter().unwrap();
        Command::new("ip").args(taken).status().unwrap().success()
    };
    let applied = node.apply();
    let fault = &applied.faults[0];
    assert!(fault.starts_with("add link margay.ipip") && fault.contains("modprobe ipip"), "{fault}");
    assert!(fault.contains("the IPPool of 10.0.0.0/16 asks for IP-in-IP"), "{fault}");
    assert!(!node.ip("route show proto 78").contains("margay"), "no route without the tunnel");
    if can {
        node.ip("link delete thief");
        let mended = node.apply();
        assert!(mended.faults.is_empty(), "{mended:?}");
        assert_eq!(node.apply().changes, 0);
    }
}

#[test]
fn a_node_says_which_tunnels_it_has_and_which_it_sends_through() {
    // The cable goes with the other end.
    let [mut node, _other] = nodes("192.0.2.", 24);
    let said = |node: &Node| node.apply().said.unwrap().written();
    node.ip("link add thief type vxlan id 4096 dstport 4789");
    assert_eq!(said(&node), ["", ""]);
    node.ip("link delete thief");
    assert_eq!(said(&node), ["VXLAN", "VXLAN"]);
    // It waits for others, or does so no more.
    for block in node.paths.blocks.values_mut() {
        block.encapsulation = Encapsulation::None;
    }
    assert_eq!(said(&node), ["VXLAN", ""]);
    let addresses = std::mem::take(&mut node.paths.addresses);
    assert_eq!(node.apply().said, None, "it is not known");
    node.paths.addresses = addresses;
    node.paths.kinds.clear();
    assert_eq!(said(&node), ["", ""]);
}

#[test]
fn the_map_of_the_programs_says_what_the_device_does_and_is_empty_where_that_is_more() {
    with_bpf_fs(|bpf_fs| {
        let mut map = tunnels_for_test(bpf_fs);
        let [mut node, _other] = nodes("192.0.2.", 24);
        let first = node.apply_with(Some(&mut map)).bypass.unwrap();
        assert_eq!((first.wanted, first.hindrance, first.problem), (2, None, None));
        let entries = map.entries();
        let remotes: Vec<[u8; 4]> = entries.values().map(|tunnel| tunnel.remote).collect();
        assert_eq!(remotes, [[192, 0, 2, 2]; 2]);
        node.apply_with(Some(&mut map));
        assert_eq!(map.entries(), entries, "a second time changes nothing");

        for (program, begin, why, end) in [
            (
                "ip",
                "xfrm policy add src 192.0.2.1 dst 192.0.2.2 dir out priority 1",
                "IPsec",
                "xfrm policy flush",
            ),
            (
                "tc",
                "qdisc add dev margay.vxlan4 root pfifo",
                "discipline pfifo",
                "qdisc delete dev margay.vxlan4 root",
            ),
        ] {
            node.run(program, begin);
            let hindrance = node.apply_with(Some(&mut map)).bypass.unwrap().hindrance;
            assert!(hindrance.as_ref().is_some_and(|it| it.contains(why)), "{begin}: {hindrance:?}");
            assert!(map.entries().is_empty(), "{begin}");
            node.run(program, end);
            node.apply_with(Some(&mut map));
            assert_eq!(map.entries(), entries, "{end}");
        }

        let offload = |on: bool| {
            let _inside = node.namespace.enter().unwrap();
            set_tx_checksum_offload(&"margay.vxlan4".parse().unwrap(), on).unwrap();
        };
        offload(false);
        let hindrance = node.apply_with(Some(&mut map)).bypass.unwrap().hindrance;
        assert!(hindrance.as_ref().is_some_and(|it| it.contains("checksums")), "{hindrance:?}");
        assert!(map.entries().is_empty());
        offload(true);
        node.apply_with(Some(&mut map));
        assert_eq!(map.entries(), entries);

        // A new device has another number, and the entries are its own.
        node.ip("link delete margay.vxlan4");
        node.apply_with(Some(&mut map));
        assert_eq!(map.entries().len(), 2);
        assert!(map.entries().keys().all(|key| !entries.contains_key(key)));
        // What the kernel refuses leaves all to the device.
        node.ip("route add 10.0.9.0/24 via 192.0.2.2 metric 128 proto static");
        node.paths.blocks.insert(
            "10.0.9.0/24".parse().unwrap(),
            Block { node: "n2".into(), encapsulation: Encapsulation::Vxlan },
        );
        let refused = node.apply_with(Some(&mut map));
        assert!(!refused.refused.is_empty() && refused.bypass.is_none(), "{refused:?}");
        assert_eq!(map.entries().len(), 2, "those that stay as they are stay");
        node.paths.kinds.clear();
        node.paths.blocks.clear();
        assert_eq!(node.apply_with(Some(&mut map)).bypass, None);
        assert!(map.entries().is_empty());
    });
}
