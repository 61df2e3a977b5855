//! What the kernel should do, as far as the tables know.

use std::net::IpAddr;

use crate::prefix::Prefix;
use crate::wire::NextHop;

/// A gateway for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibNextHop {
    /// The router.
    pub via: IpAddr,
    /// Its interface, needed for link-local addresses only.
    pub ifindex: Option<u32>,
    /// Its share among several, 1 to 256.
    pub weight: u16,
}

impl FibNextHop {
    /// A router with an equal share.
    pub const fn new(via: IpAddr, ifindex: Option<u32>) -> Self {
        Self { via, ifindex, weight: 1 }
    }
}

/// What the kernel should do with packets for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FibRoute {
    /// Drop what no longer prefix covers.
    Blackhole,
    /// Send to one of these, at least one, in ascending order.
    Unicast(Vec<FibNextHop>),
}

/// The wanted kernel route of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibChange {
    /// Which prefix.
    pub prefix: Prefix,
    /// The route; `None` for none.
    pub route: Option<FibRoute>,
}

/// Whether the tables say what the kernel should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fib {
    /// They do.
    #[default]
    Wanted,
    /// Nobody asks, and no memory is spent on it.
    Unwanted,
}

/// The gateway that a next hop stands for; a link-local one is on the link with this number.
pub(super) fn gateway(next_hop: NextHop, ifindex: Option<u32>) -> Option<FibNextHop> {
    match next_hop {
        NextHop::Local => None,
        NextHop::V4(address) => Some(FibNextHop::new(address.into(), None)),
        NextHop::V6 { global, link_local } => {
            if !global.is_unicast_link_local() {
                return Some(FibNextHop::new(global.into(), None));
            }
            // A peer without a global address on the link puts its link-local one in both places.
            let via = link_local.unwrap_or(global).into();
            ifindex.map(|ifindex| FibNextHop::new(via, Some(ifindex)))
        }
    }
}
