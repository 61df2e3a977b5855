//! `BGPConfiguration`: what the speakers of all nodes have in common.
#![expect(unreachable_pub, reason = "the derive of the schema repeats the type inside of a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the speakers of all nodes have in common. A field that is not set leaves the agent's own setting as it is.
#[derive(Debug, Clone, Default, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "margay.dev",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    singular = "bgpconfiguration",
    category = "margay",
    status = "BGPConfigurationStatus",
    doc = "BGPConfiguration is what the BGP speakers of all nodes have in common. The one named default counts.",
    validation = Rule::new("self.metadata.name == 'default'").message("the one BGPConfiguration is named default"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.asn"),
    printcolumn(name = "Mesh", type_ = "string", json_path = ".spec.mesh"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BGPConfigurationSpec {
    /// The AS of nodes without the annotation margay.dev/bgp-asn.
    // Kubernetes knows no format `uint32`.
    #[schemars(with = "Option<i64>", range(min = 1, max = 4_294_967_295_u32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Which nodes have sessions to each other without a `BGPPeer` that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<Mesh>,
    /// The TCP port on which speakers accept connections of all kinds, and dial those of other nodes; 179 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Seconds of silence after which a session is dead: 0 (never) or 3 to 65535; the shorter of both ends counts.
    #[schemars(with = "Option<i32>", range(min = 0, max = 65535))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("holdTimeSeconds is 0 or at least 3 (RFC 4271)"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time_seconds: Option<u16>,
    /// Seconds from a failed dial to the next; 5 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 3600))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_retry_seconds: Option<u16>,
    /// What happens to routes while one end of a session restarts, of sessions whose `BGPPeer` says nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// Has BFD watch the paths of the sessions that nodes have by themselves (RFC 5880), as over several hops
    /// (port 4784) unless `multihop` says otherwise; off when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Which addresses of Services are announced; none when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_addresses: Option<ServiceAddresses>,
    /// What is said with the routes of nodes' own. All that a route is within count.
    #[schemars(length(max = 16))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announcements: Vec<Announcement>,
}

/// What the agents found out about the configuration. Written by the agent of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPConfigurationStatus {
    /// `Accepted`: whether all of it can be read. The message says which field cannot, and what that costs. How sessions are
    /// is in each node's `BGPNodeStatus`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Which nodes have sessions to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mesh {
    /// All, unless a node is a route reflector.
    Auto,
    /// All, beside the sessions to route reflectors.
    Full,
    /// None but those to route reflectors.
    Disabled,
}

/// What happens to routes while one end of a session restarts (RFC 4724, 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Whether they outlive it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Seconds for which the other end should keep our routes; 120 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 4095))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_time_seconds: Option<u16>,
    /// Seconds for which stale routes are kept beyond that, as a last resort; 0 when not set.
    #[schemars(with = "Option<i32>", range(min = 0, max = 16_777_215))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_time_seconds: Option<u32>,
}

/// How BFD watches the path of a session. In each direction the slower end decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Milliseconds between packets that we send and take; 300 when not set.
    #[schemars(with = "Option<i32>", range(min = 10, max = 60000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_milliseconds: Option<u16>,
    /// How many of our packets the other end may miss; 3 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 255))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<u8>,
    /// Whether routers may be on the path: BFD of several hops (port 4784, RFC 5883) or of one (port 3784, RFC 5881); as
    /// the session when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
}

fn yes() -> bool {
    true
}

/// Which addresses of Services are announced. Only addresses within these ranges are: whoever can write a Service could
/// otherwise draw any address to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAddresses {
    /// Ranges of cluster IPs, announced whole by every node. A Service with `internalTrafficPolicy: Local` has host routes
    /// beside it, of the nodes with its endpoints.
    #[schemars(
        length(max = 16),
        inner(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Ranges of which the external IPs of Services are announced, by host routes of the nodes that serve them.
    #[schemars(
        length(max = 16),
        inner(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    /// Ranges of which the load balancer IPs of Services are announced, by host routes of the nodes that serve them.
    #[schemars(
        length(max = 16),
        inner(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    #[serde(default, rename = "loadBalancerIPs", skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_ips: Vec<String>,
}

/// What is said with routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Announcement {
    /// Of which routes: those within it.
    #[schemars(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub cidr: String,
    /// Communities that they get: `64500:100`, `64500:1:2`, `no-export` and others of docs/bgp.md.
    #[schemars(length(max = 16), inner(length(min = 3, max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// The local preference that they have for neighbours in the same AS.
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_u32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<u32>,
}
