//! What a dataplane holds, and what of it has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{AddressRange, PodName, PolicyRef, PortRange, PortSet, Protocol};

/// A class of addresses, local to the node. 0 is of addresses that match no term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Of addresses that match no term.
    pub const NONE: Self = Self(0);
}

/// Local pods that the same policies select, with the same numbers behind the ports that those name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicySetId(pub u32);

/// A ClusterNetworkPolicy and direction, as what a verdict may be due to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CauseId(pub u32);

/// A direction, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Way {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// What happens to a packet in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny(Cause),
    /// It passes, and would be dropped if the policies that are only audited were enforced.
    Audit(Cause),
}

impl Verdict {
    /// Whether the packet passes.
    pub fn passes(self) -> bool {
        !matches!(self, Self::Deny(_))
    }
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// NetworkPolicies isolate the pod, and no rule of theirs opens this.
    Isolation,
    /// A rule of a ClusterNetworkPolicy denies it.
    Cluster(CauseId),
}

/// What is decided about the pods of one policy set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// About packets to the pod, by the class of their source; `None` when no policy is about those.
    pub ingress: Option<Direction>,
    /// About packets from the pod, by the class of their destination, likewise.
    pub egress: Option<Direction>,
}

impl PolicySet {
    /// One of its directions.
    pub fn way(&self, way: Way) -> Option<&Direction> {
        match way {
            Way::Ingress => self.ingress.as_ref(),
            Way::Egress => self.egress.as_ref(),
        }
    }

    pub(super) fn way_mut(&mut self, way: Way) -> &mut Option<Direction> {
        match way {
            Way::Ingress => &mut self.ingress,
            Way::Egress => &mut self.egress,
        }
    }
}

/// Verdicts of one direction. Class not in `classes`: `any`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direction {
    /// The final answer for each class that a rule names, and that differs from `any`.
    pub classes: BTreeMap<ClassId, Entries>,
    /// The answer for all others.
    pub any: Entries,
    /// The NetworkPolicies that isolate the pods.
    pub isolating: Vec<PolicyRef>,
    /// Those that would, if they were not only audited.
    pub audited: Vec<PolicyRef>,
}

impl Direction {
    /// The answer for a class.
    pub fn of(&self, class: ClassId) -> &Entries {
        self.classes.get(&class).unwrap_or(&self.any)
    }
}

/// Verdicts by protocol and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// Those that differ from the rest; disjoint, in order.
    pub ports: Vec<PortEntry>,
    /// The verdict for what no entry names: other protocols, other ports.
    pub rest: Verdict,
}

/// The verdict for some ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortEntry {
    /// Of this protocol.
    pub protocol: Protocol,
    /// These ports.
    pub ports: PortRange,
    /// What happens there.
    pub verdict: Verdict,
}

impl Entries {
    /// The same for everything.
    pub const fn all(verdict: Verdict) -> Self {
        Self { ports: Vec::new(), rest: verdict }
    }

    /// From verdicts for parts that together are everything.
    pub(super) fn of_parts(parts: &[(PortSet, Verdict)]) -> Self {
        let rest = parts
            .iter()
            .find(|(ports, _)| ports.has_others())
            .map_or(Verdict::Allow, |(_, verdict)| *verdict);
        let named = parts.iter().filter(|(_, verdict)| *verdict != rest);
        let mut ports: Vec<PortEntry> = named
            .flat_map(|(set, verdict)| {
                set.ranges().map(|(protocol, ports)| PortEntry { protocol, ports, verdict: *verdict })
            })
            .collect();
        ports.sort_unstable();
        Self { ports, rest }
    }

    /// The verdict for a destination port; none for protocols without.
    pub fn verdict(&self, port: Option<(Protocol, u16)>) -> Verdict {
        let Some((protocol, port)) = port else { return self.rest };
        let entry = self.ports.iter().find(|entry| entry.protocol == protocol && entry.ports.contains(port));
        entry.map_or(self.rest, |entry| entry.verdict)
    }

    /// What passes.
    pub(super) fn passing(&self) -> PortSet {
        let mut named = PortSet::nothing();
        let mut passing = PortSet::nothing();
        for PortEntry { protocol, ports, verdict } in &self.ports {
            named.insert(*protocol, *ports);
            if verdict.passes() {
                passing.insert(*protocol, *ports);
            }
        }
        if self.rest.passes() {
            passing.extend(&PortSet::everything().minus(&named));
        }
        passing
    }

    /// Whether something passes that another drops.
    pub(super) fn is_tightened_by(&self, other: &Self) -> bool {
        self != other && !self.passing().is_within(&other.passing())
    }
}

/// What an update has changed, by name: what it is now, the compiler knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses with another class, or with one or none at all.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges of addresses, likewise.
    pub ranges: BTreeSet<AddressRange>,
    /// Pods of this node with another policy set, or with one or none at all.
    pub pods: BTreeSet<PodName>,
    /// Policy sets that say something else, are new, or gone.
    pub sets: BTreeMap<PolicySetId, SetChange>,
    /// Causes that are new, or gone.
    pub causes: BTreeSet<CauseId>,
    /// Whose connections may be forbidden now.
    pub tightened: Tightened,
}

impl Changes {
    /// Whether nothing has changed for a dataplane.
    pub fn is_empty(&self) -> bool {
        let Self { addresses, ranges, pods, sets, causes, tightened: _ } = self;
        addresses.is_empty() && ranges.is_empty() && pods.is_empty() && sets.is_empty() && causes.is_empty()
    }
}

/// What has changed in a policy set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetChange {
    /// For packets to its pods.
    pub ingress: DirectionChange,
    /// For packets from them.
    pub egress: DirectionChange,
}

impl SetChange {
    /// One of its directions.
    pub fn way(&self, way: Way) -> &DirectionChange {
        match way {
            Way::Ingress => &self.ingress,
            Way::Egress => &self.egress,
        }
    }

    pub(super) fn way_mut(&mut self, way: Way) -> &mut DirectionChange {
        match way {
            Way::Ingress => &mut self.ingress,
            Way::Egress => &mut self.egress,
        }
    }
}

/// What has changed in a direction of a policy set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectionChange {
    /// Whether it is there, what it says of all others, or who isolates.
    pub any: bool,
    /// The classes of which it says something else.
    pub classes: BTreeSet<ClassId>,
}

/// Connections that were allowed when they began and may be forbidden now: those with one end here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tightened {
    /// Pods of this node.
    pub pods: BTreeSet<PodName>,
    /// Addresses anywhere.
    pub addresses: BTreeSet<IpAddr>,
}

impl Tightened {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.addresses.is_empty()
    }
}
