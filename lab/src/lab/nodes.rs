//! Nodes that come, that go, and that lose their power.

use super::Lab;
use crate::kubelet;
use crate::node::{Node, Off, Parts};
use crate::plan::NodePlan;
use crate::pods::PodKey;
use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

impl Lab {
    /// Adds a node, with the number after that of the last one, and gives its name; [`Self::wait_ready`] waits for it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn add_node(&mut self) -> anyhow::Result<String> {
        let last = self.nodes.last().and_then(|node| node.name().strip_prefix('n')?.parse().ok());
        let number = last.unwrap_or(0_u8).checked_add(1).context("there are 255 nodes")?;
        let plan = NodePlan::new(number, &self.config);
        let name = plan.name.clone();
        self.expect(Some(&plan)).await?;
        let node = Node::start(&self.parts(), plan).await.with_context(|| format!("start node {name}"))?;
        self.nodes.push(node);
        Ok(name)
    }

    /// Takes a node away for ever: its power, then its object and its pods', as a cloud's controllers do.
    ///
    /// # Errors
    /// When there is none of this name, or the API server refuses.
    pub async fn remove_node(&mut self, name: &str) -> anyhow::Result<()> {
        let (_, off) = self.cut_power(name).await?;
        drop(off);
        self.expect(None).await?;
        kubelet::delete_node(self.api.client(), name).await?;
        let of_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let pods = Api::<Pod>::all(self.client()).list(&of_node).await?;
        let keys: Vec<PodKey> = pods.iter().map(PodKey::of).collect();
        self.remove_pods(&keys).await
    }

    /// Has a node lose its power and start again. What was on its disk is still there, and nothing else; its kubelet makes the
    /// networks of its pods anew.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be made.
    pub async fn reboot_node(&mut self, name: &str) -> anyhow::Result<()> {
        let (place, off) = self.cut_power(name).await?;
        let node = Node::restart(&self.parts(), off).await.with_context(|| format!("start node {name}"))?;
        self.nodes.insert(place, node);
        Ok(())
    }

    async fn cut_power(&mut self, name: &str) -> anyhow::Result<(usize, Off)> {
        self.node_named(name)?;
        let place = self.nodes.iter().take_while(|node| node.name() != name).count();
        let node = self.nodes.remove(place);
        let off = node.cut_power(&self.parts()).await.with_context(|| format!("cut the power of {name}"))?;
        Ok((place, off))
    }

    /// Has the fabric prepare for the nodes that there are, and one that comes.
    async fn expect(&mut self, new: Option<&NodePlan>) -> anyhow::Result<()> {
        let plans: Vec<NodePlan> = self.nodes.iter().map(Node::plan).chain(new).cloned().collect();
        self.fabric.expect(&plans).await
    }

    fn parts(&self) -> Parts<'_> {
        let Self { config, binaries, fabric, api, pods, .. } = self;
        Parts { config, fabric, api, binaries, pods }
    }
}
