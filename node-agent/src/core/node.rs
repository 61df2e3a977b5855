//! The node's own configuration: address blocks, forwarding, and what the runtime reads.

use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_netlink::link::Mtu;
use tokio::time::Instant;
use tracing::{error, info};

use super::{Core, RETRY};
use crate::{
    config::Settings,
    notice::Reason,
    program::{cni, leak, pod_mtu::Shrinking, sysctl, uplink::ETHERNET},
};

/// How far the node itself is ready for pods.
pub(super) struct Setup {
    /// What it follows has changed, or the last attempt failed.
    pub(super) changed: bool,
    pub(super) blocks: Vec<IpNetwork>,
    pub(super) bgp: Result<(), String>,
    pub(super) overlay: Result<(), String>,
    /// What the tunnels take of a packet that there are, wanted or not.
    pub(super) tunnels_take: u32,
    pub(super) node_address: Result<(), String>,
    /// What new pods get, as far as it was ever known.
    mtu: Option<Mtu>,
    shrinking: Shrinking,
    /// The runtime has its configuration.
    pub(super) configured: bool,
    /// Why the last attempt to configure the node failed.
    failed: Option<String>,
}

impl Setup {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            changed: true,
            blocks: Vec::new(),
            bgp: if settings.bgp.enabled {
                Err("the BGP speaker is not configured yet".into())
            } else {
                Ok(())
            },
            overlay: Err("the ways to other nodes are not made yet".into()),
            tunnels_take: 0,
            node_address: if settings.node_address.is_kubernetes() {
                Ok(())
            } else {
                Err("its address is not chosen yet".into())
            },
            mtu: None,
            shrinking: Shrinking::default(),
            configured: false,
            failed: None,
        }
    }

    /// Why the node could not be configured, if it could not.
    pub(super) fn failed(&self) -> Option<String> {
        self.failed.as_ref().map(|error| format!("node: {error}"))
    }

    /// What keeps packets from finding their way to this node's pods, or from there.
    pub(super) fn lacks(&self) -> impl Iterator<Item = String> {
        let named = [("bgp", &self.bgp), ("overlay", &self.overlay), ("node", &self.node_address)];
        named.into_iter().filter_map(|(name, there)| Some(format!("{name}: {}", there.as_ref().err()?)))
    }
}

impl Core {
    pub(super) fn configure_node(&mut self, blocks: &[IpNetwork]) {
        let again = match self.try_configure_node(blocks) {
            Ok(again) => {
                if self.node.failed.take().is_some() {
                    info!("the node is configured");
                }
                again
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.node.failed.as_ref() != Some(&error) {
                    error!("{error}; trying again each second");
                }
                self.notices.of_node(Reason::NODE_NOT_CONFIGURED, &error);
                self.node.failed = Some(error);
                Some(Instant::now() + RETRY)
            }
        };
        self.node.changed = again.is_some();
        self.retry = self.retry.into_iter().chain(again).min();
    }

    /// Address blocks, forwarding, and the runtime's configuration once all else is there. Says when it is to be asked again, if it is.
    fn try_configure_node(&mut self, blocks: &[IpNetwork]) -> anyhow::Result<Option<Instant>> {
        // A node that is gone from the API keeps its blocks: one missed event takes nothing away.
        let is_news = !blocks.is_empty() || self.pools.is_some();
        if is_news && blocks != self.node.blocks {
            if self.pools.is_none() {
                self.store.set_blocks(blocks).context("use the node's podCIDRs")?;
                leak::hold_again(&self.records, &self.store)?;
            }
            info!(blocks = ?blocks.iter().map(ToString::to_string).collect::<Vec<_>>(), "address blocks");
            self.node.blocks = blocks.to_vec();
        }
        sysctl::enable_forwarding(&self.settings.sysctl_dir, &self.node.blocks)?;
        let has_blocks = self.pools.as_ref().is_none_or(|pools| pools.claimed.missing.is_none());
        if self.node.blocks.is_empty() || !has_blocks || self.node.lacks().next().is_some() {
            return Ok(None);
        }
        let addresses = self.state.own_node().map(|node| node.addresses.clone()).unwrap_or_default();
        let fits = if let Some(mtu) = self.settings.mtu {
            Some(mtu)
        } else {
            let others = self.state.nodes().filter(|(name, _)| *name != self.state.node_name());
            let others = others.flat_map(|(_, node)| node.addresses.iter().copied()).collect();
            cni::fits(&addresses, &others, self.overhead())?
        };
        // What is not known for a moment is as it was, for new pods; of those that are there nothing follows from it.
        let mtu = match fits.or(self.node.mtu) {
            Some(mtu) => mtu,
            None => cni::less(ETHERNET, self.overhead())?,
        };
        self.node.mtu = fits.or(self.node.mtu);
        cni::write(&self.settings, mtu)?;
        let endpoints = self.state.endpoints().map(|(_, endpoint)| endpoint.as_ref());
        let again = self.node.shrinking.note(&self.settings.run_dir, fits, endpoints, Instant::now())?;
        self.node.configured = true;
        Ok(again)
    }

    /// How many octets a tunnel takes of each packet of a pod: of a pod that is added while tunnels change, the most before and after.
    fn overhead(&self) -> u32 {
        let paths = self.programmed.as_ref().and_then(|programmed| programmed.paths.as_ref());
        paths.map_or(0, |paths| paths.overhead()).max(self.node.tunnels_take)
    }
}
