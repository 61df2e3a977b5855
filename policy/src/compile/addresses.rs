//! Which class an address is in.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use super::{
    claims::Claims,
    output::ClassId,
    partition::{Moved, Partition},
    terms::{TermId, TermSet, Terms, Turnover},
};
use crate::{AddressRange, NamespaceChoice, Objects, Pod, PodName, range::disjoint, term::Term};

/// Addresses by the terms that they match.
///
/// Where only blocks match, a range says so for all its addresses. A pod or node that other terms match has an entry of
/// its own, which knows its blocks too; so has what a node sends from through tunnels, where it is in other blocks than the range.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    claims: Claims,
    /// The addresses of each node, those of tunnels too, and the nodes at each address.
    nodes: BTreeMap<String, Vec<IpAddr>>,
    at: BTreeMap<IpAddr, BTreeSet<String>>,
    ranges: BTreeMap<AddressRange, TermSet>,
    classes: Partition<Member, TermSet>,
    /// The classes that match a term, and by which terms they are found so.
    by_term: BTreeMap<TermId, BTreeSet<ClassId>>,
    indexed: BTreeMap<ClassId, TermSet>,
}

/// Something that has a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    Address(IpAddr),
    Range(AddressRange),
}

/// What has changed.
pub(super) struct Reclassed {
    pub(super) members: BTreeMap<Member, super::partition::Move>,
    /// Classes that are new, match other terms, or are gone: with the terms that they matched.
    pub(super) classes: BTreeMap<ClassId, Option<TermSet>>,
}

impl Addresses {
    /// Takes pods and nodes as they are now; gives the addresses that they had and have.
    pub(super) fn note(
        &mut self,
        objects: &Objects,
        pods: &BTreeSet<PodName>,
        nodes: &BTreeSet<String>,
    ) -> BTreeSet<IpAddr> {
        let mut touched = BTreeSet::new();
        for name in pods {
            touched.extend(self.claims.set(name, objects.pods.get(name).map(AsRef::as_ref)));
        }
        for name in nodes {
            for address in self.nodes.remove(name).into_iter().flatten() {
                touched.insert(address);
                if let Some(names) = self.at.get_mut(&address) {
                    names.remove(name);
                    if names.is_empty() {
                        self.at.remove(&address);
                    }
                }
            }
            let Some(node) = objects.nodes.get(name) else { continue };
            let all: Vec<IpAddr> = node.addresses.iter().chain(&node.tunnels).copied().collect();
            for address in &all {
                touched.insert(*address);
                self.at.entry(*address).or_default().insert(name.clone());
            }
            self.nodes.insert(name.clone(), all);
        }
        touched
    }

    /// Gives addresses their classes: those whose pods or nodes were touched, and those that match terms that came or went.
    pub(super) fn update(
        &mut self,
        objects: &Objects,
        terms: &Terms,
        touched: &BTreeSet<IpAddr>,
        turnover: &Turnover,
    ) -> Reclassed {
        let mut wishes = BTreeMap::new();
        let mut touched = Cow::Borrowed(touched);
        if turnover.blocks {
            let before = std::mem::take(&mut self.ranges);
            wishes.extend(before.into_keys().map(|range| (Member::Range(range), None)));
            let blocks: Vec<_> = terms.blocks().collect();
            let ranges = disjoint(&blocks).into_iter();
            self.ranges = ranges.map(|(range, ids)| (range, ids.into_iter().collect())).collect();
            let ranges = self.ranges.iter();
            wishes.extend(ranges.map(|(range, ids)| (Member::Range(*range), Some(TermSet::clone(ids)))));
            let tunnels: Vec<IpAddr> = self.tunnels_in_blocks(objects).collect();
            if !tunnels.is_empty() {
                touched.to_mut().extend(tunnels);
            }
        }
        let mut gains: BTreeMap<IpAddr, Vec<TermId>> = BTreeMap::new();
        for id in &turnover.added {
            self.each_in(objects, terms, *id, |address| gains.entry(address).or_default().push(*id));
        }
        for class in turnover.gone.iter().filter_map(|id| self.by_term.get(id)).flatten() {
            for member in self.classes.members(class.0) {
                if let Member::Address(address) = member {
                    gains.entry(*address).or_default();
                }
            }
        }
        let is_own = |address: IpAddr, ids: &[TermId]| {
            let of_range = self.blocks_of(address).map_or(&[][..], |ids| ids);
            ids.iter().any(|id| !terms.is_block(*id)) || ids != of_range
        };
        for (address, gained) in gains.into_iter().filter(|(address, _)| !touched.contains(address)) {
            let member = Member::Address(address);
            let before = self.classes.key_of(&member).or_else(|| self.blocks_of(address));
            let kept = before.into_iter().flat_map(|ids| ids.iter()).filter(|id| !turnover.gone.contains(id));
            wishes.insert(
                member,
                Some(sorted(kept.copied().chain(gained).collect())).filter(|ids| is_own(address, ids)),
            );
        }
        for address in touched.iter().copied() {
            let ids = sorted(self.terms_of(objects, terms, address));
            wishes.insert(Member::Address(address), Some(ids).filter(|ids| is_own(address, ids)));
        }
        let Moved { members, parts } = self.classes.assign(wishes);
        let classes = parts.into_iter().map(|part| (ClassId(part), self.reindex(ClassId(part)))).collect();
        Reclassed { members, classes }
    }

    /// The class that an address has of its own.
    pub(super) fn class_of(&self, address: IpAddr) -> Option<ClassId> {
        self.classes.of(&Member::Address(address)).map(ClassId)
    }

    /// The class of a range.
    pub(super) fn class_of_range(&self, range: &AddressRange) -> Option<ClassId> {
        self.classes.of(&Member::Range(*range)).map(ClassId)
    }

    /// The class of any address.
    pub(super) fn class(&self, address: IpAddr) -> ClassId {
        self.class_of(address).unwrap_or_else(|| self.class_in_range(address))
    }

    /// The class that an address has where it has none of its own.
    pub(super) fn class_in_range(&self, address: IpAddr) -> ClassId {
        let range = self.range_of(address).and_then(|(range, _)| self.class_of_range(range));
        range.unwrap_or(ClassId::NONE)
    }

    /// The addresses that have a class of their own.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, ClassId)> {
        self.classes.all().iter().filter_map(|(member, class)| match member {
            Member::Address(address) => Some((*address, ClassId(*class))),
            Member::Range(_) => None,
        })
    }

    /// The ranges that have a class.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (AddressRange, ClassId)> {
        self.ranges.keys().filter_map(|range| Some((*range, self.class_of_range(range)?)))
    }

    /// The number of classes.
    pub(super) fn classes(&self) -> usize {
        self.classes.parts().count()
    }

    /// The terms of a class; `None` when it is gone.
    pub(super) fn key(&self, class: ClassId) -> Option<&TermSet> {
        self.classes.key(class.0)
    }

    /// Whether a class has ranges: these are its last members.
    pub(super) fn is_of_ranges(&self, class: ClassId) -> bool {
        matches!(self.classes.members(class.0).next_back(), Some(Member::Range(_)))
    }

    /// The classes of which all addresses match a term.
    pub(super) fn matching(&self, term: TermId) -> impl Iterator<Item = ClassId> {
        self.by_term.get(&term).into_iter().flatten().copied()
    }

    /// The addresses that a pod says it has.
    pub(super) fn of_pod(&self, name: &PodName) -> impl Iterator<Item = IpAddr> {
        self.claims.of_pod(name)
    }

    /// The pod that has an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&PodName> {
        self.claims.owner(address)
    }

    fn range_of(&self, address: IpAddr) -> Option<(&AddressRange, &TermSet)> {
        let last = AddressRange { first: address, last: IpAddr::V6(Ipv6Addr::from(u128::MAX)) };
        self.ranges.range(..=last).next_back().filter(|(range, _)| range.contains(address))
    }

    fn blocks_of(&self, address: IpAddr) -> Option<&TermSet> {
        self.range_of(address).map(|(_, ids)| ids)
    }

    /// What nodes send from through tunnels, where the blocks that it is in are those of other addresses, or were.
    fn tunnels_in_blocks(&self, objects: &Objects) -> impl Iterator<Item = IpAddr> {
        objects.nodes.values().flat_map(move |node| {
            let [four, six] = [true, false].map(|is_ipv4| {
                let mut own = node.addresses.iter().filter(|own| own.is_ipv4() == is_ipv4);
                own.any(|own| self.blocks_of(*own).is_some())
            });
            let is_in = move |tunnel: &&IpAddr| if tunnel.is_ipv4() { four } else { six };
            node.tunnels.iter().filter(move |it| is_in(it) || self.class_of(**it).is_some()).copied()
        })
    }

    /// All that an address matches.
    fn terms_of(&self, objects: &Objects, terms: &Terms, address: IpAddr) -> Vec<TermId> {
        let mut ids = Vec::new();
        if let Some(pod) = self.owner(address).and_then(|name| objects.pods.get(name)) {
            let namespace = objects.namespace_labels(&pod.name.namespace);
            ids.extend(terms.of_pod(&namespace, pod, address));
        }
        for node in self.at.get(&address).into_iter().flatten().filter_map(|name| objects.nodes.get(name)) {
            ids.extend(terms.of_node(&node.labels));
            for own in node.named_by(address) {
                ids.extend(self.blocks_of(own).into_iter().flat_map(|ids| ids.iter()));
            }
        }
        ids.extend(self.blocks_of(address).into_iter().flat_map(|ids| ids.iter()));
        ids
    }

    /// Finds the addresses that match a term, of those that have a class of their own then.
    fn each_in(&self, objects: &Objects, terms: &Terms, id: TermId, mut found: impl FnMut(IpAddr)) {
        let Some(term) = terms.term(id) else { return };
        let of_pod = |pod: &Pod| {
            let own = self.claims.of_pod(&pod.name);
            own.filter(|address| self.owner(*address) == Some(&pod.name)).collect::<Vec<_>>()
        };
        match term {
            Term::Nodes(nodes) => {
                let matching = objects.nodes.values().filter(|node| nodes.matches(&node.labels));
                let all = matching.flat_map(|node| node.addresses.iter().chain(&node.tunnels));
                all.for_each(|address| found(*address));
            }
            Term::Block { block, port: None } => {
                let [first, last] = [block.cidr.network(), block.cidr.broadcast()].map(Member::Address);
                for member in self.classes.all().range(first..=last).map(|(member, _)| member) {
                    if let Member::Address(address) = member
                        && block.contains(*address)
                    {
                        found(*address);
                    }
                }
            }
            Term::Pods { namespaces: NamespaceChoice::Own(own), .. } => {
                let labels = objects.namespace_labels(own);
                for pod in objects.pods_of(own) {
                    of_pod(pod).into_iter().filter(|ip| term.has_pod(&labels, pod, *ip)).for_each(&mut found);
                }
            }
            Term::Pods { namespaces: NamespaceChoice::Selected(_), .. }
            | Term::Block { port: Some(_), .. } => {
                let mut labels = None;
                for pod in objects.pods.values() {
                    let namespace = &pod.name.namespace;
                    if labels.as_ref().is_none_or(|(name, _)| *name != namespace) {
                        labels = Some((namespace, objects.namespace_labels(namespace)));
                    }
                    let Some((_, labels)) = &labels else { continue };
                    if let Term::Pods { namespaces: NamespaceChoice::Selected(selector), pods, .. } = term
                        && !(pods.matches(&pod.labels) && selector.matches(labels))
                    {
                        continue;
                    }
                    of_pod(pod).into_iter().filter(|ip| term.has_pod(labels, pod, *ip)).for_each(&mut found);
                }
            }
        }
    }

    /// Has a class found by the terms that it matches now; gives those that it matched.
    fn reindex(&mut self, class: ClassId) -> Option<TermSet> {
        let before = self.indexed.remove(&class);
        for id in before.iter().flat_map(|ids| ids.iter()) {
            if let Some(classes) = self.by_term.get_mut(id) {
                classes.remove(&class);
                if classes.is_empty() {
                    self.by_term.remove(id);
                }
            }
        }
        if let Some(ids) = self.classes.key(class.0).cloned() {
            for id in ids.iter() {
                self.by_term.entry(*id).or_default().insert(class);
            }
            self.indexed.insert(class, ids);
        }
        before
    }
}

fn sorted(mut ids: Vec<TermId>) -> TermSet {
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}
