//! Which next hops paths have, and what it costs to reach them.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    /// The cost; `None` when it cannot be reached.
    metric: Option<u32>,
}

/// All next hops in use.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    known: BTreeMap<IpAddr, Known>,
    changes: Vec<Tracking>,
    /// Next hops that were said to be unreachable or to cost something.
    said: usize,
}

impl NextHops {
    pub(super) fn begin(&mut self, next_hop: NextHop) {
        let Some(address) = address(next_hop) else { return };
        let known = self.known.entry(address).or_insert(Known { uses: 0, said: false, metric: Some(0) });
        known.uses += 1;
        if known.uses == 1 {
            self.changes.push(Tracking::Begin(address));
        }
    }

    pub(super) fn end(&mut self, next_hop: NextHop) {
        let Some(address) = address(next_hop) else { return };
        let Some(known) = self.known.get_mut(&address) else { return };
        known.uses -= 1;
        if known.uses == 0 {
            self.said -= usize::from(known.said);
            self.known.remove(&address);
            self.changes.push(Tracking::End(address));
        }
    }

    /// Sets the cost; whether that is news. What no path has is not remembered.
    pub(super) fn set(&mut self, address: IpAddr, metric: Option<u32>) -> bool {
        let Some(known) = self.known.get_mut(&address) else { return false };
        self.said += usize::from(!std::mem::replace(&mut known.said, true));
        std::mem::replace(&mut known.metric, metric) != metric
    }

    /// The cost, which is 0 until somebody says otherwise; `None` when it cannot be reached.
    pub(super) fn metric(&self, next_hop: NextHop) -> Option<u32> {
        if self.said == 0 {
            return Some(0);
        }
        let known = address(next_hop).and_then(|address| self.known.get(&address));
        known.map_or(Some(0), |known| known.metric)
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
