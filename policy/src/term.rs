//! Terms: the smallest sets of addresses that policies in use tell apart.

use crate::{Block, NamespaceChoice, Peer, Peers, Pod, Protocol, Selector, selector::Labels};

/// A set of addresses that a rule names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Term {
    /// Pods by labels and, for a named port of an egress rule, by what their port of that name is.
    Pods { namespaces: NamespaceChoice, pods: Selector, port: Option<ResolvedPort> },
    /// Nodes, by their labels.
    Nodes(Selector),
    /// Addresses, of pods too.
    Block { block: Block, port: Option<ResolvedPort> },
}

/// "Has a port of this name and protocol, and its number is this".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResolvedPort {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

impl ResolvedPort {
    fn is_of(&self, pod: &Pod) -> bool {
        pod.ports.iter().any(|port| {
            port.name == self.name && port.protocol == self.protocol && port.number == self.number
        })
    }
}

impl Term {
    /// The terms of a rule's peers. `port` narrows each to pods whose port resolves so, in which case "any"
    /// becomes a term too: all pods.
    pub(crate) fn of_peers(peers: &Peers, port: Option<&ResolvedPort>) -> Vec<Self> {
        match peers {
            Peers::Any => vec![Self::Pods {
                namespaces: NamespaceChoice::Selected(Selector::default()),
                pods: Selector::default(),
                port: port.cloned(),
            }],
            Peers::Of(peers) => peers.iter().filter_map(|peer| Self::of_peer(peer, port)).collect(),
        }
    }

    fn of_peer(peer: &Peer, port: Option<&ResolvedPort>) -> Option<Self> {
        Some(match peer {
            Peer::Pods { namespaces, pods } => {
                Self::Pods { namespaces: namespaces.clone(), pods: pods.clone(), port: port.cloned() }
            }
            Peer::Block(block) => Self::Block { block: block.clone(), port: port.cloned() },
            // What runs in a node's own network has no named ports.
            Peer::Nodes(_) if port.is_some() => return None,
            Peer::Nodes(nodes) => Self::Nodes(nodes.clone()),
        })
    }

    /// Whether a pod at an address, in a namespace with these labels, is in it.
    pub(crate) fn has_pod(&self, namespace: &Labels, pod: &Pod, address: std::net::IpAddr) -> bool {
        match self {
            Self::Pods { namespaces, pods, port } => {
                let in_namespace = match namespaces {
                    NamespaceChoice::Own(name) => **name == *pod.name.namespace,
                    NamespaceChoice::Selected(selector) => selector.matches(namespace),
                };
                in_namespace && pods.matches(&pod.labels) && port.as_ref().is_none_or(|port| port.is_of(pod))
            }
            Self::Nodes(_) => false,
            Self::Block { block, port } => {
                block.contains(address) && port.as_ref().is_none_or(|port| port.is_of(pod))
            }
        }
    }

    /// The addresses in it that need not be a pod's.
    pub(crate) fn block(&self) -> Option<&Block> {
        match self {
            Self::Block { block, port: None } => Some(block),
            _ => None,
        }
    }
}
