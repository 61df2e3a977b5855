//! A configuration that was checked, which the daemon works with.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use super::{AddPathOption, CheckedCollector, GracefulRestartOptions, Kernel, Password};
use crate::asn::Asn;
use crate::bfd;
use crate::family::FamilySet;
use crate::fsm::Penalty;
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;
use crate::policy::Policy;
use crate::prefix::Prefix;
use crate::rib::{DecisionOptions, Policies, PrefixLimit};
use crate::wire::{Capabilities, GracefulRestart, LongLived, PeerKind};

/// A configuration that can be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub(crate) asn: Asn,
    pub(crate) router_id: BgpIdentifier,
    pub(crate) cluster_id: Ipv4Addr,
    pub(crate) options: DecisionOptions,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) networks: BTreeMap<Prefix, bool>,
    pub(crate) neighbors: BTreeMap<IpAddr, CheckedNeighbor>,
    pub(crate) dynamic_neighbors: Vec<CheckedDynamic>,
    pub(crate) shutdown_message: Option<String>,
    pub(crate) deferral_time: Duration,
    pub(crate) kernel: Kernel,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) collectors: BTreeMap<SocketAddr, CheckedCollector>,
    pub(crate) policies: BTreeMap<String, Arc<Policy>>,
}

/// A neighbour with nothing left to look up elsewhere; two of them are equal if the session need not change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "as in the file")]
pub(crate) struct CheckedNeighbor {
    pub(crate) local_as: Asn,
    pub(crate) router_id: BgpIdentifier,
    pub(crate) address: IpAddr,
    pub(crate) remote_as: Asn,
    /// Of an internal neighbour.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    pub(crate) local_address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) passive: bool,
    pub(crate) ttl: u8,
    /// The smallest time to live of packets that count, if any.
    pub(crate) least_ttl: Option<u8>,
    pub(crate) password: Option<Password>,
    pub(crate) interface: Option<String>,
    pub(crate) extended_messages: bool,
    pub(crate) extended_next_hop: bool,
    pub(crate) add_path: AddPathOption,
    pub(crate) add_path_limit: Option<NonZeroU8>,
    pub(crate) graceful_restart: GracefulRestartOptions,
    pub(crate) families: FamilySet,
    pub(crate) hold_time: HoldTime,
    pub(crate) connect_retry: Duration,
    pub(crate) next_hop_ipv4: Option<Ipv4Addr>,
    pub(crate) next_hop_ipv6: Option<Ipv6Addr>,
    pub(crate) route_reflector_client: bool,
    pub(crate) bfd: Option<CheckedBfd>,
    pub(crate) policy: Policies,
    pub(crate) prefix_limit: Option<PrefixLimit>,
    /// What follows when it is exceeded.
    pub(crate) penalty: Penalty,
}

/// How the path to a neighbour is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckedBfd {
    pub(crate) timers: bfd::Timers,
    pub(crate) hops: Hops,
}

/// How far a neighbour is away, which decides about the port of BFD (RFC 5881, RFC 5883).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hops {
    /// On a link of ours.
    One,
    /// Maybe behind routers.
    Several,
}

/// Neighbours that may dial from a prefix, with nothing left to look up elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedDynamic {
    pub(crate) prefix: Prefix,
    pub(crate) limit: u32,
    pub(super) template: CheckedNeighbor,
}

impl CheckedDynamic {
    /// The neighbour that dialled from this address.
    pub(crate) fn neighbor(&self, address: IpAddr) -> CheckedNeighbor {
        CheckedNeighbor { address, ..self.template.clone() }
    }

    /// What all of them have in common.
    pub(crate) fn template(&self) -> &CheckedNeighbor {
        &self.template
    }

    pub(crate) fn password(&self) -> Option<&Password> {
        self.template.password.as_ref()
    }
}

impl CheckedNeighbor {
    /// What is offered to the neighbour. Kernel routes outlive the speaker, so forwarding always does.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let options = &self.graceful_restart;
        let mut long_lived = LongLived::default();
        if options.enabled && options.long_lived_time > 0 {
            long_lived.forwarding = self.families;
            for family in self.families.iter() {
                long_lived.insert(family, options.long_lived_time);
            }
        }
        Capabilities {
            families: self.families,
            four_octet_as: Some(self.local_as.number()),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_messages: self.extended_messages,
            extended_next_hop: self.extended_next_hop,
            add_path: self.add_path.capability(self.families),
            graceful_restart: options.enabled.then_some(GracefulRestart {
                restarting: false,
                notification: true,
                restart_time: options.restart_time,
                families: self.families,
                forwarding: self.families,
            }),
            long_lived,
        }
    }

    /// Whether the session of the other need not change to be this one's.
    pub(crate) fn has_session_of(&self, other: &Self) -> bool {
        *self == Self { policy: self.policy.clone(), bfd: self.bfd, ..other.clone() }
    }

    pub(crate) fn kind(&self) -> PeerKind {
        if self.local_as == self.remote_as { PeerKind::Internal } else { PeerKind::External }
    }
}

impl Checked {
    /// The neighbour that has this address, be it one of a prefix.
    pub(crate) fn neighbor(&self, address: IpAddr) -> Option<CheckedNeighbor> {
        let dynamic = || self.dynamic(address).map(|dynamic| dynamic.neighbor(address));
        self.neighbors.get(&address).cloned().or_else(dynamic)
    }

    /// The longest prefix whose neighbours may have this address.
    pub(crate) fn dynamic(&self, address: IpAddr) -> Option<&CheckedDynamic> {
        self.dynamic_neighbors.iter().find(|dynamic| dynamic.prefix.contains(address))
    }

    /// The keys of connections that neighbours open.
    pub(crate) fn passwords(&self) -> BTreeMap<Prefix, Password> {
        let neighbors = self.neighbors.values();
        let neighbors =
            neighbors.map(|neighbor| (Prefix::host(neighbor.address), neighbor.password.as_ref()));
        let dynamic = self.dynamic_neighbors.iter().map(|dynamic| (dynamic.prefix, dynamic.password()));
        neighbors.chain(dynamic).filter_map(|(prefix, password)| Some((prefix, password?.clone()))).collect()
    }
}
