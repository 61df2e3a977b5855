//! The options of a neighbour's session that have a form of their own.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::config::Neighbor;
use crate::family::{Family, FamilySet};
use crate::fsm::Penalty;
use crate::hold_time::HoldTime;
use crate::prefix::Prefix;
use crate::rib::PrefixLimit;
use crate::wire::AddPath;

/// Octets in the longest password that Linux takes (`TCP_MD5SIG_MAXKEYLEN`).
pub const LONGEST_PASSWORD: usize = 80;

/// A secret shared with a neighbour (RFC 2385). It is not shown when it is printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// In which directions several paths to one prefix are exchanged.
///
/// None is the default: each further path costs memory at the receiver, which has to ask for it knowingly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddPathOption {
    /// Neither.
    #[default]
    None,
    /// The neighbour may send several.
    Receive,
    /// We may send several.
    Send,
    /// Either may.
    Both,
}

impl AddPathOption {
    pub(super) fn capability(self, families: FamilySet) -> AddPath {
        let (receive, send) = match self {
            Self::None => (FamilySet::EMPTY, FamilySet::EMPTY),
            Self::Receive => (families, FamilySet::EMPTY),
            Self::Send => (FamilySet::EMPTY, families),
            Self::Both => (families, families),
        };
        AddPath { receive, send }
    }
}

/// How many prefixes a peer may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPrefixes {
    /// Paths of all families together.
    pub limit: u32,
    /// The share of the limit from which a warning is logged, 1 to 100. Default 75.
    #[serde(default = "default_warn_percent")]
    pub warn_percent: u8,
    /// What happens when there are more.
    #[serde(default)]
    pub action: AtLimit,
    /// With `restart`: seconds until the session may begin again, 1 to 86400. Default: as after any failure, at most a
    /// minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_time: Option<u32>,
}

impl MaxPrefixes {
    /// With defaults everywhere else.
    pub fn new(limit: u32) -> Self {
        Self { limit, warn_percent: default_warn_percent(), action: AtLimit::default(), restart_time: None }
    }

    pub(super) fn check(self) -> Result<(), (&'static str, String)> {
        if !(1..=100).contains(&self.warn_percent) {
            return Err(("max_prefixes.warn_percent", format!("{}: expected 1 to 100", self.warn_percent)));
        }
        match (self.restart_time, self.action) {
            (Some(time), AtLimit::Restart) if !(1..=86400).contains(&time) => {
                Err(("max_prefixes.restart_time", format!("{time} s: expected 1 to 86400")))
            }
            (Some(_), AtLimit::Idle | AtLimit::Warn) => Err((
                "max_prefixes.restart_time",
                "the action is not `restart`: take one of both out".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn limit(self) -> PrefixLimit {
        PrefixLimit {
            maximum: self.limit,
            warn_percent: self.warn_percent,
            enforced: self.action != AtLimit::Warn,
        }
    }

    /// What follows when it is exceeded.
    pub(super) fn penalty(self) -> Penalty {
        match (self.action, self.restart_time) {
            (AtLimit::Idle, _) => Penalty::UntilReset,
            (_, Some(seconds)) => Penalty::For(Duration::from_secs(seconds.into())),
            (_, None) => Penalty::BackOff,
        }
    }
}

/// What happens when a peer announces more than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtLimit {
    /// The session ends with Cease, maximum number of prefixes reached, and begins again after a while.
    #[default]
    Restart,
    /// The session ends so, and stays Idle until an operator resets it.
    Idle,
    /// It is logged, and all is taken.
    Warn,
}

fn default_warn_percent() -> u8 {
    75
}

/// What happens to routes while one of both ends restarts (RFC 4724, 8538, 9494).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GracefulRestartOptions {
    /// Whether it is offered at all. Default true.
    pub enabled: bool,
    /// Seconds for which the neighbour should keep our routes while we are away, 1 to 4095. Default 120.
    pub restart_time: u16,
    /// Seconds for which stale routes are kept beyond that, as a last resort, up to 16777215; 0 (the default): none.
    pub long_lived_time: u32,
}

impl Default for GracefulRestartOptions {
    fn default() -> Self {
        Self { enabled: true, restart_time: 120, long_lived_time: 0 }
    }
}

/// How BFD watches the path to a neighbour (RFC 5880); the slower of both ends decides in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BfdOptions {
    /// Milliseconds between packets that we send, 10 to 60000. Default 300.
    pub min_tx: u16,
    /// Milliseconds between packets that we take, 10 to 60000. Default 300.
    pub min_rx: u16,
    /// How many of our packets the neighbour may miss, 1 to 255. Default 3.
    pub multiplier: u8,
    /// Whether routers may be on the path (RFC 5883): port 4784 in place of 3784, and no check of the time to live.
    /// Default: whether the session may span more than one hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
}

impl Default for BfdOptions {
    fn default() -> Self {
        Self { min_tx: 300, min_rx: 300, multiplier: 3, multihop: None }
    }
}

/// Neighbours that are not known by their addresses: whoever dials from the prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicNeighbors {
    /// Where they dial from.
    pub prefix: Prefix,
    /// Their autonomous system.
    pub remote_as: Asn,
    /// How many may be there at a time, at least 1. Default 100.
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// As of a neighbour.
    #[serde(default = "super::default_families")]
    pub families: Vec<Family>,
    /// As of a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<HoldTime>,
    /// As of a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// As of a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// One for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// As of a neighbour.
    #[serde(default)]
    pub graceful_restart: GracefulRestartOptions,
    /// As of a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdOptions>,
    /// As of a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// As of a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
}

fn default_limit() -> u32 {
    100
}

impl DynamicNeighbors {
    /// With defaults everywhere else.
    pub fn new(prefix: Prefix, remote_as: Asn) -> Self {
        Self {
            prefix,
            remote_as,
            limit: default_limit(),
            families: super::default_families(),
            hold_time: None,
            ttl: None,
            ttl_security: None,
            password: None,
            graceful_restart: GracefulRestartOptions::default(),
            bfd: None,
            import: None,
            export: None,
        }
    }

    /// The neighbour that dialled from this address.
    pub(super) fn neighbor(&self, address: std::net::IpAddr) -> Neighbor {
        Neighbor {
            passive: true,
            families: self.families.clone(),
            hold_time: self.hold_time,
            ttl: self.ttl,
            ttl_security: self.ttl_security,
            password: self.password.clone(),
            graceful_restart: self.graceful_restart,
            bfd: self.bfd,
            import: self.import.clone(),
            export: self.export.clone(),
            ..Neighbor::new(address, self.remote_as)
        }
    }
}
