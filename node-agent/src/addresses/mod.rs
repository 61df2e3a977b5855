//! Where the addresses of new pods come from.
//!
//! In mode `podCIDR` the core answers by itself. In mode `pool` a task of its own has the pools and the blocks: the
//! core passes on what the plugin asks once the pod is known, and hears which blocks the node has.
//!
//! ```text
//!   plugin --> core: asking (waits for the pod) --Ask-----> task: choose (pure): which blocks, or why none
//!              core <--Event::Claimed---------------------- task: margay_ipam::plan (pure) --> disk, at once
//!              core --Facts (node, who speaks for all)----> task                           --> calls: the API
//!   watch/ip_pool, watch/ip_block --Pools, Blocks---------> task <--Outcome-- calls
//! ```
//! The task never waits for the API server: calls run beside it, so that an ADD for which an address is free is
//! answered while the API server is away.

mod answer;
mod asking;
mod calls;
mod choose;
mod own;
mod pool_status;
mod task;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use margay_api::resource::Encapsulation;
use tokio::time::Instant;

pub(crate) use answer::Answer;
pub(crate) use asking::Asking;
pub(crate) use own::OwnAddresses;
pub(crate) use task::run;

use crate::watch::{BlockFacts, Change, PoolFacts};

/// What the task hears.
#[derive(Debug)]
pub(crate) enum Message {
    /// From the API server.
    Pools(Change<String, PoolFacts>),
    /// From the API server.
    Blocks(Change<String, BlockFacts>),
    /// From the core, for the plugin.
    Ask(Ask),
}

/// A new endpoint whose pod is known.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What it may have.
    pub(crate) wanted: Wanted,
    /// Who waits for the answer.
    pub(crate) answer: Answer,
    /// How long.
    pub(crate) until: Instant,
}

/// What a new endpoint may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The pools that it names, and where it does; `None` for the automatic ones.
    pub(crate) pools: Option<(Vec<String>, String)>,
    /// The addresses that it asks for.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What the node has claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClaimedBlocks {
    /// The blocks that its pods have or get addresses of.
    pub(crate) blocks: Vec<IpNetwork>,
    /// Which node has each block of the cluster.
    pub(crate) holders: Arc<BTreeMap<IpNetwork, String>>,
    /// How packets of the pods of each pool travel, by its range; ranges do not overlap.
    pub(crate) traffic: Arc<BTreeMap<IpNetwork, PoolTraffic>>,
    /// Why it cannot have pods yet.
    pub(crate) missing: Option<String>,
    /// Why it can have no more.
    pub(crate) full: Option<String>,
    /// Blocks that others have and pods here have addresses of, with who has them.
    pub(crate) conflicts: BTreeMap<IpNetwork, String>,
}

/// How packets of the pods of a pool travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolTraffic {
    pub(crate) encapsulation: Encapsulation,
    /// Whether what they send to outside of the cluster comes from the node.
    pub(crate) nat_outgoing: bool,
}
