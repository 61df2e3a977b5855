//! The compiled state.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{AddressRange, ClassId, PodName, PolicySetId, PortSet, Protocol};

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes this direction.
    Allow,
    /// It is dropped.
    Deny,
}

/// All that a dataplane of one node holds. An address is looked up among `addresses`, then among `ranges`, and
/// is of class 0 when it is in neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Classes of pod addresses.
    pub addresses: BTreeMap<IpAddr, ClassId>,
    /// Classes of other addresses; disjoint.
    pub ranges: BTreeMap<AddressRange, ClassId>,
    /// The policy set of each local pod that a policy selects. A local pod that is not here may do anything.
    pub endpoints: BTreeMap<PodName, PolicySetId>,
    /// What the policy sets say.
    pub sets: BTreeMap<PolicySetId, PolicySet>,
}

impl Compiled {
    /// The class of an address.
    pub fn class(&self, address: IpAddr) -> ClassId {
        let in_range =
            || self.ranges.iter().find(|(range, _)| range.contains(address)).map(|(_, class)| *class);
        self.addresses.get(&address).copied().or_else(in_range).unwrap_or(ClassId::NONE)
    }
}

/// What is decided about the pods of one policy set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySet {
    /// About packets to the pod, by the class of their source; `None` when no policy isolates it so.
    pub ingress: Option<Direction>,
    /// About packets from the pod, by the class of their destination, likewise.
    pub egress: Option<Direction>,
}

/// Verdicts of one direction. Class not in `classes`: `any`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direction {
    /// The final answer for each class that a rule names, and that differs from `any`.
    pub classes: BTreeMap<ClassId, Entries>,
    /// The answer for all others.
    pub any: Entries,
}

impl Direction {
    /// The verdict for a packet.
    pub fn verdict(&self, class: ClassId, protocol: Protocol, port: u16) -> Verdict {
        self.classes.get(&class).unwrap_or(&self.any).verdict(protocol, port)
    }
}

/// Verdicts by protocol and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// What is allowed.
    pub allowed: PortSet,
}

impl Entries {
    /// The verdict for a protocol and destination port.
    pub fn verdict(&self, protocol: Protocol, port: u16) -> Verdict {
        if self.allowed.contains(protocol, port) { Verdict::Allow } else { Verdict::Deny }
    }

    /// The verdict for what no entry names: other protocols, other ports.
    pub fn default(&self) -> Verdict {
        if self.allowed.is_everything() { Verdict::Allow } else { Verdict::Deny }
    }
}
