//! The reference evaluator: may this flow pass, and which rule says so.
//!
//! Written in the order of the specification (Kubernetes, "Network Policies" and the API reference of
//! `NetworkPolicySpec`), one sentence after the other, and for nothing but being right.

use std::net::IpAddr;

use crate::{NamespaceChoice, Objects, Peer, Peers, Pod, Policy, PolicyRef, Port, Ports, Protocol, Rule};

/// A new connection, or a datagram that is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: u16,
}

/// What one side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// It is no pod of the pod network, or no policy isolates it in this direction.
    NotIsolated,
    /// A rule opens it.
    Allowed {
        /// Of this policy.
        policy: PolicyRef,
        /// The rule's place in the policy's list, from 0.
        rule: usize,
    },
    /// It is isolated and no rule opens it.
    Denied {
        /// By these policies.
        isolated_by: Vec<PolicyRef>,
    },
}

/// What both sides say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The source's policies.
    pub egress: Side,
    /// The destination's policies.
    pub ingress: Side,
}

impl Decision {
    /// "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the
    /// source pod and the ingress policy on the destination pod need to allow the connection."
    pub fn allowed(&self) -> bool {
        !matches!(self.egress, Side::Denied { .. }) && !matches!(self.ingress, Side::Denied { .. })
    }
}

enum Way {
    Ingress,
    Egress,
}

/// Decides about a flow.
pub fn evaluate(objects: &Objects, flow: &Flow) -> Decision {
    let owners = objects.owners();
    let source = owners.get(&flow.source).copied();
    let destination = owners.get(&flow.destination).copied();
    if flow.source == flow.destination {
        // "A Pod cannot block access to itself."
        return Decision { egress: Side::NotIsolated, ingress: Side::NotIsolated };
    }
    Decision {
        egress: side(objects, &Way::Egress, source, (flow.destination, destination), destination, flow),
        ingress: side(objects, &Way::Ingress, destination, (flow.source, source), destination, flow),
    }
}

fn side(
    objects: &Objects,
    way: &Way,
    subject: Option<&Pod>,
    far: (IpAddr, Option<&Pod>),
    destination: Option<&Pod>,
    flow: &Flow,
) -> Side {
    let Some(subject) = subject else { return Side::NotIsolated };
    let mut isolated_by = Vec::new();
    for policy in objects.policies.values().filter(|policy| selects(policy, subject)) {
        let rules = match way {
            Way::Ingress => &policy.ingress,
            Way::Egress => &policy.egress,
        };
        // "A pod is isolated for a direction if there is any NetworkPolicy that both selects the pod and has
        // that direction in its policyTypes."
        let Some(rules) = rules else { continue };
        isolated_by.push(policy.name.clone());
        if let Some(rule) = rules.iter().position(|rule| opens(objects, rule, far, destination, flow)) {
            return Side::Allowed { policy: policy.name.clone(), rule };
        }
    }
    if isolated_by.is_empty() { Side::NotIsolated } else { Side::Denied { isolated_by } }
}

fn selects(policy: &Policy, pod: &Pod) -> bool {
    policy.name.namespace == pod.name.namespace && policy.pod_selector.matches(&pod.labels)
}

fn opens(
    objects: &Objects,
    rule: &Rule,
    far: (IpAddr, Option<&Pod>),
    destination: Option<&Pod>,
    flow: &Flow,
) -> bool {
    let (address, pod) = far;
    let peer = match &rule.peers {
        Peers::Any => true,
        Peers::Of(peers) => peers.iter().any(|peer| match peer {
            Peer::Block(block) => block.contains(address),
            Peer::Nodes(selector) => objects
                .nodes
                .values()
                .any(|node| selector.matches(&node.labels) && node.addresses.contains(&address)),
            Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
                let namespace = match namespaces {
                    NamespaceChoice::Own(name) => *name == pod.name.namespace,
                    NamespaceChoice::Selected(selector) => {
                        selector.matches(&objects.namespace_labels(&pod.name.namespace))
                    }
                };
                namespace && pods.matches(&pod.labels)
            }),
        }),
    };
    let port = match &rule.ports {
        Ports::Any => true,
        Ports::Of(ports) => ports.iter().any(|port| match port {
            Port::Numbered(protocol, range) => *protocol == flow.protocol && range.contains(flow.port),
            // "The port on the given protocol ... a named port on a pod": the destination's, in either direction.
            Port::Named(protocol, name) => {
                *protocol == flow.protocol
                    && destination.is_some_and(|pod| {
                        pod.ports.iter().any(|port| {
                            port.name == *name && port.protocol == *protocol && port.number == flow.port
                        })
                    })
            }
        }),
    };
    peer && port
}

#[cfg(test)]
mod tests;
