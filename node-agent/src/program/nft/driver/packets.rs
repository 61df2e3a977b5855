//! What becomes of packets that do not come the straight way: through a service, or not forwarded at all.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    process::Command,
    sync::Arc,
    time::Duration,
};

use margay_api::endpoint::{EndpointId, PodRef};
use margay_netlink::{
    Socket,
    link::{self, End, Veth},
    netns::Namespace,
};
use margay_policy::Interner;
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket,
        sockopt::IpTransparent,
    },
};

use super::{
    Driver,
    tests::{in_new_namespace, wanted},
};

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

/// Makes a router of this namespace and gives it the pods p1, p2, ...
fn pods(number: u8) -> Vec<Namespace> {
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
    }
    ip("link set lo up");
    (1..=number)
        .map(|host| {
            let namespace = std::thread::spawn(|| {
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
            ip(&format!("address add {}/32 dev eth0", address(true, host)));
            ip(&format!("address add {}/128 dev eth0 nodad", address(false, host)));
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
    let (length, _) = socket.recv_from(&mut octets).expect("a packet that is allowed");
    String::from_utf8(octets[..length].to_vec()).unwrap()
}

#[test]
fn a_closed_pod_reaches_itself_through_a_service() {
    in_new_namespace(async || {
        let pods = pods(1);
        Driver::new("nft".into())
            .apply(&Arc::new(wanted(1, CLOSED, &mut Interner::default())))
            .await
            .unwrap();
        let proxy = "table inet proxy {
            chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.1 dnat ip to 10.0.0.1; ip6 daddr 2001:db8:96::1 dnat ip6 to 2001:db8::1; }
            chain post { type nat hook postrouting priority 100; ip saddr 10.0.0.1 ip daddr 10.0.0.1 masquerade; ip6 saddr 2001:db8::1 ip6 daddr 2001:db8::1 masquerade; }
        }";
        assert!(Command::new("nft").arg(proxy).status().unwrap().success());
        // Masquerading over IPv6 needs a global address.
        ip("address add 2001:db8:1::1/128 dev lo nodad");
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
fn what_the_node_sends_on_without_forwarding_obeys_policy_too() {
    let egress = "{metadata: {namespace: x, name: out}, spec: {podSelector: {matchLabels: {pod: p2}}, policyTypes: [Egress]}}";
    let ingress = "{metadata: {namespace: x, name: in}, spec: {podSelector: {matchLabels: {pod: p1}}, ingress: [{from: [{podSelector: {matchLabels: {pod: p3}}}]}]}}";
    for policy in [egress, ingress] {
        in_new_namespace(async || {
            let pods = pods(3);
            ip("address add 192.0.2.1/32 dev lo");
            ip("address add 2001:db8:1::1/128 dev lo nodad");
            Driver::new("nft".into())
                .apply(&Arc::new(wanted(3, policy, &mut Interner::default())))
                .await
                .unwrap();
            for (is_ipv4, own) in [(true, "192.0.2.1"), (false, "2001:db8:1::1")] {
                let server = open(&pods[0], address(is_ipv4, 1), PORT);
                let to = (address(is_ipv4, 1), PORT);
                // What output drops, its sender is told of.
                let refused = open_as(address(is_ipv4, 2)).send_to(b"forbidden", to).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
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
    in_new_namespace(async || {
        let pods = pods(1);
        let mut wanted = wanted(3, "", &mut Interner::default());
        // p1 and p2 are two interfaces of one pod; p3 is another's.
        for (name, pod) in [("p1", "one"), ("p2", "one"), ("p3", "other")] {
            let admitted = wanted.endpoints.get_mut(&EndpointId::of(name, "eth0")).unwrap();
            Arc::make_mut(&mut admitted.endpoint).pod =
                Some(PodRef { namespace: "x".into(), name: pod.into(), uid: None });
        }
        Driver::new("nft".into()).apply(&Arc::new(wanted)).await.unwrap();
        ip("address add 192.0.2.1/32 dev lo");
        ip("address add 2001:db8:1::1/128 dev lo nodad");
        for (is_ipv4, node) in [(true, "192.0.2.1"), (false, "2001:db8:1::1")] {
            let server = UdpSocket::bind((node, PORT)).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            for (host, text) in [(3, "spoofed"), (2, "own too"), (1, "own")] {
                let inside = pods[0].enter().unwrap();
                if host != 1 {
                    let rest = if is_ipv4 { "/32 dev eth0" } else { "/128 dev eth0 nodad" };
                    ip(&format!("address add {}{rest}", address(is_ipv4, host)));
                }
                drop(inside);
                open(&pods[0], address(is_ipv4, host), 4000).send_to(text.as_bytes(), (node, PORT)).unwrap();
            }
            assert_eq!(next(&server), "own too");
            assert_eq!(next(&server), "own");
        }
    });
}
