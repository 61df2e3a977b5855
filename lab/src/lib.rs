//! Clusters made of network namespaces.
//!
//! A [`Lab`] runs the real programs: a node is a set of namespaces with a `margay-node` and a `margay-bgp`, pods are
//! made by the CNI plugin as a container runtime would have it, and the Kubernetes API is in memory or a real one.
//! A hollow kubelet stands in for containers: it starts a small server for every declared port. When the lab goes,
//! even by SIGKILL, all of it goes.
//!
//! ```text
//!  Lab -- fabric/ the network between nodes      conformance/ cases as files
//!   |---- node    a machine with the daemons     demo, cli/   what the program does
//!   |---- kubelet/ pods: cni, servers, status
//!   |---- station/ servers and probes: TCP, UDP, SCTP
//!   `---- api     apiserver/ or a real one       machine/     namespaces held by a thread
//! ```

mod api;
pub mod apiserver;
mod binaries;
pub mod clock;
mod cni;
mod config;
pub mod conformance;
mod definitions;
mod fabric;
pub mod identity;
mod kubectl;
mod kubelet;
mod lab;
mod machine;
mod matrix;
mod node;
mod pages;
mod party;
mod plan;
mod pods;
mod scheduler;
mod station;
mod sys;

pub use binaries::program;
pub use config::{Dataplane, ExternalConfig, FabricKind, IpFamilies, IpamMode, LabConfig, Routing};
pub use definitions::cluster_network_policies;
pub use kubectl::KubectlOutput;
pub use lab::{Lab, PodSpec};
pub use matrix::{Cell, Matrix};
pub use node::{Daemon, Node};
pub use party::Party;
pub use pods::PodKey;
pub use station::{Counted, Kept, Port, PortError, Protocol, Reach, Stream};
