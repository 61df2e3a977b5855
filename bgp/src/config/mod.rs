//! The configuration of a speaker.
//!
//! One form serves the control socket (JSON) and the stand-alone file (YAML): [`Config`] is what is written, and
//! [`Config::check`] turns it into [`Checked`], which the daemon works with. `docs/bgp.md` is the reference.

mod bmp;
mod check;
mod checked;
mod locate;
mod policy;
mod session;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::family::Family;
use crate::hold_time::HoldTime;
use crate::identifier::BgpIdentifier;
use crate::policy_test::PolicyTest;
use crate::prefix::Prefix;

pub use bmp::{BmpConfig, Collector};
pub(crate) use bmp::{CheckedCollector, LONGEST_RETRY};
pub use checked::Checked;
pub(crate) use checked::{CheckedBfd, CheckedDynamic, CheckedNeighbor, Hops};
pub use locate::Located;
pub use policy::{
    Action, AsPathMatch, CommunityChange, DefaultAction, LengthMatch, MatchConfig, NextHopOption,
    PeerMatchConfig, PolicyConfig, PrefixEntry, SetConfig, TermConfig,
};
pub use session::{
    AddPathOption, AtLimit, BfdOptions, DynamicNeighbors, GracefulRestartOptions, LONGEST_PASSWORD,
    MaxPrefixes, Password,
};

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
    /// Seconds after its start for which the speaker says that it restarted, so that its neighbours tell their routes
    /// without awaiting its own, and for which it waits for those at most (RFC 4724 section 4.1), 0 to 3600. Default
    /// 15.
    #[serde(default = "default_deferral_time")]
    pub deferral_time: u16,
    /// What to do with routes in the kernel.
    #[serde(default)]
    pub kernel: Kernel,
    /// Where `/metrics` is served. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Collectors that are told of sessions and routes by BMP (RFC 7854).
    #[serde(default, skip_serializing_if = "is_default")]
    pub bmp: BmpConfig,
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
    /// How many paths to one prefix we send at most where we may send several, at least 1. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_path_limit: Option<NonZeroU8>,
    /// What happens to routes during restarts.
    #[serde(default)]
    pub graceful_restart: GracefulRestartOptions,
    /// Has BFD watch the path to it. Default: not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdOptions>,
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
            add_path_limit: None,
            graceful_restart: GracefulRestartOptions::default(),
            bfd: None,
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
    /// Whether a default route of the kernel leads to next hops that no other route leads to. Default false.
    pub resolve_via_default: bool,
    /// Seconds after the first configuration at which routes of an earlier run go, if no peer has announced them
    /// again; earlier if all peers have told all they know. Default 30.
    pub settle_time: u16,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            install: true,
            table: 254,
            protocol: 186,
            metric: 512,
            resolve_via_default: false,
            settle_time: 30,
        }
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
            bmp: BmpConfig::default(),
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

fn default_listen() -> Vec<SocketAddr> {
    vec![
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), default_port()),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), default_port()),
    ]
}

fn default_hold_time() -> HoldTime {
    HoldTime::DEFAULT
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
