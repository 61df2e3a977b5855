//! What the name of a cause says: of its chain, its counter, and what it tells the listeners of NFLOG.

use margay_policy::compile::{CauseId, PolicySetId, Way};

use super::layout::{Cause, cause_of, chain_of, cluster_cause};

/// Why packets come to a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Nothing that isolates the pods of a policy set allows them.
    Isolation(PolicySetId, Way),
    /// A policy of the cluster denies them.
    Cluster(CauseId),
    /// TCP in the middle of no tracked connection.
    Midstream(Way),
    /// Of or for a link that is no endpoint's.
    Unknown(Way),
    /// The source is not the pod's.
    Spoof,
    /// Made for the tunnels between nodes, and from no other node.
    Tunnel(Way),
}

impl Origin {
    /// From the name, with what becomes of the packets; `None` for a name that is none of ours.
    pub(crate) fn parse(name: &str) -> Option<(Self, Cause)> {
        let fixed = match name {
            "midstream_in" => Self::Midstream(Way::Ingress),
            "midstream_out" => Self::Midstream(Way::Egress),
            "unknown_in" => Self::Unknown(Way::Ingress),
            "unknown_out" => Self::Unknown(Way::Egress),
            "tunnel_in" => Self::Tunnel(Way::Ingress),
            "tunnel_out" => Self::Tunnel(Way::Egress),
            "spoof" => Self::Spoof,
            _ => return Self::of_policy(name),
        };
        Some((fixed, Cause::Drop))
    }

    /// The name of what policy drops, or would drop, for this reason; `None` for the others.
    pub(crate) fn name(self, cause: Cause) -> Option<String> {
        match self {
            Self::Isolation(set, way) => Some(cause_of(&chain_of(set, way), cause)),
            Self::Cluster(id) => Some(cause_of(&cluster_cause(id), cause)),
            Self::Midstream(_) | Self::Unknown(_) | Self::Spoof | Self::Tunnel(_) => None,
        }
    }

    fn of_policy(name: &str) -> Option<(Self, Cause)> {
        let (rest, cause) = match name.strip_suffix("_drop") {
            Some(rest) => (rest, Cause::Drop),
            None => (name.strip_suffix("_audit")?, Cause::Audit),
        };
        if let Some(id) = rest.strip_prefix('c') {
            return Some((Self::Cluster(CauseId(id.parse().ok()?)), cause));
        }
        let (id, way) = match rest.strip_suffix("_in") {
            Some(id) => (id, Way::Ingress),
            None => (rest.strip_suffix("_out")?, Way::Egress),
        };
        Some((Self::Isolation(PolicySetId(id.strip_prefix('s')?.parse().ok()?), way), cause))
    }
}

#[cfg(test)]
mod tests {
    use margay_policy::compile::{CauseId, PolicySetId, Way};

    use super::{
        super::layout::{Cause, put_base},
        Origin,
    };
    use crate::program::nft::table::Table;

    #[test]
    fn names_are_read_as_they_are_written() {
        for cause in [Cause::Drop, Cause::Audit] {
            for way in Way::ALL {
                let origin = Origin::Isolation(PolicySetId(17), way);
                assert_eq!(Origin::parse(&origin.name(cause).unwrap()), Some((origin, cause)));
            }
            let origin = Origin::Cluster(CauseId(4));
            assert_eq!(Origin::parse(&origin.name(cause).unwrap()), Some((origin, cause)));
        }
        let mut table = Table::default();
        put_base(&mut table);
        let origins: Vec<_> = table.counters().map(|name| Origin::parse(name).expect(name).0).collect();
        assert_eq!(
            origins,
            [
                Origin::Midstream(Way::Ingress),
                Origin::Midstream(Way::Egress),
                Origin::Spoof,
                Origin::Tunnel(Way::Ingress),
                Origin::Tunnel(Way::Egress),
                Origin::Unknown(Way::Ingress),
                Origin::Unknown(Way::Egress)
            ]
        );
        for name in ["", "s1_drop", "s_in_drop", "sx_in_drop", "c_drop", "c1_in", "x1_in_drop", "midstream"] {
            assert_eq!(Origin::parse(name), None, "{name}");
        }
    }
}
