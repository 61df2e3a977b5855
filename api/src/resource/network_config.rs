//! `NetworkConfig`: settings that the agents of all nodes have in common.
#![expect(unreachable_pub, reason = "the derive of the schema repeats the type inside of a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of all nodes' agents. An agent's own flags, environment and file win over them, field by field; what nobody sets
/// is as the agent has it by itself.
// Words and numbers are what the agents read, and judge themselves: one that an agent does not know is to be told, and not to
// hide the others.
#[derive(Debug, Clone, Default, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "margay.dev",
    version = "v1alpha1",
    kind = "NetworkConfig",
    plural = "networkconfigs",
    singular = "networkconfig",
    category = "margay",
    status = "NetworkConfigStatus",
    doc = "NetworkConfig is what the agents of all nodes have in common. The one named default counts.",
    validation = Rule::new("self.metadata.name == 'default'").message("the one NetworkConfig is named default"),
    printcolumn(name = "Dataplane", type_ = "string", json_path = ".spec.dataplane"),
    printcolumn(name = "Encapsulation", type_ = "string", json_path = ".spec.overlay.encapsulation"),
    printcolumn(name = "MTU", type_ = "integer", json_path = ".spec.mtu"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfigSpec {
    /// Octets that a pod's packet may have; when not set, the MTU of the interface by which the node reaches others, less what a
    /// tunnel takes. Applied live, to pods that are made from then on; a smaller one to those that are there, too.
    #[schemars(with = "Option<i32>", range(min = 1280, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// What carries and judges packets; auto when not set. Takes a restart of the agents.
    #[schemars(extend("enum" = ["auto", "nftables", "ebpf"]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<String>,
    /// Filter of the agents' logs: error, warn, info, debug, trace, or per module; info when not set. Applied live.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Who makes the routes to pods of other nodes that no tunnel leads to: bgp, the speakers, when not set; or direct, the
    /// agents, to nodes of their own subnets. Applied live.
    #[schemars(extend("enum" = ["bgp", "direct"]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// Tunnels between nodes. Applied live; other numbers for `vni` and `port` cost packets while nodes differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<NetworkConfigOverlay>,
    /// Whether what pods send to outside of the cluster comes from their node, if their addresses are of no `IPPool`; false
    /// when not set. Applied live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing: Option<bool>,
    /// Ranges outside of the cluster that see pods' own addresses all the same. Applied live.
    #[schemars(length(max = 256), inner(length(min = 4, max = 49)))]
    #[serde(default, rename = "nonMasqueradeCIDRs", skip_serializing_if = "Option::is_none")]
    pub non_masquerade_cidrs: Option<Vec<String>>,
    /// Where nodes' blocks of addresses come from. Takes a restart of the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<NetworkConfigIpam>,
    /// At which of its addresses other nodes reach a node. Applied live: sessions and tunnels of nodes that get another begin anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<NetworkConfigNodeAddress>,
    /// Whether the ways between nodes are tested. Applied live; while nodes differ in the port, they find each other's closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_test: Option<NetworkConfigSelfTest>,
    /// Entries in maps of the eBPF dataplane; docs/ebpf.md has what is in them. Takes a restart of the agents, which makes all maps
    /// anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<NetworkConfigEbpf>,
}

/// At which of its addresses other nodes reach a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkConfigNodeAddress {
    /// How that of IPv4 is found; {method: kubernetes-internal-ip} when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<NodeAddressMethod>,
    /// How that of IPv6 is found, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NodeAddressMethod>,
}

/// How a node's address is found: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[serde(rename_all = "kebab-case")]
pub struct NodeAddressMethod {
    /// kubernetes-internal-ip, the `InternalIP` of the Node object; or first-found, that of the first interface that is not made for
    /// containers.
    #[schemars(extend("enum" = ["kubernetes-internal-ip", "first-found"]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What the node sends to this address from.
    #[schemars(length(max = 45), regex(pattern = r"^[0-9a-fA-F.:]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_reach: Option<String>,
    /// That of an interface whose whole name one of these regular expressions is, the first of them first.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 256)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Vec<String>>,
    /// As first-found, of the interfaces whose whole name none of these regular expressions is.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 256)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_interface: Option<Vec<String>>,
    /// One in one of these ranges, the first of them first.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Vec<String>>,
}

/// Whether the ways between nodes are tested.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkConfigSelfTest {
    /// Whether they are; true when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The port of UDP and TCP on which nodes answer each other; 9097 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// Entries in maps of the eBPF dataplane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkConfigEbpf {
    /// Of `ENDPOINTS`, pod links; 4096 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<i64>,
    /// Of `LOCAL`, the addresses of a node's pods; 8192 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<i64>,
    /// Of `UPLINKS`, interfaces to other nodes; 1024 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplinks: Option<i64>,
    /// Of `TUNNELS`, blocks of other nodes behind a tunnel; 16384 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<i64>,
    /// Of `ADDRESSES`, those that policy names by a class of their own; 262144 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<i64>,
    /// Of `RANGES`, prefixes that policy names; 65536 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<i64>,
    /// Of `PODS`, blocks of pods' addresses; 16384 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i64>,
    /// Of `VERDICTS`, what policy sets say; 1048576 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<i64>,
    /// Of `FLOWS`, flows of which both ends were heard; 262144 when not set.
    #[schemars(with = "Option<i32>", range(min = 1024, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<i64>,
    /// Of `EMBRYOS`, flows of which one end was heard; 65536 when not set.
    #[schemars(with = "Option<i32>", range(min = 1024, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embryos: Option<i64>,
    /// Of `STACKED`, flows of the stack; 65536 when not set.
    #[schemars(with = "Option<i32>", range(min = 1024, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stacked: Option<i64>,
    /// Of `FRAGMENTS`, packets in fragments; 8192 when not set.
    #[schemars(with = "Option<i32>", range(min = 1024, max = 16_777_216))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragments: Option<i64>,
}

/// Tunnels between nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfigOverlay {
    /// How packets to pods travel, if their addresses are of no `IPPool`; None when not set.
    #[schemars(extend("enum" = ["None", "VXLAN", "VXLANCrossSubnet", "IPIP", "IPIPCrossSubnet"]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// The network identifier of VXLAN; 4096 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 16_777_215))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<i64>,
    /// The UDP port of VXLAN; 4789 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// Where nodes' blocks of addresses come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfigIpam {
    /// podCIDR, `Node.spec.podCIDRs`, when not set; or pool, `IPPool` objects.
    #[schemars(extend("enum" = ["podCIDR", "pool"]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Seconds for which a block is empty before it is given back to its pool; 60 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 2_147_483_647))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_back_seconds: Option<i64>,
}

/// What the agents found out about the configuration. Written by the agent of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkConfigStatus {
    /// `Accepted`: whether the agents can take it. The message says which field they cannot; they keep the settings before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
