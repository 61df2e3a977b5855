//! Two nodes with three pods, and what may stand between the pods.

use std::{
    fmt,
    io::Write,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use margay_api::endpoint::EndpointId;
use margay_lab::{apiserver::ApiServer, clock};
use margay_netlink::netns::Namespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{
    harness::{
        agent::{Agent, Serving, ask},
        plugin::{Plugin, container, new_namespace},
    },
    iptables, measure,
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
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "no firewall"),
            Self::Tracking => write!(f, "tracking alone"),
            Self::Margay(policies) => write!(f, "margay, {policies}"),
            Self::Ebpf(policies) => write!(f, "margay with eBPF, {policies}"),
            Self::Iptables(policies) => write!(f, "iptables, {policies}"),
        }
    }
}

const TRACKING: &str = "table inet tracking {
    chain forward { type filter hook forward priority filter; policy accept; ct state established accept; }
}";

/// A pod.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) address: IpAddr,
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

/// A bpf file system, mounted until it is dropped.
struct BpfFs(PathBuf);

impl BpfFs {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        mount(Some("bpf"), &at, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        Self(at)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // The folder that it is in says so if it is still there.
        let _gone = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

impl Cluster {
    /// All are built alike, with the real agent and the real plugin; then the table is taken away where it is not ours
    /// that is measured.
    pub(crate) fn new(dir: &Path, firewall: Firewall) -> Self {
        let api = ApiServer::new();
        let put = |object| drop(api.put_raw(object).unwrap());
        put_cluster(&put);
        let (policies, dataplane) = match firewall {
            Firewall::Margay(policies) => (policies, "nftables"),
            Firewall::Ebpf(policies) => (policies, "ebpf"),
            Firewall::None | Firewall::Tracking | Firewall::Iptables(_) => (0, "nftables"),
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
            let plugin = Plugin::margay(&dir);
            for (name, _) in PODS.into_iter().filter(|(_, on)| *on == number) {
                let namespace = new_namespace();
                let result: Value =
                    serde_json::from_slice(&plugin.call("ADD", NAMESPACE, name, &namespace)).unwrap();
                let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
                put(pod(name, &node_name(number), "yes", Some(address)));
                let link = EndpointId::of(&container(NAMESPACE, name), "eth0").host_ifname();
                pods.push(Pod { namespace, address: address.parse().unwrap(), link, node: number });
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

    /// Puts in place of our table what is measured, unless it is that.
    fn replace(&self) {
        if matches!(self.firewall, Firewall::Margay(_) | Firewall::Ebpf(_)) {
            return;
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let _inside = node.enter().unwrap();
            feed("nft", &["-f", "-"], "delete table inet margay");
            match self.firewall {
                Firewall::None | Firewall::Margay(_) | Firewall::Ebpf(_) => {}
                Firewall::Tracking => feed("nft", &["-f", "-"], TRACKING),
                Firewall::Iptables(policies) => {
                    let here: Vec<&Pod> = self.pods.iter().filter(|pod| pod.node == number).collect();
                    let ours: Vec<IpAddr> = self.pods.iter().map(|pod| pod.address).collect();
                    feed("ipset", &["restore"], &iptables::sets(&ours));
                    feed("iptables-legacy-restore", &[], &iptables::rules(&here, policies));
                }
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
            let what = format!("{}: the short way to a pod on {distance}", self.firewall);
            let count = || {
                let _inside = self.nodes[to.node].enter().unwrap();
                let text = ask("/metrics").unwrap();
                let way = "margay_short_way_packets_total{way=\"to_pod\"} ";
                text.lines().find_map(|line| line.strip_prefix(way)?.parse::<u64>().ok()).unwrap_or_default()
            };
            let short = async || {
                let before = count();
                (measure::is_open(from, to) && count() > before).then_some(())
            };
            runtime.block_on(clock::until(PATIENCE, &what, short)).unwrap();
        }
    }

    /// From the pod that asks to one on its node, or on the other.
    pub(crate) fn ends(&self, distance: Distance) -> [&Pod; 2] {
        [&self.pods[0], &self.pods[if distance == Distance::Near { 1 } else { 2 }]]
    }

    /// Forgets all connections, so that those of one measurement are not in the way of the next.
    pub(crate) fn forget_connections(&self) {
        if self.firewall == Firewall::None {
            return;
        }
        for node in &self.nodes {
            let _inside = node.enter().unwrap();
            let output = Command::new("conntrack").arg("-F").output().unwrap();
            assert!(output.status.success(), "conntrack: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Nodes, the pods that policies name, and those that they select.
fn put_cluster(put: &impl Fn(Value)) {
    put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    for number in 0..2 {
        put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(number)},
            "spec": {"podCIDRs": [pod_cidr(number)]},
            "status": {"addresses": [{"type": "InternalIP", "address": node_address(number)}]},
        }));
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

fn node_name(number: usize) -> String {
    format!("n{number}")
}

fn node_address(number: usize) -> String {
    format!("192.0.2.{}", number + 1)
}

fn pod_cidr(number: usize) -> String {
    format!("10.202.{number}.0/24")
}

/// A cable between the nodes, and routes to each other's pods.
fn connect(nodes: &[Namespace; 2]) {
    let other = format!("/proc/{}/fd/{}", std::process::id(), nodes[1].as_fd().as_raw_fd());
    for (number, node) in nodes.iter().enumerate() {
        let _inside = node.enter().unwrap();
        let address = node_address(number);
        let peer = 1 - number;
        let cable = if number == 0 {
            format!("link add uplink type veth peer name uplink netns {other}")
        } else {
            String::new()
        };
        let script = [
            "link set lo up".to_owned(),
            cable,
            format!("address add {address}/24 dev uplink"),
            "link set uplink up".to_owned(),
            format!("route add {} via {} dev uplink onlink", pod_cidr(peer), node_address(peer)),
        ];
        feed("ip", &["-batch", "-"], &script.join("\n"));
    }
}

/// Runs a program that reads what to do.
fn feed(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}; ./setup installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
