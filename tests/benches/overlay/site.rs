//! Two nodes with a pod each, and a way between them.

use std::{fmt, net::IpAddr, path::Path, time::Duration};

use margay_lab::{apiserver::ApiServer, clock};
use margay_netlink::netns::Namespace;
use serde_json::json;

use crate::{
    feed::{feed, ip},
    harness::{
        agent::{Agent, Serving},
        plugin::{Plugin, new_namespace},
    },
    host::BpfFs,
    measure::{self, End},
    pair::{self, node_address, node_name, pod_cidr, short_packets},
    result::address,
};

const NAMESPACE: &str = "bench";
/// How long a site may take to be ready.
const PATIENCE: Duration = Duration::from_mins(5);

/// How packets of pods get from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Vxlan,
    Ipip,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Vxlan => "VXLAN",
            Self::Ipip => "IP-in-IP",
        })
    }
}

impl Way {
    fn encapsulation(self) -> &'static str {
        match self {
            Self::Direct => "None",
            Self::Vxlan => "VXLAN",
            Self::Ipip => "IPIP",
        }
    }

    /// What a packet of a pod may have.
    fn mtu(self) -> u32 {
        match self {
            Self::Direct => 1500,
            Self::Vxlan => 1450,
            Self::Ipip => 1480,
        }
    }

    /// What `ip` is told on a node so that the other node's pods are reached.
    fn by_hand(self, own: usize) -> String {
        let other = 1 - own;
        let (pods, node) = (pod_cidr(other), node_address(other));
        let mtu = self.mtu();
        let tunnel = |kind: &str| {
            format!(
                "link add tunnel type {kind}\nlink set tunnel mtu {mtu} up\n\
                 address add 198.18.0.{}/24 dev tunnel\nroute add {pods} via 198.18.0.{} dev tunnel",
                own + 1,
                other + 1
            )
        };
        let ends = format!("local {} remote {node}", node_address(own));
        match self {
            Self::Direct => format!("route add {pods} via {node}"),
            Self::Vxlan => tunnel(&format!("vxlan id 1 {ends} dstport 4789 nolearning noudpcsum")),
            Self::Ipip => tunnel(&format!("ipip {ends}")),
        }
    }
}

/// Who made the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// `ip`, and nothing registers with netfilter.
    Hand,
    /// The agent, with this dataplane.
    Nftables,
    /// Likewise.
    Ebpf,
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hand => "by hand",
            Self::Nftables => "nftables",
            Self::Ebpf => "eBPF",
        })
    }
}

impl Maker {
    fn dataplane(self) -> &'static str {
        if self == Self::Ebpf { "ebpf" } else { "nftables" }
    }
}

/// The nodes and pods of one way. No agent runs any more: the kernel keeps what it wrote.
pub(crate) struct Site {
    nodes: [Namespace; 2],
    pods: Vec<End>,
    /// Where the programs of each node are pinned.
    _pins: Vec<BpfFs>,
}

impl Site {
    /// Pods are made by the real agent and plugin, whoever makes the way.
    pub(crate) fn new(dir: &Path, way: Way, maker: Maker) -> Self {
        let api = ApiServer::new();
        put_cluster(&api);
        let mut site =
            Self { nodes: [new_namespace(), new_namespace()], pods: Vec::new(), _pins: Vec::new() };
        pair::connect(&site.nodes);
        let encapsulation = if maker == Maker::Hand { Way::Direct } else { way }.encapsulation();
        let settings = json!({
            "dataplane": maker.dataplane(), "routing": "direct", "overlay": {"encapsulation": encapsulation},
        });
        let (mut daemons, mut pins) = (Vec::new(), Vec::new());
        for (number, node) in site.nodes.iter().enumerate() {
            let _inside = node.enter().unwrap();
            let dir = dir.join(number.to_string());
            pins.push(BpfFs::mount(dir.join("bpf")));
            let serving = Serving::start(api.clone());
            let agent = Agent::start(&dir, &node_name(number), &settings);
            agent.until_ready();
            // The agent goes before its API server.
            daemons.push((agent, serving));
            let namespace = new_namespace();
            let made = Plugin::margay(&dir, way.mtu()).call("ADD", NAMESPACE, &pod_name(number), &namespace);
            let address = address(&made);
            put_pod(&api, number, Some(address));
            site.pods.push(End { namespace, address });
        }
        until("the way to the other node's pod", || site.is_open());
        if maker == Maker::Ebpf {
            until("the short way to the other node's pod", || {
                let there = &site.nodes[1];
                let before = short_packets(there);
                site.is_open() && short_packets(there) > before
            });
        }
        drop(daemons);
        if maker == Maker::Hand {
            for (number, node) in site.nodes.iter().enumerate() {
                let _inside = node.enter().unwrap();
                feed("nft", &["-f", "-"], "delete table inet margay");
                ip(&format!("route delete {}\n{}", pod_cidr(1 - number), way.by_hand(number)));
            }
            until("the way that was made by hand", || site.is_open());
        }
        Self { _pins: pins, ..site }
    }

    /// From the pod that asks to the one on the other node.
    pub(crate) fn ends(&self) -> [&End; 2] {
        [&self.pods[0], &self.pods[1]]
    }

    /// Forgets all connections, so that those of one measurement are not in the way of the next.
    pub(crate) fn forget_connections(&self) {
        pair::forget_connections(&self.nodes);
    }

    fn is_open(&self) -> bool {
        let [from, to] = self.ends();
        measure::is_open(from, to)
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(clock::until(PATIENCE, what, async || holds().then_some(()))).unwrap();
}

fn put_cluster(api: &ApiServer) {
    let put = |object| drop(api.put_raw(object).unwrap());
    put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    for number in 0..2 {
        put(pair::node(number));
        put_pod(api, number, None);
    }
}

fn put_pod(api: &ApiServer, node: usize, address: Option<IpAddr>) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": pod_name(node)},
        "spec": {"nodeName": node_name(node), "containers": [{"name": "c", "image": "i"}]},
        "status": {"podIP": address, "podIPs": address.map(|ip| json!([{"ip": ip}]))},
    });
    api.put_raw(pod).unwrap();
}

fn pod_name(node: usize) -> String {
    format!("p{node}")
}
