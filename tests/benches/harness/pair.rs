//! Two nodes with a cable between them.

use std::{
    os::fd::{AsFd, AsRawFd},
    process::Command,
};

use margay_netlink::netns::Namespace;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

use crate::{feed::ip, harness::agent::ask};

/// What is mounted from here on goes with this process, however that ends.
pub(crate) fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

pub(crate) fn node_name(number: usize) -> String {
    format!("n{number}")
}

pub(crate) fn node_address(number: usize) -> String {
    format!("192.0.2.{}", number + 1)
}

pub(crate) fn pod_cidr(number: usize) -> String {
    format!("10.202.{number}.0/24")
}

/// As the API has it.
pub(crate) fn node(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name(number)},
        "spec": {"podCIDRs": [pod_cidr(number)]},
        "status": {"addresses": [{"type": "InternalIP", "address": node_address(number)}]},
    })
}

/// Puts a cable between them, at the end `uplink` of each.
pub(crate) fn connect(nodes: &[Namespace; 2]) {
    let other = format!("/proc/{}/fd/{}", std::process::id(), nodes[1].as_fd().as_raw_fd());
    for (number, node) in nodes.iter().enumerate() {
        let _inside = node.enter().unwrap();
        let address = node_address(number);
        let cable = if number == 0 {
            format!("link add uplink type veth peer name uplink netns {other}\n")
        } else {
            String::new()
        };
        ip(&format!("link set lo up\n{cable}address add {address}/24 dev uplink\nlink set uplink up"));
    }
}

/// Forgets all connections, so that those of one measurement are not in the way of the next.
pub(crate) fn forget_connections(nodes: &[Namespace; 2]) {
    for node in nodes {
        let _inside = node.enter().unwrap();
        let output = Command::new("conntrack").arg("-F").output().unwrap();
        assert!(output.status.success(), "conntrack: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Packets that the programs of a node have brought to its pods.
pub(crate) fn short_packets(node: &Namespace) -> u64 {
    let _inside = node.enter().unwrap();
    let text = ask("/metrics").unwrap();
    let way = "margay_short_way_packets_total{way=\"to_pod\"} ";
    text.lines().find_map(|line| line.strip_prefix(way)?.parse().ok()).unwrap_or_default()
}
