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
/// Between a write and the same once more, while the Node is not heard of: the core is held up, or the watch is cut.
const AGAIN: Duration = Duration::from_mins(1);

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

/// When a condition was written, and when it may be again.
#[derive(Debug, Default)]
struct Writes {
    last: Option<Instant>,
    /// The last one was taken, and nothing was heard since.
    is_said: bool,
}

impl Writes {
    /// Something was heard of the Node, or there is something else to say.
    fn heard(&mut self) {
        self.is_said = false;
    }

    fn wrote(&mut self, at: Instant, taken: bool) {
        (self.last, self.is_said) = (Some(at), taken);
    }

    /// `None` before the first.
    fn next(&self) -> Option<Instant> {
        Some(self.last? + if self.is_said { AGAIN } else { PAUSE })
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
    let mut writes = Writes::default();
    let mut failing = false;
    let mut differs = false;
    loop {
        let next = writes.next().unwrap_or_else(Instant::now);
        tokio::select! {
            changed = network.changed() => if changed.is_err() { return Ok(()) } else { writes.heard() },
            changed = facts.changed() => if changed.is_err() { return Ok(()) } else { writes.heard() },
            () = sleep_until(next), if differs => {}
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
        if !differs || writes.next().is_some_and(|next| Instant::now() < next) {
            continue;
        }
        let mut condition = json!({
            "type": C::KIND, "status": status, "reason": reason, "message": message,
        });
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if there.is_none_or(|there| there[0] != status) {
            condition["lastTransitionTime"] = now.clone().into();
        }
        condition["lastHeartbeatTime"] = now.into();
        let now = Instant::now();
        let outcome = node_status::set_condition(&api, &node_name, &node, condition, PATIENCE).await;
        writes.wrote(now, outcome.is_ok());
        match outcome {
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{AGAIN, PAUSE, Writes};

    #[test]
    fn the_same_is_written_once_a_minute_while_nothing_is_heard_and_else_after_the_pause() {
        let (mut writes, now) = (Writes::default(), Instant::now());
        assert_eq!(writes.next(), None);
        writes.wrote(now, true);
        assert_eq!(writes.next(), Some(now + AGAIN));
        writes.heard();
        assert_eq!(writes.next(), Some(now + PAUSE), "somebody may have written over it");
        writes.wrote(now, false);
        assert_eq!(writes.next(), Some(now + PAUSE), "it was refused");
    }
}
