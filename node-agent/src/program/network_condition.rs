//! Keeps the conditions of the own Node that are the agent's as they are.
//!
//! `NetworkUnavailable` some cloud providers set when they make a node, and nothing is scheduled there until the network plugin has taken
//! it back; `PodNetworkImpaired` and `PodShortWayClosed` nobody goes by but who looks. Each is written when the Node says something else, so that whoever writes over it is corrected; and never before
//! the agent knows.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{Api, Client};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::{facts::Facts, node_status};

/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between a write and the next: the watch shows what the last one did before, unless it failed.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether pods of the node have a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    Up,
    /// Not for long, and why.
    Down(String),
}

/// Whether what pods send comes through to other nodes, as tests of the ways have found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Passage {
    Clear,
    /// Not all, and what to do.
    Impaired(String),
    /// Nobody looks.
    Untested,
}

/// Whether what pods send may go round the node's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Detour {
    Open,
    /// Not before something is done, and what.
    Closed(String),
    /// Nobody wants it.
    Unwanted,
    /// It is wanted, and the kernel cannot; why.
    Refused(String),
}

/// The types of the conditions.
pub(crate) const KINDS: [&str; 3] = [Network::KIND, Passage::KIND, Detour::KIND];

/// What a condition says.
pub(crate) trait Condition: Clone + Send + Sync {
    /// Its type.
    const KIND: &'static str;

    /// The status, the reason and the message of the condition.
    fn words(&self) -> (&'static str, &'static str, &str);
}

impl Condition for Passage {
    const KIND: &'static str = "PodNetworkImpaired";

    fn words(&self) -> (&'static str, &'static str, &str) {
        match self {
            Self::Clear => {
                ("False", "WaysAreClear", "nothing is known to be wrong with the ways to other nodes")
            }
            Self::Impaired(why) => ("True", "WaysAreImpaired", why),
            Self::Untested => ("Unknown", "WaysAreNotTested", "selfTest is off on this node"),
        }
    }
}

impl Condition for Detour {
    const KIND: &'static str = "PodShortWayClosed";

    fn words(&self) -> (&'static str, &'static str, &str) {
        match self {
            Self::Open => ("False", "ShortWayIsOpen", "what policy allows between pods goes round the stack"),
            Self::Closed(why) => ("True", "MapsLackEntries", why),
            // Also over what an agent with eBPF has left there.
            Self::Unwanted => ("Unknown", "DataplaneIsNftables", "dataplane is nftables on this node"),
            Self::Refused(why) => ("Unknown", "EbpfDoesNotGoHere", why),
        }
    }
}

impl Condition for Network {
    const KIND: &'static str = "NetworkUnavailable";

    fn words(&self) -> (&'static str, &'static str, &str) {
        match self {
            Self::Up => ("False", "MargayIsUp", "Margay is running on this node"),
            Self::Down(why) => ("True", "MargayIsDown", why),
        }
    }
}

/// Writes for ever.
pub(crate) async fn run<C: Condition>(
    client: Client,
    node_name: String,
    mut network: watch::Receiver<Option<C>>,
    mut facts: watch::Receiver<Facts>,
) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client);
    let mut not_before = Instant::now();
    let mut failing = false;
    let mut differs = false;
    loop {
        tokio::select! {
            changed = network.changed() => if changed.is_err() { return Ok(()) },
            changed = facts.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(not_before), if differs => {}
        }
        let wanted = network.borrow_and_update().clone();
        let seen = facts.borrow_and_update().node.clone();
        let (Some(wanted), Some(node)) = (wanted, seen) else {
            differs = false;
            continue;
        };
        let (status, reason, message) = wanted.words();
        let there = node.conditions.get(C::KIND);
        differs = there.is_none_or(|there| there.each_ref().map(String::as_str) != [status, reason, message]);
        if !differs || Instant::now() < not_before {
            continue;
        }
        not_before = Instant::now() + PAUSE;
        let mut condition = json!({
            "type": C::KIND, "status": status, "reason": reason, "message": message,
        });
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if there.is_none_or(|there| there[0] != status) {
            condition["lastTransitionTime"] = now.clone().into();
        }
        condition["lastHeartbeatTime"] = now.into();
        match node_status::set_condition(&api, &node_name, &node, condition, PATIENCE).await {
            Ok(()) => {
                info!(status, reason, "the node's condition {}", C::KIND);
                failing = false;
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "the node's condition {} cannot be written; trying again", C::KIND);
                }
                failing = true;
            }
        }
    }
}
