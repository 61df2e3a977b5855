//! `IPPool`: a range that nodes claim their blocks from.
#![expect(clippy::duplicated_attributes, reason = "columns are of the same types")]
#![expect(unreachable_pub, reason = "the derive of the schema repeats the type inside of a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A range of addresses of one family, which nodes claim in blocks.
#[derive(Debug, Clone, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "margay.dev",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    singular = "ippool",
    category = "margay",
    status = "IPPoolStatus",
    doc = "IPPool is a range of addresses of one family, which nodes claim in blocks for their pods.",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Block-Size", type_ = "integer", json_path = ".spec.blockSize"),
    printcolumn(name = "Claimed", type_ = "integer", json_path = ".status.claimedBlocks"),
    printcolumn(name = "Blocks", type_ = "integer", json_path = ".status.totalBlocks"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.blockSize) || self.cidr.contains(':') || self.blockSize <= 30")
    .message("blockSize of an IPv4 pool is at most 30"))]
#[x_kube(validation = Rule::new("!has(self.blockSize) || int(self.cidr.split('/')[1]) <= self.blockSize")
    .message("blockSize is a prefix length; it must not be less than that of cidr"))]
#[x_kube(validation = Rule::new("!has(self.encapsulation) || !self.encapsulation.startsWith('IPIP') || !self.cidr.contains(':')")
    .message("encapsulation IPIP carries IPv4 alone; a pool of IPv6 takes VXLAN, VXLANCrossSubnet or None"))]
pub struct IPPoolSpec {
    /// The range, such as 10.244.0.0/16 or `fd00:10:244::/64`. One that is changed counts for new blocks; blocks
    /// that lie outside of it give no more addresses, and go back when their last address is freed.
    #[schemars(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub cidr: String,
    /// Prefix length of the blocks that a node claims; 26 (62 pods) for IPv4 and 122 (63 pods) for IPv6 when
    /// not set. One that is changed counts for new blocks.
    // Kubernetes knows no format `uint8`.
    #[schemars(with = "Option<i32>", range(min = 8, max = 127))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// The nodes that claim blocks of this pool; all when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Addresses and ranges of the pool that are never handed out.
    #[schemars(
        length(max = 256),
        inner(length(min = 2, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"))
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<String>,
    /// Whether pods that name no pool get addresses of this one.
    #[serde(default)]
    pub assignment_mode: AssignmentMode,
    /// Whether blocks and addresses of this pool are withheld from now on. Those in use stay.
    #[serde(default)]
    pub disabled: bool,
    /// How packets to pods with addresses of this pool travel from node to node. Where the network between nodes drops
    /// addresses that it does not know, they need a tunnel. All packets of the cluster's pods get room for it.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// Whether what pods with addresses of this pool send to outside of the cluster comes from the address of their node:
    /// for networks that drop pods' addresses, and for the Internet. Other pools, nodes, and what the agent's
    /// configuration names see pods' own addresses.
    #[serde(default)]
    pub nat_outgoing: bool,
}

/// How packets travel from node to node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encapsulation {
    /// As they are.
    #[default]
    None,
    /// In VXLAN.
    #[serde(rename = "VXLAN")]
    Vxlan,
    /// As they are within a subnet, else in VXLAN.
    #[serde(rename = "VXLANCrossSubnet")]
    VxlanCrossSubnet,
    /// In IP-in-IP (RFC 2003): IPv4 alone, between nodes with IPv4 addresses.
    #[serde(rename = "IPIP")]
    Ipip,
    /// As they are within a subnet, else in IP-in-IP.
    #[serde(rename = "IPIPCrossSubnet")]
    IpipCrossSubnet,
}

/// Who gets addresses of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AssignmentMode {
    /// Pods that name the pool, and pods that name none.
    #[default]
    Automatic,
    /// Pods that name the pool.
    Manual,
}

/// What the agents found out about a pool. Written by the agent of one node; see docs/ipam.md.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// `Ready`: whether nodes get blocks of the pool. The reason says why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Blocks of the pool's range that nodes have.
    #[serde(default)]
    pub claimed_blocks: i64,
    /// Blocks of the pool's block size in its range; the largest number there is when it has more.
    #[serde(default)]
    pub total_blocks: i64,
}
