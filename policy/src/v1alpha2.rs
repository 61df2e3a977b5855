//! The API's ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), as far as it decides.
//!
//! It is read so that no part of an object hides the others: a peer or protocol of a form that is not known here, of a
//! newer version or of a mistake, is an [`Entry::Unreadable`], about which [`crate::convert_cluster`] decides.

use k8s_openapi::{
    ClusterResourceScope, Metadata, Resource,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// A policy of the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Standard object's metadata.
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: ClusterNetworkPolicySpec,
}

/// What a policy says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ClusterNetworkPolicySpec {
    /// `Admin` or `Baseline`.
    #[serde(default)]
    pub tier: Option<String>,
    /// 0 to 1000, the lowest first.
    #[serde(default)]
    pub priority: Option<i64>,
    /// The pods that it is about.
    #[serde(default)]
    pub subject: Option<Entry<Subject>>,
    /// What comes in, in order.
    #[serde(default)]
    pub ingress: Option<Vec<IngressRule>>,
    /// What goes out, in order.
    #[serde(default)]
    pub egress: Option<Vec<EgressRule>>,
}

/// The pods that a policy is about: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// All pods of namespaces.
    #[serde(default)]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    #[serde(default)]
    pub pods: Option<NamespacedPod>,
}

/// Some pods of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPod {
    /// Which namespaces; all if it is empty.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Which pods there; all if it is empty.
    #[serde(default)]
    pub pod_selector: LabelSelector,
}

/// What becomes of traffic that comes in.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct IngressRule {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(default)]
    pub action: Option<String>,
    /// Where it comes from.
    #[serde(default)]
    pub from: Option<Vec<Entry<IngressPeer>>>,
    /// The destination ports; all if it is left out.
    #[serde(default)]
    pub protocols: Option<Vec<Entry<ProtocolMatch>>>,
}

/// What becomes of traffic that goes out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct EgressRule {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(default)]
    pub action: Option<String>,
    /// Where it goes.
    #[serde(default)]
    pub to: Option<Vec<Entry<EgressPeer>>>,
    /// The destination ports; all if it is left out.
    #[serde(default)]
    pub protocols: Option<Vec<Entry<ProtocolMatch>>>,
}

/// A source: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressPeer {
    /// All pods of namespaces.
    #[serde(default)]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    #[serde(default)]
    pub pods: Option<NamespacedPod>,
}

/// A destination: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPeer {
    /// All pods of namespaces.
    #[serde(default)]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    #[serde(default)]
    pub pods: Option<NamespacedPod>,
    /// The addresses of nodes.
    #[serde(default)]
    pub nodes: Option<LabelSelector>,
    /// Networks, of pods too.
    #[serde(default)]
    pub networks: Option<Vec<String>>,
    /// Names in the DNS.
    #[serde(default)]
    pub domain_names: Option<Vec<String>>,
}

/// Destination ports: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProtocolMatch {
    /// Of TCP.
    #[serde(default)]
    pub tcp: Option<PortMatch>,
    /// Of UDP.
    #[serde(default)]
    pub udp: Option<PortMatch>,
    /// Of SCTP.
    #[serde(default)]
    pub sctp: Option<PortMatch>,
    /// Of the protocol and number that the destination pod gives the name.
    #[serde(default)]
    pub destination_named_port: Option<String>,
}

/// Ports of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMatch {
    /// The destination's.
    #[serde(default)]
    pub destination_port: Option<DestinationPort>,
}

/// A port or several: exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationPort {
    /// One.
    #[serde(default)]
    pub number: Option<i64>,
    /// Several.
    #[serde(default)]
    pub range: Option<DestinationRange>,
}

/// Ports from `start` to `end`, both included.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationRange {
    /// The lowest.
    pub start: i64,
    /// The highest.
    pub end: i64,
}

/// A part of an object that may be of a form that is not known here.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry<T> {
    /// It is known.
    Read(T),
    /// It is not, and why.
    Unreadable(String),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Entry<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(T::deserialize(value).map_or_else(|error| Self::Unreadable(error.to_string()), Self::Read))
    }
}

impl Resource for ClusterNetworkPolicy {
    const API_VERSION: &'static str = "policy.networking.k8s.io/v1alpha2";
    const GROUP: &'static str = "policy.networking.k8s.io";
    const KIND: &'static str = "ClusterNetworkPolicy";
    const VERSION: &'static str = "v1alpha2";
    const URL_PATH_SEGMENT: &'static str = "clusternetworkpolicies";
    type Scope = ClusterResourceScope;
}

impl Metadata for ClusterNetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
