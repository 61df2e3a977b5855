//! The agent's settings for packets that leave the node.

use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_api::resource::Encapsulation;
use margay_netlink::link::Vni;
use serde::Deserialize;

/// Who makes the routes to pods of other nodes that no tunnel leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Routing {
    /// The speaker.
    #[default]
    Bgp,
    /// The agent, to nodes of its own subnets; the speaker, if there is one, to others.
    Direct,
}

/// Others begin to count at 1.
const DEFAULT_VNI: Vni = match Vni::new(4096) {
    Some(vni) => vni,
    None => Vni::FIRST,
};
/// What RFC 7348 has from IANA.
const DEFAULT_PORT: u16 = 4789;

/// The section `overlay` of the agent's file.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct OverlayFile {
    /// Of blocks that are of no pool: all in mode `podCIDR`, those whose pool is gone in mode `pool`.
    encapsulation: Option<Encapsulation>,
    vni: Option<u32>,
    port: Option<u32>,
}

/// The tunnels that nodes have, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// Of blocks that are of no pool.
    pub(crate) encapsulation: Encapsulation,
    /// Which network theirs is, of those that share the one between nodes.
    pub(crate) vni: Vni,
    /// The UDP port that they listen on.
    pub(crate) port: u16,
}

impl Default for Overlay {
    fn default() -> Self {
        Self { encapsulation: Encapsulation::None, vni: DEFAULT_VNI, port: DEFAULT_PORT }
    }
}

impl OverlayFile {
    /// What it says, and where it says nothing what all nodes have in common.
    pub(crate) fn over(self, common: Self) -> Self {
        Self {
            encapsulation: self.encapsulation.or(common.encapsulation),
            vni: self.vni.or(common.vni),
            port: self.port.or(common.port),
        }
    }

    /// Checks the section.
    ///
    /// # Errors
    /// The field that is out of its range.
    pub(crate) fn check(self) -> anyhow::Result<Overlay> {
        let encapsulation = self.encapsulation.unwrap_or_default();
        let vni = self.vni.unwrap_or(DEFAULT_VNI.number());
        let port = self.port.unwrap_or(DEFAULT_PORT.into());
        let checked = Vni::new(vni)
            .ok_or_else(|| anyhow::anyhow!("overlay.vni is {vni}; it takes 1 to {}", Vni::MAX))?;
        let port = u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| anyhow::anyhow!("overlay.port is {port}; it takes 1 to 65535"))?;
        Ok(Overlay { encapsulation, vni: checked, port })
    }
}

/// What pods send to outside of the cluster, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    /// Whether it comes from the node, if it is from a block that is of no pool.
    pub(crate) outgoing: bool,
    /// What sees pods' own addresses although it is outside.
    pub(crate) excluded: Vec<IpNetwork>,
}

impl Nat {
    /// Checks the fields of the agent's file.
    ///
    /// # Errors
    /// What is no range of addresses.
    pub(crate) fn check(outgoing: bool, excluded: &[String]) -> anyhow::Result<Self> {
        let parse = |text: &String| {
            let network: IpNetwork =
                text.parse().with_context(|| format!("nonMasqueradeCIDRs: `{text}` is no CIDR"))?;
            anyhow::ensure!(
                network.ip() == network.network(),
                "nonMasqueradeCIDRs: `{text}` has bits set behind its prefix; is {}/{} meant?",
                network.network(),
                network.prefix()
            );
            Ok(network)
        };
        Ok(Self { outgoing, excluded: excluded.iter().map(parse).collect::<anyhow::Result<_>>()? })
    }
}

/// How packets leave the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) routing: Routing,
    pub(crate) overlay: Overlay,
    pub(crate) nat: Nat,
}
