//! Two nodes with three pods, and what may stand between the pods.

use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::Duration,
};

use margay_api::endpoint::EndpointId;
use margay_lab::{apiserver::ApiServer, clock};
use margay_netlink::netns::Namespace;
use serde_json::{Value, json};

use crate::{
    feed::{feed, ip},
    harness::{
        agent::{Agent, Serving},
        plugin::{Plugin, container, new_namespace},
    },
    host::BpfFs,
    iptables,
    measure::{self, End},
    pair::{self, node_address, node_name, pod_cidr, short_packets},
    result::address,
};

/// Where the two ends of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distance {
    /// On one node.
    Near,
    /// On two nodes.
    Far,
}

impl Distance {
    pub(crate) const ALL: [Self; 2] = [Self::Near, Self::Far];
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Near { "one node" } else { "two nodes" })
    }
}

/// Selectors that policies have for peers, each of one pod somewhere else.
pub(crate) const GROUPS: usize = 100;
const NAMESPACE: &str = "bench";
/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";
/// How long a table may take to be complete.
const PATIENCE: Duration = Duration::from_mins(1);
/// Name, and on which node.
const PODS: [(&str, usize); 3] = [("client", 0), ("near", 0), ("far", 1)];

/// What looks at packets between the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// Nothing registers with netfilter.
    None,
    /// One rule accepts what connection tracking knows: what a node with kube-proxy pays anyway.
    Tracking,
    /// Our table, with so many policies.
    Margay(usize),
    /// The short way round it, likewise.
    Ebpf(usize),
    /// Chains of iptables, one a policy.
    Iptables(usize),
    /// None of ours: a bridge on each node and rules of iptables, as the reference plugins `bridge` and `firewall` make them.
    Bridge,
    /// Not even a node: a cable from pod to pod. No way between two pods can be shorter.
    Cable,
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "no firewall"),
            Self::Tracking => write!(f, "tracking alone"),
            Self::Margay(policies) => write!(f, "margay, {policies}"),
            Self::Ebpf(policies) => write!(f, "margay with eBPF, {policies}"),
            Self::Iptables(policies) => write!(f, "iptables, {policies}"),
            Self::Bridge => write!(f, "bridge and iptables"),
            Self::Cable => write!(f, "a cable"),
        }
    }
}

const TRACKING: &str = "table inet tracking {
    chain forward { type filter hook forward priority filter; policy accept; ct state established accept; }
}";

/// A pod.
pub(crate) struct Pod {
    pub(crate) end: End,
    /// The host's end of its link.
    pub(crate) link: String,
    /// The number of its node.
    pub(crate) node: usize,
}

/// The nodes and pods of one firewall. No agent runs any more: the kernel keeps what it wrote.
pub(crate) struct Cluster {
    pub(crate) firewall: Firewall,
    nodes: [Namespace; 2],
    pods: Vec<Pod>,
    /// Where the programs of each node are pinned.
    _pins: Vec<BpfFs>,
}

impl Cluster {
    /// All are built alike, with the real agent and the real plugin; then the table is taken away where it is not ours
    /// that is measured.
    pub(crate) fn new(dir: &Path, firewall: Firewall) -> Self {
        match firewall {
            Firewall::Bridge => return Self::bridged(dir),
            Firewall::Cable => return Self::cabled(),
            Firewall::None
            | Firewall::Tracking
            | Firewall::Margay(_)
            | Firewall::Ebpf(_)
            | Firewall::Iptables(_) => {}
        }
        let api = ApiServer::new();
        let put = |object| drop(api.put_raw(object).unwrap());
        put_cluster(&put);
        let (policies, dataplane) = match firewall {
            Firewall::Margay(policies) => (policies, "nftables"),
            Firewall::Ebpf(policies) => (policies, "ebpf"),
            _ => (0, "nftables"),
        };
        for number in 0..policies {
            put(policy(number, policies));
        }
        let nodes = [new_namespace(), new_namespace()];
        connect(&nodes);
        let (mut pods, mut daemons, mut pins) = (Vec::new(), Vec::new(), Vec::new());
        for (number, node) in nodes.iter().enumerate() {
            let _inside = node.enter().unwrap();
            let dir = dir.join(number.to_string());
            let serving = Serving::start(api.clone());
            if dataplane == "ebpf" {
                pins.push(BpfFs::mount(dir.join("bpf")));
            }
            let agent = Agent::start(&dir, &node_name(number), &json!({"dataplane": dataplane}));
            agent.until_ready();
            // The agent goes before its API server.
            daemons.push((agent, serving));
            let plugin = Plugin::margay(&dir, 1500);
            for (name, _) in PODS.into_iter().filter(|(_, on)| *on == number) {
                let namespace = new_namespace();
                let address: IpAddr = address(&plugin.call("ADD", NAMESPACE, name, &namespace));
                put(pod(name, &node_name(number), "yes", Some(&address.to_string())));
                let link = EndpointId::of(&container(NAMESPACE, name), "eth0").host_ifname();
                pods.push(Pod { end: End { namespace, address }, link, node: number });
            }
        }
        let cluster = Self { firewall, nodes, pods, _pins: pins };
        // Only the last policy opens the way, and only once the addresses of both ends are in the kernel.
        cluster.until_open();
        if dataplane == "ebpf" {
            cluster.until_short();
        }
        drop(daemons);
        cluster.replace();
        cluster.until_open();
        cluster
    }

    /// With neither our plugin nor our agent.
    fn bridged(dir: &Path) -> Self {
        let nodes = [new_namespace(), new_namespace()];
        connect(&nodes);
        let mut pods = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let _inside = node.enter().unwrap();
            let ipam = json!({"type": "host-local", "dataDir": dir.join(number.to_string()), "subnet": pod_cidr(number)});
            let bridge = json!({
                "cniVersion": "1.0.0", "name": "bridge", "type": "bridge", "bridge": "cbr0", "isGateway": true,
                "isDefaultGateway": true, "ipam": ipam,
            });
            for (name, _) in PODS.into_iter().filter(|(_, on)| *on == number) {
                let namespace = new_namespace();
                let made = Plugin::new(REFERENCE.as_ref(), "bridge", &bridge)
                    .call("ADD", NAMESPACE, name, &namespace);
                let result: Value = serde_json::from_slice(&made).unwrap();
                let link = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
                let firewall = json!({
                    "cniVersion": "1.0.0", "name": "bridge", "type": "firewall", "backend": "iptables",
                    "prevResult": result,
                });
                Plugin::new(REFERENCE.as_ref(), "firewall", &firewall)
                    .call("ADD", NAMESPACE, name, &namespace);
                pods.push(Pod { end: End { namespace, address: address(&made) }, link, node: number });
            }
        }
        let cluster = Self { firewall: Firewall::Bridge, nodes, pods, _pins: Vec::new() };
        cluster.until_open();
        cluster
    }

    /// The pod that asks has a link of its own to each of the others.
    fn cabled() -> Self {
        let namespaces = PODS.map(|_| new_namespace());
        let [asks, others @ ..] = &namespaces;
        for (number, other) in others.iter().enumerate() {
            let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
            let script = format!(
                "link add cable{number} type veth peer name cable netns {path}\n\
                 address add {}/24 dev cable{number}\nlink set cable{number} up",
                cable_address(number, 1)
            );
            let far = format!("address add {}/24 dev cable\nlink set cable up", cable_address(number, 2));
            for (end, script) in [(asks, script), (other, far)] {
                let _inside = end.enter().unwrap();
                ip(&script);
            }
        }
        let pods = namespaces.into_iter().enumerate().map(|(number, namespace)| {
            let address = cable_address(number.saturating_sub(1), if number == 0 { 1 } else { 2 });
            let end = End { namespace, address: address.parse().unwrap() };
            Pod { end, link: "cable".to_owned(), node: 0 }
        });
        let (nodes, pods) = ([new_namespace(), new_namespace()], pods.collect());
        let cluster = Self { firewall: Firewall::Cable, nodes, pods, _pins: Vec::new() };
        cluster.until_open();
        cluster
    }

    /// Puts in place of our table what is measured, unless it is that.
    fn replace(&self) {
        if matches!(self.firewall, Firewall::Margay(_) | Firewall::Ebpf(_)) {
            return;
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let _inside = node.enter().unwrap();
            feed("nft", &["-f", "-"], "delete table inet margay");
            match self.firewall {
                Firewall::Tracking => feed("nft", &["-f", "-"], TRACKING),
                Firewall::Iptables(policies) => {
                    let here: Vec<&Pod> = self.pods.iter().filter(|pod| pod.node == number).collect();
                    let ours: Vec<IpAddr> = self.pods.iter().map(|pod| pod.end.address).collect();
                    feed("ipset", &["restore"], &iptables::sets(&ours));
                    feed("iptables-legacy-restore", &[], &iptables::rules(&here, policies));
                }
                _ => {}
            }
        }
    }

    fn until_open(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for distance in Distance::ALL {
            let [from, to] = self.ends(distance);
            let what = format!("{}: the way to a pod on {distance}", self.firewall);
            let open = async || measure::is_open(from, to).then_some(());
            runtime.block_on(clock::until(PATIENCE, &what, open)).unwrap();
        }
    }

    /// Waits until connections take the short way, on one node and on two.
    fn until_short(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for distance in Distance::ALL {
            let [from, to] = self.ends(distance);
            let node = &self.nodes[usize::from(distance == Distance::Far)];
            let what = format!("{}: the short way to a pod on {distance}", self.firewall);
            let short = async || {
                let before = short_packets(node);
                (measure::is_open(from, to) && short_packets(node) > before).then_some(())
            };
            runtime.block_on(clock::until(PATIENCE, &what, short)).unwrap();
        }
    }

    /// From the pod that asks to one on its node, or on the other.
    pub(crate) fn ends(&self, distance: Distance) -> [&End; 2] {
        [&self.pods[0].end, &self.pods[if distance == Distance::Near { 1 } else { 2 }].end]
    }

    /// Forgets all connections, so that those of one measurement are not in the way of the next.
    pub(crate) fn forget_connections(&self) {
        if matches!(self.firewall, Firewall::None | Firewall::Cable) {
            return;
        }
        pair::forget_connections(&self.nodes);
    }
}

/// Nodes, the pods that policies name, and those that they select.
fn put_cluster(put: &impl Fn(Value)) {
    put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    for number in 0..2 {
        put(pair::node(number));
    }
    for number in 0..GROUPS {
        put(pod(&group_name(number), "elsewhere", &group_name(number), Some(&group_address(number))));
    }
    for (name, number) in PODS {
        put(pod(name, &node_name(number), "yes", None));
    }
}

fn pod(name: &str, node: &str, label: &str, address: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"bench": label}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"podIP": address, "podIPs": address.map(|ip| json!([{"ip": ip}]))},
    })
}

/// One of so many policies, which all select the pods, in both directions. The last opens the port that is measured.
fn policy(number: usize, of: usize) -> Value {
    let (peer, ports) = if number + 1 == of {
        let port = |protocol| json!({"protocol": protocol, "port": measure::PORT});
        ("yes".to_owned(), vec![port("TCP"), port("UDP")])
    } else {
        (group_name(number % GROUPS), vec![json!({"protocol": "TCP", "port": policy_port(number)})])
    };
    let selector = |value: &str| json!({"matchLabels": {"bench": value}});
    let rule = |key: &str| json!([{key: [{"podSelector": selector(&peer)}], "ports": ports}]);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": format!("p{number:05}")},
        "spec": {
            "podSelector": selector("yes"), "policyTypes": ["Ingress", "Egress"],
            "ingress": rule("from"), "egress": rule("to"),
        },
    })
}

pub(crate) fn group_name(number: usize) -> String {
    format!("g{number}")
}

/// The address of the pod of a group.
pub(crate) fn group_address(number: usize) -> String {
    format!("10.203.0.{}", number + 1)
}

/// The port that a policy opens to its group.
pub(crate) fn policy_port(policy: usize) -> usize {
    10_000 + policy
}

/// Of an end of a cable from pod to pod.
fn cable_address(cable: usize, end: usize) -> String {
    format!("10.202.{cable}.{end}")
}

/// A cable between the nodes, and routes to each other's pods.
fn connect(nodes: &[Namespace; 2]) {
    pair::connect(nodes);
    for (number, node) in nodes.iter().enumerate() {
        let _inside = node.enter().unwrap();
        ip(&format!("route add {} via {}", pod_cidr(1 - number), node_address(1 - number)));
    }
}
