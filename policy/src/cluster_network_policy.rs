//! A ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), checked.

use crate::{Enforcement, Peers, Ports, Selector};

/// A policy of the whole cluster, before (Admin) or behind (Baseline) the NetworkPolicies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Its name; it is in no namespace.
    pub name: String,
    /// Where it stands among all policies.
    pub tier: Tier,
    /// Within its tier the lowest comes first; of equal ones, the first by name.
    pub priority: u16,
    /// The pods that it is about.
    pub subject: Subject,
    /// What comes in, in order: the first rule that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// What goes out, likewise.
    pub egress: Vec<ClusterRule>,
    /// Whether it is enforced.
    pub enforcement: Enforcement,
}

/// A place in the order of decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before any NetworkPolicy.
    Admin,
    /// For pods that no NetworkPolicy isolates in the direction.
    Baseline,
}

/// Pods of the pod network, by labels of their namespace and their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// In which namespaces.
    pub namespaces: Selector,
    /// Which pods there.
    pub pods: Selector,
}

/// What becomes of some traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRule {
    /// Its name; may be empty.
    pub name: String,
    /// What becomes of it.
    pub action: Action,
    /// The far ends. A rule of which a peer cannot be read fails closed: see [`crate::convert_cluster`].
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// What becomes of traffic that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It passes this direction, and nothing behind this rule is asked.
    Accept,
    /// It is dropped.
    Deny,
    /// The rest of the tier is not asked.
    Pass,
}
