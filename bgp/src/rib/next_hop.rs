//! Which next hops paths have, and what it costs to reach them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fib::FibNextHop;
use crate::wire::NextHop;

/// A next hop that paths began or ceased to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Whoever resolves next hops should say what it costs, now and whenever that changes.
    Begin(IpAddr),
    /// Nobody needs it any more.
    End(IpAddr),
}

#[derive(Debug)]
struct Known {
    /// Attribute sets that have it.
    uses: usize,
    /// Whether the cost is more than an assumption.
    said: bool,
    resolution: Resolution,
}

/// How a next hop is reached; by default as one next door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolution {
    /// The cost; `None` when it cannot be reached.
    pub(super) metric: Option<u32>,
    /// Through which routers; `None` when it is next door itself.
    pub(super) gateways: Option<Vec<FibNextHop>>,
}

impl Resolution {
    pub(super) const UNREACHABLE: Self = Self { metric: None, gateways: None };
}

impl Default for Resolution {
    fn default() -> Self {
        Self { metric: Some(0), gateways: None }
    }
}

/// All next hops in use.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    known: BTreeMap<IpAddr, Known>,
    changes: Vec<Tracking>,
    /// Next hops that were said to be unreachable or to cost something.
    said: usize,
    /// Those that nobody has resolved yet.
    begun: Vec<IpAddr>,
    /// Those that paths of BGP may lead to.
    distant: BTreeSet<IpAddr>,
}

impl NextHops {
    pub(super) fn begin(&mut self, next_hop: NextHop) {
        let Some(address) = address(next_hop) else { return };
        let known = self.known.entry(address).or_insert(Known {
            uses: 0,
            said: false,
            resolution: Resolution::default(),
        });
        known.uses += 1;
        if known.uses == 1 {
            self.changes.push(Tracking::Begin(address));
            self.begun.push(address);
        }
    }

    pub(super) fn end(&mut self, next_hop: NextHop) {
        let Some(address) = address(next_hop) else { return };
        let Some(known) = self.known.get_mut(&address) else { return };
        known.uses -= 1;
        if known.uses == 0 {
            self.said -= usize::from(known.said);
            self.known.remove(&address);
            self.distant.remove(&address);
            self.changes.push(Tracking::End(address));
        }
    }

    /// Sets how it is reached; whether that is news. What no path has is not remembered.
    pub(super) fn set(&mut self, address: IpAddr, resolution: Resolution) -> bool {
        let Some(known) = self.known.get_mut(&address) else { return false };
        if known.resolution == resolution {
            return false;
        }
        let said = resolution != Resolution::default();
        match (std::mem::replace(&mut known.said, said), said) {
            (false, true) => self.said += 1,
            (true, false) => self.said -= 1,
            _ => {}
        }
        known.resolution = resolution;
        true
    }

    /// Sets whether paths of BGP may lead to it.
    pub(super) fn set_distant(&mut self, address: IpAddr, distant: bool) {
        if !distant {
            self.distant.remove(&address);
        } else if self.known.contains_key(&address) {
            self.distant.insert(address);
        }
    }

    pub(super) fn distant(&self) -> Vec<IpAddr> {
        self.distant.iter().copied().collect()
    }

    pub(super) fn all(&self) -> Vec<IpAddr> {
        self.known.keys().copied().collect()
    }

    pub(super) fn take_begun(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.begun)
    }

    /// The cost, which is 0 until somebody says otherwise; `None` when it cannot be reached.
    pub(super) fn metric(&self, next_hop: NextHop) -> Option<u32> {
        if self.said == 0 {
            return Some(0);
        }
        let known = address(next_hop).and_then(|address| self.known.get(&address));
        known.map_or(Some(0), |known| known.resolution.metric)
    }

    /// The routers on the way to it, if it is not next door.
    pub(super) fn gateways(&self, next_hop: NextHop) -> Option<&[FibNextHop]> {
        if self.said == 0 {
            return None;
        }
        self.known.get(&address(next_hop)?)?.resolution.gateways.as_deref()
    }

    pub(super) fn take_changes(&mut self) -> Vec<Tracking> {
        std::mem::take(&mut self.changes)
    }
}

/// The address to resolve; ourselves and routers on the session's link need none.
pub(super) fn address(next_hop: NextHop) -> Option<IpAddr> {
    match next_hop {
        NextHop::Local => None,
        NextHop::V4(address) => Some(address.into()),
        NextHop::V6 { global, .. } => (!global.is_unicast_link_local()).then_some(global.into()),
    }
}
