//! What to change in the kernel: wanted routes, installed routes, the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use margay_netlink::link::IfIndex;
use margay_netlink::route::{self, Kind, NextHop, Protocol, Route, TableId};
use margay_netlink::{Error, Request};

use crate::config::Kernel;
use crate::family::FamilySet;
use crate::prefix::Prefix;
use crate::rib::{FibChange, FibNextHop, FibRoute};

type ByPrefix<T> = HashMap<Prefix, T, FixedState>;

/// The state of our routes; the driver carries out what [`KernelPlan::plan`] says and reports back.
#[derive(Debug)]
pub(super) struct KernelPlan {
    settings: Kernel,
    wanted: ByPrefix<FibRoute>,
    installed: ByPrefix<Route>,
    /// Routes of an earlier run that the tables have not mentioned; they stay until all is settled.
    stale: BTreeSet<Prefix>,
    /// Routes of an earlier run with another metric.
    misplaced: Vec<Route>,
    settled: bool,
    /// Prefixes to look at, some of them more than once.
    dirty: Vec<Prefix>,
    /// The last refusal, so that the same one is logged once.
    refused: BTreeMap<Prefix, String>,
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Refused by the kernel when any route with this prefix and metric is there.
    Add(Prefix, Route),
    /// In the place of our own route.
    Replace(Prefix, Route),
    Delete(Prefix, Route),
    /// Of an earlier run, with another metric.
    DeleteMisplaced(Route),
}

impl Operation {
    pub(super) fn request(&self) -> Request {
        match self {
            Self::Add(_, route) => route::add(route),
            Self::Replace(_, route) => route::replace(route),
            Self::Delete(_, route) | Self::DeleteMisplaced(route) => route::delete(route),
        }
    }
}

impl KernelPlan {
    pub(super) fn new(settings: Kernel) -> Self {
        Self {
            settings,
            wanted: ByPrefix::default(),
            installed: ByPrefix::default(),
            stale: BTreeSet::new(),
            misplaced: Vec::new(),
            settled: false,
            dirty: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    pub(super) fn settings(&self) -> &Kernel {
        &self.settings
    }

    /// Takes what the kernel has of ours, at the start and whenever somebody else may have changed it.
    pub(super) fn found(&mut self, routes: Vec<Route>) {
        let before = std::mem::take(&mut self.installed);
        self.misplaced.clear();
        for route in routes {
            let Some(prefix) = Prefix::masked(route.destination.ip(), route.destination.prefix()) else {
                continue;
            };
            if route.metric == Some(self.settings.metric) {
                self.installed.insert(prefix, route);
            } else {
                self.misplaced.push(route);
            }
        }
        for prefix in self.installed.keys() {
            let known = before.contains_key(prefix) || self.wanted.contains_key(prefix);
            if !known && !self.settled {
                self.stale.insert(*prefix);
            }
        }
        self.dirty.extend(before.keys().chain(self.installed.keys()).chain(self.wanted.keys()));
    }

    /// Families with routes of an earlier run that are in use still.
    pub(super) fn adopted(&self) -> FamilySet {
        self.stale.iter().map(|prefix| prefix.family()).collect()
    }

    pub(super) fn change(&mut self, changes: Vec<FibChange>) {
        for FibChange { prefix, route } in changes {
            self.stale.remove(&prefix);
            self.dirty.push(prefix);
            match route {
                Some(route) => self.wanted.insert(prefix, route),
                None => self.wanted.remove(&prefix),
            };
        }
    }

    /// All neighbours have told what they know, or had the time to: what nobody wants goes.
    pub(super) fn settle(&mut self) {
        self.settled = true;
        self.dirty.extend(std::mem::take(&mut self.stale));
    }

    /// New settings; if they move routes elsewhere, those at the old place must have been removed before.
    pub(super) fn reset(&mut self, settings: Kernel, moved: bool) {
        self.settings = settings;
        if moved {
            self.installed.clear();
        }
        self.dirty.extend(self.wanted.keys());
    }

    /// Requests that remove all that is installed.
    pub(super) fn removal(&mut self) -> Vec<Operation> {
        let installed = std::mem::take(&mut self.installed).into_iter();
        let installed = installed.map(|(prefix, route)| Operation::Delete(prefix, route));
        installed.chain(self.misplaced.iter().cloned().map(Operation::DeleteMisplaced)).collect()
    }

    /// Whether the route of this prefix matters to us.
    pub(super) fn concerns(&self, route: &Route) -> bool {
        route.protocol == Protocol(self.settings.protocol)
            && route.table == TableId(self.settings.table)
            && Prefix::masked(route.destination.ip(), route.destination.prefix())
                .is_some_and(|prefix| self.wanted.contains_key(&prefix))
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The requests for all that differs, additions first; what needs none is no longer dirty. A route to delete counts as
    /// gone from here on, until the kernel refuses that.
    pub(super) fn plan(&mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        let mut deletions = Vec::new();
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_by_cached_key(|prefix| scattered(*prefix));
        dirty.dedup();
        for prefix in dirty {
            if self.stale.contains(&prefix) {
                continue;
            }
            let wanted = self.wanted.get(&prefix).filter(|_| self.settings.install);
            let Some(wanted) = wanted else {
                match self.installed.remove(&prefix) {
                    Some(installed) => deletions.push(Operation::Delete(prefix, installed)),
                    None => drop(self.refused.remove(&prefix)),
                }
                continue;
            };
            match self.installed.get(&prefix) {
                None => operations.push(Operation::Add(prefix, self.route(prefix, wanted))),
                Some(installed) if is_same(wanted, installed) => {}
                Some(_) => operations.push(Operation::Replace(prefix, self.route(prefix, wanted))),
            }
        }
        if self.settled {
            deletions.extend(self.misplaced.drain(..).map(Operation::DeleteMisplaced));
        }
        operations.append(&mut deletions);
        operations
    }

    /// Takes the kernel's answer; what failed stays dirty.
    pub(super) fn done(&mut self, operation: Operation, result: Result<(), Error>) {
        let result = match result {
            Err(error)
                if matches!(operation, Operation::Delete(..) | Operation::DeleteMisplaced(_))
                    && error.is_gone() =>
            {
                Ok(())
            }
            other => other,
        };
        match (operation, result) {
            (Operation::Add(prefix, route) | Operation::Replace(prefix, route), Ok(())) => {
                self.refused.remove(&prefix);
                self.installed.insert(prefix, route);
            }
            (Operation::Delete(prefix, _), Ok(())) => {
                self.refused.remove(&prefix);
            }
            (Operation::DeleteMisplaced(_), Ok(())) => {}
            (Operation::DeleteMisplaced(route), Err(error)) => {
                tracing::warn!(%error, "remove {route} of an earlier run");
                self.misplaced.push(route);
            }
            (Operation::Delete(prefix, route), Err(error)) => {
                self.installed.insert(prefix, route);
                self.refuse(prefix, &error);
            }
            (Operation::Add(prefix, _) | Operation::Replace(prefix, _), Err(error)) => {
                self.refuse(prefix, &error);
            }
        }
    }

    /// Takes it that the kernel answered nothing: what was to go may be there, and is this run's.
    pub(super) fn undone(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            match operation {
                Operation::Delete(prefix, route) => {
                    self.installed.insert(prefix, route);
                    self.dirty.push(prefix);
                }
                Operation::DeleteMisplaced(route) => self.misplaced.push(route),
                Operation::Add(prefix, _) | Operation::Replace(prefix, _) => self.dirty.push(prefix),
            }
        }
    }

    fn refuse(&mut self, prefix: Prefix, error: &Error) {
        let text = if error.is_present() {
            format!("{error}; another route to it has metric {}", self.settings.metric)
        } else {
            error.to_string()
        };
        if self.refused.get(&prefix) != Some(&text) {
            tracing::warn!("{text}; trying again");
            self.refused.insert(prefix, text);
        }
        self.dirty.push(prefix);
    }

    fn route(&self, prefix: Prefix, wanted: &FibRoute) -> Route {
        let kind = match wanted {
            FibRoute::Blackhole => Kind::Blackhole,
            FibRoute::Unicast(hops) => Kind::Unicast(hops.iter().map(next_hop).collect()),
        };
        Route {
            destination: super::kernel::destination(prefix),
            kind,
            table: TableId(self.settings.table),
            protocol: Protocol(self.settings.protocol),
            metric: Some(self.settings.metric),
            source: None,
        }
    }
}

fn next_hop(hop: &FibNextHop) -> NextHop {
    NextHop { link: hop.ifindex.and_then(IfIndex::new), weight: hop.weight, ..NextHop::via(hop.via) }
}

/// Whether the kernel's route does what is wanted; interfaces that nobody named are its own business.
fn is_same(wanted: &FibRoute, installed: &Route) -> bool {
    match (wanted, &installed.kind) {
        (FibRoute::Blackhole, Kind::Blackhole) => true,
        (FibRoute::Unicast(wanted), Kind::Unicast(installed)) => {
            let mut installed: Vec<&NextHop> = installed.iter().collect();
            installed.sort_by_key(|hop| (hop.via, hop.link));
            let same = |(wanted, installed): (&FibNextHop, &&NextHop)| {
                let link = wanted.ifindex.and_then(IfIndex::new);
                let weight = installed.weight == wanted.weight;
                weight && installed.via == Some(wanted.via) && (link.is_none() || installed.link == link)
            };
            installed.len() == wanted.len() && wanted.iter().zip(&installed).all(same)
        }
        _ => false,
    }
}

/// A place in an order in which neighbouring prefixes are far apart; each prefix has its own. The kernel's trie
/// (`fib_trie.c`) is rebalanced over and over again when one end of it grows or goes before the other.
fn scattered(prefix: Prefix) -> (u128, u8, bool) {
    let bits = match prefix.address() {
        IpAddr::V4(address) => address.to_bits().reverse_bits().into(),
        IpAddr::V6(address) => address.to_bits().reverse_bits(),
    };
    (bits, prefix.length(), prefix.address().is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: fn() -> Kernel = Kernel::default;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn via(text: &str) -> FibRoute {
        FibRoute::Unicast(vec![FibNextHop::new(text.parse().unwrap(), None)])
    }

    fn change(text: &str, route: Option<FibRoute>) -> Vec<FibChange> {
        vec![FibChange { prefix: prefix(text), route }]
    }

    fn installed(plan: &KernelPlan, text: &str, route: &FibRoute) -> Route {
        plan.route(prefix(text), route)
    }

    /// Carries out everything, successfully.
    fn apply(plan: &mut KernelPlan) -> Vec<Operation> {
        let operations = plan.plan();
        for operation in operations.clone() {
            plan.done(operation, Ok(()));
        }
        operations
    }

    fn refusal() -> Error {
        Error::Refused { request: "add".to_owned(), errno: margay_netlink::Errno::ENETUNREACH }
    }

    #[test]
    fn routes_of_an_earlier_run_stay_until_settled_and_are_not_touched_if_still_right() {
        let mut plan = KernelPlan::new(SETTINGS());
        let kept = installed(&plan, "198.51.100.0/24", &via("192.0.2.1"));
        let gone = installed(&plan, "203.0.113.0/24", &via("192.0.2.1"));
        plan.found(vec![kept, gone.clone()]);
        assert_eq!(apply(&mut plan), []);
        plan.change(change("198.51.100.0/24", Some(via("192.0.2.1"))));
        assert_eq!(apply(&mut plan), []);
        plan.settle();
        assert_eq!(apply(&mut plan), [Operation::Delete(prefix("203.0.113.0/24"), gone)]);
    }

    #[test]
    fn a_route_is_added_replaced_and_deleted_as_wanted() {
        let mut plan = KernelPlan::new(SETTINGS());
        let text = "2001:db8:1::/48";
        let (first, second) = (via("2001:db8::1"), via("2001:db8::2"));
        plan.change(change(text, Some(first.clone())));
        assert_eq!(apply(&mut plan), [Operation::Add(prefix(text), installed(&plan, text, &first))]);
        plan.change(change(text, Some(second.clone())));
        let replaced = installed(&plan, text, &second);
        assert_eq!(apply(&mut plan), [Operation::Replace(prefix(text), replaced.clone())]);
        plan.change(change(text, None));
        assert_eq!(apply(&mut plan), [Operation::Delete(prefix(text), replaced)]);
        assert!(!plan.is_dirty());
    }

    #[test]
    fn what_the_kernel_refuses_stays_dirty_and_is_asked_again() {
        let mut plan = KernelPlan::new(SETTINGS());
        plan.change(change("198.51.100.0/24", Some(via("192.0.2.1"))));
        let operation = plan.plan().remove(0);
        plan.done(operation.clone(), Err(refusal()));
        assert!(plan.is_dirty());
        assert_eq!(apply(&mut plan), [operation]);
    }

    #[test]
    fn a_route_that_the_kernel_does_not_delete_is_deleted_again_and_one_that_is_gone_is_not() {
        let mut plan = KernelPlan::new(SETTINGS());
        plan.change(change("198.51.100.0/24", Some(via("192.0.2.1"))));
        apply(&mut plan);
        plan.change(change("198.51.100.0/24", None));
        let deletion = plan.plan().remove(0);
        plan.done(deletion.clone(), Err(refusal()));
        assert_eq!(plan.plan(), std::slice::from_ref(&deletion));
        let gone = Error::Refused { request: "delete".to_owned(), errno: margay_netlink::Errno::ESRCH };
        plan.done(deletion, Err(gone));
        assert!(!plan.is_dirty());
        assert_eq!(plan.removal(), []);
    }

    #[test]
    fn a_withdrawn_route_whose_removal_nobody_answered_is_no_route_of_an_earlier_run() {
        let mut plan = KernelPlan::new(SETTINGS());
        plan.change(change("198.51.100.0/24", Some(via("192.0.2.1"))));
        apply(&mut plan);
        let route = installed(&plan, "198.51.100.0/24", &via("192.0.2.1"));
        plan.change(change("198.51.100.0/24", None));
        let deletion = plan.plan();
        assert_eq!(deletion, [Operation::Delete(prefix("198.51.100.0/24"), route.clone())]);
        plan.undone(deletion.clone());
        plan.found(vec![route]);
        assert_eq!(plan.plan(), deletion);
    }

    #[test]
    fn a_route_that_somebody_removed_is_added_again() {
        let mut plan = KernelPlan::new(SETTINGS());
        plan.change(change("198.51.100.0/24", Some(FibRoute::Blackhole)));
        let added = apply(&mut plan);
        plan.found(Vec::new());
        assert_eq!(apply(&mut plan), added);
    }

    #[test]
    fn a_route_of_an_earlier_run_with_another_metric_goes_once_settled() {
        let mut plan = KernelPlan::new(SETTINGS());
        let mut old = installed(&plan, "198.51.100.0/24", &FibRoute::Blackhole);
        old.metric = Some(7);
        plan.found(vec![old.clone()]);
        plan.change(change("198.51.100.0/24", Some(FibRoute::Blackhole)));
        assert!(matches!(apply(&mut plan)[..], [Operation::Add(..)]));
        plan.settle();
        assert_eq!(apply(&mut plan), [Operation::DeleteMisplaced(old)]);
    }
}
