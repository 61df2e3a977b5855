//! What can be chosen about a lab.

use margay_api::resource::{Encapsulation, IPPoolSpec};
use std::path::PathBuf;
use std::time::Duration;

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum FabricKind {
    /// One switched subnet.
    #[default]
    Flat,
    /// Each node in a subnet of its own behind a router that runs BIRD; eBGP to every node.
    Routed,
    /// Two switched subnets, with every other node each, and a router between them that knows no address of a pod.
    Subnets,
}

/// Who makes the routes to pods of other nodes that no tunnel leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Routing {
    /// The BGP speaker.
    #[default]
    Bgp,
    /// The agent, within a subnet; and there is no BGP at all.
    Direct,
    /// The agent, within a subnet; BGP beside it.
    DirectAndBgp,
}

impl Routing {
    /// Whether there is BGP.
    pub const fn has_bgp(self) -> bool {
        matches!(self, Self::Bgp | Self::DirectAndBgp)
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Bgp => "bgp",
            Self::Direct | Self::DirectAndBgp => "direct",
        }
    }
}

/// What carries and judges packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Dataplane {
    /// The best that the agent finds.
    #[default]
    Auto,
    /// nftables alone.
    Nftables,
    /// eBPF, with nftables for what it leaves.
    Ebpf,
}

impl Dataplane {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nftables => "nftables",
            Self::Ebpf => "ebpf",
        }
    }
}

/// Where nodes' address blocks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum IpamMode {
    /// Each node has its podCIDRs.
    #[default]
    #[value(name = "podCIDR")]
    PodCidr,
    /// Nodes claim blocks of pools.
    Pool,
}

impl IpamMode {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::PodCidr => "podCIDR",
            Self::Pool => "pool",
        }
    }
}

/// The address families of nodes and pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum IpFamilies {
    /// IPv4 alone.
    #[default]
    #[value(alias = "v4")]
    Ipv4,
    /// IPv6 alone.
    #[value(alias = "v6")]
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl IpFamilies {
    /// Whether there is IPv4.
    pub const fn has_ipv4(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Dual)
    }

    /// Whether there is IPv6.
    pub const fn has_ipv6(self) -> bool {
        matches!(self, Self::Ipv6 | Self::Dual)
    }

    /// Whether there is the family of an address.
    pub const fn has_family_of(self, address: std::net::IpAddr) -> bool {
        if address.is_ipv4() { self.has_ipv4() } else { self.has_ipv6() }
    }
}

/// A host outside the cluster, reached through the fabric without address translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalConfig {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// What it serves.
    pub ports: Vec<crate::Port>,
}

/// What can be chosen about a lab.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// How many nodes, 1 to 250; they are called n1, n2, ...
    pub nodes: u8,
    /// How they are connected.
    pub fabric: FabricKind,
    /// Whether nodes have a second interface, `eth1`, in one more subnet that all are in (172.19.0.0/24 and `fd00:19::/64`). Their
    /// `InternalIP`s stay those of the first.
    pub second_uplink: bool,
    /// What carries and judges packets.
    pub dataplane: Dataplane,
    /// Address families.
    pub ip_families: IpFamilies,
    /// Where nodes' address blocks come from.
    pub ipam: IpamMode,
    /// Who makes routes.
    pub routing: Routing,
    /// How packets of pods travel from node to node.
    pub encapsulation: Encapsulation,
    /// Whether what pods send to outside of the cluster comes from their nodes.
    pub nat_outgoing: bool,
    /// The pools at the start, in mode `pool`; one for each family when there are none.
    pub pools: Vec<(String, IPPoolSpec)>,
    /// How long a block is empty before it is given back.
    pub give_back_after: Duration,
    /// A real API server to use instead of the one in memory.
    pub kubeconfig: Option<PathBuf>,
    /// Where `margay`, `margay-node` and `margay-bgp` are; `None` for beside the running program.
    pub binaries: Option<PathBuf>,
    /// The filter of the agents' logs.
    pub log_level: String,
    /// What agents and speakers have in their environment beside.
    pub environment: Vec<(String, String)>,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            nodes: 3,
            fabric: FabricKind::default(),
            second_uplink: false,
            dataplane: Dataplane::default(),
            ip_families: IpFamilies::default(),
            ipam: IpamMode::default(),
            routing: Routing::default(),
            encapsulation: Encapsulation::default(),
            nat_outgoing: false,
            pools: Vec::new(),
            give_back_after: Duration::from_mins(1),
            kubeconfig: None,
            binaries: None,
            log_level: "info".into(),
            environment: Vec::new(),
        }
    }
}
