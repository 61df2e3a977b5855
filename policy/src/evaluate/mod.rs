//! The reference evaluator: may this flow pass, and which rule says so.
//!
//! Written in the order of the specifications (Kubernetes, "Network Policies" and the API reference of
//! `NetworkPolicySpec`; the API reference of `ClusterNetworkPolicySpec`), one sentence after the other, and for nothing
//! but being right.

use std::net::IpAddr;

use crate::{
    Action, ClusterPolicy, ClusterRule, Enforcement, NamespaceChoice, Objects, Peer, Peers, Pod, Policy,
    PolicyId, PolicyRef, Port, Ports, Protocol, Rule, Tier,
};

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
    /// Nothing: it is no pod of the pod network, or no rule of a ClusterNetworkPolicy decides and no NetworkPolicy isolates
    /// it in this direction.
    NotIsolated,
    /// A rule opens it.
    Allowed {
        /// Of this policy.
        policy: PolicyId,
        /// The rule's place in the policy's list, from 0.
        rule: usize,
    },
    /// A rule of a ClusterNetworkPolicy closes it.
    Denied {
        /// The policy's name.
        policy: String,
        /// The rule's place in the policy's list, from 0.
        rule: usize,
    },
    /// It is isolated and no rule opens it.
    Isolated {
        /// By these policies.
        by: Vec<PolicyRef>,
    },
}

impl Side {
    /// Whether the flow may pass this side.
    pub fn allows(&self) -> bool {
        match self {
            Self::NotIsolated | Self::Allowed { .. } => true,
            Self::Denied { .. } | Self::Isolated { .. } => false,
        }
    }
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
        self.egress.allows() && self.ingress.allows()
    }
}

/// Decides about a flow, as it is enforced.
pub fn evaluate(objects: &Objects, flow: &Flow) -> Decision {
    decide(objects, flow, &|enforcement| enforcement == Enforcement::Enforce)
}

/// Decides about a flow between two pods, or whatever else has the two addresses: for those who know whose they are, which
/// [`evaluate`] looks for among all pods.
pub fn evaluate_between<'a>(
    objects: &'a Objects,
    flow: &Flow,
    source: Option<&'a Pod>,
    destination: Option<&'a Pod>,
) -> Decision {
    judge(objects, flow, (source, destination), &|enforcement| enforcement == Enforcement::Enforce)
}

/// Decides about a flow as if the policies in audit were enforced, too. What is allowed now, and would not be then, is
/// what an audit finds.
pub fn evaluate_audited(objects: &Objects, flow: &Flow) -> Decision {
    decide(objects, flow, &|_| true)
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Ingress,
    Egress,
}

fn decide(objects: &Objects, flow: &Flow, counts: &dyn Fn(Enforcement) -> bool) -> Decision {
    let owners = objects.owners();
    let of = |address| owners.get(address).copied();
    judge(objects, flow, (of(&flow.source), of(&flow.destination)), counts)
}

fn judge<'a>(
    objects: &'a Objects,
    flow: &'a Flow,
    (source, destination): (Option<&'a Pod>, Option<&'a Pod>),
    counts: &'a dyn Fn(Enforcement) -> bool,
) -> Decision {
    if flow.source == flow.destination {
        // "A Pod cannot block access to itself."
        return Decision { egress: Side::NotIsolated, ingress: Side::NotIsolated };
    }
    let asked = Asked { objects, flow, destination, counts };
    Decision {
        egress: asked.side(Way::Egress, source, (flow.destination, destination)),
        ingress: asked.side(Way::Ingress, destination, (flow.source, source)),
    }
}

/// A flow before all policies.
struct Asked<'a> {
    objects: &'a Objects,
    flow: &'a Flow,
    /// The pod that it goes to.
    destination: Option<&'a Pod>,
    /// Which policies are asked.
    counts: &'a dyn Fn(Enforcement) -> bool,
}

/// The address at the other end, and the pod that has it.
type FarEnd<'a> = (IpAddr, Option<&'a Pod>);

impl Asked<'_> {
    fn side(&self, way: Way, subject: Option<&Pod>, far: FarEnd<'_>) -> Side {
        // "Note that host-networked pods are not included in subject selection."
        let Some(subject) = subject else { return Side::NotIsolated };
        // "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier."
        self.tier(Tier::Admin, way, subject, far)
            .or_else(|| self.network_policies(way, subject, far))
            .or_else(|| self.tier(Tier::Baseline, way, subject, far))
            // "... the default kubernetes policy is applied, which says that all pods can communicate with each other."
            .unwrap_or(Side::NotIsolated)
    }

    /// What a tier of ClusterNetworkPolicies says; `None` when it leaves it to the next.
    fn tier(&self, tier: Tier, way: Way, subject: &Pod, far: FarEnd<'_>) -> Option<Side> {
        let all = self.objects.cluster_policies.values();
        let mut policies: Vec<&ClusterPolicy> = all
            .filter(|it| it.tier == tier && (self.counts)(it.enforcement) && self.is_subject(it, subject))
            .collect();
        // "Policies with lower priority values have higher precedence." Of equal ones any may win: the first by name.
        policies.sort_by_key(|policy| (policy.priority, &policy.name));
        for policy in policies {
            let rules = match way {
                Way::Ingress => &policy.ingress,
                Way::Egress => &policy.egress,
            };
            // "A rule that appears at the top of the ingress rules would take the highest precedence."
            let matching =
                rules.iter().position(|ClusterRule { peers, ports, .. }| self.matches(peers, ports, far));
            let Some(rule) = matching else { continue };
            return match rules.get(rule)?.action {
                // "No further ingress ClusterNetworkPolicy or NetworkPolicy rules will be processed."
                Action::Accept => {
                    Some(Side::Allowed { policy: PolicyId::Cluster(policy.name.clone()), rule })
                }
                Action::Deny => Some(Side::Denied { policy: policy.name.clone(), rule }),
                // "Skips all further ClusterNetworkPolicy rules in the current tier, ... and passes evaluation to the
                // next tier."
                Action::Pass => None,
            };
        }
        None
    }

    /// What the NetworkPolicies say; `None` when none isolates the pod.
    fn network_policies(&self, way: Way, subject: &Pod, far: FarEnd<'_>) -> Option<Side> {
        let mut by = Vec::new();
        for policy in self.objects.policies.values() {
            if !(self.counts)(policy.enforcement) || !selects(policy, subject) {
                continue;
            }
            let rules = match way {
                Way::Ingress => &policy.ingress,
                Way::Egress => &policy.egress,
            };
            // "A pod is isolated for a direction if there is any NetworkPolicy that both selects the pod and has
            // that direction in its policyTypes."
            let Some(rules) = rules else { continue };
            by.push(policy.name.clone());
            if let Some(rule) = rules.iter().position(|Rule { peers, ports }| self.matches(peers, ports, far))
            {
                return Some(Side::Allowed { policy: PolicyId::Network(policy.name.clone()), rule });
            }
        }
        // "v1.NetworkPolicy always makes a final decision for selected pods."
        (!by.is_empty()).then_some(Side::Isolated { by })
    }

    fn is_subject(&self, policy: &ClusterPolicy, pod: &Pod) -> bool {
        policy.subject.namespaces.matches(&self.objects.namespace_labels(&pod.name.namespace))
            && policy.subject.pods.matches(&pod.labels)
    }

    fn matches(&self, peers: &Peers, ports: &Ports, far: FarEnd<'_>) -> bool {
        let peer = match peers {
            Peers::Any => true,
            Peers::Of(peers) => peers.iter().any(|peer| self.is_peer(peer, far)),
        };
        let port = match ports {
            Ports::Any => true,
            Ports::Of(ports) => ports.iter().any(|port| self.is_port(port)),
        };
        peer && port
    }

    fn is_peer(&self, peer: &Peer, (address, pod): FarEnd<'_>) -> bool {
        match peer {
            // "Cluster-internal traffic will be checked against the rule as well."
            Peer::Block(block) => {
                let mut named = self.objects.nodes.values().flat_map(|node| node.named_by(address));
                block.contains(address) || named.any(|own| block.contains(own))
            }
            // "It selects the nodeIPs as the peer type by matching on the IPs present in the node.Status.Addresses."
            Peer::Nodes(selector) => {
                let mut nodes = self.objects.nodes.values();
                nodes.any(|node| {
                    let mut all = node.addresses.iter().chain(&node.tunnels);
                    selector.matches(&node.labels) && all.any(|own| *own == address)
                })
            }
            Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
                let namespace = match namespaces {
                    NamespaceChoice::Own(name) => **name == *pod.name.namespace,
                    NamespaceChoice::Selected(selector) => {
                        selector.matches(&self.objects.namespace_labels(&pod.name.namespace))
                    }
                };
                namespace && pods.matches(&pod.labels)
            }),
        }
    }

    fn is_port(&self, port: &Port) -> bool {
        let flow = self.flow;
        match port {
            Port::Numbered(protocol, range) => *protocol == flow.protocol && range.contains(flow.port),
            // "The port on the given protocol ... a named port on a pod": the destination's, in either direction.
            Port::Named(protocol, name) => {
                *protocol == flow.protocol
                    && self.destination.is_some_and(|pod| {
                        pod.ports.iter().any(|port| {
                            port.name == *name && port.protocol == *protocol && port.number == flow.port
                        })
                    })
            }
        }
    }
}

fn selects(policy: &Policy, pod: &Pod) -> bool {
    *policy.name.namespace == *pod.name.namespace && policy.pod_selector.matches(&pod.labels)
}

#[cfg(test)]
mod tests;
