//! Neighbour discovery (RFC 4861) of a pod that policy isolates.
//!
//! A pod and its node have permanent neighbour entries for each other, so that nobody has to ask. Who has lost them asks. (The pod's
//! gateway, `fe80::1`, is on no interface, and nobody answers for it: it stands for the node's end, which is asked for here.)

use std::{
    io::Read,
    net::{Ipv6Addr, SocketAddrV6},
    path::PathBuf,
    time::Duration,
};

use margay_lab::{Dataplane, IpFamilies, Lab, LabConfig, Node, Party};
use margay_netlink::netns::Namespace;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::block_in_place;

use crate::cluster::{PORT, is_open, key, leave_nothing, party, records, run, start, until, until_open};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The flag S of an advertisement: it answers a solicitation.
const SOLICITED: u8 = 0x40;
/// Options.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

/// One end of a pod's link.
struct End {
    device: String,
    netns: Option<PathBuf>,
    index: u32,
    mac: [u8; 6],
    link_local: Ipv6Addr,
    socket: Socket,
}

impl End {
    /// The end in a node's own network, or in the namespace at a path on the node.
    async fn open(lab: &Lab, node: &Node, device: &str, netns: Option<PathBuf>) -> Self {
        let mut seen = None;
        until(lab, &format!("{device} has an address of the link"), async || {
            ip(node, netns.as_ref(), &format!("-6 -j address show dev {device} scope link -tentative"))
                .await
                .contains("fe80")
        })
        .await;
        let told = ip(node, netns.as_ref(), &format!("-j address show dev {device}")).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        for address in told[0]["addr_info"].as_array().unwrap() {
            if address["scope"] == "link" && address["family"] == "inet6" {
                seen = Some(address["local"].as_str().unwrap().parse::<Ipv6Addr>().unwrap());
            }
        }
        let octets =
            told[0]["address"].as_str().unwrap().split(':').map(|it| u8::from_str_radix(it, 16).unwrap());
        let index = told[0]["ifindex"].as_u64().unwrap().try_into().unwrap();
        let path = netns.as_ref().map(|path| node.path(path));
        let open = move || {
            let inside = path.map(|path| Namespace::open(&path).unwrap());
            let _entered = inside.as_ref().map(|it| it.enter().unwrap());
            Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap()
        };
        let socket = node.run(open).await.unwrap();
        // What came over a router is not believed (RFC 4861 section 7.1).
        socket.set_multicast_hops_v6(255).unwrap();
        socket.set_unicast_hops_v6(255).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let end = Self {
            device: device.to_owned(),
            netns,
            index,
            mac: octets.collect::<Vec<_>>().try_into().unwrap(),
            link_local: seen.unwrap(),
            socket,
        };
        end.socket.bind(&SocketAddrV6::new(end.link_local, 0, 0, index).into()).unwrap();
        end
    }

    /// Asks who has `target`, at an address; the link-layer address in the answer, if it has one.
    fn solicit(&self, target: Ipv6Addr, at: Ipv6Addr) -> Option<[u8; 6]> {
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        message.extend([SOURCE, 1]);
        message.extend(self.mac);
        let scope = if at.is_unicast_link_local() || at.is_multicast() { self.index } else { 0 };
        self.socket.send_to(&message, &SocketAddrV6::new(at, 0, 0, scope).into()).unwrap();
        block_in_place(|| {
            loop {
                let mut buffer = [0; 256];
                let octets = (&self.socket).read(&mut buffer).unwrap_or_else(|error| {
                    panic!("{}: no answer from {target} at {at}: {error}", self.device)
                });
                let answer = &buffer[..octets];
                let is_answer =
                    answer.len() >= 24 && answer[0] == ADVERTISEMENT && answer[4] & SOLICITED != 0;
                if is_answer && answer[8..24] == target.octets() {
                    let option = answer.get(24..32).filter(|option| option[0] == TARGET);
                    return option.map(|option| option[2..8].try_into().unwrap());
                }
            }
        })
    }

    /// Forgets its neighbours, those who are there for ever among them.
    async fn flush(&self, node: &Node) {
        for kind in ["all", "permanent"] {
            ip(node, self.netns.as_ref(), &format!("-6 neigh flush dev {} nud {kind}", self.device)).await;
        }
    }
}

/// Where all those listen whose address ends like this one (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

async fn ip(node: &Node, netns: Option<&PathBuf>, arguments: &str) -> String {
    let inside = netns.map(|path| format!("nsenter --net={} ", path.display())).unwrap_or_default();
    node.output("sh", &["-c", &format!("{inside}ip {arguments}")]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_found_by_and_at_a_pod_that_policy_isolates_with_nftables() {
    neighbours_are_found(Dataplane::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_found_by_and_at_a_pod_that_policy_isolates_with_ebpf() {
    neighbours_are_found(Dataplane::Ebpf).await;
}

async fn neighbours_are_found(dataplane: Dataplane) {
    let config = LabConfig { nodes: 1, dataplane, ip_families: IpFamilies::Ipv6, ..LabConfig::default() };
    let lab = start(config).await;
    let pods = run(&lab, &[("alone", "n1"), ("other", "n1")]).await;
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: alone, namespace: default}\n\
                spec: {podSelector: {matchLabels: {app: alone}}, policyTypes: [Ingress, Egress]}\n";
    lab.kubectl(&["apply", "-f", "-"], deny).await.unwrap();
    for (from, to) in [("alone", "other"), ("other", "alone")] {
        until_open(&lab, from, to, false).await;
    }
    let node = lab.node(0);
    let (_, netns) = lab.pod_netns(&key("alone")).unwrap();
    let records = records(node).list().unwrap().endpoints;
    let record = records.iter().find(|it| it.pod.as_ref().is_some_and(|it| it.name == "alone")).unwrap();
    let address = match record.addresses[0] {
        std::net::IpAddr::V6(address) => address,
        std::net::IpAddr::V4(address) => panic!("{address} is not IPv6"),
    };
    let host = End::open(&lab, node, &record.host_ifname, None).await;
    let pod = End::open(&lab, node, "eth0", netns).await;

    host.flush(node).await;
    pod.flush(node).await;
    // The pod asks for its router: all who may have the address, and then the one who says so.
    assert_eq!(pod.solicit(host.link_local, solicited_node(host.link_local)), Some(host.mac));
    pod.solicit(host.link_local, host.link_local);
    // The node asks for the pod, by each of its addresses.
    for of_pod in [address, pod.link_local] {
        assert_eq!(host.solicit(of_pod, solicited_node(of_pod)), Some(pod.mac));
        host.solicit(of_pod, of_pod);
    }
    // And so does the kernel, which asks one that may have gone (section 7.3.3).
    let probe = format!("-6 neigh replace {address} lladdr {} dev {} nud probe", record.mac, host.device);
    ip(node, None, &probe).await;
    until(&lab, "the kernel has found the pod", async || {
        let found = ip(node, None, &format!("-6 neigh show {address} dev {}", host.device)).await;
        assert!(!found.contains("FAILED"), "{found}");
        found.contains("REACHABLE") || found.contains("STALE")
    })
    .await;

    // As the ADD has made it.
    let gateway = format!("-6 neigh replace fe80::1 lladdr {} dev eth0 nud permanent", record.host_mac);
    ip(node, pod.netns.as_ref(), &gateway).await;
    let of_node = lab.reach(&Party::Node("n1".into()), &party("alone"), PORT).await.unwrap();
    assert!(of_node.is_open(), "a node reaches its pod");
    for (from, to) in [("alone", "other"), ("other", "alone")] {
        assert!(!is_open(&lab, from, to).await, "{from} -> {to}");
    }
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
