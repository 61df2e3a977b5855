//! NetworkPolicy and ClusterNetworkPolicy compiled to classes and verdicts, with a reference evaluator. Pure: no I/O, no
//! async, no clock.
//!
//! ```text
//!   NetworkPolicy ------convert-------> Policy ---------+
//!   ClusterNetworkPolicy convert_cluster> ClusterPolicy +
//!   Pod ----------------convert_pod---> Pod ----------- Objects --+--> compile:  address -> class,
//!   Node ---------------convert_node--> Node -----------+         |              (policy set, direction, class) -> verdicts
//!                                                                 +--> evaluate: may this flow pass, and which rule says so
//! ```
//!
//! Every address belongs to exactly one *class*: the set of *terms* (pod peers and address blocks in use) that it
//! matches. What a pod may do to a class is decided when a policy changes, never when a packet comes, so the work
//! for a packet is two look-ups, whatever the number of policies, rules and pods.
//!
//! [`evaluate`] answers the same question straight from the objects, in the words of the specification and with
//! no optimisation. The compiler is tested against it.

#[cfg(test)]
extern crate self as margay_policy;

mod cluster_network_policy;
pub mod compile;
mod convert;
pub mod evaluate;
mod network_policy;
mod node;
mod object;
mod pod;
mod port;
mod range;
mod selector;
mod shared;
mod term;
pub mod v1alpha2;

pub use cluster_network_policy::{Action, ClusterPolicy, ClusterRule, Subject, Tier};
pub use convert::{ENFORCEMENT, Problem, convert, convert_cluster};
pub use network_policy::{
    Block, Enforcement, NamespaceChoice, Peer, Peers, Policy, PolicyId, PolicyRef, Port, Ports, Rule,
};
pub use node::convert_node;
pub use object::{NamedPort, Namespace, Node, Objects, Pod, PodName};
pub use pod::convert_pod;
pub use port::{PortRange, PortSet, Protocol};
pub use range::{AddressRange, covered};
pub use selector::{Requirement, Selector};
pub use shared::Shared;
