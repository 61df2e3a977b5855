//! The configuration of a speaker.
//!
//! One form serves the control socket (JSON) and the stand-alone file (YAML): [`Config`] is what is written, and
//! [`Config::check`] turns it into [`Checked`], which the daemon works with. `docs/bgp.md` is the reference.

mod locate;
mod policy;
mod session;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;
use crate::policy::{Policy, TermNextHop};
use crate::policy_test::PolicyTest;
use crate::prefix::Prefix;
use crate::rib::{self, DecisionOptions, Policies, PrefixLimit};
use crate::wire::notification::LONGEST_COMMUNICATION;
use crate::wire::{Capabilities, GracefulRestart, LongLived, PeerKind};

pub use locate::Located;
pub use policy::{
    Action, AsPathMatch, CommunityChange, DefaultAction, LengthMatch, MatchConfig, NextHopOption,
    PeerMatchConfig, PolicyConfig, PrefixEntry, SetConfig, TermConfig,
};
pub use session::{AddPathOption, DynamicNeighbors, GracefulRestartOptions, LONGEST_PASSWORD, Password};

/// Everything a speaker is told; the whole of it each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The speaker's autonomous system.
    pub asn: Asn,
    /// Its BGP identifier, unique among its peers.
    pub router_id: BgpIdentifier,
    /// Where to accept connections; nowhere if empty. Default: port 179 of every address of both families.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// Seconds of silence after which a session is dead: 0 (never) or 3 to 65535. Default 90.
    #[serde(default = "default_hold_time")]
    pub hold_time: HoldTime,
    /// Seconds from a failed dial to the next, 1 to 3600. Default 5.
    #[serde(default = "default_connect_retry")]
    pub connect_retry: u16,
    /// Whether external peers without a policy exchange nothing (RFC 8212). Default true.
    #[serde(default = "yes")]
    pub ebgp_requires_policy: bool,
    /// The cluster that the speaker reflects routes for (RFC 4456). Default: its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Ipv4Addr>,
    /// How paths are compared.
    #[serde(default)]
    pub decision: Decision,
    /// Prefixes that the speaker originates.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Peers.
    #[serde(default)]
    pub neighbors: Vec<Neighbor>,
    /// Peers that are known by the prefix that they dial from.
    #[serde(default)]
    pub dynamic_neighbors: Vec<DynamicNeighbors>,
    /// What operators of neighbours read when the speaker is shut down, up to 255 octets (RFC 9003).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_message: Option<String>,
    /// Seconds after its start for which the speaker says that it restarted, 0 to 60: its neighbours then tell their
    /// routes without awaiting its own (RFC 4724 section 4.1). Default 15.
    #[serde(default = "default_deferral_time")]
    pub deferral_time: u16,
    /// What to do with routes in the kernel.
    #[serde(default)]
    pub kernel: Kernel,
    /// Where `/metrics` is served. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Lists of prefixes, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefix_lists: BTreeMap<String, Vec<PrefixEntry>>,
    /// Policies, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, PolicyConfig>,
    /// The policy that decides what is taken from neighbours that have no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// The policy that decides what is told to neighbours that have no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// What should become of routes; run by `margay-bgp check`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<PolicyTest>,
}

/// How paths are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decision {
    /// Whether `MULTI_EXIT_DISC` is compared between paths of different neighbouring ASes. Default false.
    pub always_compare_med: bool,
    /// Equal paths of external peers used at once, 1 to 255. Default 64.
    pub external_paths: u8,
    /// Equal paths of internal peers used at once, 1 to 255. Default 64.
    pub internal_paths: u8,
}

impl Default for Decision {
    fn default() -> Self {
        Self { always_compare_med: false, external_paths: 64, internal_paths: 64 }
    }
}

/// How many prefixes a peer may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPrefixes {
    /// With more, the session ends with Cease, maximum number of prefixes reached.
    pub limit: u32,
    /// The share of the limit from which a warning is logged, 1 to 100. Default 75.
    #[serde(default = "default_warn_percent")]
    pub warn_percent: u8,
}

/// A prefix that the speaker originates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The prefix, without host bits.
    pub prefix: Prefix,
    /// Whether a blackhole route belongs beneath it, so that what no longer prefix covers is dropped. Default true.
    #[serde(default = "yes")]
    pub blackhole: bool,
}

impl From<Prefix> for Network {
    /// With a blackhole route beneath.
    fn from(prefix: Prefix) -> Self {
        Self { prefix, blackhole: true }
    }
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the file")]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// Its autonomous system.
    pub remote_as: Asn,
    /// Our address on the session. Default: what the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// The port to dial. Default 179.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Never dial, only accept. Default false.
    #[serde(default)]
    pub passive: bool,
    /// Time to live of our packets, 1 to 255: the hops that the session may span.
    /// Default 1 for an external peer, 64 for an internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Hops that the neighbour may be away, 1 to 254; packets from further away are dropped by the kernel (RFC 5082).
    /// It must do the same. Default: not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Signs each segment with MD5 (RFC 2385), 1 to 80 octets. The neighbour needs the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// The link on which a neighbour with a link-local address is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Messages of up to 65535 octets, if the neighbour can do them too (RFC 8654). Default true.
    #[serde(default = "yes")]
    pub extended_messages: bool,
    /// IPv4 routes with IPv6 next hops, if the neighbour can do them too (RFC 8950). Default false; link-local
    /// neighbours are always offered it.
    #[serde(default)]
    pub extended_next_hop: bool,
    /// Several paths to one prefix (RFC 7911). Default none.
    #[serde(default)]
    pub add_path: AddPathOption,
    /// What happens to routes during restarts.
    #[serde(default)]
    pub graceful_restart: GracefulRestartOptions,
    /// Families to exchange. Default both.
    #[serde(default = "default_families")]
    pub families: Vec<Family>,
    /// In place of the speaker's hold time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<HoldTime>,
    /// Next hop of IPv4 routes that must name us. Default: our address on the session, or one of its interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes that must name us. Default: our address on the session, or a global one of its
    /// interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_ipv6: Option<Ipv6Addr>,
    /// Whether routes are reflected for it (RFC 4456); of an internal peer only. Default false.
    #[serde(default)]
    pub route_reflector_client: bool,
    /// How many prefixes it may announce. Default: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,
    /// The policy that decides what is taken from it. Default: the speaker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// The policy that decides what is told to it. Default: the speaker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Neighbor {
    /// A peer with defaults everywhere else.
    pub fn new(address: IpAddr, remote_as: Asn) -> Self {
        Self {
            address,
            remote_as,
            local_address: None,
            port: default_port(),
            passive: false,
            ttl: None,
            ttl_security: None,
            password: None,
            interface: None,
            extended_messages: true,
            extended_next_hop: false,
            add_path: AddPathOption::None,
            graceful_restart: GracefulRestartOptions::default(),
            families: default_families(),
            hold_time: None,
            next_hop_ipv4: None,
            next_hop_ipv6: None,
            route_reflector_client: false,
            max_prefixes: None,
            import: None,
            export: None,
            description: None,
        }
    }
}

/// What to do with routes in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Whether to install any. Default true.
    pub install: bool,
    /// The routing table. Default 254, the main table.
    pub table: u32,
    /// The route protocol that marks our routes; all routes of it in the table are ours. Default 186, `bgp`.
    pub protocol: u8,
    /// The metric of our routes, at least 1. Default 512: connected and static routes to the same prefix win.
    pub metric: u32,
    /// Seconds after the first configuration at which routes of an earlier run go, if no peer has announced them
    /// again; earlier if all peers have told all they know. Default 30.
    pub settle_time: u16,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { install: true, table: 254, protocol: 186, metric: 512, settle_time: 30 }
    }
}

fn default_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), default_port()),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), default_port()),
    ]
}

fn default_hold_time() -> HoldTime {
    HoldTime::DEFAULT
}

fn default_warn_percent() -> u8 {
    75
}

fn default_connect_retry() -> u16 {
    5
}

fn default_deferral_time() -> u16 {
    15
}

fn default_port() -> u16 {
    179
}

fn default_families() -> Vec<Family> {
    Family::ALL.to_vec()
}

fn yes() -> bool {
    true
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or not of the right form.
    #[error("configuration: {0}")]
    Syntax(String),
    /// Well formed but impossible.
    #[error("configuration: {path}: {reason}")]
    Value {
        /// Where, such as `neighbors[2].port`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

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
    pub(crate) graceful_restart: GracefulRestartOptions,
    pub(crate) families: FamilySet,
    pub(crate) hold_time: HoldTime,
    pub(crate) connect_retry: Duration,
    pub(crate) next_hop_ipv4: Option<Ipv4Addr>,
    pub(crate) next_hop_ipv6: Option<Ipv6Addr>,
    pub(crate) route_reflector_client: bool,
    pub(crate) policy: Policies,
    pub(crate) prefix_limit: Option<PrefixLimit>,
}

/// Neighbours that may dial from a prefix, with nothing left to look up elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedDynamic {
    pub(crate) prefix: Prefix,
    pub(crate) limit: u32,
    template: CheckedNeighbor,
}

impl CheckedDynamic {
    /// The neighbour that dialled from this address.
    pub(crate) fn neighbor(&self, address: IpAddr) -> CheckedNeighbor {
        CheckedNeighbor { address, ..self.template.clone() }
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
        *self == Self { policy: self.policy.clone(), ..other.clone() }
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

impl Config {
    /// A speaker with defaults everywhere else, without networks or neighbours.
    pub fn new(asn: Asn, router_id: BgpIdentifier) -> Self {
        Self {
            asn,
            router_id,
            listen: default_listen(),
            hold_time: default_hold_time(),
            connect_retry: default_connect_retry(),
            ebgp_requires_policy: true,
            cluster_id: None,
            decision: Decision::default(),
            networks: Vec::new(),
            neighbors: Vec::new(),
            dynamic_neighbors: Vec::new(),
            shutdown_message: None,
            deferral_time: default_deferral_time(),
            kernel: Kernel::default(),
            metrics: None,
            prefix_lists: BTreeMap::new(),
            policies: BTreeMap::new(),
            import: None,
            export: None,
            tests: Vec::new(),
        }
    }

    /// Reads the stand-alone file.
    ///
    /// # Errors
    /// When it is not YAML, or not of the right form; the message says where.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))
    }

    /// Checks what the form alone cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong, with its path.
    pub fn check(&self) -> Result<Checked, ConfigError> {
        let wrong = |path: &str, reason: String| ConfigError::Value { path: path.to_owned(), reason };
        if !(1..=3600).contains(&self.connect_retry) {
            return Err(wrong("connect_retry", format!("{} s: expected 1 to 3600", self.connect_retry)));
        }
        for (path, paths) in [
            ("decision.external_paths", self.decision.external_paths),
            ("decision.internal_paths", self.decision.internal_paths),
        ] {
            if paths == 0 {
                return Err(wrong(path, "0: expected 1 to 255".to_owned()));
            }
        }
        if self.kernel.metric == 0 {
            return Err(wrong("kernel.metric", "0: expected at least 1".to_owned()));
        }
        if self.kernel.table == 0 {
            return Err(wrong("kernel.table", "0: expected the number of a table, 254 is main".to_owned()));
        }
        // Up to 4 (static) the numbers are the kernel's and the administrator's.
        if self.kernel.protocol <= 4 {
            let reason =
                format!("{}: routes of this protocol are not ours, use 186 (bgp)", self.kernel.protocol);
            return Err(wrong("kernel.protocol", reason));
        }
        if self.deferral_time > 60 {
            return Err(wrong("deferral_time", format!("{} s: expected 0 to 60", self.deferral_time)));
        }
        if let Some(text) = &self.shutdown_message
            && text.len() > LONGEST_COMMUNICATION
        {
            let reason = format!("{} octets: expected up to {LONGEST_COMMUNICATION}", text.len());
            return Err(wrong("shutdown_message", reason));
        }
        let mut networks = BTreeMap::new();
        for (index, network) in self.networks.iter().enumerate() {
            if networks.insert(network.prefix, network.blackhole).is_some() {
                return Err(wrong(
                    &format!("networks[{index}]"),
                    format!("{} is there twice", network.prefix),
                ));
            }
        }
        let policies = policy::compile(&self.prefix_lists, &self.policies)?;
        for (field, name) in [("import", &self.import), ("export", &self.export)] {
            choose_policy(&policies, field, name.as_deref()).map_err(|reason| wrong(field, reason))?;
        }
        let mut neighbors = BTreeMap::new();
        for (index, neighbor) in self.neighbors.iter().enumerate() {
            let checked = self.check_neighbor(neighbor, &policies).map_err(|(field, reason)| {
                ConfigError::Value { path: format!("neighbors[{index}].{field}"), reason }
            })?;
            if neighbors.insert(neighbor.address, checked).is_some() {
                let reason = format!("{} is there twice", neighbor.address);
                return Err(wrong(&format!("neighbors[{index}].address"), reason));
            }
        }
        let mut dynamic_neighbors: Vec<CheckedDynamic> = Vec::new();
        for (index, dynamic) in self.dynamic_neighbors.iter().enumerate() {
            let path = |field: &str| format!("dynamic_neighbors[{index}].{field}");
            if dynamic.limit == 0 {
                return Err(wrong(&path("limit"), "0: expected at least 1".to_owned()));
            }
            if dynamic_neighbors.iter().any(|other| other.prefix == dynamic.prefix) {
                return Err(wrong(&path("prefix"), format!("{} is there twice", dynamic.prefix)));
            }
            // Any address of the prefix does for the check; the first may be no address of a router.
            let template = match dynamic.prefix.address() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            let template = self
                .check_neighbor(&dynamic.neighbor(template), &policies)
                .map_err(|(field, reason)| ConfigError::Value { path: path(field), reason })?;
            dynamic_neighbors.push(CheckedDynamic { prefix: dynamic.prefix, limit: dynamic.limit, template });
        }
        // The longest prefix decides whose neighbour somebody is.
        dynamic_neighbors.sort_by_key(|dynamic| std::cmp::Reverse(dynamic.prefix.length()));
        Ok(Checked {
            asn: self.asn,
            router_id: self.router_id,
            cluster_id: self.cluster_id(),
            options: DecisionOptions {
                always_compare_med: self.decision.always_compare_med,
                external_paths: self.decision.external_paths,
                internal_paths: self.decision.internal_paths,
            },
            listen: self.listen.clone(),
            networks,
            neighbors,
            dynamic_neighbors,
            shutdown_message: self.shutdown_message.clone(),
            deferral_time: Duration::from_secs(self.deferral_time.into()),
            kernel: self.kernel,
            metrics: self.metrics,
            policies,
        })
    }

    fn neighbor_policies(
        &self,
        neighbor: &Neighbor,
        policies: &BTreeMap<String, Arc<Policy>>,
    ) -> Result<Policies, (&'static str, String)> {
        let internal = neighbor.remote_as == self.asn;
        let missing = if self.ebgp_requires_policy && !internal {
            rib::Policy::Nothing
        } else {
            rib::Policy::Everything
        };
        let policy = |field, own: &Option<String>, other: &Option<String>| {
            let name = own.as_deref().or(other.as_deref());
            let chosen = choose_policy(policies, field, name).map_err(|reason| (field, reason))?;
            Ok(chosen.map_or(missing.clone(), rib::Policy::Terms))
        };
        Ok(Policies {
            import: policy("import", &neighbor.import, &self.import)?,
            export: policy("export", &neighbor.export, &self.export)?,
        })
    }

    fn cluster_id(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id.octets().into())
    }

    fn check_neighbor(
        &self,
        neighbor: &Neighbor,
        policies: &BTreeMap<String, Arc<Policy>>,
    ) -> Result<CheckedNeighbor, (&'static str, String)> {
        let address = neighbor.address;
        if address.is_unspecified() || address.is_multicast() {
            return Err(("address", format!("{address} is no address of a router")));
        }
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        match &neighbor.interface {
            None if link_local => {
                return Err(("interface", format!("is missing: {address} is link-local")));
            }
            Some(_) if !link_local => {
                return Err(("interface", format!("{address} is not link-local: leave it out")));
            }
            Some(name) if name.is_empty() || name.len() > 15 => {
                return Err(("interface", format!("`{name}`: expected 1 to 15 octets")));
            }
            _ => {}
        }
        if let Some(local) = neighbor.local_address
            && local.is_ipv4() != address.is_ipv4()
        {
            return Err(("local_address", format!("{local} is of another family than {address}")));
        }
        if neighbor.port == 0 {
            return Err(("port", "0: expected 1 to 65535".to_owned()));
        }
        if neighbor.ttl == Some(0) {
            return Err(("ttl", "0: expected 1 to 255".to_owned()));
        }
        if let Some(hops) = neighbor.ttl_security {
            if !(1..=254).contains(&hops) {
                return Err(("ttl_security", format!("{hops}: expected 1 to 254")));
            }
            if neighbor.ttl.is_some() {
                return Err(("ttl", "is 255 with ttl_security: leave it out".to_owned()));
            }
        }
        if let Some(Password(password)) = &neighbor.password
            && !(1..=LONGEST_PASSWORD).contains(&password.len())
        {
            let reason = format!("{} octets: expected 1 to {LONGEST_PASSWORD}", password.len());
            return Err(("password", reason));
        }
        let restart = &neighbor.graceful_restart;
        if !(1..=4095).contains(&restart.restart_time) {
            let reason = format!("{} s: expected 1 to 4095", restart.restart_time);
            return Err(("graceful_restart.restart_time", reason));
        }
        if restart.long_lived_time > LongLived::LONGEST {
            let reason = format!("{} s: expected up to {}", restart.long_lived_time, LongLived::LONGEST);
            return Err(("graceful_restart.long_lived_time", reason));
        }
        if neighbor.families.is_empty() {
            return Err(("families", "is empty: expected ipv4-unicast, ipv6-unicast or both".to_owned()));
        }
        if let Some(max) = neighbor.max_prefixes
            && !(1..=100).contains(&max.warn_percent)
        {
            return Err(("max_prefixes.warn_percent", format!("{}: expected 1 to 100", max.warn_percent)));
        }
        let internal = neighbor.remote_as == self.asn;
        if neighbor.route_reflector_client && !internal {
            let reason = format!("{address} is not in AS {}, and only internal peers are clients", self.asn);
            return Err(("route_reflector_client", reason));
        }
        let policy = self.neighbor_policies(neighbor, policies)?;
        Ok(CheckedNeighbor {
            // What was reflected carries it, and what was received was looked through for it.
            cluster_id: internal.then(|| self.cluster_id()),
            local_as: self.asn,
            router_id: self.router_id,
            address,
            remote_as: neighbor.remote_as,
            local_address: neighbor.local_address,
            port: neighbor.port,
            passive: neighbor.passive,
            ttl: match neighbor.ttl_security {
                Some(_) => u8::MAX,
                None => neighbor.ttl.unwrap_or(if internal { 64 } else { 1 }),
            },
            // A packet of a neighbour one hop away arrives with 255.
            least_ttl: neighbor.ttl_security.map(|hops| u8::MAX - (hops - 1)),
            password: neighbor.password.clone(),
            interface: neighbor.interface.clone(),
            extended_messages: neighbor.extended_messages,
            extended_next_hop: neighbor.extended_next_hop || link_local,
            add_path: neighbor.add_path,
            graceful_restart: neighbor.graceful_restart,
            families: neighbor.families.iter().copied().collect(),
            hold_time: neighbor.hold_time.unwrap_or(self.hold_time),
            connect_retry: Duration::from_secs(self.connect_retry.into()),
            next_hop_ipv4: neighbor.next_hop_ipv4,
            next_hop_ipv6: neighbor.next_hop_ipv6,
            route_reflector_client: neighbor.route_reflector_client,
            policy,
            prefix_limit: neighbor
                .max_prefixes
                .map(|max| PrefixLimit { maximum: max.limit, warn_percent: max.warn_percent }),
        })
    }
}

/// The policy of this name, if it can serve as `import` or `export`.
fn choose_policy(
    policies: &BTreeMap<String, Arc<Policy>>,
    field: &str,
    name: Option<&str>,
) -> Result<Option<Arc<Policy>>, String> {
    let Some(name) = name else { return Ok(None) };
    let policy = policies.get(name).ok_or_else(|| format!("there is no policy `{name}`"))?;
    if field == "import" && policy.terms.iter().any(|term| term.next_hop == Some(TermNextHop::Own)) {
        return Err(format!("policy `{name}` sets next_hop self, which means nothing on import"));
    }
    Ok(Some(Arc::clone(policy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "asn: 64500\nrouter_id: 192.0.2.1\n";

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config = Config::from_yaml(SMALL).unwrap();
        assert_eq!(config, Config::new(config.asn, config.router_id));
        let neighbor = "neighbors: [{address: 192.0.2.2, remote_as: 64501}]";
        let config = Config::from_yaml(&format!("{SMALL}{neighbor}")).unwrap();
        let expected = Neighbor::new("192.0.2.2".parse().unwrap(), Asn::new(64501).unwrap());
        assert_eq!(config.neighbors, [expected]);
        assert_eq!(config.check().unwrap().neighbors[&config.neighbors[0].address].ttl, 1);
    }

    #[test]
    fn yaml_and_json_carry_the_same() {
        let mut config = Config::from_yaml(SMALL).unwrap();
        config.networks = vec![Network::from("198.51.100.0/24".parse::<Prefix>().unwrap())];
        config.neighbors = vec![Neighbor::new("2001:db8::2".parse().unwrap(), config.asn)];
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert_eq!(Config::from_yaml(&json).unwrap(), config);
    }

    #[test]
    fn another_cluster_takes_another_session_inside_the_as_and_none_outside() {
        let config = |cluster: &str| {
            let neighbors =
                "neighbors: [{address: 192.0.2.2, remote_as: 64500}, {address: 192.0.2.3, remote_as: 64501}]";
            let text = format!("{SMALL}cluster_id: {cluster}\n{neighbors}");
            Config::from_yaml(&text).unwrap().check().unwrap().neighbors
        };
        let (before, after) = (config("192.0.2.1"), config("192.0.2.9"));
        let same: Vec<bool> =
            before.values().zip(after.values()).map(|(before, after)| after.has_session_of(before)).collect();
        assert_eq!(same, [false, true]);
    }

    #[test]
    fn errors_say_where_and_what() {
        let cases = [
            ("colour: red", "colour"),
            ("hold_time: 2", "hold time 2 s"),
            ("networks: [{prefix: 192.0.2.1/24}]", "did you mean 192.0.2.0/24"),
            ("neighbors: [{address: 192.0.2.2, remote_as: 0}]", "AS number `0`"),
            ("neighbors: [{address: 192.0.2.2, remote_as: 1, port: 0}]", "neighbors[0].port: 0"),
            ("neighbors: [{address: 192.0.2.2, remote_as: 1, families: []}]", "neighbors[0].families"),
            ("neighbors: [{address: fe80::1, remote_as: 1}]", "neighbors[0].interface: is missing"),
            (
                "neighbors: [{address: 192.0.2.2, interface: eth0, remote_as: 1}]",
                "neighbors[0].interface: 192.0.2.2 is not link-local",
            ),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1, ttl: 2, ttl_security: 1}]",
                "neighbors[0].ttl: is 255",
            ),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1, ttl_security: 255}]",
                "neighbors[0].ttl_security: 255",
            ),
            ("neighbors: [{address: 192.0.2.2, remote_as: 1, password: ''}]", "neighbors[0].password: 0"),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1, graceful_restart: {restart_time: 4096}}]",
                "neighbors[0].graceful_restart.restart_time: 4096 s",
            ),
            (
                "dynamic_neighbors: [{prefix: 192.0.2.0/24, remote_as: 1, limit: 0}]",
                "dynamic_neighbors[0].limit: 0",
            ),
            (
                "dynamic_neighbors: [{prefix: 192.0.2.0/24, remote_as: 1, families: []}]",
                "dynamic_neighbors[0].families",
            ),
            ("deferral_time: 61", "deferral_time: 61 s"),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1}, {address: 192.0.2.2, remote_as: 2}]",
                "neighbors[1].address: 192.0.2.2 is there twice",
            ),
            ("import: x", "import: there is no policy `x`"),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1, export: x}]",
                "neighbors[0].export: there is no policy `x`",
            ),
            (
                "policies: {p: {terms: [{match: {prefix: [l]}, then: accept}]}}",
                "policies.p.terms[0].match.prefix[0]: there is no prefix list `l`",
            ),
            ("prefix_lists: {l: [{prefix: 10.0.0.0/8, le: 7}]}", "prefix_lists.l[0]: 10.0.0.0/8: expected 8"),
            (
                "policies: {p: {terms: [{match: {communities: ['1:2:3:4']}, then: next}]}}",
                "community `1:2:3:4`",
            ),
            (
                "import: p\npolicies: {p: {terms: [{set: {next_hop: self}, then: accept}]}}",
                "import: policy `p` sets next_hop self",
            ),
            ("kernel: {protocol: 2}", "kernel.protocol: 2"),
            ("connect_retry: 0", "connect_retry: 0 s"),
            ("decision: {external_paths: 0}", "decision.external_paths: 0"),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1, route_reflector_client: true}]",
                "neighbors[0].route_reflector_client: 192.0.2.2 is not in AS 64500",
            ),
            (
                "neighbors: [{address: 192.0.2.2, remote_as: 1, max_prefixes: {limit: 9, warn_percent: 0}}]",
                "neighbors[0].max_prefixes.warn_percent: 0",
            ),
        ];
        for (line, expected) in cases {
            let result = Config::from_yaml(&format!("{SMALL}{line}")).and_then(|config| config.check());
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
