//! Objects to what a dataplane holds: address -> class, (policy set, direction, class, port) -> verdict.
//!
//! ```text
//!  pods ------> claims, named ports     who has an address; which numbers a port's name has
//!  policies --> selection               the policies that select each pod of this node -> policy sets
//!                  | those in use
//!                  v
//!               rules -> terms          the peers that they name
//!                          |            terms that an address is in -> classes
//!                          v
//!               tables (policy set, direction) x classes -> verdicts
//! ```
//!
//! The compiler keeps what it derived from objects, and each [`Compiler::update`] derives anew only what depends on the
//! objects named to it. What it then holds depends on the objects alone, and not on the way that they came to be so; only
//! the numbers of classes and policy sets depend on history, and are as they were wherever they can be.

mod addresses;
mod claims;
mod named_ports;
mod output;
mod partition;
mod rules;
mod selection;
mod table;
mod terms;
mod verdicts;

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

pub use output::{
    Cause, CauseId, Changes, ClassId, Direction, DirectionChange, Entries, PolicySet, PolicySetId, PortEntry,
    SetChange, Tightened, Verdict, Way,
};

use self::{
    addresses::Addresses, named_ports::NamedPorts, selection::Selection, terms::Terms, verdicts::Verdicts,
};
use crate::{AddressRange, Objects, PodName, PolicyId, Protocol};

/// Objects that are new, other than before, or gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// By name.
    pub namespaces: BTreeSet<String>,
    /// By name; those that came to this node or left it, too.
    pub pods: BTreeSet<PodName>,
    /// By kind and name.
    pub policies: BTreeSet<PolicyId>,
    /// By name.
    pub nodes: BTreeSet<String>,
}

impl Touched {
    /// All of them, for a compiler that knows nothing yet, or after a listing.
    pub fn everything(objects: &Objects) -> Self {
        let network = objects.policies.keys().cloned().map(PolicyId::Network);
        let cluster = objects.cluster_policies.keys().cloned().map(PolicyId::Cluster);
        Self {
            namespaces: objects.namespaces.keys().cloned().collect(),
            pods: objects.pods.keys().cloned().collect(),
            policies: network.chain(cluster).collect(),
            nodes: objects.nodes.keys().cloned().collect(),
        }
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        let Self { namespaces, pods, policies, nodes } = self;
        namespaces.is_empty() && pods.is_empty() && policies.is_empty() && nodes.is_empty()
    }

    /// Adds what another names.
    pub fn extend(&mut self, other: Self) {
        self.namespaces.extend(other.namespaces);
        self.pods.extend(other.pods);
        self.policies.extend(other.policies);
        self.nodes.extend(other.nodes);
    }
}

/// Holds the compiled state of a node.
#[derive(Debug, Default)]
pub struct Compiler {
    named_ports: NamedPorts,
    terms: Terms,
    addresses: Addresses,
    selection: Selection,
    verdicts: Verdicts,
}

impl Compiler {
    /// Takes what has changed in `objects`. `local` says whether a pod has an interface on this node.
    pub fn update(
        &mut self,
        objects: &Objects,
        local: impl Fn(&PodName) -> bool,
        touched: &Touched,
    ) -> Changes {
        // What a namespace's labels are says nothing of its pods' ports and addresses.
        let names = touched
            .pods
            .iter()
            .flat_map(|name| self.named_ports.set(name, objects.pods.get(name).map(AsRef::as_ref)));
        let names: BTreeSet<_> = names.collect();
        let mut touched_addresses = self.addresses.note(objects, &touched.pods, &touched.nodes);
        let mut pods = Cow::Borrowed(&touched.pods);
        for pod in touched.namespaces.iter().flat_map(|namespace| objects.pods_of(namespace)) {
            touched_addresses.extend(self.addresses.of_pod(&pod.name));
            pods.to_mut().insert(pod.name.clone());
        }
        let selected = self.selection.update(
            objects,
            local,
            &selection::Touched { pods: &pods, policies: &touched.policies, names: &names },
            &self.named_ports,
            &mut self.terms,
        );
        let turnover = self.terms.settle();
        let moved = self.addresses.update(objects, &self.terms, &touched_addresses, &turnover);
        let mut changes = self.verdicts.update(&self.selection, &selected, &self.addresses, &moved);
        for member in moved.members.keys() {
            match member {
                addresses::Member::Address(address) => drop(changes.addresses.insert(*address)),
                addresses::Member::Range(range) => drop(changes.ranges.insert(*range)),
            }
        }
        changes.pods = selected.moved.members.into_keys().collect();
        changes
    }

    /// All that there is, as changes for a dataplane that has nothing.
    pub fn everything(&self) -> Changes {
        let all = |direction: Option<&Direction>| DirectionChange {
            any: true,
            classes: direction.into_iter().flat_map(|direction| direction.classes.keys().copied()).collect(),
        };
        let sets = self.sets().map(|(id, set)| {
            (id, SetChange { ingress: all(set.ingress.as_ref()), egress: all(set.egress.as_ref()) })
        });
        Changes {
            addresses: self.addresses().map(|(address, _)| address).collect(),
            ranges: self.ranges().map(|(range, _)| range).collect(),
            pods: self.selection.pods().cloned().collect(),
            sets: sets.collect(),
            causes: self.causes().collect(),
            tightened: Tightened::default(),
        }
    }

    /// The class of an address of a pod or node, where it is not what the ranges say.
    pub fn class_of(&self, address: IpAddr) -> Option<ClassId> {
        self.addresses.class_of(address)
    }

    /// The class of a range.
    pub fn class_of_range(&self, range: &AddressRange) -> Option<ClassId> {
        self.addresses.class_of_range(range)
    }

    /// The class of any address: its own, or that of the range that it is in.
    pub fn class(&self, address: IpAddr) -> ClassId {
        self.addresses.class(address)
    }

    /// The addresses that have a class of their own.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, ClassId)> {
        self.addresses.addresses()
    }

    /// The ranges that have a class.
    pub fn ranges(&self) -> impl Iterator<Item = (AddressRange, ClassId)> {
        self.addresses.ranges()
    }

    /// The number of classes in use.
    pub fn classes(&self) -> usize {
        self.addresses.classes()
    }

    /// The pod that has an address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.addresses.owner(address)
    }

    /// The policy set of a pod of this node; `None` when no policy selects it: it may do anything.
    pub fn set_of(&self, pod: &PodName) -> Option<PolicySetId> {
        self.selection.set_of(pod)
    }

    /// The pods of a policy set.
    pub fn pods_of(&self, set: PolicySetId) -> impl Iterator<Item = &PodName> {
        self.selection.pods_of(set)
    }

    /// What a policy set says.
    pub fn set(&self, set: PolicySetId) -> Option<&PolicySet> {
        self.verdicts.set(set)
    }

    /// The policy sets in use.
    pub fn sets(&self) -> impl Iterator<Item = (PolicySetId, &PolicySet)> {
        self.verdicts.sets()
    }

    /// The ClusterNetworkPolicy, by name, and direction that a cause is.
    pub fn cause(&self, cause: CauseId) -> Option<(&str, Way)> {
        self.verdicts.cause(cause)
    }

    /// The causes in use.
    pub fn causes(&self) -> impl Iterator<Item = CauseId> {
        self.verdicts.causes()
    }

    /// What one side says about a packet: `pod`, of this node, to or from `far`.
    pub fn verdict(&self, pod: &PodName, way: Way, far: IpAddr, port: Option<(Protocol, u16)>) -> Verdict {
        let direction = self.set_of(pod).and_then(|set| self.set(set)?.way(way));
        direction.map_or(Verdict::Allow, |direction| direction.of(self.class(far)).verdict(port))
    }
}

#[cfg(test)]
mod tests;
