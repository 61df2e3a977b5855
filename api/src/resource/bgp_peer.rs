//! `BGPPeer`: a session that some nodes have.
#![expect(clippy::duplicated_attributes, reason = "columns are of the same types")]
#![expect(unreachable_pub, reason = "the derive of the schema repeats the type inside of a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bgp_configuration::{Bfd, GracefulRestart};

/// A session that some nodes have: to a router by its address, or to other nodes by a selector.
#[derive(Debug, Clone, Default, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "margay.dev",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    singular = "bgppeer",
    category = "margay",
    status = "BGPPeerStatus",
    doc = "BGPPeer is a BGP session that some nodes have: to a router by its address, or to other nodes by a selector.",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.asn"),
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.address) != has(self.peerSelector)")
    .message("give either address or peerSelector"))]
#[x_kube(validation = Rule::new("has(self.address) == has(self.asn)")
    .message("asn goes with address; nodes of a peerSelector have theirs"))]
#[x_kube(validation = Rule::new("!has(self.ttl) || !has(self.ttlSecurity)")
    .message("ttlSecurity sets the ttl: leave ttl out"))]
#[x_kube(validation = Rule::new("!has(self.interface) || (has(self.address) && self.address.startsWith('fe80:'))")
    .message("interface goes with a link-local address"))]
#[x_kube(validation = Rule::new("has(self.address) || (!has(self.port) && !has(self.sourceAddress))")
    .message("port and sourceAddress go with address"))]
pub struct BGPPeerSpec {
    /// The nodes that have the session; all when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// The router's address.
    #[schemars(length(min = 2, max = 45), regex(pattern = r"^[0-9a-fA-F.:]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The router's TCP port; 179 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The nodes' interface on which a router with a link-local address is.
    #[schemars(length(min = 1, max = 15))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The router's AS.
    // Kubernetes knows no format `uint32`.
    #[schemars(with = "Option<i64>", range(min = 1, max = 4_294_967_295_u32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// In place of an address: the nodes at the other end. Both ends follow this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<LabelSelector>,
    /// Signs each segment with MD5 (RFC 2385). Without the Secret there is no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordSource>,
    /// The nodes' end of the session; the node's address of the same family when not set.
    #[schemars(length(min = 2, max = 45), regex(pattern = r"^[0-9a-fA-F.:]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// Whether the nodes only accept the session, and never dial.
    #[serde(default)]
    pub passive: bool,
    /// Hops that the session may span: the time to live of packets. When not set 64, but 1 to a router (`address`) in
    /// another AS.
    #[schemars(with = "Option<i32>", range(min = 1, max = 255))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Hops that the other end may be away; packets from further away are dropped (RFC 5082). It must do the same.
    #[schemars(with = "Option<i32>", range(min = 1, max = 254))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Seconds of silence after which the session is dead: 0 (never) or 3 to 65535. KEEPALIVEs go out every third of
    /// what both ends agree on.
    #[schemars(with = "Option<i32>", range(min = 0, max = 65535))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("holdTimeSeconds is 0 or at least 3 (RFC 4271)"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time_seconds: Option<u16>,
    /// Families of routes; both when empty.
    #[schemars(length(max = 2))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<AddressFamily>,
    /// What happens to routes while one end restarts; that of the `BGPConfiguration` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// Has BFD watch the path (RFC 5880); off when not set. Without `multihop` it is that of one hop (port 3784) where the
    /// session may span no more: a router in another AS without `ttl`, `ttl: 1`, `ttlSecurity: 1`, or a link-local address.
    /// Otherwise it is that of several (port 4784). The other end must see it alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Several paths to one prefix (RFC 7911), of which each costs memory at the receiver; one when not set.
    #[x_kube(validation = Rule::new("self.direction != 'Receive' || !has(self.sendLimit)")
        .message("sendLimit goes with direction Send or Both"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_path: Option<AddPath>,
    /// Whether the nodes name themselves as next hop of all that they tell.
    #[serde(default)]
    pub next_hop_self: bool,
    /// Whether the nodes reflect routes for the other end, which is in their AS (RFC 4456).
    #[serde(default)]
    pub route_reflector_client: bool,
    /// How many prefixes the other end may announce; any number when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,
    /// What the nodes take from the other end; all when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Filter>,
    /// What the nodes tell the other end; all when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Filter>,
    /// For people.
    #[schemars(length(max = 255))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What the agents found out about a session's object. Written by the agent of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BGPPeerStatus {
    /// `Accepted`: whether all of it can be read. The message says which field cannot, and what that costs. How sessions are
    /// is in each node's `BGPNodeStatus`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a password is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSource {
    /// In a Secret of the agent's namespace that its Role names.
    pub secret_key_ref: SecretKey,
}

/// An entry of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the entry, which has 1 to 80 octets.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A family of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressFamily {
    /// IPv4 unicast.
    IPv4,
    /// IPv6 unicast.
    IPv6,
}

/// Several paths to one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddPath {
    /// Which way they go, as the nodes of `nodeSelector` see it. The other end must agree.
    pub direction: AddPathDirection,
    /// How many paths to one prefix the nodes send at most; all when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 255))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_limit: Option<u8>,
}

/// Which way several paths to one prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddPathDirection {
    /// From the other end to the nodes.
    Receive,
    /// From the nodes to the other end.
    Send,
    /// Both ways.
    Both,
}

/// How many prefixes the other end may announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaxPrefixes {
    /// The number, of all families together.
    #[schemars(with = "i64", range(min = 1, max = 4_294_967_295_u32))]
    pub limit: u32,
    /// The share of the limit from which a warning is logged; 75 when not set.
    #[schemars(with = "Option<i32>", range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_percent: Option<u8>,
    /// What happens when there are more.
    #[serde(default)]
    pub action: AtLimit,
}

/// What happens when the other end announces more prefixes than it may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AtLimit {
    /// The session ends, and begins again as after any failure.
    #[default]
    Restart,
    /// The session ends until `margayctl bgp reset` on the node.
    Idle,
    /// A warning is logged, and all are taken.
    Warn,
}

/// Which routes pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Asked in order; the first that fits and accepts or rejects decides.
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<FilterRule>,
    /// What becomes of a route that no rule decides about.
    #[serde(default)]
    pub default: FilterDefault,
}

/// What becomes of a route that no rule decides about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterDefault {
    /// It passes.
    Accept,
    /// It does not.
    #[default]
    Reject,
}

/// A rule of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterRule {
    /// For people.
    #[schemars(length(max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which routes it is about: those that fit all fields, of each list one entry. All when not set.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub conditions: Option<FilterMatch>,
    /// What it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<FilterSet>,
    /// What it decides.
    pub action: FilterAction,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterAction {
    /// The route passes.
    Accept,
    /// It does not.
    Reject,
    /// The next rule is asked, and sees what this one has changed.
    Next,
}

/// A character of a regular expression that is no parenthesis, an escaped one, or a class of them.
macro_rules! atom {
    () => {
        r"[^\\()\[]|\\.|\[\^?\]?([^\]\\]|\\.)*\]"
    };
}

/// A regular expression in which classes and groups end, these in three levels at most. The agents know all of what may be written: this
/// is for the slips of the pen that are told when it is applied.
const BALANCED: &str =
    concat!("^(", atom!(), r"|\((", atom!(), r"|\((", atom!(), r"|\((", atom!(), r")*\))*\))*\))*$");

/// Which routes a rule is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterMatch {
    /// Prefixes.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<PrefixRange>,
    /// Communities of all kinds.
    #[schemars(length(max = 64), inner(length(min = 3, max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// ASes of which one is in the path.
    #[schemars(with = "Vec<i64>", length(max = 64), inner(range(min = 1, max = 4_294_967_295_u32)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_contains: Vec<u32>,
    /// Regular expressions of which one fits the AS path, such as `^64501_`; docs/bgp.md says how they are written.
    #[schemars(length(max = 16), inner(length(min = 1, max = 256), regex(pattern = BALANCED)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_regex: Vec<String>,
    /// Who announced the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RouteSource>,
}

/// Prefixes within another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixRange {
    /// What they are within.
    #[schemars(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub cidr: String,
    /// Their least length; the length of `cidr` when not set.
    #[schemars(with = "Option<i32>", range(min = 0, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ge: Option<u8>,
    /// Their greatest length; with `ge` all, without it the length of `cidr` when not set.
    #[schemars(with = "Option<i32>", range(min = 0, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub le: Option<u8>,
}

/// Who announced a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RouteSource {
    /// The node itself.
    Local,
    /// Somebody in the node's AS.
    Internal,
    /// Somebody in another AS.
    External,
}

/// What a rule changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterSet {
    /// The local preference.
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_u32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<u32>,
    /// The multi-exit discriminator.
    #[schemars(with = "Option<i64>", range(min = 0, max = 4_294_967_295_u32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Communities that come.
    #[schemars(length(max = 16), inner(length(min = 3, max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_communities: Vec<String>,
    /// Communities that go, before others come.
    #[schemars(length(max = 16), inner(length(min = 3, max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_communities: Vec<String>,
    /// How often the nearest AS is said once more.
    #[schemars(with = "Option<i32>", range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepend: Option<u8>,
}
