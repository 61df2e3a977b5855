//! `BGPNodeStatus`: how the sessions of one node are.
#![expect(clippy::duplicated_attributes, reason = "columns are of the same types")]
#![expect(unreachable_pub, reason = "the derive of the schema repeats the type inside of a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose sessions they are.
#[derive(Debug, Clone, PartialEq, Eq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "margay.dev",
    version = "v1alpha1",
    kind = "BGPNodeStatus",
    plural = "bgpnodestatuses",
    singular = "bgpnodestatus",
    category = "margay",
    status = "BGPSessions",
    doc = "BGPNodeStatus is how the BGP sessions of one node are. The node's agent writes it; its owner is the node.",
    printcolumn(name = "ASN", type_ = "integer", json_path = ".status.asn"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.configured"),
    printcolumn(name = "Established", type_ = "integer", json_path = ".status.established"),
    printcolumn(name = "Problem", type_ = "string", json_path = ".status.problems[0]"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BGPNodeStatusSpec {
    /// The node, whose name the object has too.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the status of a node stays its own"))]
    pub node: String,
}

/// How the sessions of a node are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPSessions {
    /// The AS of the node.
    #[schemars(with = "Option<i64>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// The BGP identifier of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<String>,
    /// How many sessions there should be.
    #[schemars(with = "i32")]
    #[serde(default)]
    pub configured: u32,
    /// How many of them are established.
    #[schemars(with = "i32")]
    #[serde(default)]
    pub established: u32,
    /// When the agent last wrote it, which it does every few minutes without a change too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_time: Option<Time>,
    /// The sessions, by the address of the other end.
    #[serde(default)]
    pub sessions: Vec<BGPSession>,
    /// What is wrong with the objects that this node follows: which of them, in which field.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// How one session is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPSession {
    /// The address of the other end.
    pub peer: String,
    /// Who that is: `node n2`, or the `BGPPeer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its AS.
    #[schemars(with = "i64")]
    pub asn: u32,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established` (RFC 4271 section 8.2.2).
    pub state: String,
    /// Since when.
    pub since: Time,
    /// Prefixes that the other end announces.
    #[schemars(with = "i64")]
    pub received: u64,
    /// Those of them that the import filter accepts.
    #[schemars(with = "i64")]
    pub accepted: u64,
    /// Prefixes that the node announces.
    #[schemars(with = "i64")]
    pub advertised: u64,
    /// The state of BFD, where it is on: `AdminDown`, `Down`, `Init` or `Up` (RFC 5880 section 6.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// Why the session, or the last attempt, ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
