//! Where programs are attached.

use aya::programs::TcAttachType;
use margay_netlink::filter::Direction;

/// A direction of a kind of interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    /// What a pod sends, at the host end of its link.
    FromPod,
    /// What the stack sends to a pod, likewise.
    ToPod,
    /// What comes to the node.
    FromUplink,
    /// What leaves the node.
    ToUplink,
    /// What comes to the node by a tunnel of IP-in-IP, where packets have no link-layer header.
    FromTunnel,
    /// What leaves the node by one.
    ToTunnel,
}

impl Hook {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::FromPod, Self::ToPod, Self::FromUplink, Self::ToUplink, Self::FromTunnel, Self::ToTunnel];
    /// Those of a pod's link: what notes flows of the stack comes first.
    pub(super) const OF_POD: [Self; 2] = [Self::ToPod, Self::FromPod];
    /// Those of other interfaces, likewise.
    pub(super) const OF_UPLINK: [Self; 2] = [Self::ToUplink, Self::FromUplink];
    /// Those of a tunnel of IP-in-IP, likewise.
    pub(super) const OF_TUNNEL: [Self; 2] = [Self::ToTunnel, Self::FromTunnel];

    /// The name of its program.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
            Self::FromTunnel => "from_tunnel",
            Self::ToTunnel => "to_tunnel",
        }
    }

    /// Which way packets go there.
    pub(super) const fn direction(self) -> Direction {
        match self {
            Self::FromPod | Self::FromUplink | Self::FromTunnel => Direction::Ingress,
            Self::ToPod | Self::ToUplink | Self::ToTunnel => Direction::Egress,
        }
    }

    /// Likewise, as links of tcx are told.
    pub(super) const fn attach_type(self) -> TcAttachType {
        match self.direction() {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        }
    }
}
