//! Objects to what a dataplane holds: address -> class, (policy set, direction, class, port) -> verdict.

mod direction;
mod output;

use std::collections::{BTreeMap, BTreeSet};

pub use output::{Compiled, Direction, Entries, PolicySet, Verdict};

use crate::{
    Interner, Objects, Peers, Pod, PodName, Policy, Port, Ports, Protocol,
    class::PolicySetKey,
    range::disjoint,
    term::{ResolvedPort, Term},
};

/// Compiles the state for a node whose pods are `local`. The result depends on the objects alone; `interner`
/// only decides which numbers stand for what.
pub fn compile(objects: &Objects, local: &BTreeSet<PodName>, interner: &mut Interner) -> Compiled {
    let mut compiled = Compiled::default();
    let mut keys = BTreeMap::new();
    for name in local {
        let pod = objects.pods.get(name).filter(|pod| !pod.host_network);
        let Some(pod) = pod else { continue };
        let key = policy_set_key(objects, pod);
        if key.policies.is_empty() {
            continue;
        }
        let id = interner.set(key.clone());
        keys.insert(id, key);
        compiled.endpoints.insert(name.clone(), id);
    }

    let named = NamedPorts::of(objects);
    let mut terms = BTreeSet::new();
    for key in keys.values() {
        for policy in policies(objects, key) {
            terms.extend(direction::terms(policy, &named));
        }
    }

    // Which class each address is in.
    let mut members: BTreeMap<crate::ClassId, BTreeSet<Term>> = BTreeMap::new();
    let blocks: Vec<(&Term, &crate::Block)> =
        terms.iter().filter_map(|term| Some((term, term.block()?))).collect();
    for (range, matched) in disjoint(&blocks) {
        let matched: BTreeSet<Term> = matched.into_iter().cloned().collect();
        let class = interner.class(matched.clone());
        members.insert(class, matched);
        compiled.ranges.insert(range, class);
    }
    for (address, pod) in objects.owners() {
        let matched: BTreeSet<Term> =
            terms.iter().filter(|term| term.has_pod(&objects.namespace_labels(&pod.name.namespace), pod, address)).cloned().collect();
        // An address that matches blocks only is found among the ranges.
        if matched.iter().all(|term| term.block().is_some()) {
            continue;
        }
        let class = interner.class(matched.clone());
        members.insert(class, matched);
        compiled.addresses.insert(address, class);
    }

    for (id, key) in &keys {
        let set = direction::policy_set(policies(objects, key), key, &named, &members);
        compiled.sets.insert(*id, set);
    }
    interner.keep(&members.keys().copied().collect(), &keys.keys().copied().collect());
    compiled
}

fn policies<'a>(objects: &'a Objects, key: &'a PolicySetKey) -> impl Iterator<Item = &'a Policy> + Clone {
    key.policies.iter().filter_map(|name| objects.policies.get(name))
}

fn policy_set_key(objects: &Objects, pod: &Pod) -> PolicySetKey {
    let mut key = PolicySetKey { policies: BTreeSet::new(), ports: BTreeMap::new() };
    for policy in objects.policies.values() {
        if policy.name.namespace != pod.name.namespace || !policy.pod_selector.matches(&pod.labels) {
            continue;
        }
        key.policies.insert(policy.name.clone());
        for (name, protocol) in named_ports(policy.ingress.iter().flatten().map(|rule| &rule.ports)) {
            let named = pod.ports.iter().filter(|port| port.name == name && port.protocol == protocol);
            let numbers = named.map(|port| port.number).collect();
            key.ports.insert((name, protocol), numbers);
        }
    }
    key
}

fn named_ports<'a>(ports: impl Iterator<Item = &'a Ports>) -> impl Iterator<Item = (String, Protocol)> {
    ports
        .filter_map(|ports| match ports {
            Ports::Of(ports) => Some(ports),
            Ports::Any => None,
        })
        .flatten()
        .filter_map(|port| match port {
            Port::Named(protocol, name) => Some((name.clone(), *protocol)),
            Port::Numbered(..) => None,
        })
}

/// The numbers that each name of a port has, over all pods: an egress rule means the destination's.
pub(crate) struct NamedPorts(BTreeMap<(String, Protocol), BTreeSet<u16>>);

impl NamedPorts {
    fn of(objects: &Objects) -> Self {
        let mut numbers: BTreeMap<(String, Protocol), BTreeSet<u16>> = BTreeMap::new();
        for port in objects.pods.values().filter(|pod| pod.in_pod_network()).flat_map(|pod| &pod.ports) {
            numbers.entry((port.name.clone(), port.protocol)).or_default().insert(port.number);
        }
        Self(numbers)
    }

    /// For a named port of an egress rule: each number it may be, with the terms of the destinations where it is.
    pub(crate) fn resolve(&self, peers: &Peers, protocol: Protocol, name: &str) -> Vec<(u16, Vec<Term>)> {
        let numbers = self.0.get(&(name.to_owned(), protocol));
        numbers
            .into_iter()
            .flatten()
            .map(|number| {
                let port = ResolvedPort { name: name.to_owned(), protocol, number: *number };
                (*number, Term::of_peers(peers, Some(&port)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
