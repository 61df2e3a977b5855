//! What is said of how the node is.

use tokio::time::Instant;
use tracing::{info, warn};

use super::Core;
use crate::{
    addresses::ClaimedBlocks,
    notice::{Notices, Object, Reason},
    serve::http::Startup,
};

impl Core {
    /// What keeps changes in the cluster from reaching the pods that are here.
    pub(super) fn stale(&self) -> Vec<String> {
        let mut missing = Vec::new();
        missing.extend(self.state.missing().map(|what| format!("api: not listed yet: {what}")));
        if self.programmed.is_none() {
            let error = self.last_error.as_deref().unwrap_or("waits for the API");
            missing.push(format!("dataplane: the policy is not in the kernel: {error}"));
        } else if let Some(error) = &self.last_error {
            missing.push(format!("dataplane: {error}"));
        }
        missing.extend(self.node.lacks());
        missing.extend(self.node.failed());
        missing.extend(self.doubles.own.as_ref().map(|problem| format!("node: {problem}")));
        missing
    }

    /// What keeps the node from being ready.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = self.stale();
        match &self.pools {
            Some(pools) => missing.extend(pools.claimed.missing.clone()),
            None if self.node.blocks.is_empty() => {
                missing.push(format!("ipam: node {} has no spec.podCIDRs", self.settings.node_name));
            }
            None => {}
        }
        if missing.is_empty() && !self.node.configured {
            missing.push("cni: the network configuration is not written yet".into());
        }
        missing
    }

    /// Tells pods that another node has their addresses, once it is known which pods are here.
    pub(super) fn tell_conflicts(&mut self) {
        if self.conflicts.is_empty() || self.state.missing().is_some() {
            return;
        }
        for (block, node) in std::mem::take(&mut self.conflicts) {
            let all = self.state.endpoints().map(|(_, endpoint)| endpoint);
            let of_block = all.filter(|endpoint| endpoint.addresses.iter().any(|it| block.contains(*it)));
            for pod in of_block.filter_map(|endpoint| endpoint.pod.as_ref()) {
                let note = format!(
                    "its address is of block {block}, which node {node} has: it loses its network; delete it"
                );
                self.notices.of(Object::pod(pod), Reason::ADDRESS_CONFLICT, note);
            }
        }
    }

    /// Says which nodes have the address of another, and which no longer.
    pub(super) fn tell_doubles(&mut self) {
        if !std::mem::take(&mut self.nodes_changed) {
            return;
        }
        let before = std::mem::replace(&mut self.doubles, self.state.doubles());
        for problem in self.doubles.problems.difference(&before.problems) {
            warn!("{problem}");
        }
        for problem in before.problems.difference(&self.doubles.problems) {
            info!("no longer so: {problem}");
        }
    }

    pub(super) fn publish(&mut self) {
        let missing = self.missing();
        self.metrics.ready.set(i64::from(missing.is_empty()));
        self.readiness.note(&missing, Instant::now());
        let startup = if self.programmed.is_some() { Startup::Done } else { Startup::Waits };
        self.shared.publish(missing, startup);
    }
}

/// Tells the node that it has no more addresses, when that is news.
pub(super) fn tell_addresses(notices: &Notices, before: &ClaimedBlocks, now: &ClaimedBlocks) {
    let lack = |claimed: &ClaimedBlocks| claimed.full.clone().or_else(|| claimed.missing.clone());
    if let Some(note) = lack(now).filter(|_| lack(before) != lack(now)) {
        notices.of_node(Reason::ADDRESSES_EXHAUSTED, note);
    }
}
