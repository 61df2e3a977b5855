//! What becomes of packets.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use margay_api::endpoint::{EndpointId, PodRef};
use margay_netlink::{
    Socket, conntrack,
    link::{self, End, Veth},
    netns::Namespace,
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket,
        sockopt::IpTransparent,
    },
};

use super::{
    Driver,
    tests::{World, in_new_namespace},
};
use crate::{decide::TunnelEnds, program::nft::rule};

const PORT: u16 = 53;
/// How long a packet may take; how long nothing may come is never waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const CLOSED: &str =
    "{metadata: {namespace: x, name: deny}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}";

/// `10.0.0.<host>` or `2001:db8::<host>`.
fn address(is_ipv4: bool, host: u8) -> IpAddr {
    let text = if is_ipv4 { format!("10.0.0.{host}") } else { format!("2001:db8::{host}") };
    text.parse().unwrap()
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Gives an interface an address, and waits until packets to it are for this host: the kernel makes that route of IPv6 some time
/// after it has said that the address is there.
fn add_address(address: IpAddr, interface: &str) {
    let length = if address.is_ipv4() { 32 } else { 128 };
    ip(&format!("address add {address}/{length} dev {interface} nodad"));
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let to = address.to_string();
    let routes =
        || Command::new("ip").args([family, "route", "show", "table", "local", &to]).output().unwrap();
    let begin = now();
    while routes().stdout.is_empty() {
        assert!(begin.elapsed() < PATIENCE, "no route to {address} itself");
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has a deadline")]
fn now() -> Instant {
    Instant::now()
}

/// Makes a router of this namespace and gives it the pods p1, p2, ...
fn pods(number: u8) -> Vec<Namespace> {
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
    }
    ip("link set lo up");
    (1..=number)
        .map(|host| {
            let namespace = thread::spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                Namespace::current().unwrap()
            })
            .join()
            .unwrap();
            let host_ifname = EndpointId::of(&format!("p{host}"), "eth0").host_ifname();
            let veth = Veth {
                near: End { name: &host_ifname.parse().unwrap(), address: None, netns: None },
                far: End { name: &"eth0".parse().unwrap(), address: None, netns: Some(namespace.as_fd()) },
                mtu: None,
            };
            Socket::open().unwrap().execute(&link::add_veth(&veth)).unwrap();
            ip(&format!("address add 169.254.1.1/32 dev {host_ifname}"));
            ip(&format!("address add fe80::1/64 dev {host_ifname} nodad"));
            ip(&format!("route add {} dev {host_ifname}", address(true, host)));
            ip(&format!("route add {} dev {host_ifname}", address(false, host)));
            let inside = namespace.enter().unwrap();
            ip("link set eth0 up");
            for is_ipv4 in [true, false] {
                add_address(address(is_ipv4, host), "eth0");
            }
            ip("route add default via 169.254.1.1 dev eth0 onlink");
            ip("route add default via fe80::1 dev eth0");
            drop(inside);
            namespace
        })
        .collect()
}

fn open(namespace: &Namespace, address: IpAddr, port: u16) -> UdpSocket {
    let _inside = namespace.enter().unwrap();
    let socket = UdpSocket::bind((address, port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A socket of this namespace that sends as somebody else, as IPVS does.
fn open_as(address: IpAddr) -> UdpSocket {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Datagram, SockFlag::empty(), SockProtocol::Udp).unwrap();
    if address.is_ipv4() {
        setsockopt(&raw, IpTransparent, &true).unwrap();
    } else {
        fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    }
    bind(raw.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0))).unwrap();
    UdpSocket::from(raw)
}

fn next(socket: &UdpSocket) -> String {
    let mut octets = [0; 64];
    let mut received = socket.recv_from(&mut octets);
    // A signal to the whole process, of a child that has ended.
    while received.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
        received = socket.recv_from(&mut octets);
    }
    let (length, _) = received.expect("a packet that is allowed");
    String::from_utf8(octets[..length].to_vec()).unwrap()
}

#[test]
fn a_closed_pod_reaches_itself_through_a_service() {
    in_new_namespace(|| {
        let pods = pods(1);
        World::new(1, CLOSED).driver();
        let proxy = "table inet proxy {
            chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.1 dnat ip to 10.0.0.1; ip6 daddr 2001:db8:96::1 dnat ip6 to 2001:db8::1; }
            chain post { type nat hook postrouting priority 100; ip saddr 10.0.0.1 ip daddr 10.0.0.1 masquerade; ip6 saddr 2001:db8::1 ip6 daddr 2001:db8::1 masquerade; }
        }";
        assert!(Command::new("nft").arg(proxy).status().unwrap().success());
        // Masquerading over IPv6 needs a global address.
        add_address("2001:db8:1::1".parse().unwrap(), "lo");
        for (service, is_ipv4) in [("10.96.0.1", true), ("2001:db8:96::1", false)] {
            let own = address(is_ipv4, 1);
            let server = open(&pods[0], own, PORT);
            let client = open(&pods[0], own, 4000);
            client.send_to(b"hello", (service, PORT)).unwrap();
            assert_eq!(next(&server), "hello", "{service}");
        }
    });
}

#[test]
fn peers_have_ranges_of_ports_of_their_own() {
    let from = |pod: &str, first: u16, last: u16| {
        format!(
            "{{from: [{{podSelector: {{matchLabels: {{pod: {pod}}}}}}}], \
             ports: [{{protocol: UDP, port: {first}, endPort: {last}}}]}}"
        )
    };
    // Overlapping ranges, and one of all ports.
    let rules = [from("p2", 50, 80), from("p3", 60, 100), from("p4", 1, 65535)].join(", ");
    let policy = format!(
        "{{metadata: {{namespace: x, name: in}}, spec: {{podSelector: {{matchLabels: {{pod: p1}}}}, ingress: [{rules}]}}}}"
    );
    in_new_namespace(|| {
        let pods = pods(5);
        World::new(5, &policy).driver();
        for is_ipv4 in [true, false] {
            for (port, allowed) in
                [(53, &[2_u8, 4][..]), (70, &[2, 3, 4]), (90, &[3, 4]), (40, &[4]), (65535, &[4])]
            {
                let server = open(&pods[0], address(is_ipv4, 1), port);
                // The last is always allowed: what came before it from others has come through as well.
                for host in [5, 3, 2, 4] {
                    let client = open(&pods[usize::from(host) - 1], address(is_ipv4, host), 4000);
                    client.send_to(format!("from p{host}").as_bytes(), (address(is_ipv4, 1), port)).unwrap();
                }
                for host in [3, 2, 4].into_iter().filter(|host| allowed.contains(host)) {
                    assert_eq!(next(&server), format!("from p{host}"), "port {port}");
                }
            }
        }
    });
}

#[test]
fn what_the_node_sends_on_without_forwarding_obeys_policy_too() {
    let egress = "{metadata: {namespace: x, name: out}, spec: {podSelector: {matchLabels: {pod: p2}}, policyTypes: [Egress]}}";
    let ingress = "{metadata: {namespace: x, name: in}, spec: {podSelector: {matchLabels: {pod: p1}}, ingress: [{from: [{podSelector: {matchLabels: {pod: p3}}}]}]}}";
    for policy in [egress, ingress] {
        in_new_namespace(|| {
            let pods = pods(3);
            add_address("192.0.2.1".parse().unwrap(), "lo");
            add_address("2001:db8:1::1".parse().unwrap(), "lo");
            World::new(3, policy).driver();
            for (is_ipv4, own) in [(true, "192.0.2.1"), (false, "2001:db8:1::1")] {
                let server = open(&pods[0], address(is_ipv4, 1), PORT);
                let to = (address(is_ipv4, 1), PORT);
                // What output drops, its sender is told of.
                let refused = open_as(address(is_ipv4, 2)).send_to(b"forbidden", to).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
                open_as(address(is_ipv4, 3)).send_to(b"allowed", to).unwrap();
                assert_eq!(next(&server), "allowed", "{policy}");
                UdpSocket::bind((own, 0)).unwrap().send_to(b"the node's own", to).unwrap();
                assert_eq!(next(&server), "the node's own", "{policy}");
            }
        });
    }
}

#[test]
fn a_pod_sends_from_all_of_its_own_addresses_and_no_other() {
    in_new_namespace(|| {
        let pods = pods(1);
        let mut world = World::new(3, "");
        // p1 and p2 are two interfaces of one pod; p3 is another's.
        for (name, pod) in [("p1", "one"), ("p2", "one"), ("p3", "other")] {
            let admitted =
                Arc::make_mut(&mut world.wanted.endpoints).get_mut(&EndpointId::of(name, "eth0")).unwrap();
            Arc::make_mut(&mut admitted.endpoint).pod =
                Some(PodRef { namespace: "x".into(), name: pod.into(), uid: None });
        }
        world.driver();
        add_address("192.0.2.1".parse().unwrap(), "lo");
        add_address("2001:db8:1::1".parse().unwrap(), "lo");
        for (is_ipv4, node) in [(true, "192.0.2.1"), (false, "2001:db8:1::1")] {
            let server = UdpSocket::bind((node, PORT)).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            for (host, text) in [(3, "spoofed"), (2, "own too"), (1, "own")] {
                let inside = pods[0].enter().unwrap();
                if host != 1 {
                    add_address(address(is_ipv4, host), "eth0");
                }
                drop(inside);
                open(&pods[0], address(is_ipv4, host), 4000).send_to(text.as_bytes(), (node, PORT)).unwrap();
            }
            assert_eq!(next(&server), "own too");
            assert_eq!(next(&server), "own");
        }
    });
}

/// The packets of each cause that has seen any.
fn seen(driver: &mut Driver) -> BTreeMap<String, u64> {
    let mut counted = counted(driver);
    counted.retain(|_, packets| *packets > 0);
    counted
}

fn counted(driver: &mut Driver) -> BTreeMap<String, u64> {
    let counters = driver.counters().unwrap();
    counters.into_iter().map(|(name, count)| (name, count.packets)).collect()
}

/// A connection from one pod to another: the opener's end, then the listener's.
fn connect(from: &Namespace, to: &Namespace, address: IpAddr) -> [TcpStream; 2] {
    let inside = to.enter().unwrap();
    let listener = TcpListener::bind((address, 0)).unwrap();
    drop(inside);
    let inside = from.enter().unwrap();
    let near = TcpStream::connect_timeout(&listener.local_addr().unwrap(), PATIENCE).unwrap();
    drop(inside);
    let far = listener.accept().unwrap().0;
    [near, far].map(|stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    })
}

fn pass_on(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").unwrap();
    let mut octets = [0; 5];
    to.read_exact(&mut octets).unwrap();
}

const FROM_P2: &str = "{metadata: {namespace: x, name: in}, spec: {podSelector: {matchLabels: {pod: p1}}, ingress: [{from: [{podSelector: {matchLabels: {pod: p2}}}]}]}}";

#[test]
fn what_policy_drops_is_counted_by_its_cause() {
    in_new_namespace(|| {
        let pods = pods(3);
        let mut driver = World::new(3, FROM_P2).driver();
        for (round, is_ipv4) in [(1, true), (2, false)] {
            let server = open(&pods[0], address(is_ipv4, 1), PORT);
            let to = (address(is_ipv4, 1), PORT);
            open(&pods[2], address(is_ipv4, 3), 4000).send_to(b"forbidden", to).unwrap();
            open(&pods[1], address(is_ipv4, 2), 4000).send_to(b"allowed", to).unwrap();
            assert_eq!(next(&server), "allowed");
            assert_eq!(seen(&mut driver), [("s1_in_drop".to_owned(), round)].into());
        }
    });
}

#[test]
fn what_a_pod_sends_as_another_and_what_is_of_or_for_an_unknown_pod_is_counted_as_such() {
    in_new_namespace(|| {
        let pods = pods(2);
        // The second pod has a link and no endpoint.
        let mut driver = World::new(1, "").driver();
        for (round, is_ipv4) in [(1, true), (2, false)] {
            let (known, unknown) = (address(is_ipv4, 1), address(is_ipv4, 2));
            // That which the router is to see comes first: a pod asks for it with the address that it sends from.
            open(&pods[0], known, 4001).send_to(b"to an unknown pod", (unknown, PORT)).unwrap();
            open(&pods[1], unknown, 4002).send_to(b"from an unknown pod", (known, PORT)).unwrap();
            let inside = pods[0].enter().unwrap();
            add_address(address(is_ipv4, 9), "eth0");
            drop(inside);
            open(&pods[0], address(is_ipv4, 9), 4000).send_to(b"as another", (unknown, PORT)).unwrap();
            let causes = ["spoof", "unknown_in", "unknown_out"];
            assert_eq!(seen(&mut driver), causes.map(|cause| (cause.to_owned(), round)).into());
        }
    });
}

#[test]
fn an_audited_packet_passes_the_direction_and_is_judged_by_the_other() {
    const TRIAL: &str = "{metadata: {namespace: x, name: out, annotations: {margay.dev/enforcement: audit}}, spec: {podSelector: {matchLabels: {pod: p2}}, policyTypes: [Egress], egress: [{ports: [{port: 54, protocol: UDP}]}]}}";
    in_new_namespace(|| {
        let pods = pods(3);
        let both = format!("{TRIAL}\n---\n{FROM_P2}");
        let mut driver = World::new(3, &both).driver();
        for (round, is_ipv4) in [(1, true), (2, false)] {
            let server = open(&pods[0], address(is_ipv4, 1), PORT);
            let other = open(&pods[0], address(is_ipv4, 1), PORT + 1);
            let client = open(&pods[1], address(is_ipv4, 2), 4000);
            client.send_to(b"not on trial", (address(is_ipv4, 1), PORT + 1)).unwrap();
            assert_eq!(next(&other), "not on trial");
            client.send_to(b"on trial", (address(is_ipv4, 1), PORT)).unwrap();
            assert_eq!(next(&server), "on trial");
            assert_eq!(audited(&counted(&mut driver)), round);
        }
        // The other direction closes: what passes the first comes to the second.
        let closed = format!(
            "{TRIAL}\n---\n{{metadata: {{namespace: x, name: in}}, spec: {{podSelector: {{matchLabels: {{pod: p1}}}}}}}}"
        );
        let mut driver = World::new(3, &closed).driver();
        open(&pods[1], address(true, 2), 4001).send_to(b"on trial", (address(true, 1), PORT)).unwrap();
        let counters = counted(&mut driver);
        let dropped = counters.iter().filter(|(name, _)| name.ends_with("in_drop")).map(|(_, count)| count);
        assert_eq!((audited(&counters), dropped.sum()), (1, 1), "{counters:?}");
    });
}

#[test]
fn what_a_policy_of_the_cluster_denies_is_counted_as_its_own() {
    const ADMIN: &str = "{kind: ClusterNetworkPolicy, metadata: {name: a}, spec: {tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: p1}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: p2}}}}], protocols: [{udp: {destinationPort: {number: 53}}}]}]}}";
    in_new_namespace(|| {
        let pods = pods(3);
        let mut driver = World::new(3, ADMIN).driver();
        for (round, is_ipv4) in [(1, true), (2, false)] {
            let server = open(&pods[0], address(is_ipv4, 1), PORT);
            let to = (address(is_ipv4, 1), PORT);
            open(&pods[1], address(is_ipv4, 2), 4000).send_to(b"denied", to).unwrap();
            open(&pods[2], address(is_ipv4, 3), 4000).send_to(b"another's", to).unwrap();
            assert_eq!(next(&server), "another's");
            let counters = counted(&mut driver);
            assert_eq!((counters["c1_drop"], counters["s1_in_drop"]), (round, 0), "{counters:?}");
        }
    });
}

#[test]
fn a_policy_of_the_cluster_may_close_the_node_to_its_own_pods_and_isolation_never_does() {
    const NODES: &str = "{kind: ClusterNetworkPolicy, metadata: {name: a}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [192.0.2.1/32, '2001:db8:1::1/128']}], protocols: [{udp: {destinationPort: {number: 53}}}]}]}}";
    in_new_namespace(|| {
        let pods = pods(1);
        let mut driver = World::new(1, &format!("{NODES}\n---\n{CLOSED}")).driver();
        add_address("192.0.2.1".parse().unwrap(), "lo");
        add_address("2001:db8:1::1".parse().unwrap(), "lo");
        for (round, is_ipv4, node) in [(1, true, "192.0.2.1"), (2, false, "2001:db8:1::1")] {
            let other = UdpSocket::bind((node, PORT + 1)).unwrap();
            other.set_read_timeout(Some(PATIENCE)).unwrap();
            let client = open(&pods[0], address(is_ipv4, 1), 4000);
            client.send_to(b"denied", (node, PORT)).unwrap();
            client.send_to(b"another port", (node, PORT + 1)).unwrap();
            assert_eq!(next(&other), "another port");
            let counters = counted(&mut driver);
            assert_eq!((counters["c1_drop"], counters["s1_out_drop"]), (round, 0), "{counters:?}");
        }
    });
}

#[test]
fn neighbour_discovery_works_whatever_policy_denies() {
    const ALL: &str = "{kind: ClusterNetworkPolicy, metadata: {name: a}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}], ingress: [{action: Deny, from: [{namespaces: {}}]}]}}";
    in_new_namespace(|| {
        let pods = pods(1);
        let _driver = World::new(1, &format!("{ALL}\n---\n{CLOSED}")).driver();
        add_address("192.0.2.1".parse().unwrap(), "lo");
        add_address("2001:db8:1::1".parse().unwrap(), "lo");
        // Neither side knows the other's link-layer address yet; the node asks, and the pod's answer comes to the node itself.
        for (is_ipv4, node) in [(true, "192.0.2.1"), (false, "2001:db8:1::1")] {
            let server = open(&pods[0], address(is_ipv4, 1), PORT);
            UdpSocket::bind((node, 0)).unwrap().send_to(b"probe", (address(is_ipv4, 1), PORT)).unwrap();
            assert_eq!(next(&server), "probe");
        }
    });
}

fn audited(counters: &BTreeMap<String, u64>) -> u64 {
    counters.iter().filter(|(name, _)| name.ends_with("_audit")).map(|(_, count)| count).sum()
}

#[test]
fn connections_of_isolated_pods_open_reset_and_close_as_others_do() {
    in_new_namespace(|| {
        let pods = pods(2);
        let mut driver = World::new(2, FROM_P2).driver();
        for is_ipv4 in [true, false] {
            let [mut near, mut far] = connect(&pods[1], &pods[0], address(is_ipv4, 1));
            pass_on(&mut near, &mut far);
            pass_on(&mut far, &mut near);
            near.shutdown(Shutdown::Write).unwrap();
            assert_eq!(far.read(&mut [0]).unwrap(), 0);
            pass_on(&mut far, &mut near);
            drop(far);
            assert_eq!(near.read(&mut [0]).unwrap(), 0);
            // What is closed with octets unread is reset.
            let [mut near, mut far] = connect(&pods[1], &pods[0], address(is_ipv4, 1));
            pass_on(&mut near, &mut far);
            near.write_all(b"unread").unwrap();
            assert!(far.peek(&mut [0]).unwrap() > 0);
            drop(far);
            assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            // Nobody listens: a reset answers.
            let inside = pods[1].enter().unwrap();
            let refused = TcpStream::connect_timeout(&(address(is_ipv4, 1), 1).into(), PATIENCE).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            drop(inside);
        }
        assert_eq!(seen(&mut driver), BTreeMap::new());
    });
}

#[test]
fn a_connection_that_is_not_tracked_any_more_goes_on_only_between_pods_that_no_policy_isolates() {
    in_new_namespace(|| {
        let pods = pods(4);
        let mut driver = World::new(4, FROM_P2).driver();
        for (round, is_ipv4) in [(1, true), (2, false)] {
            // The isolated pod answers, so that what it sends is in the direction that no policy is about.
            let [mut near, mut far] = connect(&pods[1], &pods[0], address(is_ipv4, 1));
            let [mut free, mut other] = connect(&pods[2], &pods[3], address(is_ipv4, 4));
            for (from, to) in [(&mut near, &mut far), (&mut free, &mut other)] {
                pass_on(from, to);
                pass_on(to, from);
            }
            conntrack::forget(&[1, 4].map(|host| address(is_ipv4, host)).into()).unwrap();
            far.write_all(b"hello").unwrap();
            assert!(counted(&mut driver)["midstream_out"] >= round);
            near.set_nonblocking(true).unwrap();
            assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            // The other way, which is allowed to begin a connection, but only at its beginning.
            near.write_all(b"hello").unwrap();
            far.set_nonblocking(true).unwrap();
            assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            pass_on(&mut other, &mut free);
            pass_on(&mut free, &mut other);
            let again = connect(&pods[1], &pods[0], address(is_ipv4, 1));
            drop(again);
        }
    });
}

const TUNNEL_PORT: u16 = 4789;

/// A VXLAN frame of network 4096 with a packet over UDP, from and to these addresses, made by hand.
fn frame(from: [u8; 4], to: [u8; 4], text: &str) -> Vec<u8> {
    let length = |headers: usize| u16::try_from(headers + text.len()).unwrap().to_be_bytes();
    let mut header = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &from, &to].concat();
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&(!folded).to_be_bytes());
    let port = PORT.to_be_bytes();
    let datagram = [&port[..], &port, &length(8), &[0, 0], text.as_bytes()].concat();
    let vxlan = [8, 0, 0, 0, 0, 0x10, 0, 0];
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    [&vxlan[..], &ethernet, &header, &datagram].concat()
}

/// As `conntrack` says it.
fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// An interface of this router's with one address; behind it are others in a namespace.
fn uplink(own: IpAddr, others: &[IpAddr]) -> Namespace {
    let cable = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::current().unwrap()
    });
    let elsewhere = cable.join().unwrap();
    let name = "uplink".parse().unwrap();
    let veth = Veth {
        near: End { name: &name, address: None, netns: None },
        far: End { name: &name, address: None, netns: Some(elsewhere.as_fd()) },
        mtu: None,
    };
    Socket::open().unwrap().execute(&link::add_veth(&veth)).unwrap();
    let up = |addresses: &[IpAddr]| {
        ip("link set uplink up");
        for address in addresses {
            let prefix = if address.is_ipv4() { "/24" } else { "/64 nodad" };
            ip(&format!("address add {address}{prefix} dev uplink"));
        }
    };
    up(&[own]);
    let inside = elsewhere.enter().unwrap();
    up(others);
    drop(inside);
    elsewhere
}

/// A socket of a namespace that sends and receives IP-in-IP.
fn open_ipip(namespace: &Namespace, address: IpAddr) -> socket2::Socket {
    let _inside = namespace.enter().unwrap();
    let protocol = socket2::Protocol::from(i32::from(rule::IPIP));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol)).unwrap();
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn nobody_but_other_nodes_sends_ip_in_ip_once_there_are_tunnels_of_it() {
    in_new_namespace(|| {
        let pods = pods(1);
        let [own, other, stranger]: [IpAddr; 3] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse().unwrap());
        let elsewhere = uplink(own, &[other, stranger]);
        let here = open_ipip(&Namespace::current().unwrap(), own);
        let to = |to: IpAddr| socket2::SockAddr::from(SocketAddr::new(to, 0));
        let send = |namespace: &Namespace, from: IpAddr, destination: IpAddr, text: &str| {
            open_ipip(namespace, from).send_to(text.as_bytes(), &to(destination)).unwrap();
        };
        let next = || {
            let mut octets = [0; 64];
            // What is received has its outer header in front.
            let length = Read::read(&mut &here, &mut octets).expect("a packet that is allowed");
            String::from_utf8(octets[20..length].to_vec()).unwrap()
        };
        let pod = address(true, 1);
        let mut world = World::new(1, "{metadata: {namespace: x, name: in}, spec: {podSelector: {}}}");
        let mut driver = world.driver();
        // Where none is made of it, it is any other protocol, and the same with tunnels of VXLAN alone.
        let ends = |ipip, peer| {
            let (ports, own, peers) = ([TUNNEL_PORT].into(), [own].into(), [peer].into());
            Some(Arc::new(TunnelEnds { ipip, ports, own, peers }))
        };
        for ends in [None, ends(false, other)] {
            world.wanted.tunnel_ends = ends;
            world.tell(&mut driver).unwrap();
            send(&pods[0], pod, own, "of a pod");
            assert_eq!(next(), "of a pod");
        }
        world.wanted.tunnel_ends = ends(true, other);
        world.tell(&mut driver).unwrap();
        for destination in [own, other] {
            send(&pods[0], pod, destination, "of a pod");
        }
        send(&elsewhere, stranger, own, "of a stranger");
        send(&elsewhere, other, own, "of a node");
        assert_eq!(next(), "of a node");
        let expected = [("tunnel_in".to_owned(), 1), ("tunnel_out".to_owned(), 2)];
        assert_eq!(seen(&mut driver), expected.into());
    });
}

#[test]
fn nobody_but_other_nodes_puts_anything_into_a_tunnel() {
    let all = ["192.0.2.2", "2001:db8:1::2"].map(|text| text.parse().unwrap());
    for (is_ipv4, own, other, stranger) in [
        (true, "192.0.2.1", "192.0.2.2", "192.0.2.3"),
        (false, "2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::3"),
    ] {
        in_new_namespace(|| {
            let pods = pods(1);
            let [own, other, stranger]: [IpAddr; 3] =
                [own, other, stranger].map(|text| text.parse().unwrap());
            let service = if is_ipv4 { "10.96.0.1" } else { "2001:db8:96::1" };
            let elsewhere = uplink(own, &[other, stranger]);
            ip(&format!(
                "link add tunnel address 02:00:00:00:00:01 type vxlan id 4096 dstport 4789 local {own}"
            ));
            ip("link set tunnel up");
            ip("address add 10.0.7.1/24 dev tunnel");
            let family = if is_ipv4 { "ip" } else { "ip6" };
            let proxy = format!(
                "table inet proxy {{ chain pre {{ type nat hook prerouting priority -100; \
                 {family} daddr {service} udp dport 1 dnat {family} to [{own}]:{TUNNEL_PORT}; \
                 {family} daddr {service} udp dport 2 dnat {family} to [{other}]:{TUNNEL_PORT}; }}\n}}"
            );
            let proxy = if is_ipv4 { proxy.replace(['[', ']'], "") } else { proxy };
            assert!(Command::new("nft").arg(proxy).status().unwrap().success());

            let server = UdpSocket::bind(("10.0.7.1", PORT)).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            let there = open(&elsewhere, other, TUNNEL_PORT);
            let pod = open(&pods[0], address(is_ipv4, 1), 0);
            let send = |from: &UdpSocket, to: IpAddr, port: u16, text: &str| {
                from.send_to(&frame([10, 0, 7, 9], [10, 0, 7, 1], text), (to, port)).unwrap();
            };
            let service = service.parse().unwrap();

            let egress =
                "{metadata: {namespace: x, name: out}, spec: {podSelector: {}, policyTypes: [Egress]}}";
            let mut world = World::new(1, egress);
            let mut driver = world.driver();
            // Where no tunnel is wanted, the port is any other, and what comes out is from whoever it says.
            send(&pod, own, TUNNEL_PORT, "of a pod");
            assert_eq!(next(&server), "of a pod");

            world.wanted.tunnel_ends = Some(Arc::new(TunnelEnds {
                ipip: false,
                ports: [TUNNEL_PORT].into(),
                own: [own].into(),
                peers: all.into_iter().collect(),
            }));
            world.tell(&mut driver).unwrap();
            for (to, port) in [(own, TUNNEL_PORT), (other, TUNNEL_PORT), (service, 1), (service, 2)] {
                // A connection that was tracked before would hide what happens to a new one.
                send(&open(&pods[0], address(is_ipv4, 1), 0), to, port, "of a pod");
            }
            send(&pod, own, TUNNEL_PORT, "of a pod");
            send(&open(&elsewhere, stranger, 0), own, TUNNEL_PORT, "of a stranger");
            let node = UdpSocket::bind((own, 0)).unwrap();
            node.send_to(b"of this node", (other, TUNNEL_PORT)).unwrap();
            assert_eq!(next(&there), "of this node");
            send(&open(&elsewhere, other, 0), own, TUNNEL_PORT, "of a node");
            assert_eq!(next(&server), "of a node");
            // What nodes say to each other through tunnels is not tracked; what a pod said, when there were none, is.
            let tracked = |from: IpAddr, to: IpAddr| {
                let listed = Command::new("conntrack").args(["-L", "-f", family_of(own)]).output().unwrap();
                let listed = String::from_utf8(listed.stdout).unwrap();
                listed.contains(&format!(" src={from} dst={to} "))
            };
            assert!(tracked(address(is_ipv4, 1), own));
            assert!(!tracked(own, other) && !tracked(other, own));
            // By the service for its own node it comes to input, which asks for the source.
            let expected = [("tunnel_in".to_owned(), 2), ("tunnel_out".to_owned(), 4)];
            assert_eq!(seen(&mut driver), expected.into());

            // A node that is gone is a stranger.
            world.wanted.tunnel_ends = Some(Arc::new(TunnelEnds {
                ipip: false,
                ports: [TUNNEL_PORT].into(),
                own: [own].into(),
                peers: [stranger].into(),
            }));
            world.tell(&mut driver).unwrap();
            send(&open(&elsewhere, other, 0), own, TUNNEL_PORT, "of what is gone");
            send(&open(&elsewhere, stranger, 0), own, TUNNEL_PORT, "of a new node");
            assert_eq!(next(&server), "of a new node");
            world.wanted.tunnel_ends = None;
            world.tell(&mut driver).unwrap();
            send(&pod, own, TUNNEL_PORT, "of a pod");
            assert_eq!(next(&server), "of a pod");
        });
    }
}
