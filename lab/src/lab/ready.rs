//! Waiting until a cluster works.

use super::Lab;
use crate::clock;
use crate::config::{Dataplane, FabricKind, IpamMode};
use crate::node::{Daemon, Node};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::api::ListParams;
use std::collections::BTreeMap;
use std::time::Duration;

/// Log lines that an error shows of each process.
const LOG_LINES: usize = 15;

impl Lab {
    /// Waits until the cluster works: nodes Ready, sessions Established, routes learned.
    ///
    /// # Errors
    /// When a step is not done within `limit`, with the newest log lines of all processes.
    pub async fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        self.wait_nodes_ready(limit).await?;
        self.wait_dataplane(limit).await?;
        self.wait_sessions(limit).await?;
        self.wait_routes(limit).await
    }

    /// Waits until every Node object is Ready.
    ///
    /// # Errors
    /// When that is not so within `limit`.
    pub async fn wait_nodes_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let api: Api<NodeObject> = Api::all(self.client());
        let waited = clock::until(limit, "all nodes Ready", || async {
            let nodes = api.list(&ListParams::default()).await.ok()?;
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            let failing = self.failing();
            (ready >= self.nodes.len() || failing.is_some()).then_some(failing)
        });
        self.explain(match waited.await {
            Ok(None) => Ok(()),
            Ok(Some(failing)) => Err(anyhow::anyhow!("{failing} again and again")),
            Err(error) => Err(error),
        })
    }

    /// Waits until every node has eBPF, if that was asked for: an agent that cannot have it goes on with nftables.
    ///
    /// # Errors
    /// When that is not so within `limit`.
    pub async fn wait_dataplane(&self, limit: Duration) -> anyhow::Result<()> {
        for node in self.nodes.iter().filter(|_| self.config.dataplane == Dataplane::Ebpf) {
            let what = format!("{} has the eBPF dataplane", node.name());
            let waited = clock::until(limit, &what, || async {
                let dataplanes = node.metrics("margay_dataplane").await.ok()?;
                (dataplanes.get("{dataplane=\"ebpf\"}") == Some(&1)).then_some(())
            });
            self.explain(waited.await)?;
        }
        Ok(())
    }

    /// Waits until every BGP session is Established.
    ///
    /// # Errors
    /// When that is not so within `limit`.
    pub async fn wait_sessions(&self, limit: Duration) -> anyhow::Result<()> {
        for node in self.nodes.iter().filter(|_| self.config.routing.has_bgp()) {
            let what = format!("BGP sessions of {} Established", node.name());
            let waited = clock::until(limit, &what, || async {
                let status = node.bgp_status().await.ok()?;
                let up = status.neighbors.iter().filter(|neighbor| neighbor.state == "Established").count();
                (up == self.wanted_sessions() && up == status.neighbors.len()).then_some(())
            });
            self.explain(waited.await)?;
        }
        Ok(())
    }

    /// Waits until every node has routes to all others' pods.
    ///
    /// # Errors
    /// When that is not so within `limit`.
    pub async fn wait_routes(&self, limit: Duration) -> anyhow::Result<()> {
        let claimed = match self.config.ipam {
            IpamMode::PodCidr => BTreeMap::new(),
            IpamMode::Pool => self.blocks().await?,
        };
        for node in &self.nodes {
            let others = || self.nodes.iter().filter(|other| other.name() != node.name());
            let of_others = claimed.iter().filter(|(_, owner)| *owner != node.name()).map(|(block, _)| block);
            let wanted: Vec<String> =
                others().flat_map(Node::pod_cidrs).chain(of_others).map(ToString::to_string).collect();
            let what = format!("routes to all pods on {}", node.name());
            let waited = clock::until(limit, &what, || async {
                let routes = node.pod_routes().await.ok()?;
                let has = |wanted: &String| routes.iter().any(|route| route.starts_with(wanted.as_str()));
                wanted.iter().all(has).then_some(())
            });
            self.explain(waited.await)?;
        }
        Ok(())
    }

    /// How many sessions a node must have.
    pub fn wanted_sessions(&self) -> usize {
        match self.config.fabric {
            FabricKind::Flat | FabricKind::Subnets => self.nodes.len() - 1,
            FabricKind::Routed => 1,
        }
    }

    /// A process that has ended too often for it to be chance.
    fn failing(&self) -> Option<String> {
        const TOO_OFTEN: u32 = 3;
        let daemons = |node| [(node, Daemon::Agent, "margay-node"), (node, Daemon::Bgp, "margay-bgp")];
        let (node, _, name) = self
            .nodes
            .iter()
            .flat_map(daemons)
            .find(|(node, daemon, _)| Node::quick_ends(node, *daemon) >= TOO_OFTEN)?;
        Some(format!("{name} ends on {}", node.name()))
    }

    fn explain(&self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        outcome
            .map_err(|error| anyhow::anyhow!("{error:#}; the newest log lines:{}", self.log_tail(LOG_LINES)))
    }
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
