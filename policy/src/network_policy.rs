//! A NetworkPolicy, checked: what cannot be said here, cannot be meant.

use std::fmt;

use ipnetwork::IpNetwork;

use crate::{PortRange, Protocol, Selector};

/// Names a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names a policy of any kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyId {
    /// A NetworkPolicy.
    Network(PolicyRef),
    /// A ClusterNetworkPolicy.
    Cluster(String),
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "NetworkPolicy {name}"),
            Self::Cluster(name) => write!(f, "ClusterNetworkPolicy {name}"),
        }
    }
}

/// Whether a policy is enforced (`margay.dev/enforcement`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// It is.
    #[default]
    Enforce,
    /// It neither opens nor closes anything; what it would have denied is reported.
    Audit,
}

/// A NetworkPolicy of `networking.k8s.io/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyRef,
    /// The pods of its namespace that it is about.
    pub pod_selector: Selector,
    /// What may come in; `None` when it says nothing about that direction (`policyTypes`). An empty list lets
    /// nothing in.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out, likewise.
    pub egress: Option<Vec<Rule>>,
    /// Whether it is enforced.
    pub enforcement: Enforcement,
}

/// Who may, on which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The far ends.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// The far ends that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Everything, pod or not: the list was left out or empty.
    Any,
    /// What one of these matches. Empty only when every peer of the list was unreadable: nobody.
    Of(Vec<Peer>),
}

/// Far ends of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Pods, by labels of their namespace and their own.
    Pods {
        /// In which namespaces.
        namespaces: NamespaceChoice,
        /// Which pods there.
        pods: Selector,
    },
    /// Addresses, of pods too.
    Block(Block),
    /// The addresses of nodes, by the nodes' labels.
    Nodes(Selector),
}

/// The namespaces in which a peer looks for pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceChoice {
    /// The policy's own, by name.
    Own(String),
    /// Those with these labels.
    Selected(Selector),
}

/// `ipBlock`: a network less parts of it. An `except` is no denial: what another peer matches may pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The network, without host bits.
    pub cidr: IpNetwork,
    /// The parts left out, each inside the network.
    pub except: Vec<IpNetwork>,
}

impl Block {
    /// Whether an address is in the network and in no part left out.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|except| except.contains(address))
    }
}

/// The destination ports that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every protocol and port: the list was left out or empty.
    Any,
    /// One of these. Empty only when every entry of the list was unreadable: none.
    Of(Vec<Port>),
}

/// Destination ports of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Numbered(Protocol, PortRange),
    /// By the name that the destination pod's containers gave it.
    Named(Protocol, String),
}
