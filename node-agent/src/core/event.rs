//! What the core hears.

use std::collections::BTreeSet;

use margay_netlink::conntrack::Connection;
use tokio::sync::oneshot;

use super::look::Looked;
use crate::{
    addresses::ClaimedBlocks,
    config::Settings,
    observe::{Asked, AskedFlows},
    program::{connections::Found, ebpf::Attachments, overlay, takedown::Progress},
    serve::plugin::Call,
    watch::{ApiEvent, drift::Loss},
};

/// What the core hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// From the API server.
    Api(ApiEvent),
    /// From the plugin.
    Plugin(Call),
    /// Something in the kernel that may be ours was taken away.
    Drift(Vec<Loss>),
    /// An interface that is no pod's has another MTU, or may have.
    Mtu,
    /// A pod that is taken down has come further.
    Takedown(Progress),
    /// The look at the kernel's links and routes is over.
    Looked(Looked),
    /// Our table was changed by those with these netlink ports, of whom some may be ourselves.
    TableTouched(BTreeSet<u32>),
    /// Our table may have been changed, and nobody knows by whom.
    TableMissed,
    /// Whether the speaker has its configuration.
    Bgp(Result<(), String>),
    /// Whether the tunnels to other nodes are there, and what they take.
    Overlay(overlay::Told),
    /// Whether other nodes know where this one is.
    NodeAddress(Result<(), String>),
    /// The blocks that the node has claimed.
    Claimed(ClaimedBlocks),
    /// Packets that were dropped.
    Observed(Asked),
    /// Flows that began on the short way.
    Begun(AskedFlows),
    /// The programs are to tell of what these flags of `CONTROL` say.
    Tell { flags: u32, answer: oneshot::Sender<Result<(), String>> },
    /// The metrics are to have what the kernel counts.
    Count(oneshot::Sender<()>),
    /// Which interfaces have the programs of the eBPF dataplane.
    Attached(Attachments),
    /// What all nodes have in common has changed.
    Settings(Box<Settings>),
    /// Connections of which some may be forbidden, and who ends those.
    Connections { found: Vec<Found>, answer: oneshot::Sender<Vec<Connection>> },
}
